//! One accepted connection: bytes in, frames judged, answers out, one at a time.
//!
//! While an answer waits to leave, nothing more is read: a peer that does not take its answers stops being served, and
//! what this side holds for it stays one answer. Every unfinished frame and every answer has a deadline.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_sys::event::Interest;
use weft_sys::memory::Span;
use weft_sys::socket::{self, Wait};
use weft_wire::{ClientHello, Code, HEADER_BYTES, Header, Hello, Kind, RANGE_BYTES, Refusal, WireError, decode_ranges};

use super::Counters;
use super::payload::{Landed, Landing};
use super::requests::{Answer, Intake, Session, Shared};
use crate::store::Extent;
use crate::tls::{self, Stream, TlsFault};

/// Holds a header, the longest range list, and what small payload comes with them.
const INPUT_BYTES: usize = 32 << 10;
/// Most bytes one send hands to the kernel: other connections of the loop wait meanwhile.
const SEND_BYTES_MAX: usize = 4 << 20;
/// Requests served in one turn before other connections get theirs.
const TURN_REQUESTS_MAX: usize = 16;
/// A frame or an answer has this long, and its size at `SLOWEST_BYTES_PER_S` more.
const FRAME_DEADLINE: Duration = Duration::from_secs(30);
/// A peer that was told to go has this long to hear it.
const PARTING_DEADLINE: Duration = Duration::from_secs(1);
/// How a client begins that wants TLS: a record of the handshake, in any version.
const TLS_GREETING: [u8; 2] = [22, 3];
/// A peer slower than this is taken for stalled.
const SLOWEST_BYTES_PER_S: u64 = 10_000_000;

enum Phase {
    Head,
    Ranges(Header),
    Collect {
        header: Header,
        body: Vec<u8>,
        filled: usize,
    },
    Land {
        header: Header,
        landing: Landing,
    },
    Discard {
        header: Header,
        left: u64,
        refusal: Option<Refusal>,
    },
    /// A message was handed on; its answer comes from elsewhere.
    Waiting {
        request: u64,
    },
    Part,
}

struct Outgoing {
    head: Vec<u8>,
    parts: Vec<Span>,
    sent: usize,
    length: usize,
    keep: Option<(Arc<Extent>, u64)>,
}

/// How a turn ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Something moved, and what there was is used up.
    Moved,
    /// The turn's share is used up. What is left may lie in this connection's memory, where no socket announces it.
    Unfinished,
    /// Nothing to do until the socket is ready.
    Idle,
    /// The connection is over.
    Gone,
}

/// One accepted connection.
pub struct Connection {
    stream: Stream,
    session: Session,
    phase: Phase,
    input: Box<[u8]>,
    start: usize,
    end: usize,
    outgoing: Option<Outgoing>,
    deadline: Option<Instant>,
}

