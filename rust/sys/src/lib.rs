//! The kernel, one file an interface, safe above.
//!
//! Everything here is a thin, checked face over a system call; no policy lives here. All `unsafe` of the data plane that
//! talks to the kernel or to shared memory is in this crate, each block with the invariant it rests on.

pub mod cpu;
pub mod devmem;
pub mod event;
pub mod memory;
pub mod neighbour;
pub mod pagemap;
pub mod random;
pub mod signal;
pub mod socket;
pub mod uffd;
pub mod view;
pub mod watched;
