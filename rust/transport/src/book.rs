//! What one connection was asked and has not answered, oldest first: what is still to be sent, whose answer comes next, and
//! where its bytes go. Every way to receive keeps its book here, whoever drives it.

use std::collections::VecDeque;

use weft_sys::memory::Span;
use weft_sys::socket;
use weft_wire::{
    Code, Flags, HEADER_BYTES, Header, Kind, MESSAGE_BYTES_MAX, RANGE_BYTES, Range, Refusal, WireError, encode_ranges,
};

use crate::driven::{Finished, Forgotten, Outcome, Payload, Submission};

/// Most spans one send gathers over small requests.
const GATHER_SPANS_MAX: usize = 64;
/// Longest sentence of a refusal that is kept, in bytes.
const DETAIL_BYTES_MAX: usize = 4096;

/// Whose answer it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taker {
    /// The driver's: it comes whole, and as long as was asked for.
    Driver,
    /// A waiter's: it says where the bytes go when its turn comes, and they may be fewer.
    Waiter,
    /// The same, of the greeting, which is not answered by replies alone.
    Greeter,
}

struct Outgoing {
    id: u64,
    head: Vec<u8>,
    spans: Vec<Span>,
    sent: usize,
    length: usize,
}

/// A request that is not answered.
pub struct Waiting {
    id: u64,
    request: u64,
    /// Where its answer goes.
    pub into: Vec<Span>,
    /// Bytes of that.
    pub expected: usize,
    /// Given up: what comes is dropped.
    pub orphan: bool,
    taker: Taker,
}

impl Waiting {
    /// Whether its answer is taken bit by bit.
    pub fn is_waited_on(&self) -> bool {
        self.taker != Taker::Driver
    }

    /// Says where the answer goes, for one whose turn came.
    pub fn receive_into(&mut self, into: &[Span]) {
        self.into.clear();
        self.into.extend_from_slice(into);
        self.expected = spans_bytes(into);
    }
}

/// Where the bytes of the answer under way go.
pub enum Sink {
    /// To the memory the request named.
    Spans,
    /// Kept.
    Collect(Vec<u8>),
    /// Nowhere.
    Drop,
}

/// The answer under way.
pub struct Body {
    pub header: Header,
    pub sink: Sink,
    pub total: usize,
    pub done: usize,
}

impl Body {
    /// Whether it says no.
    pub fn is_refusal(&self) -> bool {
        self.header.kind == Kind::Refusal
    }

    /// Whether all of it is there.
    pub fn is_complete(&self) -> bool {
        self.done == self.total
    }
}

/// Requests in the order they were made.
pub struct Book {
    request_next: u64,
    outgoing: VecDeque<Outgoing>,
    waiting: VecDeque<Waiting>,
}

impl Default for Book {
    fn default() -> Self {
        Self { request_next: 1, outgoing: VecDeque::new(), waiting: VecDeque::new() }
    }
}

impl Book {
    /// Enters a request of the driver's.
    pub fn submit(&mut self, submission: Submission) {
        let Submission { id, header, ranges, payload, into } = submission;
        self.enter(id, header, &ranges, payload, into, Taker::Driver);
    }

    /// Enters a request, numbered and with its ranges counted.
    pub fn enter(
        &mut self,
        id: u64,
        mut header: Header,
        ranges: &[Range],
        payload: Payload,
        into: Vec<Span>,
        taker: Taker,
    ) {
        header.request = self.request_next;
        header.count = u32::try_from(ranges.len()).expect("the driver bounds the ranges");
        self.request_next += 1;
        let mut head = Vec::with_capacity(HEADER_BYTES + ranges.len() * RANGE_BYTES);
        head.extend_from_slice(&header.encode());
        encode_ranges(ranges, &mut head);
        let mut spans = Vec::new();
        match payload {
            Payload::Empty => {}
            Payload::Owned(bytes) => head.extend_from_slice(&bytes),
            Payload::Spans(given) => spans = given,
        }
        let length = head.len() + spans_bytes(&spans);
        let expected = spans_bytes(&into);
        self.outgoing.push_back(Outgoing { id, head, spans, sent: 0, length });
        self.waiting.push_back(Waiting { id, request: header.request, into, expected, orphan: false, taker });
    }

