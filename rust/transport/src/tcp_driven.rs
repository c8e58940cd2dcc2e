//! A TCP connection driven without waiting.
//!
//! Requests leave in the order they were submitted, several small ones in one send; answers come back in the same order.
//! What an answer brings goes straight to its memory where that saves a copy worth saving, and through a small buffer where
//! one receive can bring several answers instead.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use weft_sys::event::{self, Interest};
use weft_sys::memory::Span;
use weft_sys::socket::{self, Wait};
use weft_wire::{
    Code, Flags, HEADER_BYTES, Header, Kind, MESSAGE_BYTES_MAX, RANGE_BYTES, Refusal, WireError, encode_ranges,
};

use crate::driven::{Driven, Finished, Forgotten, Outcome, Payload, Submission};
use crate::peer::zero;
use crate::tcp::{ConnectOptions, SLEEP_SLICE, TcpLane, spans_bytes, tail};
use crate::tls::Stream;
use crate::{Identity, PeerIdentity, TransportError};

/// What one receive may bring of several small answers.
const INPUT_BYTES: usize = 32 << 10;
/// From this size on an answer is received in place: a copy of it would cost more than the call it saves.
const DIRECT_BYTES_MIN: usize = 8 << 10;
/// Most bytes one turn moves either way: other lanes of the same driver wait meanwhile.
const TURN_BYTES_MAX: usize = 4 << 20;
/// Most spans one send gathers over small requests.
const GATHER_SPANS_MAX: usize = 64;
/// Longest sentence of a refusal that is kept, in bytes.
const DETAIL_BYTES_MAX: usize = 4096;

struct Outgoing {
    id: u64,
    head: Vec<u8>,
    spans: Vec<Span>,
    sent: usize,
    length: usize,
}

struct Waiting {
    id: u64,
    request: u64,
    into: Vec<Span>,
    expected: usize,
    /// Given up: what comes is dropped.
    orphan: bool,
}

/// Where the bytes of the answer under way go.
enum Sink {
    Spans,
    Collect(Vec<u8>),
    Drop,
}

struct Body {
    header: Header,
    sink: Sink,
    total: usize,
    done: usize,
}

