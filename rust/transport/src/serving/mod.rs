//! The serving side: one or more event loops, each driving its connections by itself.
//!
//! `event_loop` waits and hands out readiness, `connection` moves bytes, `requests` decides. A request is checked where the
//! memory lives, against handle, range, rights, time and generation; what does not pass is refused with a sentence,
//! counted, and costs nobody else anything.

mod connection;
mod counters;
mod event_loop;
mod inbox;
mod payload;
mod requests;
mod server;

pub use counters::Counters;
pub use inbox::{Inbox, Message, MessageSink, Ticket};
pub use requests::{DESK_TOPICS, Granted};
pub use server::{Server, ServerConfig};
