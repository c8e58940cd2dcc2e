//! What a program asks of a window by itself: reading and writing without touching.
//!
//! A touch can only end in SIGBUS; these end in an error. They run on the caller's thread, on channels that are kept
//! from one call to the next.

use std::sync::Mutex;
use std::time::Instant;

use weft_paging::PAGE_BYTES;
use weft_sys::memory::{Mapping, Span};
use weft_sys::uffd::{Halt, Why};

use crate::error::PagerError;
use crate::lock::{Held, Shared};
use crate::pager::{Pager, unavailable, warm_landing};
use crate::source::{PageChannel, PageSource};
use crate::target::{Content, PAGE, Role, Target};

/// Lanes kept open when nobody uses them. More callers than this at once open their own, and close them again.
const LANES_KEPT_MAX: usize = 2;

/// A channel and where its replies arrive.
pub(crate) struct Lane {
    pub channel: Box<dyn PageChannel>,
    pub landing: Mapping,
}

/// Lanes that nobody uses just now.
pub(crate) struct Lanes(Mutex<Vec<Lane>>);

impl Lanes {
    pub fn new() -> Self {
        Self(Mutex::new(Vec::with_capacity(LANES_KEPT_MAX)))
    }

    /// A lane for one operation.
    pub fn take(&self, target: &Target, source: &dyn PageSource, page: u64) -> Result<Lane, PagerError> {
        if let Some(lane) = self.0.held().pop() {
            return Ok(lane);
        }
        let landing = warm_landing().map_err(PagerError::system("map a landing"))?;
        let channel = source.channel().map_err(|error| unavailable(target, page, &error))?;
        Ok(Lane { channel, landing })
    }

    /// Keeps a lane for the next operation, if nothing is outstanding on it.
    pub fn give_back(&self, lane: Lane) {
        let mut lanes = self.0.held();
        if lanes.len() < LANES_KEPT_MAX && lane.channel.outstanding() == 0 {
            lanes.push(lane);
        }
    }
}

impl Pager {
    /// Copies the region's bytes from `offset` on into `into`, fetching what is missing.
    ///
    /// # Errors
    /// [`PagerError::Unavailable`] for the first page that its home did not give by the deadline, or that was lost.
    pub fn read(&self, offset: u64, into: &mut [u8], deadline: Instant) -> Result<(), PagerError> {
        let _inside = self.gate.enter()?;
        self.fetch_range(offset, into.len() as u64, deadline)?;
        let mut rest = into;
        let mut at = offset;
        while !rest.is_empty() {
            let part = self.mapped(at, rest.len() as u64)?;
            let (head, tail) = rest.split_at_mut(part.len());
            part.copy_to(head);
            at += head.len() as u64;
            rest = tail;
        }
        Ok(())
    }

    /// Writes `data` to the region's bytes from `offset` on, in this window; in an exclusive one they are sent home by
    /// the next flush. A whole page that is missing is written without fetching it; the parts of a page at either end
    /// are fetched first. Writing a page that was lost makes it whole again.
    ///
    /// # Errors
    /// As [`Pager::read`], for the pages at either end; what was written before stays.
    pub fn write(&self, offset: u64, data: &[u8], deadline: Instant) -> Result<(), PagerError> {
        let _inside = self.gate.enter()?;
        self.check_range(offset, data.len() as u64)?;
        if !self.target.writable {
            return Err(PagerError::ReadOnly);
        }
        let mut lane_landing = None;
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() {
            let into_page = at % PAGE_BYTES;
            let whole = if into_page == 0 { rest.len() / PAGE } else { 0 };
            let part = if whole == 0 {
                let len = rest.len().min(PAGE - into_page as usize);
                self.fetch_range(at, len as u64, deadline)?;
                self.overwrite(at, &rest[..len])?;
                len
            } else {
                let landing = match &lane_landing {
                    Some(landing) => landing,
                    None => lane_landing.insert(warm_landing().map_err(PagerError::system("map a landing"))?),
                };
                let len = (whole * PAGE).min(landing.len());
                self.write_pages(at, &rest[..len], landing.span())?;
                len
            };
            at += part as u64;
            rest = &rest[part..];
        }
        Ok(())
    }

