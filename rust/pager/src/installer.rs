//! All that a pager does to the memory it serves, behind one trait: the pager never touches its target itself.
//!
//! An installer speaks addresses of the target. [`SameProcess`] serves windows of the process the pager lives in; a
//! target that is another process needs other means for some of these (`UFFDIO_MOVE` works only on one's own memory),
//! which is why they are a trait and not calls.

use std::io;
use std::sync::Arc;

use weft_sys::memory::Span;
use weft_sys::uffd::{Halt, Uffd};

/// The effects a pager has. Every one but `wake` and `protect` also wakes whoever waits for the pages it did.
pub trait Installer: Send + Sync {
    /// Copies `source` to missing pages; with `protect` they come as not written yet.
    ///
    /// # Errors
    /// How far it came, and why no further.
    fn copy(&self, address: u64, source: Span, protect: bool) -> Result<(), Halt>;

    /// Moves the pages of `source` to where pages are missing. They count as written.
    ///
    /// # Errors
    /// How far it came, and why no further.
    fn move_in(&self, address: u64, source: Span) -> Result<(), Halt>;

    /// Maps zeros where pages are missing. They count as not written.
    ///
    /// # Errors
    /// How far it came, and why no further.
    fn zero(&self, address: u64, len: usize) -> Result<(), Halt>;

    /// Makes every touch of missing pages a SIGBUS.
    ///
    /// # Errors
    /// How far it came, and why no further.
    fn poison(&self, address: u64, len: usize) -> Result<(), Halt>;

    /// Lets whoever waits in the range try again.
    ///
    /// # Errors
    /// A range that is none.
    fn wake(&self, address: u64, len: usize) -> io::Result<()>;

    /// Protects pages against writing, or lifts that.
    ///
    /// # Errors
    /// Why it was not done.
    fn protect(&self, address: u64, len: usize, on: bool) -> Result<(), Halt>;

    /// Moves pages out of the target into `into`, where they are missing: the target misses them from then on, and no
    /// write is lost between, however many threads write.
    ///
    /// # Errors
    /// How far it came, and why no further: a pinned page stays.
    fn take_out(&self, address: u64, into: Span) -> Result<(), Halt>;
}

/// The installer for windows of this process.
#[derive(Clone, Debug)]
pub struct SameProcess {
    uffd: Arc<Uffd>,
}

impl SameProcess {
    /// Installs through `uffd`, where the window is registered (and the memory that pages are taken out into).
    pub fn new(uffd: Arc<Uffd>) -> Self {
        Self { uffd }
    }
}

impl Installer for SameProcess {
    fn copy(&self, address: u64, source: Span, protect: bool) -> Result<(), Halt> {
        self.uffd.copy(address, source, protect)
    }

    fn move_in(&self, address: u64, source: Span) -> Result<(), Halt> {
        self.uffd.shift(address, source.base() as u64, source.len())
    }

    fn zero(&self, address: u64, len: usize) -> Result<(), Halt> {
        self.uffd.zero(address, len)
    }

    fn poison(&self, address: u64, len: usize) -> Result<(), Halt> {
        self.uffd.poison(address, len)
    }

    fn wake(&self, address: u64, len: usize) -> io::Result<()> {
        self.uffd.wake(address, len)
    }

    fn protect(&self, address: u64, len: usize, on: bool) -> Result<(), Halt> {
        self.uffd.protect(address, len, on)
    }

    fn take_out(&self, address: u64, into: Span) -> Result<(), Halt> {
        self.uffd.shift(into.base() as u64, address, into.len())
    }
}
