//! A TCP connection driven without waiting.
//!
//! Requests leave in the order they were submitted, several small ones in one send; answers come back in the same order.
//! What an answer brings goes straight to its memory where that saves a copy worth saving, and through a small buffer where
//! one receive can bring several answers instead.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use weft_sys::event::{self, Interest};
use weft_sys::memory::Span;
use weft_sys::socket::{self, Wait};
use weft_wire::{HEADER_BYTES, WireError};

use crate::book::{Body, Book, Sink, tail};
use crate::driven::{Driven, Finished, Forgotten, Submission};
use crate::spin::SLEEP_SLICE;
use crate::tcp::{ConnectOptions, TcpLane};
use crate::tls::Stream;
use crate::waited::Connection;
use crate::{Identity, PeerIdentity, TransportError};

/// What one receive may bring of several small answers.
const INPUT_BYTES: usize = 32 << 10;
/// From this size on an answer is received in place: a copy of it would cost more than the call it saves.
const DIRECT_BYTES_MIN: usize = 8 << 10;
/// Most bytes one turn moves either way: other lanes of the same driver wait meanwhile.
const TURN_BYTES_MAX: usize = 4 << 20;

/// A connected, authenticated TCP connection that nobody waits on.
pub struct TcpDriven {
    stream: Stream,
    peer: PeerIdentity,
    book: Book,
    input: Box<[u8]>,
    start: usize,
    end: usize,
    body: Option<Body>,
    open: bool,
}

impl TcpDriven {
    /// Connects and shakes hands, which waits.
    ///
    /// # Errors
    /// As [`TcpLane::connect`].
    pub fn connect(
        address: SocketAddr,
        label: &str,
        identity: &Identity,
        options: &ConnectOptions,
    ) -> Result<Self, TransportError> {
        TcpLane::connect(address, label, identity, options).map(Self::over)
    }

    /// Takes over a lane on which nothing is outstanding.
    pub fn over(lane: TcpLane) -> Self {
        lane.into_connection()
    }

    /// A connection that has yet to greet its peer, of which only `label` is known.
    pub(crate) fn fresh(stream: Stream, label: &str) -> Self {
        Self {
            stream,
            peer: PeerIdentity { name: label.to_owned(), incarnation: 0 },
            book: Book::default(),
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            body: None,
            open: true,
        }
    }

    /// Who greeted.
    pub(crate) fn met(&mut self, peer: PeerIdentity) {
        self.peer = peer;
    }

    /// What it runs over.
    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// That and the book, for whoever receives in another way; nothing is outstanding.
    pub(crate) fn into_parts(mut self) -> (Stream, PeerIdentity, Book) {
        assert!(self.book.outstanding() == 0, "a lane is handed over between requests");
        // The connection lives on: dropping this must not end it.
        self.open = false;
        (std::mem::replace(&mut self.stream, Stream::Gone), self.peer.clone(), std::mem::take(&mut self.book))
    }

