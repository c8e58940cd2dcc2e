//! Two processes of one user on one machine: the owner checks the grant, then the kernel copies between them.
//!
//! ```text
//! other                                owner
//!   │── connect, abstract UNIX socket ──►│  the kernel says who each is
//!   │◄── "WIPC", life, where the slate ──│  with the slate's descriptor
//!   │── attach: opening and grant ──────►│  checked as on any lane
//!   │◄── place, address, size ───────────│
//!   └── enter the place · copy · leave     without the owner
//! ```
//!
//! Each place on the slate has a gate and a count of who is inside. An owner that takes a buffer back closes the gate and
//! waits for the count; a process that died inside is counted out by the end of its connection. So nothing is copied out
//! of, or into, memory that is no longer lent. What if the kernel keeps the two apart? The first copy says so, at once,
//! and TCP is used.

mod lane;
mod owner;

pub use lane::Neighbour;
pub use owner::Owner;

/// What an owner opens a conversation with.
const MAGIC: [u8; 4] = *b"WIPC";
/// Bytes of it: magic, life, the word on the slate, its address.
const HELLO_BYTES: usize = 28;
/// An answer to an attach begins with this when it was granted.
const GRANTED: u8 = 0;
/// Or with this, then the code and a sentence.
const REFUSED: u8 = 1;
/// Bytes of a grant: the byte before, place u32, the number of its gate u32, address u64, size u64, writable u8, end u64.
const GRANTED_BYTES: usize = 34;
