//! Requests by queue pair: pieces out, in the order of the requests, and their bytes in.

use std::sync::atomic::Ordering;
use std::time::Instant;

use weft_sys::memory::Span;
use weft_transport::TransportError;
use weft_wire::{Header, Kind, Range};

use super::{By, Moving, RdmaLane, Trouble};
use crate::VerbsError;
use crate::path::{PIECE_BYTES, Path, gather, scatter};
use crate::words::Key;

impl Moving {
    /// A request's way, from its start.
    pub(crate) fn new(key: Key, length: usize) -> Self {
        Self { key, length, posted: 0, range: 0, within: 0, taken: 0 }
    }

    /// Posts its next pieces for as long as there is room. Whether all of it is posted now.
    pub(crate) fn issue(
        &mut self,
        path: &mut Path,
        header: &Header,
        ranges: &[Range],
        payload: &[Span],
    ) -> Result<bool, VerbsError> {
        let whole = [Range { offset: header.offset, length: header.length }];
        let ranges = if ranges.is_empty() { &whole[..] } else { ranges };
        while self.posted < self.length {
            let range = ranges[self.range];
            let left = usize::try_from(range.length - self.within).expect("within a frame");
            let length = left.min(PIECE_BYTES);
            let address = self.key.address + range.offset + self.within;
            let posted = if header.kind == Kind::Read {
                path.read(address, self.key.key, length)?
            } else {
                let skip = self.posted;
                path.write(address, self.key.key, length, |into| gather(payload, skip, into))?
            };
            if !posted {
                return Ok(false);
            }
            self.posted += length;
            self.within += length as u64;
            if self.within == range.length {
                (self.range, self.within) = (self.range + 1, 0);
            }
        }
        Ok(true)
    }
}

impl RdmaLane {
    /// Posts as many pieces as there is room for, in the order of the requests.
    pub(super) fn issue(&mut self) -> Result<(), VerbsError> {
        let Some(online) = &mut self.online else { return Ok(()) };
        for entry in &mut self.outstanding {
            let By::Rdma(moving) = &mut entry.by else { return Ok(()) };
            if !moving.issue(&mut online.path, &entry.header, &entry.ranges, &entry.payload)? {
                return Ok(());
            }
        }
        Ok(())
    }

    /// Moves the oldest request, one by queue pair, on until `at_least` of its bytes are taken. Its bytes so far.
    pub(super) fn advance(&mut self, into: &[Span], at_least: usize, deadline: Instant) -> Result<usize, Trouble> {
        loop {
            self.issue()?;
            let online = self.online.as_mut().expect("requests by queue pair have one");
            let entry = self.outstanding.front_mut().expect("the caller saw it");
            let By::Rdma(moving) = &mut entry.by else { unreachable!("the caller saw how it goes") };
            let piece = match online.path.finished()? {
                Some(piece) => piece,
                None if moving.taken >= at_least => return Ok(moving.taken),
                None => match online.path.wait(deadline) {
                    Err(VerbsError::TimedOut(_)) => {
                        return Err(Trouble::Lane(TransportError::TimedOut {
                            peer: self.tcp.peer().name.clone(),
                            doing: "waiting for an answer",
                        }));
                    }
                    other => other?,
                },
            };
            if moving.taken == moving.length {
                return Ok(moving.taken);
            }
            if entry.header.kind == Kind::Read {
                scatter(online.path.bytes(&piece), into, moving.taken);
                self.rail.counters.read_bytes.fetch_add(piece.length as u64, Ordering::Relaxed);
            } else {
                self.rail.counters.written_bytes.fetch_add(piece.length as u64, Ordering::Relaxed);
            }
            moving.taken += piece.length;
            online.path.take();
        }
    }

    /// As `advance`, and falls back where the queue pair fails. `None` once that happened: look again.
    pub(super) fn advance_or_fall_back(
        &mut self,
        into: &[Span],
        at_least: usize,
        deadline: Instant,
    ) -> Result<Option<usize>, TransportError> {
        match self.advance(into, at_least, deadline) {
            Ok(taken) => Ok(Some(taken)),
            Err(Trouble::Path(error)) => self.fall_back(&error, deadline).map(|()| None),
            Err(Trouble::Lane(error)) => Err(self.broken(error)),
        }
    }
}
