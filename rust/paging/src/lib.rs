//! What a pager decides, without a pager: no I/O, no threads, no clock but the `now` that is handed in.
//!
//! The shell that reads faults, asks homes and installs pages is the crate `weft-pager`. Here is what it thinks with:
//! where a page lives ([`layout`]), where a window's bytes are mapped ([`window`]), what to fetch ahead ([`readahead`]),
//! what is being fetched already ([`inflight`]), what was written and is not home yet ([`runs`]), who owns a page
//! ([`directory`]) and how long it all took ([`statistics`]).

#![forbid(unsafe_code)]

pub mod directory;
pub mod inflight;
pub mod layout;
pub mod readahead;
pub mod runs;
pub mod statistics;
pub mod window;

/// The unit of paging, in bytes.
pub const PAGE_BYTES: u64 = 4096;