    /// Whether anything is still to be sent.
    pub fn is_unsent(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// What is to be sent next, at most so many bytes, handed to `send`; what that says was sent is sent.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn send<E>(&mut self, bytes_max: usize, send: impl FnOnce(&[Span]) -> Result<usize, E>) -> Result<usize, E> {
        let bytes = match self.outgoing.front() {
            None => return Ok(0),
            // The common case, one small request: no list is made.
            Some(only) if self.outgoing.len() == 1 && only.spans.is_empty() => {
                send(&[Span::of_const(&only.head[only.sent..])])?
            }
            Some(_) => send(&self.gather(bytes_max))?,
        };
        let mut rest = bytes;
        while let Some(front) = self.outgoing.front_mut() {
            let part = rest.min(front.length - front.sent);
            front.sent += part;
            rest -= part;
            if front.sent < front.length {
                break;
            }
            self.outgoing.pop_front();
        }
        Ok(bytes)
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

    /// The request whose answer comes next.
    pub fn oldest(&self) -> Option<&Waiting> {
        self.waiting.front()
    }

    /// The same, to be changed.
    pub fn oldest_mut(&mut self) -> Option<&mut Waiting> {
        self.waiting.front_mut()
    }

    /// Requests that are not answered.
    pub fn outstanding(&self) -> usize {
        self.waiting.len()
    }

    /// Parses a head, matches it to the oldest request, and says where its body goes.
    ///
    /// # Errors
    /// A head that is none, or that answers something else than what was asked.
    pub fn answer(&self, head: &[u8; HEADER_BYTES]) -> Result<Body, WireError> {
        let header = Header::decode(head)?;
        let Some(front) = self.waiting.front() else {
            return Err(WireError::Payload("an answer came that nobody asked for"));
        };
        if front.request != header.request || self.outgoing.front().is_some_and(|unsent| unsent.id == front.id) {
            return Err(WireError::Payload("the answer names a request that is not the oldest"));
        }
        let total = usize::try_from(header.payload_bytes()).expect("a payload is at most 64 MiB");
        let sink = match (header.kind, front.taker) {
            (Kind::Refusal, _) if total > DETAIL_BYTES_MAX => {
                return Err(WireError::Length { length: total as u64, max: DETAIL_BYTES_MAX as u64 });
            }
            (Kind::Reply | Kind::Refusal, _) if front.orphan => Some(Sink::Drop),
            (Kind::Refusal, _) => Some(Sink::Collect(vec![0; total])),
            (Kind::Hello | Kind::Reply, Taker::Greeter) if total <= DETAIL_BYTES_MAX => {
                Some(Sink::Collect(vec![0; total]))
            }
            (Kind::Reply, Taker::Waiter) if total <= front.expected => Some(Sink::Spans),
            (Kind::Reply, Taker::Driver) if front.expected == 0 && total as u64 <= MESSAGE_BYTES_MAX => {
                Some(Sink::Collect(vec![0; total]))
            }
            (Kind::Reply, Taker::Driver) if total == front.expected => Some(Sink::Spans),
            (Kind::Reply, Taker::Driver) if total == 0 && header.flags.has(Flags::ZERO) => {
                for span in &front.into {
                    zero(*span);
                }
                Some(Sink::Spans)
            }
            _ => None,
        };
        let sink = sink.ok_or(WireError::Payload("the answer does not fit the request"))?;
        Ok(Body { header, sink, total, done: 0 })
    }

    /// Ends the oldest request with its answer, which is complete. Nothing for one that was given up.
    pub fn end(&mut self, body: Body) -> Option<Finished> {
        let front = self.waiting.pop_front().expect("a body belongs to the oldest");
        if front.orphan {
            return None;
        }
        let bytes = if let Sink::Collect(bytes) = body.sink { bytes } else { Vec::new() };
        let outcome = if body.header.kind == Kind::Refusal {
            let detail = String::from_utf8_lossy(&bytes).into_owned();
            Outcome::Refused(Refusal::new(Code::from_number(body.header.tag), detail))
        } else {
            Outcome::Done(body.header, bytes)
        };
        Some(Finished { id: front.id, outcome })
    }

    /// Gives a request up; `body` is the answer under way.
    pub fn forget(&mut self, id: u64, body: Option<&mut Body>) -> Forgotten {
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
            && let Some(body) = body
        {
            body.sink = Sink::Drop;
        }
        Forgotten::Sent
    }
}

/// Bytes of all of them.
pub(crate) fn spans_bytes(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.len()).sum()
}

/// What is left of `spans` after `skip` bytes, up to `end` bytes from the start.
pub(crate) fn tail(spans: &[Span], skip: usize, end: usize) -> Vec<Span> {
    let mut rest = Vec::with_capacity(spans.len() + 1);
    let (mut skip, mut left) = (skip, end - skip);
    for span in spans {
        if skip >= span.len() {
            skip -= span.len();
            continue;
        }
        let len = (span.len() - skip).min(left);
        if len == 0 {
            break;
        }
        rest.push(span.part(skip, len).expect("the part was bounded by the span"));
        left -= len;
        skip = 0;
    }
    rest
}

/// Writes zeros over all of it: what a peer says when it sends no bytes.
pub fn zero(span: Span) {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut done = 0;
    while done < span.len() {
        let len = (span.len() - done).min(ZEROS.len());
        span.part(done, len).expect("within the span").copy_from(&ZEROS[..len]);
        done += len;
    }
}
