//! Requests by queue pair: pieces out, in the order of the requests, and their bytes in.

use std::sync::atomic::Ordering;
use std::time::Instant;

use weft_sys::memory::Span;
use weft_transport::TransportError;
use weft_wire::{Kind, Range};

use super::{By, RdmaLane, Trouble};
use crate::VerbsError;
use crate::path::{PIECE_BYTES, gather, scatter};

impl RdmaLane {
    /// Posts as many pieces as there is room for, in the order of the requests.
    pub(super) fn issue(&mut self) -> Result<(), VerbsError> {
        let Some(online) = &mut self.online else { return Ok(()) };
        for entry in &mut self.outstanding {
            let By::Rdma(moving) = &mut entry.by else { return Ok(()) };
            while moving.posted < moving.length {
                let whole = [Range { offset: entry.header.offset, length: entry.header.length }];
                let ranges = if entry.ranges.is_empty() { &whole[..] } else { &entry.ranges };
                let range = ranges[moving.range];
                let left = usize::try_from(range.length - moving.within).expect("within a frame");
                let length = left.min(PIECE_BYTES);
                let address = moving.key.address + range.offset + moving.within;
                let posted = if entry.header.kind == Kind::Read {
                    online.path.read(address, moving.key.key, length)?
                } else {
                    let (payload, skip) = (&entry.payload, moving.posted);
                    online.path.write(address, moving.key.key, length, |into| gather(payload, skip, into))?
                };
                if !posted {
                    return Ok(());
                }
                moving.posted += length;
                moving.within += length as u64;
                if moving.within == range.length {
                    (moving.range, moving.within) = (moving.range + 1, 0);
                }
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
