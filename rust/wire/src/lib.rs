//! The wire: frames, the handshake and grants, as bytes. No sockets, no clock, no randomness.
//!
//! Every frame is a 64-byte little-endian [`Header`], then `count` ranges of 16 bytes, then the payload. Whatever comes
//! from a peer is parsed here into types that cannot be wrong; whatever cannot be parsed is a [`WireError`] that says
//! which field and why. `docs/wire.md` is the same in prose.

#![forbid(unsafe_code)]

mod advert;
mod code;
mod grant;
mod handshake;
mod header;
mod item;
mod opening;
mod range;
mod words;

pub use advert::{Advert, ExtentName};
pub use code::{Code, Refusal};
pub use grant::{Grant, GrantError, Mode, Rights, cluster_of_secret, grant_key};
pub use handshake::{ClientHello, ClientProof, Hello, ServerHello, hello_key, near_socket};
pub use header::{Flags, HEADER_BYTES, Header, Kind, MAGIC, VERSION, WireError};
pub use item::{ITEM_BYTES, Item};
pub use opening::{OPENING_BYTES, decode_opening, encode_opening, open_request};
pub use range::{RANGE_BYTES, Range, decode_ranges, encode_ranges, total_bytes};
pub use words::{ENVELOPE_BYTES, Greeting, NOTICE_BYTES_MAX, NOTICE_NAME_BYTES_MAX, NOTICE_PART_BYTES_MAX, Word};

/// Largest payload of one frame, in bytes: a bulk transfer is cut at this, so that no peer can make another hold more.
pub const PAYLOAD_BYTES_MAX: u64 = 64 << 20;
/// Most ranges in one frame: sixteen kilobytes of range list, received into a fixed buffer.
pub const RANGES_MAX: u32 = 1024;
/// Largest payload before the peer has proved the secret: a hello with the longest name fits, nothing else does.
pub const HELLO_BYTES_MAX: u64 = 512;
/// Largest payload of a message, in bytes.
pub const MESSAGE_BYTES_MAX: u64 = 8 << 20;
/// Pages in one sparse read: one bit each in the reply's tag.
pub const SPARSE_PAGES_MAX: u64 = 64;
/// The page every sparse answer counts in.
pub const PAGE_BYTES: u64 = 4096;
/// Longest name of a node in a hello or holder in a grant, in bytes.
pub const NAME_BYTES_MAX: usize = 256;
