//! A lane for whoever waits: another way to drive a connection, not another connection.
//!
//! What is sent, how answers are told apart and where their bytes go is the connection's business, whoever drives it. A
//! waiter differs in two things: it says where an answer's bytes go only when the answer's turn comes, so that one piece of
//! memory serves many answers, and it may take an answer bit by bit, so that the first page of many is used while the
//! others are on their way.

use std::fmt;
use std::time::Instant;

use weft_sys::memory::Span;
use weft_sys::socket::Wait;
use weft_wire::{Header, Refusal, WireError};

use crate::book::{Body, Book, Taker};
use crate::driven::{Driven, Finished, Outcome, Payload};
use crate::spin::Step;
use crate::{Lane, PeerIdentity, Reply, Request, Spin, TransportError};

/// Requests posted and not completed on one lane; what bounds the server's work and our book.
const OUTSTANDING_MAX: usize = 256;

/// A driven connection, as its waiter drives it: step by step.
pub trait Connection: Driven {
    /// What was asked and is not answered.
    fn book(&mut self) -> &mut Book;

    /// The answer that has begun.
    fn under_way(&self) -> Option<&Body>;

    /// Whether it may still be used.
    fn is_open(&self) -> bool;

    /// Whether anything is still to be sent.
    fn is_unsent(&self) -> bool;

    /// Sends what one call takes. Whether anything moved.
    ///
    /// # Errors
    /// Whatever breaks the connection.
    fn send_step(&mut self, wait: Wait) -> Result<bool, TransportError>;

    /// Receives what one call brings of the oldest answer. Whether anything moved.
    ///
    /// # Errors
    /// Whatever breaks the connection.
    fn receive_step(&mut self, finished: &mut Vec<Finished>, wait: Wait) -> Result<bool, TransportError>;
}

/// A connection with a waiter.
pub struct Waited<C: Connection> {
    connection: C,
    spin: Spin,
    finished: Vec<Finished>,
    posted: u64,
}

impl<C: Connection> Waited<C> {
    pub(crate) fn over(connection: C, spin: Spin) -> Self {
        Self { connection, spin, finished: Vec::with_capacity(1), posted: 0 }
    }

    pub(crate) fn connection(&mut self) -> &mut C {
        &mut self.connection
    }

    pub(crate) fn connection_ref(&self) -> &C {
        &self.connection
    }

    /// The connection by itself, for a driver that never waits.
    pub(crate) fn into_connection(self) -> C {
        self.connection
    }

    /// One request with a small payload and its small answer, whatever kind that has.
    pub(crate) fn call(
        &mut self,
        header: Header,
        payload: &[u8],
        deadline: Instant,
    ) -> Result<(Header, Vec<u8>), TransportError> {
        let header = Header { length: payload.len() as u64, ..header };
        let payload = Payload::Owned(payload.to_vec());
        self.posted += 1;
        self.connection.book().enter(self.posted, header, &[], payload, Vec::new(), Taker::Greeter);
        self.send_all(deadline)?;
        self.receive(deadline, |_| false)?;
        match self.take_outcome() {
            Some(outcome) => self.answered(outcome),
            None => Err(self.broken(|peer| TransportError::Closed { peer })),
        }
    }

    /// Ends the connection with this error.
    pub(crate) fn broken(&mut self, error: impl FnOnce(String) -> TransportError) -> TransportError {
        let error = error(self.connection.peer().name.clone());
        self.connection.close();
        error
    }

    pub(crate) fn garbage(&mut self, cause: WireError) -> TransportError {
        self.broken(|peer| TransportError::Garbage { peer, cause })
    }

    /// Receives until the oldest answer is there, or `enough` of it is.
    pub(crate) fn receive(
        &mut self,
        deadline: Instant,
        mut enough: impl FnMut(&Body) -> bool,
    ) -> Result<(), TransportError> {
        while self.finished.is_empty() && !self.connection.under_way().is_some_and(&mut enough) {
            self.receive_once(deadline)?;
        }
        Ok(())
    }

    /// Waits until something came.
    pub(crate) fn receive_once(&mut self, deadline: Instant) -> Result<(), TransportError> {
        let (connection, finished) = (&mut self.connection, &mut self.finished);
        let moved = self.spin.wait(deadline, |step| {
            connection.receive_step(finished, if step == Step::Look { Wait::No } else { Wait::Yes })
        })?;
        if moved {
            return Ok(());
        }
        Err(self.broken(|peer| TransportError::TimedOut { peer, doing: "waiting for an answer" }))
    }

