//! RDMA, where there is any: queue pairs over a libibverbs that is loaded when it is first asked for.
//!
//! Reading order: [`Rail`] is what a process has of it; [`Lender`] lends over it what a server lends over TCP, from the
//! table of sessions and keys; [`RdmaLane`] is the other end, a lane that goes back to TCP whenever something is amiss, and
//! [`RdmaUpgrade`] makes one of a TCP lane. [`RdmaDialer`] brings up
//! lanes for drivers that never wait. `words` is what the two ends say to each other beside the work, `path` one
//! queue pair at work, and `ffi` the only place with unsafe code.

#![deny(unsafe_code)]

mod driven;
mod error;
#[expect(unsafe_code, reason = "the library is C; every block says what it rests on")]
pub mod ffi;
mod lane;
mod lender;
mod path;
mod rail;
mod record;
mod table;
mod words;

pub use driven::RdmaDialer;
pub use error::{Status, VerbsError};
pub use lane::{RdmaLane, RdmaUpgrade, Way};
pub use lender::Lender;
pub use rail::{Rail, RailCounters, RailOptions};
pub use record::{EndpointRecord, gid_text, parse_gid};