/// A connected, authenticated TCP connection that nobody waits on.
pub struct TcpDriven {
    stream: Stream,
    peer: PeerIdentity,
    request_next: u64,
    outgoing: VecDeque<Outgoing>,
    waiting: VecDeque<Waiting>,
    input: Box<[u8]>,
    start: usize,
    end: usize,
    body: Option<Body>,
    /// Whether the next receive may sleep, for a slice of the socket's.
    wait: Wait,
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
        Self::over(TcpLane::connect(address, label, identity, options)?)
    }

    /// Takes over a lane on which nothing is outstanding.
    ///
    /// # Errors
    /// `Unreachable` when the process has no descriptor left.
    pub fn over(lane: TcpLane) -> Result<Self, TransportError> {
        let (stream, peer, request_next) = lane.into_stream();
        Ok(Self {
            stream,
            peer,
            request_next,
            outgoing: VecDeque::new(),
            waiting: VecDeque::new(),
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            body: None,
            wait: Wait::No,
            open: true,
        })
    }

    fn send(&mut self, budget: &mut usize) -> Result<bool, TransportError> {
        let sent = match self.outgoing.front() {
            None if self.stream.is_unflushed() => self.stream.flush(Wait::No).map(|()| 0),
            None => return Ok(false),
            // The common case, one small request: no list is made.
            Some(only) if self.outgoing.len() == 1 && only.spans.is_empty() => {
                self.stream.send(&[Span::of_const(&only.head[only.sent..])], Wait::No)
            }
            Some(_) => {
                let spans = self.gather((*budget).max(1));
                self.stream.send(&spans, Wait::No)
            }
        };
        match sent {
            Ok(mut sent) => {
                *budget = budget.saturating_sub(sent);
                while let Some(front) = self.outgoing.front_mut() {
                    let part = sent.min(front.length - front.sent);
                    front.sent += part;
                    sent -= part;
                    if front.sent < front.length {
                        break;
                    }
                    self.outgoing.pop_front();
                }
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(self.disconnected("sending", Some(error))),
        }
    }

    /// What is to be sent next, over as many requests as fit one call.
    fn gather(&self, bytes_max: usize) -> Vec<Span> {
        let mut spans = Vec::with_capacity(8);
        let mut room = bytes_max;
        for outgoing in &self.outgoing {
            let mut skip = outgoing.sent;
            for span in std::iter::once(Span::of_const(&outgoing.head)).chain(outgoing.spans.iter().copied()) {
                if skip >= span.len() {
                    skip -= span.len();
                    continue;
                }
                let length = (span.len() - skip).min(room);
                if length == 0 || spans.len() == socket::SPANS_MAX {
                    return spans;
                }
                spans.push(span.part(skip, length).expect("bounded by the span"));
                room -= length;
                skip = 0;
            }
            if spans.len() >= GATHER_SPANS_MAX {
                break;
            }
        }
        spans
    }

    /// One step of receiving. Whether anything moved.
    fn receive(&mut self, finished: &mut Vec<Finished>, budget: &mut usize) -> Result<bool, TransportError> {
        let mut moved = false;
        if self.body.is_none() {
            moved = self.receive_head(budget)?;
        }
        if self.body.is_some() {
            moved |= self.receive_body(budget)?;
        }
        self.finish(finished);
        Ok(moved)
    }

    /// Receives until a head is complete, and prepares for its body. Whether anything moved.
    fn receive_head(&mut self, budget: &mut usize) -> Result<bool, TransportError> {
        if self.end - self.start < HEADER_BYTES {
            if self.start > 0 {
                self.input.copy_within(self.start..self.end, 0);
                (self.start, self.end) = (0, self.end - self.start);
            }
            let front = self.waiting.front();
            let large = front.is_some_and(|front| front.expected >= DIRECT_BYTES_MIN && !front.orphan);
            if self.end == 0
                && self.waiting.len() == 1
                && front.is_some_and(|front| front.expected > 0 && !front.orphan)
            {
                return self.receive_whole(budget);
            }
            let limit = if large { HEADER_BYTES } else { INPUT_BYTES };
            let room = Span::of(&mut self.input[self.end..limit]);
            let Some(got) = self.receive_some(&[room])? else { return Ok(false) };
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
    fn receive_whole(&mut self, budget: &mut usize) -> Result<bool, TransportError> {
        let mut head = [0u8; HEADER_BYTES];
        let front = self.waiting.front().expect("the caller looked");
        let first = Span::of(&mut head);
        let got = match front.into.as_slice() {
            [only] => {
                let spans = [first, *only];
                self.receive_some(&spans)?
            }
            many => {
                let mut spans = Vec::with_capacity(many.len() + 1);
                spans.push(first);
                spans.extend_from_slice(many);
                self.receive_some(&spans)?
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
                let into = self.waiting.front().map_or(&[][..], |front| &front.into);
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

    /// Parses a head, matches it to the oldest request, and says where its body goes.
    fn expect_body(&mut self, head: &[u8; HEADER_BYTES]) -> Result<(), TransportError> {
        let header = Header::decode(head).map_err(|cause| self.garbage(cause))?;
        let Some(front) = self.waiting.front() else {
            return Err(self.garbage(WireError::Payload("an answer came that nobody asked for")));
        };
        if front.request != header.request || self.outgoing.front().is_some_and(|unsent| unsent.id == front.id) {
            return Err(self.garbage(WireError::Payload("the answer names a request that is not the oldest")));
        }
        let total = usize::try_from(header.payload_bytes()).expect("a payload is at most 64 MiB");
        let sink = match header.kind {
            Kind::Refusal if total > DETAIL_BYTES_MAX => None,
            Kind::Reply | Kind::Refusal if front.orphan => Some(Sink::Drop),
            Kind::Refusal => Some(Sink::Collect(vec![0; total])),
            Kind::Reply if front.expected == 0 && total as u64 <= MESSAGE_BYTES_MAX => {
                Some(Sink::Collect(vec![0; total]))
            }
            Kind::Reply if total == front.expected => Some(Sink::Spans),
            Kind::Reply if total == 0 && header.flags.has(Flags::ZERO) => {
                for span in &front.into {
                    zero(*span);
                }
                Some(Sink::Spans)
            }
            _ => None,
        };
        let Some(sink) = sink else {
            return Err(self.garbage(WireError::Payload("the answer does not fit the request")));
        };
        self.body = Some(Body { header, sink, total, done: 0 });
        Ok(())
    }

    /// Receives what it can of the body under way. Whether anything moved.
    fn receive_body(&mut self, budget: &mut usize) -> Result<bool, TransportError> {
        let taken = self.take_input();
        let body = self.body.as_ref().expect("a body is under way");
        let rest = body.total - body.done;
        if rest == 0 || *budget == 0 {
            return Ok(taken);
        }
        // Only what is not here yet is left, so the input is empty.
        (self.start, self.end) = (0, 0);
        let others = self.waiting.len() > 1;
        let got = match &body.sink {
            Sink::Spans => {
                let front = self.waiting.front().expect("a body belongs to the oldest");
                let mut spans = tail(&front.into, body.done, body.total);
                if others && spans.len() < socket::SPANS_MAX {
                    // What follows the answer comes with its last bytes.
                    spans.push(Span::of(&mut self.input));
                }
                self.receive_some(&spans)?
            }
            Sink::Collect(_) => {
                let Some(Body { sink: Sink::Collect(bytes), done, .. }) = &mut self.body else { unreachable!() };
                let span = Span::of(&mut bytes[*done..]);
                self.receive_some(&[span])?
            }
            Sink::Drop => {
                let length = rest.min(INPUT_BYTES);
                let span = Span::of(&mut self.input[..length]);
                self.receive_some(&[span])?
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
                let front = self.waiting.front().expect("a body belongs to the oldest");
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
        if self.body.as_ref().is_none_or(|body| body.done < body.total) {
            return;
        }
        let body = self.body.take().expect("looked at above");
        let front = self.waiting.pop_front().expect("a body belongs to the oldest");
        if front.orphan {
            return;
        }
        let bytes = if let Sink::Collect(bytes) = body.sink { bytes } else { Vec::new() };
        let outcome = if body.header.kind == Kind::Refusal {
            let detail = String::from_utf8_lossy(&bytes).into_owned();
            Outcome::Refused(Refusal::new(Code::from_number(body.header.tag), detail))
        } else {
            Outcome::Done(body.header, bytes)
        };
        finished.push(Finished { id: front.id, outcome });
    }

    /// What waits in the socket, into `spans`; nothing when nothing does.
    fn receive_some(&mut self, spans: &[Span]) -> Result<Option<usize>, TransportError> {
        match self.stream.receive(spans, std::mem::replace(&mut self.wait, Wait::No)) {
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

impl Driven for TcpDriven {
    fn submit(&mut self, submission: Submission) {
        let Submission { id, mut header, ranges, payload, into } = submission;
        header.request = self.request_next;
        header.count = u32::try_from(ranges.len()).expect("the driver bounds the ranges");
        self.request_next += 1;
        let mut head = Vec::with_capacity(HEADER_BYTES + ranges.len() * RANGE_BYTES);
        head.extend_from_slice(&header.encode());
        encode_ranges(&ranges, &mut head);
        let mut spans = Vec::new();
        match payload {
            Payload::Empty => {}
            Payload::Owned(bytes) => head.extend_from_slice(&bytes),
            Payload::Spans(given) => spans = given,
        }
        let length = head.len() + spans_bytes(&spans);
        let expected = spans_bytes(&into);
        self.outgoing.push_back(Outgoing { id, head, spans, sent: 0, length });
        self.waiting.push_back(Waiting { id, request: header.request, into, expected, orphan: false });
    }

    fn advance(&mut self, finished: &mut Vec<Finished>) -> Result<bool, TransportError> {
        if !self.open {
            return Err(TransportError::Closed { peer: self.peer.name.clone() });
        }
        let (mut out, mut into) = (TURN_BYTES_MAX, TURN_BYTES_MAX);
        let mut moved = false;
        loop {
            let sent = out > 0 && self.send(&mut out)?;
            let received = into > 0 && self.receive(finished, &mut into)?;
            moved |= sent || received;
            if !(sent || received) || self.waiting.is_empty() {
                return Ok(moved);
            }
        }
    }

    fn advance_sleeping(&mut self, finished: &mut Vec<Finished>, slice: Duration) -> Result<bool, TransportError> {
        if !self.outgoing.is_empty() || self.stream.is_unflushed() || slice < SLEEP_SLICE {
            if let Some((descriptor, interest)) = self.readiness() {
                let _ = event::wait_for(descriptor, interest, slice);
            }
        } else {
            // Asleep in the receive itself: no other call stands between the wake-up and the bytes.
            self.wait = Wait::Yes;
        }
        self.advance(finished)
    }

    fn forget(&mut self, id: u64) -> Forgotten {
        let Some(index) = self.waiting.iter().position(|waiting| waiting.id == id) else { return Forgotten::Unknown };
        if let Some(unsent) = self.outgoing.iter().position(|outgoing| outgoing.id == id) {
            if self.outgoing[unsent].sent > 0 {
                return Forgotten::Torn;
            }
            self.outgoing.remove(unsent);
            self.waiting.remove(index);
            return Forgotten::Unsent;
        }
        let waiting = &mut self.waiting[index];
        waiting.orphan = true;
        waiting.into = Vec::new();
        if index == 0
            && let Some(body) = &mut self.body
        {
            body.sink = Sink::Drop;
        }
        Forgotten::Sent
    }

    fn outstanding(&self) -> usize {
        self.waiting.len()
    }

    fn readiness(&self) -> Option<(BorrowedFd<'_>, Interest)> {
        Some((
            self.stream.as_fd(),
            Interest { readable: true, writable: !self.outgoing.is_empty() || self.stream.is_unflushed() },
        ))
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

impl Drop for TcpDriven {
    fn drop(&mut self) {
        self.close();
    }
}
