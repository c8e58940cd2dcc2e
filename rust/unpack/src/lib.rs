//! From a bounce buffer to where the bytes belong.
//!
//! A network card that puts payload straight into memory puts it into *its* pages: in pieces, of any size, at any
//! alignment. What is left to do is to gather the pieces. Reading order: a [`Fragment`] is one piece, in 16 bytes; a
//! [`Block`] is up to 2,048 of them, checked once so that nobody has to check again; a [`Pool`] says where in the bounce
//! buffer the next bytes go and which bytes of the stream lie where; [`carve`] makes blocks of what arrived; [`unpack()`]
//! moves them with the CPU. [`control`] reads what the kernel says about bytes it left in a device's memory.
//!
//! Nothing here does I/O or knows a clock. The layout of a fragment is NCCL's `loadMeta`, so that metadata of its plugins
//! can be used as it is.

#![forbid(unsafe_code)]

mod block;
mod carve;
pub mod control;
mod cpu;
mod fragment;
mod pool;
mod slots;

pub use block::{
    BLOCK_HEADER_BYTES, BOUNCE_ALIGNMENT, BOUNCE_BYTES_MAX, Block, BlockError, Ends, FRAGMENTS_MAX, SLICE_BYTES_MAX,
};
pub use carve::{Carved, carve, lay_out};
pub use cpu::unpack;
pub use fragment::{FRAGMENT_BYTES, Fragment};
pub use pool::{Order, PAGE_BYTES, Piece, Pool};
pub use slots::{SLOTS_MAX, Slot, SlotError, Slots};
