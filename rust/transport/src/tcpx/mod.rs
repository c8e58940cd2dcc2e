//! The `tcpx` transport: payload lands in a bounce buffer, and is gathered from there.
//!
//! On the wire it is TCP as everywhere else, so any server answers it. What differs is the receiving end, which is built as
//! it is on machines whose card puts payload into pages of its own: [`Bounce`] is the buffer and its book; what arrived
//! becomes blocks of fragments; a block is unpacked into where its bytes belong, by the CPU in [`TcpxLane`] and
//! [`TcpxDriven`], by a device for whoever takes the blocks themselves; then its slot goes back, in order. [`Devmem`] is
//! the source for cards that leave payload in a device's memory.
//!
//! It costs one copy more than `tcp`. It is for targets a socket cannot write to (a device's memory), and for testing all of
//! that on machines without any.

mod bounce;
mod devmem;
mod driven;
mod lane;

pub use bounce::TcpxOptions;
pub use devmem::Devmem;
pub use driven::TcpxDriven;
pub use lane::{Taken, TcpxLane};

use bounce::Bounce;