impl Connection {
    /// A connection that has until `deadline` to prove the secret.
    pub fn new(stream: Stream, event_loop: usize, token: u64, deadline: Instant) -> Self {
        Self {
            stream,
            session: Session::new(event_loop, token),
            phase: Phase::Head,
            input: vec![0; INPUT_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            outgoing: None,
            deadline: Some(deadline),
        }
    }

    /// The socket, to be watched.
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// What to watch it for.
    pub fn interest(&self) -> Interest {
        match (&self.outgoing, &self.phase) {
            (Some(_), _) => Interest::WRITE,
            (None, Phase::Waiting { .. }) => Interest::NONE,
            // A step of TLS that the kernel had no room for.
            (None, _) if self.stream.is_unflushed() => Interest { readable: true, writable: true },
            (None, _) => Interest::READ,
        }
    }

    /// When it is over unless something moves.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether it waits for somebody to answer a message. A socket that reports anything meanwhile has lost its peer.
    pub fn is_waiting(&self) -> bool {
        matches!(self.phase, Phase::Waiting { .. }) && self.outgoing.is_none()
    }

    /// The answer to the message that was handed on as `request`. One that comes too late is dropped.
    pub fn answered(&mut self, shared: &Shared, request: u64, answer: Result<Vec<u8>, Refusal>) {
        if !matches!(self.phase, Phase::Waiting { request: waiting } if waiting == request) {
            return;
        }
        let answer = match answer {
            Ok(body) => {
                let mut header = Header::new(Kind::Reply, request);
                header.length = body.len() as u64;
                Answer::Frame(header, body)
            }
            Err(refusal) => Answer::Refuse(refusal),
        };
        self.answer(shared, request, answer);
    }

    /// Whether the peer proved the secret.
    pub fn is_proved(&self) -> bool {
        self.session.is_known()
    }

    /// Whether an answer or a frame is under way.
    pub fn is_busy(&self) -> bool {
        self.outgoing.is_some() || !matches!(self.phase, Phase::Head) || self.start < self.end
    }

    /// Moves what can be moved without waiting.
    pub fn turn(&mut self, shared: &Shared) -> Turn {
        let mut moved = false;
        for _ in 0..TURN_REQUESTS_MAX {
            match self.advance(shared) {
                Ok(true) => moved = true,
                Ok(false) => return if moved { Turn::Moved } else { Turn::Idle },
                Err(_) => return Turn::Gone,
            }
        }
        Turn::Unfinished
    }

    /// One step: send, or parse, or receive. Whether anything moved; an error ends the connection.
    fn advance(&mut self, shared: &Shared) -> io::Result<bool> {
        if self.outgoing.is_some() {
            return self.flush();
        }
        match self.phase {
            Phase::Part => return self.drain(),
            Phase::Waiting { .. } => return Ok(false),
            _ => {}
        }
        if self.parse(shared)? {
            return Ok(true);
        }
        if self.stream.is_unflushed() {
            self.stream.flush(Wait::No).or_else(nothing_yet)?;
        }
        match self.receive(shared) {
            Ok(moved) => Ok(moved),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
            Err(error) => match TlsFault::of_io(&error) {
                Some(fault) => self.part_over_tls(shared, fault),
                None => Err(error),
            },
        }
    }

    /// Uses what was received. Whether that led anywhere.
    fn parse(&mut self, shared: &Shared) -> io::Result<bool> {
        let available = self.end - self.start;
        match &mut self.phase {
            Phase::Part | Phase::Waiting { .. } => Ok(false),
            Phase::Head => {
                if available < HEADER_BYTES {
                    return Ok(false);
                }
                let head: &[u8; HEADER_BYTES] =
                    self.input[self.start..self.start + HEADER_BYTES].try_into().expect("a head's worth");
                match Header::decode(head) {
                    Ok(header) => {
                        self.start += HEADER_BYTES;
                        self.set_deadline(header.payload_bytes());
                        if header.count > 0 && !matches!(header.kind, Kind::Read | Kind::Write) {
                            let refusal = Refusal::new(Code::BadFrame, "only reads and writes have ranges");
                            self.answer(shared, header.request, Answer::Part(refusal));
                        } else if header.count > 0 {
                            self.phase = Phase::Ranges(header);
                        } else {
                            self.judge(shared, header, Vec::new());
                        }
                    }
                    Err(_) if !self.session.is_known() && head.starts_with(&TLS_GREETING) => {
                        let detail = format!(
                            "{} has no TLS; set {} there as well, or unset them here",
                            shared.identity.name,
                            tls::VARIABLES
                        );
                        self.answer(shared, 0, Answer::Part(Refusal::new(Code::TlsMismatch, detail)));
                    }
                    Err(cause) => {
                        let request = u64::from_le_bytes(head[16..24].try_into().expect("eight bytes"));
                        let code = match cause {
                            WireError::Version(_) => Code::UnsupportedVersion,
                            WireError::Count(_) | WireError::Length { .. } => Code::TooLarge,
                            _ => Code::BadFrame,
                        };
                        self.answer(shared, request, Answer::Part(Refusal::new(code, cause.to_string())));
                    }
                }
                Ok(true)
            }
            Phase::Ranges(header) => {
                let header = *header;
                let bytes = header.count as usize * RANGE_BYTES;
                if available < bytes {
                    return Ok(false);
                }
                let list = &self.input[self.start..self.start + bytes];
                let ranges = decode_ranges(list, header.length);
                self.start += bytes;
                match ranges {
                    Ok(ranges) => self.judge(shared, header, ranges),
                    Err(cause) => {
                        let refusal = Refusal::new(Code::BadFrame, cause.to_string());
                        self.answer(shared, header.request, Answer::Part(refusal));
                    }
                }
                Ok(true)
            }
            Phase::Collect { header, body, filled } => {
                let part = available.min(body.len() - *filled);
                body[*filled..*filled + part].copy_from_slice(&self.input[self.start..self.start + part]);
                *filled += part;
                self.start += part;
                if *filled < body.len() {
                    return Ok(false);
                }
                let (header, body) = (*header, std::mem::take(body));
                let answer = match self.misnamed(&header, &body) {
                    Some(refusal) => Answer::Part(refusal),
                    None => self.session.collected(shared, &header, body),
                };
                self.answer(shared, header.request, answer);
                Ok(true)
            }
            Phase::Land { landing, .. } => {
                if available == 0 {
                    return Ok(false);
                }
                let (used, landed) = landing.take(&self.input[self.start..self.end]);
                self.start += used;
                self.landed(shared, landed);
                Ok(true)
            }
            Phase::Discard { header, left, refusal } => {
                let part = (*left).min(available as u64);
                *left -= part;
                self.start += usize::try_from(part).expect("at most what is available");
                if *left > 0 {
                    return Ok(false);
                }
                let (request, refusal) = (header.request, refusal.take().expect("a discarded frame is refused once"));
                self.answer(shared, request, Answer::Refuse(refusal));
                Ok(true)
            }
        }
    }

    /// Whether a client opens under a name that its certificate does not hold. The proof that follows covers the name.
    fn misnamed(&self, header: &Header, body: &[u8]) -> Option<Refusal> {
        if header.kind != Kind::Hello || header.tag != Hello::Client as u64 {
            return None;
        }
        let name = ClientHello::decode(body).ok()?.name;
        let fault = self.stream.check_name(&name).err()?;
        Some(Refusal::new(Code::CertificateRefused, format!("{name} {fault}")))
    }

    fn judge(&mut self, shared: &Shared, header: Header, ranges: Vec<weft_wire::Range>) {
        match self.session.judge(shared, &header, ranges) {
            Intake::Answer(answer) => self.answer(shared, header.request, answer),
            Intake::Collect => {
                let length = usize::try_from(header.length).expect("bounded by the header's check");
                self.phase = Phase::Collect { header, body: vec![0; length], filled: 0 };
            }
            Intake::Land(target) => self.phase = Phase::Land { header, landing: Landing::new(target) },
            Intake::Discard(refusal) => {
                self.phase = Phase::Discard { header, left: header.payload_bytes(), refusal: Some(refusal) };
            }
        }
    }

    fn landed(&mut self, shared: &Shared, landed: Landed) {
        let Phase::Land { header, landing } = &self.phase else { unreachable!("only a write lands") };
        let header = *header;
        match landed {
            Landed::Part => {}
            Landed::All => {
                Counters::add(&shared.counters.writes, 1);
                Counters::add(&shared.counters.write_bytes, header.length);
                self.answer(
                    shared,
                    header.request,
                    Answer::Frame(Header::new(Kind::Reply, header.request), Vec::new()),
                );
            }
            Landed::Refused(refusal) => {
                // What was staged is dropped with the landing; `left` does not count it.
                self.phase = Phase::Discard { header, left: landing.left(), refusal: Some(refusal) };
            }
        }
    }

    fn receive(&mut self, shared: &Shared) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
            match &mut self.phase {
                // Under TLS bytes come by the input and are copied: no page is torn by either way.
                Phase::Land { landing, .. } if self.stream.plain().is_some() => {
                    let landed = landing.receive(self.stream.plain().expect("looked at just now"))?;
                    self.landed(shared, landed);
                    return Ok(true);
                }
                Phase::Collect { body, filled, .. } if body.len() - *filled > INPUT_BYTES => {
                    let got = self.stream.receive(&[Span::of(&mut body[*filled..])], Wait::No)?;
                    *filled += got;
                    return if got == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(true) };
                }
                _ => {}
            }
        } else if self.start > 0 {
            self.input.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let got = self.stream.receive(&[Span::of(&mut self.input[self.end..])], Wait::No)?;
        if got == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.end += got;
        Ok(true)
    }

    fn answer(&mut self, shared: &Shared, request: u64, answer: Answer) {
        self.phase = match answer {
            Answer::Part(_) => Phase::Part,
            Answer::Later => {
                self.phase = Phase::Waiting { request };
                self.deadline = Some(Instant::now() + FRAME_DEADLINE);
                return;
            }
            _ => Phase::Head,
        };
        let (header, body, parts, keep) = match answer {
            Answer::Frame(header, body) => (header, body, Vec::new(), None),
            Answer::Bytes { header, parts, extent, generation } => {
                (header, Vec::new(), parts, Some((extent, generation)))
            }
            Answer::Later => unreachable!("returned above"),
            Answer::Refuse(refusal) | Answer::Part(refusal) => {
                let (header, body) = refusal_frame(shared, request, &refusal);
                (header, body, Vec::new(), None)
            }
        };
        let mut head = header.encode().to_vec();
        head.extend_from_slice(&body);
        let length = head.len() + parts.iter().map(|part| part.len()).sum::<usize>();
        self.set_deadline(length as u64);
        self.outgoing = Some(Outgoing { head, parts, sent: 0, length, keep });
    }

    /// Sends what it can of the answer. Whether anything moved.
    fn flush(&mut self) -> io::Result<bool> {
        let outgoing = self.outgoing.as_mut().expect("there is an answer to send");
        let pass = match &outgoing.keep {
            Some((extent, generation)) if !outgoing.parts.is_empty() => {
                let pass = extent.gate.enter(*generation);
                if pass.is_err() || extent.is_released() {
                    // Fenced in the middle of an answer: bytes of a newer generation must not complete it.
                    return Err(io::ErrorKind::ConnectionAborted.into());
                }
                pass.ok()
            }
            _ => None,
        };
        let sent = match outgoing.sent {
            0 if outgoing.parts.is_empty() => self.stream.send(&[Span::of_const(&outgoing.head)], Wait::No),
            0 if outgoing.parts.len() == 1 && outgoing.length <= SEND_BYTES_MAX => {
                self.stream.send(&[Span::of_const(&outgoing.head), outgoing.parts[0]], Wait::No)
            }
            // All of it was taken, and the kernel has no room for the end of it.
            sent if sent == outgoing.length => self.stream.flush(Wait::No).map(|()| 0),
            sent => self.stream.send(&unsent(outgoing, sent), Wait::No),
        };
        drop(pass);
        match sent {
            Ok(sent) => {
                outgoing.sent += sent;
                if outgoing.sent == outgoing.length && !self.stream.is_unflushed() {
                    self.outgoing = None;
                    if let Phase::Part = self.phase {
                        // Closing with unread bytes would reset the connection and could take the refusal with it.
                        self.stream.shutdown(Shutdown::Write)?;
                        self.deadline = Some(Instant::now() + PARTING_DEADLINE);
                    } else if self.session.is_known() {
                        self.deadline = None;
                    }
                }
                Ok(true)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Drops what still arrives from a peer that was told to go, until it goes.
    fn drain(&mut self) -> io::Result<bool> {
        match self.stream.discard(Span::of(&mut self.input)) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Ends a connection on which TLS cannot be spoken, so that the peer hears why: by a refusal in the wire's own words where
    /// it speaks no TLS, else by the alert that was sent.
    fn part_over_tls(&mut self, shared: &Shared, fault: &TlsFault) -> io::Result<bool> {
        Counters::add(&shared.counters.tls_refused, 1);
        if !matches!(fault, TlsFault::PeerIsPlain(_)) {
            self.phase = Phase::Part;
            self.stream.shutdown(Shutdown::Write)?;
            self.deadline = Some(Instant::now() + PARTING_DEADLINE);
            return Ok(true);
        }
        let said = self.stream.become_plain();
        let head = said.first_chunk::<HEADER_BYTES>().and_then(|head| Header::decode(head).ok());
        let refusal = match &head {
            Some(_) => Refusal::new(
                Code::TlsMismatch,
                format!(
                    "{} speaks TLS only; set {} here as well, or unset them there",
                    shared.identity.name,
                    tls::VARIABLES
                ),
            ),
            None => Refusal::new(Code::BadFrame, "neither TLS nor Weft's wire"),
        };
        self.answer(shared, head.map_or(0, |header| header.request), Answer::Part(refusal));
        Ok(true)
    }

    fn set_deadline(&mut self, bytes: u64) {
        if self.session.is_known() {
            let size = Duration::from_millis(bytes * 1000 / SLOWEST_BYTES_PER_S);
            self.deadline = Some(Instant::now() + FRAME_DEADLINE + size);
        }
    }
}

/// Nothing moved, and that is no fault.
fn nothing_yet(error: io::Error) -> io::Result<()> {
    match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => Ok(()),
        _ => Err(error),
    }
}

/// The spans left to send, bounded so that one send stays short.
fn unsent(outgoing: &Outgoing, sent: usize) -> Vec<Span> {
    let mut spans = Vec::with_capacity(outgoing.parts.len() + 1);
    let (mut skip, mut room) = (sent, SEND_BYTES_MAX);
    let head = Span::of_const(&outgoing.head);
    for span in std::iter::once(head).chain(outgoing.parts.iter().copied()) {
        if skip >= span.len() {
            skip -= span.len();
            continue;
        }
        let len = (span.len() - skip).min(room);
        if len == 0 || spans.len() == socket::SPANS_MAX {
            break;
        }
        spans.push(span.part(skip, len).expect("bounded by the span"));
        room -= len;
        skip = 0;
    }
    spans
}

fn refusal_frame(shared: &Shared, request: u64, refusal: &Refusal) -> (Header, Vec<u8>) {
    shared.counters.refuse(refusal.code);
    let body = refusal.detail.as_bytes().to_vec();
    let mut header = Header::new(Kind::Refusal, request);
    header.tag = refusal.code as u64;
    header.length = body.len() as u64;
    (header, body)
}
