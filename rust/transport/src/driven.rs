//! A lane whose driver never waits on it.
//!
//! What [`crate::Lane`] is to a thread that waits, [`Driven`] is to one that looks after many: requests are submitted with
//! all that their answers need, and `advance` moves what can be moved now. A transfer that waits drives the same face in a
//! loop of its own, so there is one book of what is outstanding, whoever drives.
//!
//! What if a request is given up? [`Driven::forget`] says what becomes of its memory: none of it is touched after that,
//! except where only the end of the connection can promise so. What if the lane breaks? Everything outstanding on it is
//! lost with it, and its driver knows which requests those were.

use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use weft_sys::event::{self, Interest};
use weft_sys::memory::Span;
use weft_wire::{Header, Kind, Range, Refusal};

use crate::{PeerIdentity, TransportError};

/// Bytes that go with a request.
#[derive(Clone, Debug)]
pub enum Payload {
    /// None.
    Empty,
    /// The request's own.
    Owned(Vec<u8>),
    /// Somebody's memory, which must not change until the request is finished or forgotten.
    Spans(Vec<Span>),
}

impl Payload {
    /// How many bytes it has.
    pub fn len(&self) -> usize {
        match self {
            Self::Empty => 0,
            Self::Owned(bytes) => bytes.len(),
            Self::Spans(spans) => spans.iter().map(|span| span.len()).sum(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A request, with all that carrying it out needs.
#[derive(Clone, Debug)]
pub struct Submission {
    /// The driver's name for it; unique among what is outstanding on the lane.
    pub id: u64,
    /// Kind, handle, offset, length, tag and flags. The lane numbers it and counts the ranges.
    pub header: Header,
    /// The ranges of a vectored request; empty for one contiguous range.
    pub ranges: Arc<[Range]>,
    /// What follows it.
    pub payload: Payload,
    /// Where the answer's bytes go. An answer that is longer is collected, up to the bound of a message.
    pub into: Vec<Span>,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Carried out. The head of the answer, and its bytes where the request gave no memory for them.
    Done(Header, Vec<u8>),
    /// Not carried out; the lane goes on.
    Refused(Refusal),
}

/// A request that ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finished {
    /// The driver's name for it.
    pub id: u64,
    /// How.
    pub outcome: Outcome,
}

/// What giving up a request came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forgotten {
    /// The lane knows nothing of it: it finished, or was never submitted.
    Unknown,
    /// It was not sent and never will be.
    Unsent,
    /// It was sent. Its answer will be received and dropped; its memory is free.
    Sent,
    /// A part of it was sent and the rest cannot be: its memory is free once the lane is closed.
    Torn,
}

/// One connection (or queue pair, or another process's memory) to one peer, driven without waiting.
pub trait Driven: Send {
    /// Takes a request; it goes out as `advance` finds room. Whoever submits bounds how many are outstanding.
    fn submit(&mut self, submission: Submission);

    /// Moves what can be moved without waiting, a bounded share of it; what ended is appended to `finished`. Whether
    /// anything moved.
    ///
    /// # Errors
    /// Whatever breaks the lane. Nothing outstanding on it will be finished, and none of its memory is touched any more.
    fn advance(&mut self, finished: &mut Vec<Finished>) -> Result<bool, TransportError>;

    /// As `advance`, for a driver that has nothing else to do: sleeps until something can move, at most for `slice`.
    ///
    /// # Errors
    /// As `advance`.
    fn advance_sleeping(&mut self, finished: &mut Vec<Finished>, slice: Duration) -> Result<bool, TransportError> {
        if let Some((descriptor, interest)) = self.readiness() {
            // A failed wait is noticed by whatever is tried next.
            let _ = event::wait_for(descriptor, interest, slice);
        }
        self.advance(finished)
    }

    /// Moves one range now, for a driver with nothing outstanding here, where the lane needs no answer for it. `false` when it
    /// does, or when anything is in the way: the request says what, in the ordinary way.
    fn at_once(&mut self, _kind: Kind, _handle: u64, _offset: u64, _span: Span) -> bool {
        false
    }

    /// Gives one request up.
    fn forget(&mut self, id: u64) -> Forgotten;

    /// Requests submitted and neither finished nor received in vain.
    fn outstanding(&self) -> usize;

    /// What to sleep on, and for what; nothing when progress needs no descriptor.
    fn readiness(&self) -> Option<(BorrowedFd<'_>, Interest)>;

    /// Whether it reaches extents of regions, and not only buffers that were advertised.
    fn reaches_extents(&self) -> bool {
        true
    }

    /// Which transport it is, as it is shown to people.
    fn transport(&self) -> &'static str;

    /// Whether a read or write that finished went over the TCP connection a lane of another transport has beside it. Asked
    /// once of each.
    fn went_by_tcp(&mut self, _id: u64) -> bool {
        false
    }

    /// Who is at the other end.
    fn peer(&self) -> &PeerIdentity;

    /// Ends the connection; what was outstanding is given up. Twice is once.
    fn close(&mut self);
}
