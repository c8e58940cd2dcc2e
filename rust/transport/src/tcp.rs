//! A lane over TCP.
//!
//! The socket blocks; spinning asks it not to. A wait spins for its allowance, then sleeps in the receive itself: no poll
//! call stands between the wake-up and the bytes. Sleeps are cut into slices so that a deadline holds to within one.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use weft_sys::memory::Span;
use weft_sys::socket::{self, Options, Wait};
use weft_wire::{
    ClientHello, ClientProof, Code, HEADER_BYTES, Header, Hello, Kind, RANGE_BYTES, ServerHello, WireError,
    encode_ranges,
};

use crate::tls::{self, Stream};
use crate::{Identity, Lane, PeerIdentity, Reply, Request, Spin, TransportError};

/// How long one sleep may last before the deadline is looked at again.
pub(crate) const SLEEP_SLICE: Duration = Duration::from_millis(50);
/// Requests posted and not completed on one lane; what bounds the server's work and our book.
const OUTSTANDING_MAX: usize = 256;
/// Longest sentence of a refusal that is kept, in bytes.
const DETAIL_BYTES_MAX: usize = 4096;

/// How a lane connects.
#[derive(Clone, Debug)]
pub struct ConnectOptions {
    /// Socket options.
    pub socket: Options,
    /// Longest spin of one wait.
    pub spin: Duration,
    /// Time for the connection and the handshake together.
    pub timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self { socket: Options::default(), spin: Duration::from_micros(50), timeout: Duration::from_secs(2) }
    }
}

/// A connected, authenticated TCP connection, under TLS where this process speaks that.
#[derive(Debug)]
pub struct TcpLane {
    stream: Stream,
    peer: PeerIdentity,
    spin: Spin,
    request_next: u64,
    outstanding: VecDeque<u64>,
    /// Payload bytes of the answer begun; it completes when all arrived.
    begun: Option<usize>,
    open: bool,
}

impl TcpLane {
    /// Connects to `address` and proves both sides' knowledge of the secret. `label` names the peer in errors until it has
    /// named itself.
    ///
    /// # Errors
    /// `Unreachable`, `TimedOut`, `WrongSecret`, `Refused` (cluster, version, secret), `Garbage`, `Tls`.
    pub fn connect(
        address: SocketAddr,
        label: &str,
        identity: &Identity,
        options: &ConnectOptions,
    ) -> Result<Self, TransportError> {
        let deadline = Instant::now() + options.timeout;
        let stream = socket::connect(address, &options.socket, options.timeout)
            .map_err(|cause| TransportError::Unreachable { peer: label.to_owned(), cause })?;
        socket::set_waits(&stream, SLEEP_SLICE)
            .map_err(|cause| TransportError::Unreachable { peer: label.to_owned(), cause })?;
        let mut lane = Self {
            stream: Stream::connect(stream, identity.tls.as_deref(), label, deadline)?,
            peer: PeerIdentity { name: label.to_owned(), incarnation: 0 },
            spin: Spin::new(options.spin),
            request_next: 1,
            outstanding: VecDeque::with_capacity(OUTSTANDING_MAX),
            begun: None,
            open: true,
        };
        lane.shake_hands(identity, deadline)?;
        Ok(lane)
    }

    fn shake_hands(&mut self, identity: &Identity, deadline: Instant) -> Result<(), TransportError> {
        let mut nonce = [0u8; 32];
        weft_sys::random::fill(&mut nonce)
            .map_err(|cause| TransportError::Unreachable { peer: self.peer.name.clone(), cause })?;
        let hello = ClientHello {
            cluster_id: identity.cluster_id,
            nonce,
            incarnation: identity.incarnation,
            name: identity.name.clone(),
        };
        let (head, payload) = self.call(Kind::Hello, Hello::Client as u64, &hello.encode(), deadline)?;
        if head.kind != Kind::Hello || head.tag != Hello::Server as u64 {
            return Err(self.garbage(WireError::Payload("the answer to a hello is not a hello")));
        }
        let server = ServerHello::decode(&payload).map_err(|cause| self.garbage(cause))?;
        if !server.verifies(&identity.hello_key, &hello) {
            // The server counts a wrong proof as a refused peer; an empty one tells it why this side goes.
            let _ = self.call(Kind::Hello, Hello::Proof as u64, &[0; 32], deadline);
            self.close();
            return Err(TransportError::WrongSecret { peer: server.name });
        }
        if let Err(fault) = self.stream.check_name(&server.name) {
            return Err(self.broken(|_| TransportError::Tls { peer: server.name, fault }));
        }
        let proof = ClientProof::prove(&identity.hello_key, &hello, &server);
        let (head, _) = self.call(Kind::Hello, Hello::Proof as u64, &proof.proof, deadline)?;
        if head.kind != Kind::Reply {
            return Err(self.garbage(WireError::Payload("the answer to a proof is not a reply")));
        }
        self.peer = PeerIdentity { name: server.name, incarnation: server.incarnation };
        Ok(())
    }