    pub(crate) fn take_outcome(&mut self) -> Option<Outcome> {
        self.finished.pop().map(|finished| finished.outcome)
    }

    fn answered(&self, outcome: Outcome) -> Result<(Header, Vec<u8>), TransportError> {
        match outcome {
            Outcome::Done(header, bytes) => Ok((header, bytes)),
            Outcome::Refused(refusal) => Err(self.refused(refusal)),
        }
    }

    pub(crate) fn refused(&self, refusal: Refusal) -> TransportError {
        let peer = self.connection.peer().name.clone();
        TransportError::Refused { peer, code: refusal.code, detail: refusal.detail }
    }

    /// Everything there is to send; the memory it comes from is the caller's again.
    fn send_all(&mut self, deadline: Instant) -> Result<(), TransportError> {
        while self.connection.is_unsent() {
            if !self.connection.send_step(Wait::Yes)? && Instant::now() >= deadline {
                return Err(self.broken(|peer| TransportError::TimedOut { peer, doing: "sending" }));
            }
        }
        Ok(())
    }

    /// Makes sure that there is an oldest answer whose turn it is.
    pub(crate) fn turn(&mut self) -> Result<(), TransportError> {
        if !self.connection.is_open() {
            return Err(TransportError::Closed { peer: self.connection.peer().name.clone() });
        }
        if self.connection.outstanding() == 0 || self.connection.under_way().is_some() {
            // The waiter's book is wrong: nothing on this lane can be told apart any more.
            return Err(self.broken(|peer| TransportError::Closed { peer }));
        }
        Ok(())
    }

    fn receive_into(&mut self, into: &[Span]) {
        self.connection.book().oldest_mut().expect("it is outstanding").receive_into(into);
    }
}

impl<C: Connection> Lane for Waited<C> {
    fn post(&mut self, request: Request<'_>, deadline: Instant) -> Result<(), TransportError> {
        if !self.connection.is_open() {
            return Err(TransportError::Closed { peer: self.connection.peer().name.clone() });
        }
        if self.connection.outstanding() == OUTSTANDING_MAX {
            return Err(TransportError::BadArgument(format!(
                "{OUTSTANDING_MAX} requests are outstanding on this lane; complete some before posting more"
            )));
        }
        let payload =
            if request.payload.is_empty() { Payload::Empty } else { Payload::Spans(request.payload.to_vec()) };
        self.posted += 1;
        let book = self.connection.book();
        book.enter(self.posted, request.header, request.ranges, payload, Vec::new(), Taker::Waiter);
        self.send_all(deadline)
    }

    fn begin(&mut self, into: &[Span], deadline: Instant) -> Result<Reply, TransportError> {
        self.turn()?;
        self.receive_into(into);
        self.receive(deadline, |body| !body.is_refusal())?;
        if let Some(outcome) = self.take_outcome() {
            let (header, _) = self.answered(outcome)?;
            let reply = Reply { header, filled: 0 };
            return Ok(Reply { filled: reply.bytes(), ..reply });
        }
        let body = self.connection.under_way().expect("it has begun");
        Ok(Reply { header: body.header, filled: body.done })
    }

    fn fill(
        &mut self,
        into: &[Span],
        filled: usize,
        at_least: usize,
        deadline: Instant,
    ) -> Result<usize, TransportError> {
        if filled >= at_least {
            return Ok(filled);
        }
        let Some(body) = self.connection.under_way() else {
            return Err(TransportError::Closed { peer: self.connection.peer().name.clone() });
        };
        let total = body.total;
        assert!(at_least <= total, "an answer of {total} bytes cannot fill {at_least}");
        self.receive_into(into);
        self.receive(deadline, |body| body.done >= at_least)?;
        match self.take_outcome() {
            Some(_) => Ok(total),
            None => Ok(self.connection.under_way().map_or(total, |body| body.done)),
        }
    }

    fn outstanding(&self) -> usize {
        self.connection.outstanding()
    }

    fn peer(&self) -> &PeerIdentity {
        self.connection.peer()
    }

    fn close(&mut self) {
        self.connection.close();
    }
}

impl<C: Connection> fmt::Debug for Waited<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Waited")
            .field("peer", self.connection.peer())
            .field("outstanding", &self.connection.outstanding())
            .finish_non_exhaustive()
    }
}
