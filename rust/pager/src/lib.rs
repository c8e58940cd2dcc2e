//! The pager: serves the faults of a window from wherever its pages live.
//!
//! A [`Pager`] is one window: a range of this process's memory whose missing pages are fetched when they are touched,
//! by threads of its own that never need a lock of the program (Python's least of all). [`Pager::region`] maps a
//! region's window; [`Pager::claim`] takes over memory the caller has, with a page directory.
//!
//! Where to start reading: [`source`] is what the pager asks of the other nodes, `fault_thread` is how a fault is
//! resolved, `events` and `target` what keeps that right while the program moves, drops and unmaps its memory.
//!
//! What dies with what: the pager lives in the process it serves, so there is no pager death without process death, and
//! no spare descriptor is needed. (A pager for another process leaves a duplicate of the userfaultfd in its target, so
//! that without it faults wait instead of reading zeros.) A child that is forked does not get the window. A fault
//! thread that panics aborts the process.

#![deny(unsafe_code)]

mod caller;
mod counters;
mod error;
mod events;
mod fault_thread;
mod flush;
mod gate;
mod inbox;
mod installer;
mod lock;
mod lost;
mod options;
mod pager;
mod prefetch;
pub mod source;
mod spin;
mod stream;
mod suspects;
mod target;
mod wait;
mod watchdog;

pub use counters::{Counter, Counters};
pub use error::{PageUnavailable, PagerError};
pub use installer::{Installer, SameProcess};
pub use options::{Options, Readahead};
pub use pager::{Pager, RegionMode};
