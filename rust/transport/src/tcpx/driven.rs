//! A connection that receives into a bounce buffer and that nobody waits on.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

use weft_sys::event::Interest;
use weft_sys::memory::Span;
use weft_sys::socket::{self, Wait};
use weft_wire::{
    Code, Flags, HEADER_BYTES, Header, Kind, MESSAGE_BYTES_MAX, RANGE_BYTES, Refusal, WireError, encode_ranges,
};

use super::{Bounce, TcpxOptions};
use crate::driven::{Driven, Finished, Forgotten, Outcome, Payload, Submission};
use crate::peer::zero;
use crate::tcp::{ConnectOptions, TcpLane, spans_bytes};
use crate::{Identity, PeerIdentity, TransportError};

/// Most bytes one turn moves either way: other lanes of the same driver wait meanwhile.
const TURN_BYTES_MAX: usize = 4 << 20;
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
    /// Given up: what comes is dropped.
    orphan: bool,
}

/// Where the bytes of the answer under way go.
enum Sink {
    Unpack,
    Collect(Vec<u8>),
    Drop,
}

struct Body {
    header: Header,
    sink: Sink,
    total: usize,
    done: usize,
}

/// A connected, authenticated TCP connection whose answers are unpacked from a bounce buffer, driven without waiting.
pub struct TcpxDriven {
    stream: TcpStream,
    peer: PeerIdentity,
    request_next: u64,
    outgoing: VecDeque<Outgoing>,
    waiting: VecDeque<Waiting>,
    bounce: Bounce,
    body: Option<Body>,
    open: bool,
}

impl TcpxDriven {
    /// Connects and shakes hands, which waits.
    ///
    /// # Errors
    /// As [`super::TcpxLane::connect`].
    pub fn connect(
        address: SocketAddr,
        label: &str,
        identity: &Identity,
        options: &ConnectOptions,
        tcpx: TcpxOptions,
    ) -> Result<Self, TransportError> {
        let unreachable = |cause| TransportError::Unreachable { peer: label.to_owned(), cause };
        let bounce = Bounce::new(tcpx).map_err(unreachable)?;
        let lane = TcpLane::connect(address, label, identity, options)?;
        let (stream, peer, request_next) = lane.into_socket("tcpx")?;
        let (outgoing, waiting) = (VecDeque::new(), VecDeque::new());
        Ok(Self { stream, peer, request_next, outgoing, waiting, bounce, body: None, open: true })
    }

    /// Sends what it can of the oldest request. Whether anything moved.
    fn send(&mut self, budget: &mut usize) -> Result<bool, TransportError> {
        let Some(front) = self.outgoing.front_mut() else { return Ok(false) };
        let mut spans = Vec::with_capacity(front.spans.len() + 1);
        let (mut skip, mut room) = (front.sent, (*budget).max(1));
        for span in std::iter::once(Span::of_const(&front.head)).chain(front.spans.iter().copied()) {
            let part = (span.len() - skip.min(span.len())).min(room);
            if part > 0 && spans.len() < socket::SPANS_MAX {
                spans.push(span.part(skip, part).expect("bounded by the span"));
                room -= part;
            }
            skip = skip.saturating_sub(span.len());
        }
        match socket::send(&self.stream, &spans, Wait::No) {
            Ok(sent) => {
                *budget = budget.saturating_sub(sent);
                front.sent += sent;
                if front.sent == front.length {
                    self.outgoing.pop_front();
                }
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(self.disconnected("sending", Some(error))),
        }
    }

    /// One receive, and all that follows from it. Whether anything moved.
    fn receive(&mut self, finished: &mut Vec<Finished>, budget: &mut usize) -> Result<bool, TransportError> {
        match self.bounce.receive(&self.stream, Wait::No) {
            Ok(0) => return Err(self.disconnected("receiving", None)),
            Ok(got) => *budget = budget.saturating_sub(got),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(false);
            }
            Err(error) => return Err(self.disconnected("receiving", Some(error))),
        }
        loop {
            if self.body.is_none() {
                if self.bounce.waiting() < HEADER_BYTES {
                    return Ok(true);
                }
                let mut head = [0; HEADER_BYTES];
                self.bounce.take_bytes(&mut head);
                self.expect_body(&head)?;
            }
            if !self.take_body(finished) {
                return Ok(true);
            }
        }
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
        let expected = spans_bytes(&front.into);
        let sink = match header.kind {
            Kind::Refusal if total > DETAIL_BYTES_MAX => None,
            Kind::Reply | Kind::Refusal if front.orphan => Some(Sink::Drop),
            Kind::Refusal => Some(Sink::Collect(vec![0; total])),
            Kind::Reply if expected == 0 && total as u64 <= MESSAGE_BYTES_MAX => Some(Sink::Collect(vec![0; total])),
            Kind::Reply if total == expected => Some(Sink::Unpack),
            Kind::Reply if total == 0 && header.flags.has(Flags::ZERO) => {
                for span in &front.into {
                    zero(*span);
                }
                Some(Sink::Unpack)
            }
            _ => None,
        };
        let Some(sink) = sink else {
            return Err(self.garbage(WireError::Payload("the answer does not fit the request")));
        };
        self.body = Some(Body { header, sink, total, done: 0 });
        Ok(())
    }

    /// Takes what waits of the body under way. Whether that completed it.
    fn take_body(&mut self, finished: &mut Vec<Finished>) -> bool {
        let body = self.body.as_mut().expect("a body is under way");
        match &mut body.sink {
            Sink::Unpack => {
                let front = self.waiting.front().expect("a body belongs to the oldest");
                body.done = self.bounce.unpack(&front.into, body.done, body.total);
            }
            Sink::Collect(bytes) => body.done += self.bounce.take_bytes(&mut bytes[body.done..]),
            Sink::Drop => body.done += self.bounce.drop_bytes(body.total - body.done),
        }
        if body.done < body.total {
            return false;
        }
        let body = self.body.take().expect("looked at above");
        let front = self.waiting.pop_front().expect("a body belongs to the oldest");
        if !front.orphan {
            let bytes = if let Sink::Collect(bytes) = body.sink { bytes } else { Vec::new() };
            let outcome = if body.header.kind == Kind::Refusal {
                let detail = String::from_utf8_lossy(&bytes).into_owned();
                Outcome::Refused(Refusal::new(Code::from_number(body.header.tag), detail))
            } else {
                Outcome::Done(body.header, bytes)
            };
            finished.push(Finished { id: front.id, outcome });
        }
        true
    }

    fn garbage(&mut self, cause: WireError) -> TransportError {
        self.close();
        TransportError::Garbage { peer: self.peer.name.clone(), cause }
    }

    fn disconnected(&mut self, doing: &'static str, cause: Option<io::Error>) -> TransportError {
        self.close();
        TransportError::Disconnected { peer: self.peer.name.clone(), doing, cause }
    }
}

impl Driven for TcpxDriven {
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
        self.outgoing.push_back(Outgoing { id, head, spans, sent: 0, length });
        self.waiting.push_back(Waiting { id, request: header.request, into, orphan: false });
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
        Some((self.stream.as_fd(), Interest { readable: true, writable: !self.outgoing.is_empty() }))
    }

    fn transport(&self) -> &'static str {
        "tcpx"
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

impl Drop for TcpxDriven {
    fn drop(&mut self) {
        self.close();
    }
}
