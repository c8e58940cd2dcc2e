//! The engine: one wire for pages, buffers and objects, spoken over lanes.
//!
//! Reading order: [`Driven`] is one connection as its driver sees it, and [`Lane`] as whoever waits on it does, over the same
//! book of what was asked; [`Peer`] is a lane that comes back by itself and remembers which grants it opened; [`Server`] is the other end, which checks every request against what it serves.
//! [`RegionSource`] puts the pager on top. Threads are std threads, sockets are driven by whoever waits on them; nothing
//! here knows Python or HTTP, and every wait has a deadline.

#![forbid(unsafe_code)]

mod book;
mod bypass;
mod channel;
mod claimed;
mod driven;
mod error;
mod homes;
mod identity;
mod lane;
mod patience;
mod peer;
mod region;
mod serving;
mod spin;
mod store;
mod tcp;
mod tcp_driven;
mod tcpx;
mod tls;
mod upgrade;
mod waited;

pub use book::zero;
pub use bypass::Bypass;
pub use claimed::{ClaimedPages, ClaimedSource, NODES_MAX};
pub use driven::{Driven, Finished, Forgotten, Outcome, Payload, Submission};
pub use error::TransportError;
pub use identity::{Identity, PeerIdentity};
pub use lane::{Lane, Reply, Request};
pub use patience::Patience;
pub use peer::{Opened, Peer, PeerAddress, Tier};
pub use region::{RegionSink, RegionSource, RegionSpec};
pub use serving::{Counters, DESK_TOPICS, Granted, Inbox, Message, MessageSink, Server, ServerConfig, Ticket};
pub use spin::{SLEEP_SLICE, Spin, Step};
pub use store::{Extent, PageState, Pages, Store, written_bytes};
pub use tcp::{ConnectOptions, TcpLane};
pub use tcp_driven::TcpDriven;
pub use tcpx::{Devmem, Taken, TcpxDriven, TcpxLane, TcpxOptions};
pub use tls::{Authority, CertificateFault, Issued, Part as TlsPart, Tls, TlsConfigError, TlsFault};
pub use upgrade::Upgrade;
