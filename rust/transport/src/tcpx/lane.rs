//! A lane whose answers arrive in a bounce buffer.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use weft_sys::memory::Span;
use weft_sys::socket::{self, Wait};
use weft_unpack::{Block, Carved, Slot};
use weft_wire::{Code, HEADER_BYTES, Header, Kind, RANGE_BYTES, WireError, encode_ranges};

use super::{Bounce, TcpxOptions};
use crate::tcp::{ConnectOptions, TcpLane, spans_bytes};
use crate::{Identity, Lane, PeerIdentity, Reply, Request, Spin, TransportError};

/// Requests posted and not completed on one lane.
const OUTSTANDING_MAX: usize = 256;
/// Longest sentence of a refusal that is kept, in bytes.
const DETAIL_BYTES_MAX: usize = 4096;

/// What there is to gather of the answer under way.
#[derive(Debug)]
pub enum Taken {
    /// A block, and the slot to give back once it is gathered.
    Block(Slot, Block),
    /// The bounce buffer or the list of slots is full: give the oldest slot back first. Until then the peer waits.
    Full,
    /// Nothing: the whole answer was taken.
    Complete,
}

struct Begun {
    total: usize,
    done: usize,
}

/// A connected, authenticated TCP connection that receives into a bounce buffer.
pub struct TcpxLane {
    stream: TcpStream,
    peer: PeerIdentity,
    spin: Spin,
    request_next: u64,
    outstanding: VecDeque<u64>,
    bounce: Bounce,
    begun: Option<Begun>,
    open: bool,
}