    /// The connection by itself, for a driver that never waits. Nothing may be outstanding.
    pub(crate) fn into_stream(mut self) -> (Stream, PeerIdentity, u64) {
        assert!(self.outstanding.is_empty() && self.begun.is_none(), "a lane is handed over between requests");
        // The connection lives on: dropping this must not end it.
        self.open = false;
        (std::mem::replace(&mut self.stream, Stream::Gone), self.peer.clone(), self.request_next)
    }

    /// The same, for who receives past the lane, which works on plain bytes alone.
    pub(crate) fn into_socket(self, transport: &str) -> Result<(TcpStream, PeerIdentity, u64), TransportError> {
        match self.into_stream() {
            (Stream::Plain(socket), peer, request_next) => Ok((socket, peer, request_next)),
            _ => Err(TransportError::BadArgument(format!(
                "{transport} receives past TLS, which this process insists on; unset {} or leave {transport} out",
                tls::VARIABLES
            ))),
        }
    }

    /// One request with a small payload and its small answer, whatever kind that has.
    fn call(
        &mut self,
        kind: Kind,
        tag: u64,
        payload: &[u8],
        deadline: Instant,
    ) -> Result<(Header, Vec<u8>), TransportError> {
        let mut header = Header::new(kind, 0);
        header.tag = tag;
        header.length = payload.len() as u64;
        self.post(Request { header, ranges: &[], payload: &[Span::of_const(payload)] }, deadline)?;
        let head = self.receive_head(deadline)?;
        let mut answer = vec![0u8; usize::try_from(head.payload_bytes()).unwrap_or(0).min(DETAIL_BYTES_MAX)];
        self.receive_exact(Span::of(&mut answer), deadline)?;
        self.finish();
        Ok((head, answer))
    }

    fn receive_head(&mut self, deadline: Instant) -> Result<Header, TransportError> {
        let mut bytes = [0u8; HEADER_BYTES];
        self.receive_exact(Span::of(&mut bytes), deadline)?;
        self.check_head(&bytes, deadline)
    }

    /// Parses a head, matches it to the oldest request, and turns a refusal into an error after receiving its sentence.
    fn check_head(&mut self, bytes: &[u8; HEADER_BYTES], deadline: Instant) -> Result<Header, TransportError> {
        let header =
            Header::decode(bytes).map_err(|cause| self.broken(|peer| TransportError::Garbage { peer, cause }))?;
        if self.outstanding.front() != Some(&header.request) {
            return Err(self.garbage(WireError::Payload("the answer names a request that is not the oldest")));
        }
        if header.kind == Kind::Refusal {
            let length = usize::try_from(header.length).unwrap_or(usize::MAX);
            if length > DETAIL_BYTES_MAX {
                return Err(self.garbage(WireError::Length { length: header.length, max: DETAIL_BYTES_MAX as u64 }));
            }
            let mut detail = vec![0u8; length];
            self.receive_exact(Span::of(&mut detail), deadline)?;
            return Err(self.refused(header.tag, &detail));
        }
        Ok(header)
    }

    fn refused(&mut self, tag: u64, detail: &[u8]) -> TransportError {
        self.finish();
        TransportError::Refused {
            peer: self.peer.name.clone(),
            code: Code::from_number(tag),
            detail: String::from_utf8_lossy(detail).into_owned(),
        }
    }

    fn finish(&mut self) {
        self.outstanding.pop_front();
        self.begun = None;
    }

    fn garbage(&mut self, cause: WireError) -> TransportError {
        self.broken(|peer| TransportError::Garbage { peer, cause })
    }

    fn broken(&mut self, error: impl FnOnce(String) -> TransportError) -> TransportError {
        let error = error(self.peer.name.clone());
        self.close();
        error
    }

