//! Sending home what was written.
//!
//! The kernel keeps, for every page of an exclusive window, whether it was written since it was last protected; one scan
//! takes the written ones and protects them again in the same breath. They are sent straight from the window's memory.
//!
//! The awkward questions:
//! * What if a page is written while it is sent? It was protected before, so it counts as written again, and the next
//!   flush sends it; what the home has until then may be half of each. A program that wants a point in time does not
//!   write while it flushes.
//! * What if sending fails? What was taken and is not acknowledged is kept as *unsent*, and the next flush begins with
//!   it. A range sent twice is the same as sent once.
//! * What if the program drops a page (`MADV_DONTNEED`) that was written? Then it said that it does not need it: the
//!   page is not sent, and comes from its home again when touched.
//! * What if a page was lost? It was never here to be written; it is not sent.

use std::time::Instant;

use weft_paging::PAGE_BYTES;
use weft_paging::runs::RUNS_MAX;
use weft_sys::memory::Span;

use crate::caller::span_at;
use crate::error::PagerError;
use crate::lock::{Held, Shared};
use crate::pager::Pager;
use crate::source::PageSink;

/// Ranges handed to the sink at once; what bounds the list, and how much is sent again when one write of it fails.
const WRITES_MAX: usize = 256;
/// Bytes handed to the sink at once, for the same reason: a tenth of a second at a gigabyte a second.
const BATCH_BYTES_MAX: u64 = 64 << 20;

/// Ranges on their way to the sink.
#[derive(Default)]
struct Batch {
    writes: Vec<(u64, Span)>,
    bytes: u64,
}

impl Pager {
    /// Sends home every page that was written in an exclusive window since it was last sent; answers how many bytes.
    /// Once it returns, every write that happened before it began is at its home.
    ///
    /// # Errors
    /// [`PagerError::NotFlushed`]: some pages did not come home by the deadline. They stay dirty.
    pub fn flush(&self, deadline: Instant) -> Result<u64, PagerError> {
        let _inside = self.gate.enter()?;
        // One flush at a time: a page that another one took and has not sent would be missed by this one.
        let mut sink = self.sink.held();
        let Some(sink) = sink.as_mut() else { return Ok(0) };
        let mut batch = Batch::default();
        let mut flushed = 0;
        for (start, end) in self.take_written()? {
            let mut offset = start;
            while offset < end {
                let room = (BATCH_BYTES_MAX - batch.bytes).min(end - offset);
                // Unmapped since: nobody can read it any more, nor send it.
                let Some((address, contiguous)) = self.target.window.shared().address_of(offset) else { break };
                let len = contiguous.min(room);
                batch.writes.push((offset, span_at(address, len)));
                batch.bytes += len;
                offset += len;
                if batch.writes.len() == WRITES_MAX || batch.bytes == BATCH_BYTES_MAX {
                    flushed += self.send(sink.as_mut(), &mut batch, flushed, deadline)?;
                }
            }
        }
        flushed += self.send(sink.as_mut(), &mut batch, flushed, deadline)?;
        Ok(flushed)
    }

    /// Bytes that a flush tried to send and could not. (What was written since the last flush is known to the kernel
    /// alone until the next one.)
    pub fn unsent_bytes(&self) -> u64 {
        self.target.unsent.held().bytes()
    }

    /// Takes what the kernel knows as written, and answers all that is to be sent: that, and what is unsent from before.
    fn take_written(&self) -> Result<Vec<(u64, u64)>, PagerError> {
        let window = self.target.window.shared();
        let mut unsent = self.target.unsent.held();
        let mut exact = unsent.is_empty();
        for piece in window.pieces() {
            let take = |start: u64, end: u64| {
                let offset = piece.offset + (start - piece.address);
                unsent.insert(offset, offset + (end - start));
            };
            self.target
                .pagemap
                .take_written(piece.address, piece.address + piece.len, take)
                .map_err(PagerError::system("scan the window for written pages"))?;
        }
        // Poisoned pages look written to the scan.
        self.target.lost.each(|page| unsent.remove(page * PAGE_BYTES, (page + 1) * PAGE_BYTES));
        exact &= unsent.len() < RUNS_MAX;
        if exact {
            return Ok(unsent.iter().collect());
        }
        // What is left from before, or was joined because there is so much, may hold pages that are not here; to send
        // one of those would fetch it first.
        let mut here = Vec::with_capacity(unsent.len());
        for (start, end) in unsent.iter() {
            for piece in window.pieces() {
                let (from, to) = (start.max(piece.offset), end.min(piece.offset + piece.len));
                if from >= to {
                    continue;
                }
                let address_of = |offset: u64| piece.address + (offset - piece.offset);
                let keep = |start: u64, end: u64| {
                    here.push((piece.offset + (start - piece.address), piece.offset + (end - piece.address)));
                };
                self.target
                    .pagemap
                    .resident(address_of(from), address_of(to), keep)
                    .map_err(PagerError::system("scan the window for what is here"))?;
            }
        }
        *unsent = here.iter().copied().collect();
        Ok(here)
    }

    /// Sends a batch and empties it; answers its bytes. What it could not send stays unsent.
    fn send(
        &self,
        sink: &mut dyn PageSink,
        batch: &mut Batch,
        flushed: u64,
        deadline: Instant,
    ) -> Result<u64, PagerError> {
        if batch.writes.is_empty() {
            return Ok(0);
        }
        sink.write(&batch.writes, deadline).map_err(|error| PagerError::NotFlushed { flushed, error })?;
        let mut unsent = self.target.unsent.held();
        for (offset, span) in &batch.writes {
            unsent.remove(*offset, offset + span.len() as u64);
        }
        self.target.counters.bytes_flushed.add(batch.bytes);
        batch.writes.clear();
        Ok(std::mem::take(&mut batch.bytes))
    }
}
