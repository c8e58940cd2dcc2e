//! Transfers: registered memory moved between processes, awaited or polled, over whatever lane is best.
//!
//! Reading order: [`Endpoint`] is what a program holds; [`Memory`] is what of its memory others may reach; [`Link`] is the
//! way to one peer, with the lanes of those who wait, and `asking` its questions; `progress` is the one thread that drives
//! everything else, on what `track` keeps and by the rules of `carrying` and `ending`. `matching` brings sends and receives
//! together; `ways` is how a link goes over to another transport. The bytes travel on the
//! wire of `docs/wire.md`, and `docs/transfers.md` says what all of it promises.

#![forbid(unsafe_code)]

mod asking;
mod bounced;
mod carrying;
mod ending;
mod endpoint;
mod failure;
mod ipc;
mod link;
mod matching;
mod memory;
mod moved;
mod notices;
mod piece;
mod progress;
mod rdma;
mod router;
mod track;
mod transfer;
mod ways;

pub use endpoint::{Endpoint, EndpointConfig, EndpointStatus};
pub use failure::Failure;
pub use ipc::{NearCounters, NearLender, NearUpgrade};
pub use link::{Link, Shortcut};
pub use memory::{ADVERTS_MAX, Memory, MemoryCounts, REGISTRATIONS_MAX, Reachable, Withdraw};
pub use moved::{Moved, WAYS};
pub use notices::Notice;
pub use piece::{Direction, Part};
pub use transfer::{Notifier, Status, Transfer};
pub use ways::{Facts, LinkStatus};