impl TcpxLane {
    /// Connects as [`TcpLane::connect`] does.
    ///
    /// # Errors
    /// As there, `Unreachable` when there is no memory for the bounce buffer, and `BadArgument` where TLS is spoken.
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
        Ok(Self {
            stream,
            peer,
            spin: Spin::new(options.spin),
            request_next,
            outstanding: VecDeque::with_capacity(OUTSTANDING_MAX),
            bounce,
            begun: None,
            open: true,
        })
    }

    /// The bounce buffer, for a device that gathers from it. It lives as long as the lane.
    pub fn bounce(&self) -> Span {
        self.bounce.span()
    }

    /// Receives the head of the oldest answer only; its payload is then taken with [`TcpxLane::take`].
    ///
    /// # Errors
    /// As [`Lane::begin`].
    pub fn begin_blocks(&mut self, deadline: Instant) -> Result<Reply, TransportError> {
        let header = self.receive_head(deadline)?;
        let reply = Reply { header, filled: 0 };
        self.begun = Some(Begun { total: reply.bytes(), done: 0 });
        self.finish_if_complete();
        Ok(reply)
    }

    /// Bytes of the answer under way that were not taken yet.
    pub fn remaining(&self) -> usize {
        self.begun.as_ref().map_or(0, |begun| begun.total - begun.done)
    }

    /// The next block of the answer under way, for `at` and on in a target of `target_bytes`; waits for its bytes.
    ///
    /// # Errors
    /// Whatever breaks the lane; `BadArgument` when the bytes do not belong into the target.
    pub fn take(&mut self, at: u64, target_bytes: u64, deadline: Instant) -> Result<Taken, TransportError> {
        loop {
            let wanted = self.remaining();
            if wanted == 0 {
                return Ok(Taken::Complete);
            }
            match self.bounce.carve(wanted as u64, at, target_bytes) {
                Ok(Carved::Block(slot, block)) => {
                    let begun = self.begun.as_mut().expect("something remains of it");
                    begun.done += usize::try_from(block.total_bytes()).expect("at most 4 MiB");
                    self.finish_if_complete();
                    return Ok(Taken::Block(slot, block));
                }
                Ok(Carved::Held) => return Ok(Taken::Full),
                Ok(Carved::Nothing) if !self.bounce.has_room() => return Ok(Taken::Full),
                Ok(Carved::Nothing) => self.receive_some(deadline)?,
                Err(error) => return Err(TransportError::BadArgument(error.to_string())),
            }
        }
    }

    /// Takes back the slot of a block that was gathered.
    ///
    /// # Errors
    /// `BadArgument` when it is not the oldest one held; nothing changed then.
    pub fn give_back(&mut self, slot: Slot) -> Result<(), TransportError> {
        self.bounce.give_back(slot).map_err(|error| TransportError::BadArgument(error.to_string()))
    }

    fn receive_head(&mut self, deadline: Instant) -> Result<Header, TransportError> {
        if !self.open {
            return Err(TransportError::Closed { peer: self.peer.name.clone() });
        }
        if self.outstanding.is_empty() || self.begun.is_some() {
            // The driver's book is wrong: nothing on this lane can be told apart any more.
            return Err(self.broken(|peer| TransportError::Closed { peer }));
        }
        let mut head = [0; HEADER_BYTES];
        self.receive_bytes(&mut head, deadline)?;
        let header = Header::decode(&head).map_err(|cause| self.garbage(cause))?;
        if self.outstanding.front() != Some(&header.request) {
            return Err(self.garbage(WireError::Payload("the answer names a request that is not the oldest")));
        }
        match header.kind {
            Kind::Reply => Ok(header),
            Kind::Refusal => Err(self.refused(&header, deadline)?),
            _ => Err(self.garbage(WireError::Payload("the answer does not fit the request"))),
        }
    }

    fn refused(&mut self, header: &Header, deadline: Instant) -> Result<TransportError, TransportError> {
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        if length > DETAIL_BYTES_MAX {
            return Err(self.garbage(WireError::Length { length: header.length, max: DETAIL_BYTES_MAX as u64 }));
        }
        let mut detail = vec![0; length];
        self.receive_bytes(&mut detail, deadline)?;
        self.outstanding.pop_front();
        Ok(TransportError::Refused {
            peer: self.peer.name.clone(),
            code: Code::from_number(header.tag),
            detail: String::from_utf8_lossy(&detail).into_owned(),
        })
    }

    fn receive_bytes(&mut self, into: &mut [u8], deadline: Instant) -> Result<(), TransportError> {
        let mut done = 0;
        loop {
            done += self.bounce.take_bytes(&mut into[done..]);
            if done == into.len() {
                return Ok(());
            }
            self.receive_some(deadline)?;
        }
    }

    /// At least one byte more: spins for the allowance, then sleeps in slices until the deadline.
    fn receive_some(&mut self, deadline: Instant) -> Result<(), TransportError> {
        let started = Instant::now();
        let (mut now, mut allowance) = (started, None);
        while self.bounce.has_room() {
            let spins = allowance.is_none_or(|allowance| now.duration_since(started) < allowance);
            match self.bounce.receive(&self.stream, if spins { Wait::No } else { Wait::Yes }) {
                Ok(0) => return Err(self.disconnected("receiving", None)),
                Ok(_) => {
                    if allowance.is_some() {
                        self.spin.waited(started.elapsed());
                    }
                    return Ok(());
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                    allowance.get_or_insert_with(|| self.spin.allowance(started));
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
        // Slots are held by whoever took blocks, and nothing else can be received until they come back.
        Err(TransportError::BadArgument(
            "the bounce buffer is full of blocks that were not given back; give them back before asking for more"
                .into(),
        ))
    }

    fn send_all(&mut self, spans: &mut [Span], deadline: Instant) -> Result<(), TransportError> {
        let mut first = 0;
        while first < spans.len() {
            match socket::send(&self.stream, &spans[first..], Wait::Yes) {
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
        Ok(())
    }

    fn finish_if_complete(&mut self) {
        if self.remaining() == 0 {
            self.begun = None;
            self.outstanding.pop_front();
        }
    }

    fn garbage(&mut self, cause: WireError) -> TransportError {
        self.broken(|peer| TransportError::Garbage { peer, cause })
    }

    fn disconnected(&mut self, doing: &'static str, cause: Option<io::Error>) -> TransportError {
        self.broken(|peer| TransportError::Disconnected { peer, doing, cause })
    }

    fn broken(&mut self, error: impl FnOnce(String) -> TransportError) -> TransportError {
        let error = error(self.peer.name.clone());
        self.close();
        error
    }
}

impl Lane for TcpxLane {
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
        let mut head = Vec::with_capacity(HEADER_BYTES + request.ranges.len() * RANGE_BYTES);
        head.extend_from_slice(&header.encode());
        encode_ranges(request.ranges, &mut head);
        let mut spans = Vec::with_capacity(request.payload.len() + 1);
        spans.push(Span::of_const(&head));
        spans.extend(request.payload.iter().filter(|span| !span.is_empty()));
        self.send_all(&mut spans, deadline)?;
        self.request_next += 1;
        self.outstanding.push_back(header.request);
        Ok(())
    }

    fn begin(&mut self, into: &[Span], deadline: Instant) -> Result<Reply, TransportError> {
        let header = self.receive_head(deadline)?;
        let mut reply = Reply { header, filled: 0 };
        let total = reply.bytes();
        if total > spans_bytes(into) {
            return Err(self.garbage(WireError::Payload("the answer does not fit the request")));
        }
        reply.filled = self.bounce.unpack(into, 0, total);
        self.begun = Some(Begun { total, done: reply.filled });
        self.finish_if_complete();
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
            let Some(begun) = &self.begun else {
                return Err(TransportError::Closed { peer: self.peer.name.clone() });
            };
            let total = begun.total;
            assert!(at_least <= total, "an answer of {total} bytes cannot fill {at_least}");
            self.receive_some(deadline)?;
            filled = self.bounce.unpack(into, filled, total);
            self.begun = Some(Begun { total, done: filled });
            self.finish_if_complete();
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

impl Drop for TcpxLane {
    fn drop(&mut self) {
        self.close();
    }
}