    fn receive_exact(&mut self, into: Span, deadline: Instant) -> Result<(), TransportError> {
        let mut filled = 0;
        while filled < into.len() {
            let rest = into.part(filled, into.len() - filled).expect("filled stays within the span");
            filled += self.receive_some(&[rest], deadline)?;
        }
        Ok(())
    }

    /// At least one byte into `spans`: spins for the allowance, then sleeps in slices until the deadline.
    fn receive_some(&mut self, spans: &[Span], deadline: Instant) -> Result<usize, TransportError> {
        match self.stream.receive(spans, Wait::No) {
            Ok(0) => return Err(self.disconnected("receiving", None)),
            Ok(got) => return Ok(got),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(self.disconnected("receiving", Some(error))),
        }
        let started = Instant::now();
        let allowance = self.spin.allowance(started);
        let mut now = started;
        loop {
            let wait = if now.duration_since(started) < allowance { Wait::No } else { Wait::Yes };
            match self.stream.receive(spans, wait) {
                Ok(0) => return Err(self.disconnected("receiving", None)),
                Ok(got) => {
                    self.spin.waited(started.elapsed());
                    return Ok(got);
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    now = Instant::now();
                    if now >= deadline {
                        return Err(
                            self.broken(|peer| TransportError::TimedOut { peer, doing: "waiting for an answer" })
                        );
                    }
                }
                Err(error) => return Err(self.disconnected("receiving", Some(error))),
            }
        }
    }

    fn send_all(&mut self, spans: &mut [Span], deadline: Instant) -> Result<(), TransportError> {
        let mut first = 0;
        while first < spans.len() {
            match self.stream.send(&spans[first..], Wait::Yes) {
                Ok(mut sent) => {
                    while first < spans.len() && sent >= spans[first].len() {
                        sent -= spans[first].len();
                        first += 1;
                    }
                    if sent > 0 {
                        let span = spans[first];
                        spans[first] = span.part(sent, span.len() - sent).expect("sent less than the span");
                    }
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    if Instant::now() >= deadline {
                        return Err(self.broken(|peer| TransportError::TimedOut { peer, doing: "sending" }));
                    }
                }
                Err(error) => return Err(self.disconnected("sending", Some(error))),
            }
        }
        while self.stream.is_unflushed() {
            match self.stream.flush(Wait::Yes) {
                Ok(()) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    if Instant::now() >= deadline {
                        return Err(self.broken(|peer| TransportError::TimedOut { peer, doing: "sending" }));
                    }
                }
                Err(error) => return Err(self.disconnected("sending", Some(error))),
            }
        }
        Ok(())
    }

    fn disconnected(&mut self, doing: &'static str, cause: Option<io::Error>) -> TransportError {
        self.broken(|peer| TransportError::broken_by(peer, doing, cause))
    }
}

impl Lane for TcpLane {
    fn post(&mut self, request: Request<'_>, deadline: Instant) -> Result<(), TransportError> {
        if !self.open {
            return Err(TransportError::Closed { peer: self.peer.name.clone() });
        }
        if self.outstanding.len() == OUTSTANDING_MAX {
            return Err(TransportError::BadArgument(format!(
                "{OUTSTANDING_MAX} requests are outstanding on this lane; complete some before posting more"
            )));
        }
        let mut header = request.header;
        header.request = self.request_next;
        header.count = u32::try_from(request.ranges.len()).expect("the caller bounds the ranges");
        let head = header.encode();
        if request.ranges.is_empty() && request.payload.is_empty() {
            // The common case, a read of one range: one small send, no allocation.
            self.send_all(&mut [Span::of_const(&head)], deadline)?;
        } else {
            let mut list = Vec::with_capacity(request.ranges.len() * RANGE_BYTES);
            encode_ranges(request.ranges, &mut list);
            let mut spans = Vec::with_capacity(request.payload.len() + 2);
            spans.push(Span::of_const(&head));
            if !list.is_empty() {
                spans.push(Span::of_const(&list));
            }
            spans.extend(request.payload.iter().filter(|span| !span.is_empty()));
            self.send_all(&mut spans, deadline)?;
        }
        self.request_next += 1;
        self.outstanding.push_back(header.request);
        Ok(())
    }

