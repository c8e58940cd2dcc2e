//! Landing a write: bytes go straight into the extent, and no page is ever left torn.
//!
//! Whole pages that already wait in the socket are received in place. A page of which only a part has arrived is gathered
//! in a page of staging and copied when complete. So when a connection dies in the middle of a write, each page of the
//! range is either old or new:
//!
//! ```text
//! waiting in the socket: |####|####|##..|     received in place: two pages; staged: half a page
//! ```

use std::io;
use std::net::TcpStream;
use std::sync::Arc;

use weft_sys::memory::{PAGE_BYTES, Span};
use weft_sys::socket::{self, Wait};
use weft_wire::{Range, Refusal};

use super::requests::Target;
use crate::store::{Extent, Pass};

/// Most bytes one receive lands: other connections of the loop wait meanwhile.
const LANDING_BYTES_MAX: usize = 1 << 20;

/// A write on its way in.
pub struct Landing {
    target: Target,
    range: usize,
    done_in_range: u64,
    staged: usize,
    stage: Vec<u8>,
}

/// What landing some bytes came to.
pub enum Landed {
    /// All of the payload is in.
    All,
    /// More is to come.
    Part,
    /// The generation passed meanwhile: the rest is to be received and dropped.
    Refused(Refusal),
}

impl Landing {
    /// Nothing has arrived yet.
    pub fn new(target: Target) -> Self {
        Self { target, range: 0, done_in_range: 0, staged: 0, stage: Vec::new() }
    }

    /// Bytes still to come.
    pub fn left(&self) -> u64 {
        let whole: u64 = self.target.ranges[self.range..].iter().map(|range| range.length).sum();
        whole - self.done_in_range - self.staged as u64
    }

    /// Takes bytes that were received with the head. Returns how many were used.
    pub fn take(&mut self, bytes: &[u8]) -> (usize, Landed) {
        let mut used = 0;
        while used < bytes.len() {
            let Some(unit) = self.unit() else { return (used, Landed::All) };
            let rest = &bytes[used..];
            if self.staged == 0 && rest.len() >= unit {
                if let Err(refusal) = self.land(&rest[..unit]) {
                    return (used, Landed::Refused(refusal));
                }
                used += unit;
            } else {
                let part = rest.len().min(unit - self.staged);
                self.stage.resize(PAGE_BYTES, 0);
                self.stage[self.staged..self.staged + part].copy_from_slice(&rest[..part]);
                used += part;
                if let Err(refusal) = self.staged_more(part, unit) {
                    return (used, Landed::Refused(refusal));
                }
            }
        }
        (used, if self.unit().is_none() { Landed::All } else { Landed::Part })
    }

    /// Receives what waits in the socket.
    ///
    /// # Errors
    /// The socket's; `WouldBlock` when nothing waits, `UnexpectedEof` when the peer closed.
    pub fn receive(&mut self, stream: &TcpStream) -> io::Result<Landed> {
        let Some(unit) = self.unit() else { return Ok(Landed::All) };
        let waiting = if self.staged == 0 { socket::readable_bytes(stream)? } else { 0 };
        if waiting >= unit {
            return self.receive_in_place(stream, waiting.min(LANDING_BYTES_MAX));
        }
        self.stage.resize(PAGE_BYTES, 0);
        let into = Span::of(&mut self.stage[self.staged..unit]);
        let got = socket::receive(stream, &[into], Wait::No)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        match self.staged_more(got, unit) {
            Ok(()) if self.unit().is_none() => Ok(Landed::All),
            Ok(()) => Ok(Landed::Part),
            Err(refusal) => Ok(Landed::Refused(refusal)),
        }
    }

    /// Receives the whole units among `waiting` bytes straight into the extent.
    fn receive_in_place(&mut self, stream: &TcpStream, waiting: usize) -> io::Result<Landed> {
        let extent = Arc::clone(&self.target.extent);
        let pass = match self.enter(&extent) {
            Ok(pass) => pass,
            Err(refusal) => return Ok(Landed::Refused(refusal)),
        };
        let range = self.current();
        // Whole pages of this range that wait; the range's own end counts as a page's.
        let wanted = (waiting as u64).min(range.length);
        let end = range.offset + wanted;
        let cut = if wanted == range.length { 0 } else { end % PAGE_BYTES as u64 };
        let landing = Range { offset: range.offset, length: wanted - cut };
        self.target.extent.mark_written(landing);
        let span = self.target.extent.part(landing).expect("the ranges were checked before the write was accepted");
        let got = socket::receive(stream, &[span], Wait::No)?;
        drop(pass);
        assert!(got == span.len(), "the kernel gave {got} of {} bytes that it said were waiting", span.len());
        self.advance(got as u64);
        Ok(if self.unit().is_none() { Landed::All } else { Landed::Part })
    }

    /// The rest of the current range.
    fn current(&self) -> Range {
        let range = self.target.ranges[self.range];
        Range { offset: range.offset + self.done_in_range, length: range.length - self.done_in_range }
    }

    /// Bytes up to the next page boundary or the end of the range; none when all landed.
    fn unit(&self) -> Option<usize> {
        if self.range == self.target.ranges.len() {
            return None;
        }
        let rest = self.current();
        let to_boundary = PAGE_BYTES as u64 - rest.offset % PAGE_BYTES as u64;
        Some(usize::try_from(to_boundary.min(rest.length)).expect("at most a page"))
    }

    fn staged_more(&mut self, part: usize, unit: usize) -> Result<(), Refusal> {
        self.staged += part;
        if self.staged == unit {
            let stage = std::mem::take(&mut self.stage);
            let landed = self.land(&stage[..unit]);
            self.stage = stage;
            // Refused bytes stay counted as staged: they have left the socket and must not be waited for again.
            landed?;
            self.staged = 0;
        }
        Ok(())
    }

    /// Copies one unit into the extent.
    fn land(&mut self, unit: &[u8]) -> Result<(), Refusal> {
        let extent = Arc::clone(&self.target.extent);
        let pass = self.enter(&extent)?;
        let landing = Range { offset: self.current().offset, length: unit.len() as u64 };
        self.target.extent.mark_written(landing);
        let span = self.target.extent.part(landing).expect("the ranges were checked before the write was accepted");
        span.copy_from(unit);
        drop(pass);
        self.advance(unit.len() as u64);
        Ok(())
    }

    /// Passes the gate, if neither a newer attachment nor a newer connection of this writer stands before it.
    fn enter<'a>(&self, extent: &'a Extent) -> Result<Pass<'a>, Refusal> {
        let pass = extent.gate.enter(self.target.generation)?;
        extent.check_writer(self.target.writer.0, self.target.writer.1)?;
        Ok(pass)
    }

    fn advance(&mut self, bytes: u64) {
        self.done_in_range += bytes;
        if self.done_in_range == self.target.ranges[self.range].length {
            self.range += 1;
            self.done_in_range = 0;
        }
    }
}