    /// Writes whole pages. The data goes through a landing of ours: the caller's buffer may lie in a window, and a fault
    /// of our own while the window is held would wait for itself.
    fn write_pages(&self, offset: u64, data: &[u8], landing: Span) -> Result<(), PagerError> {
        landing.copy_from(data);
        let first = offset / PAGE_BYTES;
        for index in 0..data.len() / PAGE {
            let page = first + index as u64;
            let source = landing.part(index * PAGE, PAGE).expect("as long as the data");
            if self.target.lost.first_in(page, page + 1).is_some() {
                // The mark goes, and the event of its going clears what is known of it.
                let mapped = self.mapped(page * PAGE_BYTES, PAGE_BYTES)?;
                mapped.discard().map_err(PagerError::system("release a lost page"))?;
                self.target.lost.remove(page, page + 1);
            }
            if !self.place_written(page, source)? {
                self.overwrite(page * PAGE_BYTES, &data[index * PAGE..(index + 1) * PAGE])?;
            }
        }
        Ok(())
    }

    /// Installs a missing page as written; `false` when it is there already.
    fn place_written(&self, page: u64, source: Span) -> Result<bool, PagerError> {
        let mut tries = 0;
        loop {
            let window = self.target.window.shared();
            let (address, _) =
                window.address_of(page * PAGE_BYTES).ok_or_else(|| self.not_mapped(page * PAGE_BYTES))?;
            match self.target.installer.copy(address, source, false) {
                Ok(()) => {
                    self.target.counters.pages_installed.add(1);
                    return Ok(true);
                }
                Err(Halt { why: Why::Present, .. }) => return Ok(false),
                Err(Halt { why: Why::Failed(error), .. }) => {
                    return Err(PagerError::System { what: "install a page", error });
                }
                Err(_) => {
                    drop(window);
                    self.target.await_change(Role::Caller, &mut tries);
                }
            }
        }
    }

    /// Writes to pages that are there, as the program itself would.
    fn overwrite(&self, offset: u64, data: &[u8]) -> Result<(), PagerError> {
        let mut rest = data;
        let mut at = offset;
        while !rest.is_empty() {
            let part = self.mapped(at, rest.len() as u64)?;
            let (head, tail) = rest.split_at(part.len());
            part.copy_from(head);
            at += head.len() as u64;
            rest = tail;
        }
        Ok(())
    }

    pub(crate) fn check_range(&self, offset: u64, len: u64) -> Result<(), PagerError> {
        let window = self.target.pages * PAGE_BYTES;
        if offset <= window && len <= window - offset {
            return Ok(());
        }
        Err(PagerError::OutOfRange { offset, len, window })
    }

    /// The memory that shows the region's bytes from `offset` on, at most `len` of them.
    fn mapped(&self, offset: u64, len: u64) -> Result<Span, PagerError> {
        let window = self.target.window.shared();
        let (address, contiguous) = window.address_of(offset).ok_or_else(|| self.not_mapped(offset))?;
        Ok(span_at(address, contiguous.min(len)))
    }

    fn not_mapped(&self, offset: u64) -> PagerError {
        PagerError::BadArgument { detail: format!("the program has unmapped offset {offset:#x} of the window") }
    }
}

/// A part of a window as a span.
#[expect(unsafe_code, reason = "the one place where an address of a window becomes memory")]
pub(crate) fn span_at(address: u64, len: u64) -> Span {
    // SAFETY: the address is one that the window shows: mapped by the pager or vouched for by who claimed it, and
    // neither released while an operation is inside the gate. A program that unmaps parts of a window while it asks
    // for them breaks its own memory, as it would by touching them.
    unsafe { Span::from_raw(address as *mut u8, len as usize) }
}

/// Zeros or bytes for pages of a batch, for those who install on their own thread.
pub(crate) fn content_of(landing: Span, zero: bool, start: usize, pages: u32) -> Content {
    if zero {
        return Content::Zeros;
    }
    Content::Bytes(landing.part(start, pages as usize * PAGE).expect("a batch fits its landing"))
}
