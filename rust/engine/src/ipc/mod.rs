//! Two processes on one machine: the owner checks the grant, then bytes move without it and without a network.
//!
//! ```text
//! other                                owner
//!   │── connect, abstract UNIX socket ──►│  the kernel says who each is
//!   │◄── "WIPC", life, where the slate ──│  with the slate's descriptor
//!   │── attach: opening and grant ──────►│  checked as on any lane
//!   │◄── place, address, size ───────────│  with the memory's descriptor, where it has one to give away
//!   └── look at the place · copy · look again    without the owner
//! ```
//!
//! There are two ways to copy. Memory behind a sealed memfd is mapped here, the granted range of it and for reading alone,
//! and a read is a plain copy ([`near`]). All other memory, and every write, is copied by the kernel between the two
//! processes, which it allows within one user ([`lane`]). docs/decisions/0005 says why no writable mapping is ever handed
//! over.
//!
//! The same goes for what a server lends ([`lender`]): extents of regions are asked for at a desk of their own, by processes of
//! any user, and only ever mapped ([`extents`]).
//!
//! Each place on the slate has a gate and a count of who is inside. An owner that takes a buffer back closes the gate. Who
//! copies by the kernel has counted itself in, and the owner waits until it is out; who copies out of a mapping looks at the
//! gate again afterwards and believes nothing it read past its end, so nobody waits for it. Either way nothing is copied
//! into memory that is no longer lent, and nothing that was copied out of it counts. A process that died inside is counted
//! out by the end of its connection. What if the kernel keeps the two apart? The first copy says so, at once, and TCP is
//! used.

mod desk;
mod extents;
mod lane;
mod lender;
mod near;
mod owner;
mod watch;

pub use extents::{NearCounters, NearUpgrade};
pub use lane::Neighbour;
pub use lender::NearLender;
pub use owner::Owner;
pub use watch::Watch;

/// What an owner opens a conversation with.
const MAGIC: [u8; 4] = *b"WIPC";
/// Bytes of it: magic, life, the word on the slate, its address.
const HELLO_BYTES: usize = 28;
/// An answer to an attach begins with this when it was granted.
const GRANTED: u8 = 0;
/// Or with this, then the code and a sentence.
const REFUSED: u8 = 1;
/// Bytes of a grant: the byte before, place u32, the number of its gate u32, address u64, size u64, writable u8, end u64,
/// and where the buffer begins in what the descriptor is of, u64; without a descriptor it means nothing.
const GRANTED_BYTES: usize = 42;