    fn send(&mut self, budget: &mut usize, wait: Wait) -> Result<bool, TransportError> {
        let sent = if self.book.is_unsent() {
            let stream = &mut self.stream;
            self.book.send((*budget).max(1), |spans| stream.send(spans, wait))
        } else if self.stream.is_unflushed() {
            self.stream.flush(wait).map(|()| 0)
        } else {
            return Ok(false);
        };
        match sent {
            Ok(sent) => {
                *budget = budget.saturating_sub(sent);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(self.disconnected("sending", Some(error))),
        }
    }

    /// One step of receiving. Whether anything moved.
    fn receive(
        &mut self,
        finished: &mut Vec<Finished>,
        budget: &mut usize,
        wait: Wait,
    ) -> Result<bool, TransportError> {
        let mut moved = false;
        if self.body.is_none() {
            moved = self.receive_head(budget, wait)?;
        }
        if self.body.as_ref().is_some_and(|body| !body.is_complete()) {
            moved |= self.receive_body(budget, if moved { Wait::No } else { wait })?;
        }
        self.finish(finished);
        Ok(moved)
    }

    /// Receives until a head is complete, and prepares for its body. Whether anything moved.
    fn receive_head(&mut self, budget: &mut usize, wait: Wait) -> Result<bool, TransportError> {
        if self.end - self.start < HEADER_BYTES {
            if self.start > 0 {
                self.input.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            let front = self.book.oldest();
            let large = front.is_some_and(|front| front.expected >= DIRECT_BYTES_MIN && !front.orphan);
            if self.end == 0
                && self.book.outstanding() == 1
                && front
                    .is_some_and(|front| front.expected > 0 && !front.orphan && front.into.len() < socket::SPANS_MAX)
            {
                return self.receive_whole(budget, wait);
            }
            let limit = if large { HEADER_BYTES } else { INPUT_BYTES };
            let room = Span::of(&mut self.input[self.end..limit]);
            let Some(got) = self.receive_some(&[room], wait)? else { return Ok(false) };
            *budget = budget.saturating_sub(got);
            self.end += got;
            if self.end < HEADER_BYTES {
                return Ok(true);
            }
        }
        let head: [u8; HEADER_BYTES] =
            self.input[self.start..self.start + HEADER_BYTES].try_into().expect("a head's worth");
        self.start += HEADER_BYTES;
        self.expect_body(&head)?;
        Ok(true)
    }

    /// With one answer outstanding nothing can follow it: head and bytes come in one receive, the bytes in place.
    fn receive_whole(&mut self, budget: &mut usize, wait: Wait) -> Result<bool, TransportError> {
        let mut head = [0u8; HEADER_BYTES];
        let front = self.book.oldest().expect("the caller looked");
        let first = Span::of(&mut head);
        let got = match front.into.as_slice() {
            [only] => {
                let spans = [first, *only];
                self.receive_some(&spans, wait)?
            }
            many => {
                let mut spans = Vec::with_capacity(many.len() + 1);
                spans.push(first);
                spans.extend_from_slice(many);
                self.receive_some(&spans, wait)?
            }
        };
        let Some(got) = got else { return Ok(false) };
        *budget = budget.saturating_sub(got);
        if got < HEADER_BYTES {
            self.input[..got].copy_from_slice(&head[..got]);
            (self.start, self.end) = (0, got);
            return Ok(true);
        }
        let filled = got - HEADER_BYTES;
        self.expect_body(&head)?;
        let body = self.body.as_mut().expect("expected just now");
        if filled > body.total {
            return Err(self.garbage(WireError::Payload("more came than the answer announced")));
        }
        match &mut body.sink {
            Sink::Spans => body.done = filled,
            Sink::Collect(bytes) => {
                // A refusal's sentence was received into the caller's memory: it is moved to where it belongs.
                let mut copied = 0;
                let into = self.book.oldest().map_or(&[][..], |front| &front.into);
                for span in into {
                    let part = span.len().min(filled - copied);
                    span.part(0, part).expect("part of a span").copy_to(&mut bytes[copied..copied + part]);
                    copied += part;
                }
                body.done = filled;
            }
            Sink::Drop => unreachable!("an orphan is not received in place"),
        }
        Ok(true)
    }

    /// Takes a head in: the answer it begins is under way.
    fn expect_body(&mut self, head: &[u8; HEADER_BYTES]) -> Result<(), TransportError> {
        self.body = Some(self.book.answer(head).map_err(|cause| self.garbage(cause))?);
        Ok(())
    }

    /// Receives what it can of the body under way. Whether anything moved.
    fn receive_body(&mut self, budget: &mut usize, wait: Wait) -> Result<bool, TransportError> {
        let taken = self.take_input();
        let body = self.body.as_ref().expect("a body is under way");
        let rest = body.total - body.done;
        if rest == 0 || *budget == 0 {
            return Ok(taken);
        }
        // Only what is not here yet is left, so the input is empty.
        (self.start, self.end) = (0, 0);
        let others = self.book.outstanding() > 1;
        let got = match &body.sink {
            Sink::Spans => {
                let front = self.book.oldest().expect("a body belongs to the oldest");
                let mut spans = tail(&front.into, body.done, body.total);
                if others && spans.len() < socket::SPANS_MAX {
                    // What follows the answer comes with its last bytes: its head alone, where the rest has a place of its
                    // own that is not known yet.
                    let after = if front.is_waited_on() { HEADER_BYTES } else { INPUT_BYTES };
                    spans.push(Span::of(&mut self.input[..after]));
                }
                self.receive_some(&spans, wait)?
            }
            Sink::Collect(_) => {
                let Some(Body { sink: Sink::Collect(bytes), done, .. }) = &mut self.body else { unreachable!() };
                let span = Span::of(&mut bytes[*done..]);
                self.receive_some(&[span], wait)?
            }
            Sink::Drop => {
                let length = rest.min(INPUT_BYTES);
                let span = Span::of(&mut self.input[..length]);
                self.receive_some(&[span], wait)?
            }
        };
        let Some(got) = got else { return Ok(taken) };
        *budget = budget.saturating_sub(got);
        let body = self.body.as_mut().expect("a body is under way");
        body.done += got.min(rest);
        self.end = got.saturating_sub(rest);
        Ok(true)
    }

    /// Uses what was received before for the body under way. Whether there was any.
    fn take_input(&mut self) -> bool {
        let body = self.body.as_mut().expect("a body is under way");
        let part = (self.end - self.start).min(body.total - body.done);
        if part == 0 {
            return false;
        }
        let bytes = &self.input[self.start..self.start + part];
        match &mut body.sink {
            Sink::Spans => {
                let front = self.book.oldest().expect("a body belongs to the oldest");
                let mut copied = 0;
                for span in tail(&front.into, body.done, body.done + part) {
                    span.copy_from(&bytes[copied..copied + span.len()]);
                    copied += span.len();
                }
            }
            Sink::Collect(into) => into[body.done..body.done + part].copy_from_slice(bytes),
            Sink::Drop => {}
        }
        body.done += part;
        self.start += part;
        true
    }

    /// Ends the oldest request when its answer is complete.
    fn finish(&mut self, finished: &mut Vec<Finished>) {
        if let Some(body) = self.body.take_if(|body| body.is_complete()) {
            finished.extend(self.book.end(body));
        }
    }

    /// What waits in the socket, into `spans`; nothing when nothing does.
    fn receive_some(&mut self, spans: &[Span], wait: Wait) -> Result<Option<usize>, TransportError> {
        match self.stream.receive(spans, wait) {
            Ok(0) => Err(self.disconnected("receiving", None)),
            Ok(got) => Ok(Some(got)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(None),
            Err(error) => Err(self.disconnected("receiving", Some(error))),
        }
    }

    fn garbage(&mut self, cause: WireError) -> TransportError {
        self.close();
        TransportError::Garbage { peer: self.peer.name.clone(), cause }
    }

    fn disconnected(&mut self, doing: &'static str, cause: Option<io::Error>) -> TransportError {
        self.close();
        TransportError::broken_by(self.peer.name.clone(), doing, cause)
    }
}

impl TcpDriven {
    /// A turn's share of both ways. `wait` says whether the first receive may sleep, for a slice of the socket's.
    fn turn(&mut self, finished: &mut Vec<Finished>, mut wait: Wait) -> Result<bool, TransportError> {
        if !self.open {
            return Err(TransportError::Closed { peer: self.peer.name.clone() });
        }
        let (mut out, mut into) = (TURN_BYTES_MAX, TURN_BYTES_MAX);
        let mut moved = false;
        loop {
            let sent = out > 0 && self.send(&mut out, Wait::No)?;
            let received = into > 0 && self.receive(finished, &mut into, std::mem::replace(&mut wait, Wait::No))?;
            moved |= sent || received;
            if !(sent || received) || self.book.outstanding() == 0 {
                return Ok(moved);
            }
        }
    }
}

impl Driven for TcpDriven {
    fn submit(&mut self, submission: Submission) {
        self.book.submit(submission);
    }

    fn advance(&mut self, finished: &mut Vec<Finished>) -> Result<bool, TransportError> {
        self.turn(finished, Wait::No)
    }

    fn advance_sleeping(&mut self, finished: &mut Vec<Finished>, slice: Duration) -> Result<bool, TransportError> {
        if self.is_unsent() || slice < SLEEP_SLICE {
            if let Some((descriptor, interest)) = self.readiness() {
                let _ = event::wait_for(descriptor, interest, slice);
            }
            return self.turn(finished, Wait::No);
        }
        // Asleep in the receive itself: no other call stands between the wake-up and the bytes.
        self.turn(finished, Wait::Yes)
    }

    fn forget(&mut self, id: u64) -> Forgotten {
        self.book.forget(id, self.body.as_mut())
    }

    fn outstanding(&self) -> usize {
        self.book.outstanding()
    }

    fn readiness(&self) -> Option<(BorrowedFd<'_>, Interest)> {
        Some((self.stream.as_fd(), Interest { readable: true, writable: self.is_unsent() }))
    }

    fn transport(&self) -> &'static str {
        "tcp"
    }

    fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    fn close(&mut self) {
        if self.open {
            self.open = false;
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Connection for TcpDriven {
    fn book(&mut self) -> &mut Book {
        &mut self.book
    }

    fn under_way(&self) -> Option<&Body> {
        self.body.as_ref()
    }

    fn is_open(&self) -> bool {
        self.open
    }

    fn is_unsent(&self) -> bool {
        self.book.is_unsent() || self.stream.is_unflushed()
    }

    fn send_step(&mut self, wait: Wait) -> Result<bool, TransportError> {
        let mut budget = usize::MAX;
        self.send(&mut budget, wait)
    }

    fn receive_step(&mut self, finished: &mut Vec<Finished>, wait: Wait) -> Result<bool, TransportError> {
        let mut budget = usize::MAX;
        self.receive(finished, &mut budget, wait)
    }
}

impl Drop for TcpDriven {
    fn drop(&mut self) {
        self.close();
    }
}