    fn begin(&mut self, into: &[Span], deadline: Instant) -> Result<Reply, TransportError> {
        if !self.open {
            return Err(TransportError::Closed { peer: self.peer.name.clone() });
        }
        if self.outstanding.is_empty() || self.begun.is_some() {
            // The driver's book is wrong: nothing on this lane can be told apart any more.
            return Err(self.broken(|peer| TransportError::Closed { peer }));
        }
        let mut head = [0u8; HEADER_BYTES];
        let mut got = 0;
        // With one request outstanding, nothing can follow its answer: head and payload come in one receive. With more,
        // the next answer's head could land in `into`, so the head is received by itself.
        if self.outstanding.len() == 1 && into.len() < socket::SPANS_MAX {
            let first = Span::of(&mut head);
            got = match into {
                [] => self.receive_some(&[first], deadline)?,
                [only] => self.receive_some(&[first, *only], deadline)?,
                many => {
                    let mut spans = Vec::with_capacity(many.len() + 1);
                    spans.push(first);
                    spans.extend_from_slice(many);
                    self.receive_some(&spans, deadline)?
                }
            };
        }
        if got < HEADER_BYTES {
            let rest = Span::of(&mut head).part(got, HEADER_BYTES - got).expect("less than a head arrived");
            self.receive_exact(rest, deadline)?;
            got = HEADER_BYTES;
        }
        let filled = got - HEADER_BYTES;
        let header = if filled > 0 && head[5] == Kind::Refusal as u8 {
            self.check_refusal_in_place(&head, into, filled, deadline)?
        } else {
            self.check_head(&head, deadline)?
        };
        let reply = Reply { header, filled };
        if header.kind != Kind::Reply || reply.bytes() > spans_bytes(into) || filled > reply.bytes() {
            return Err(self.garbage(WireError::Payload("the answer does not fit the request")));
        }
        if reply.filled == reply.bytes() {
            self.finish();
        } else {
            self.begun = Some(reply.bytes());
        }
        Ok(reply)
    }

    fn fill(
        &mut self,
        into: &[Span],
        filled: usize,
        at_least: usize,
        deadline: Instant,
    ) -> Result<usize, TransportError> {
        let mut filled = filled;
        while filled < at_least {
            let Some(bytes) = self.begun else {
                return Err(TransportError::Closed { peer: self.peer.name.clone() });
            };
            assert!(at_least <= bytes, "an answer of {bytes} bytes cannot fill {at_least}");
            filled += match into {
                [span] => {
                    let end = span.len().min(bytes);
                    let rest = span.part(filled, end - filled).expect("filled stays within the span");
                    self.receive_some(&[rest], deadline)?
                }
                spans => self.receive_some(&tail(spans, filled, bytes), deadline)?,
            };
            if filled == bytes {
                self.finish();
            }
        }
        Ok(filled)
    }

    fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    fn close(&mut self) {
        if self.open {
            self.open = false;
            self.begun = None;
            let _ = self.stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl TcpLane {
    /// A refusal whose sentence, or part of it, was received into the caller's spans.
    fn check_refusal_in_place(
        &mut self,
        head: &[u8; HEADER_BYTES],
        into: &[Span],
        filled: usize,
        deadline: Instant,
    ) -> Result<Header, TransportError> {
        let header = Header::decode(head).map_err(|cause| self.garbage(cause))?;
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        if length > DETAIL_BYTES_MAX || filled > length || self.outstanding.front() != Some(&header.request) {
            return Err(self.garbage(WireError::Payload("a refusal does not fit its request")));
        }
        let mut detail = vec![0u8; length];
        let mut copied = 0;
        for span in into {
            let part = span.len().min(filled - copied);
            span.part(0, part).expect("part of a span").copy_to(&mut detail[copied..copied + part]);
            copied += part;
        }
        let rest = Span::of(&mut detail).part(filled, length - filled).expect("filled is within the sentence");
        self.receive_exact(rest, deadline)?;
        Err(self.refused(header.tag, &detail))
    }
}

impl Drop for TcpLane {
    fn drop(&mut self) {
        self.close();
    }
}

pub(crate) fn spans_bytes(spans: &[Span]) -> usize {
    spans.iter().map(|span| span.len()).sum()
}

/// What is left of `spans` after `skip` bytes, up to `end` bytes from the start.
pub(crate) fn tail(spans: &[Span], skip: usize, end: usize) -> Vec<Span> {
    let mut rest = Vec::with_capacity(spans.len());
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
