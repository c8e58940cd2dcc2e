//! One connection as its waiter sees it.
//!
//! A lane has one driver at a time and answers in the order of posting: independence comes from having several lanes, not
//! from reordering within one. What if an answer is late? The driver's deadline passes and the lane is broken: the answer
//! may still be on its way and could be taken for the next one's. What if it is lost? The connection is then lost too, and
//! whoever owns the lane reconnects and asks again.

use std::time::Instant;

use weft_sys::memory::Span;
use weft_wire::{Header, Range};

use crate::{PeerIdentity, TransportError};

/// A request as it is posted. The lane numbers it.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Kind, handle, offset, length, tag and flags.
    pub header: Header,
    /// The ranges of a vectored request; empty for one contiguous range.
    pub ranges: &'a [Range],
    /// The bytes that follow; they must not change until the request completed.
    pub payload: &'a [Span],
}

/// The head of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// As the peer sent it; its kind is always `Reply`.
    pub header: Header,
    /// Payload bytes that already are in the spans given to `begin`.
    pub filled: usize,
}

impl Reply {
    /// Payload bytes of the whole answer.
    pub fn bytes(&self) -> usize {
        usize::try_from(self.header.payload_bytes()).expect("a payload is at most 64 MiB")
    }
}

/// One connection (or queue pair, or shared segment) to one peer.
pub trait Lane: Send {
    /// Sends a request. Returns once all its bytes were handed to the transport.
    ///
    /// # Errors
    /// Whatever breaks the lane; a lane that broke answers `Closed` from then on.
    fn post(&mut self, request: Request<'_>, deadline: Instant) -> Result<(), TransportError>;

    /// Receives the head of the oldest outstanding answer, and as much of its payload as comes with it, into `into`.
    ///
    /// # Errors
    /// `Refused` completes that request and leaves the lane whole; everything else breaks it. The content of `into` is
    /// undefined after an error.
    fn begin(&mut self, into: &[Span], deadline: Instant) -> Result<Reply, TransportError>;

    /// Receives until at least `at_least` payload bytes of the answer that was begun lie in `into`, which starts where the
    /// payload starts; `filled` are there already. Returns how many are there now. The request completes with its last byte.
    fn fill(
        &mut self,
        into: &[Span],
        filled: usize,
        at_least: usize,
        deadline: Instant,
    ) -> Result<usize, TransportError>;

    /// Requests posted and not completed.
    fn outstanding(&self) -> usize;

    /// Who is at the other end.
    fn peer(&self) -> &PeerIdentity;

    /// Ends the connection; what was outstanding is given up.
    fn close(&mut self);
}
