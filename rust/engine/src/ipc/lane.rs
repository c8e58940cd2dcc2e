//! The other side: a lane whose reads and writes are one copy each, made by whoever drives it.
//!
//! Reads of what is mapped here are plain copies; the kernel copies the rest between the two processes.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use weft_sys::event::Interest;
use weft_sys::memory::Span;
use weft_sys::neighbour::{RECORD_BYTES_MAX, Remote, read_memory, user, write_memory};
use weft_transport::{Driven, Finished, Forgotten, Outcome, Payload, PeerIdentity, Submission, TransportError};
use weft_wire::{Code, Header, Kind, Range, Refusal};

use crate::ipc::Watch;
use crate::ipc::near::{self, Granted, Look, Near, Shown};
use crate::link::Shortcut;

/// Most bytes one turn copies: other lanes of the same driver wait meanwhile.
const TURN_BYTES_MAX: u64 = 4 << 20;
/// Buffers of one neighbour that are mapped at a time by one lane, of the 65 530 mappings a process has; further ones are
/// copied by the kernel.
const VIEWS_MAX: usize = 1024;

/// A process of the same user on this machine.
pub struct Neighbour {
    socket: String,
    peer: PeerIdentity,
    now_ms: fn() -> u64,
    watch: Arc<Watch>,
}

impl Neighbour {
    /// The one that listens under this name; `watch` looks after what is mapped of its memory.
    pub fn new(socket: String, peer: PeerIdentity, now_ms: fn() -> u64, watch: Arc<Watch>) -> Self {
        Self { socket, peer, now_ms, watch }
    }

    fn unreachable(&self, cause: io::Error) -> TransportError {
        TransportError::Unreachable { peer: self.peer.name.clone(), cause }
    }

    fn connect(&self, deadline: Instant) -> io::Result<IpcLane> {
        let met = near::meet(&self.socket, self.peer.incarnation, deadline)?;
        if met.who.user != user() || met.who.process <= 0 {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        // The first copy shows that the kernel allows copies, and that this process is the one that made the slate.
        let mut seen = [0u8; 8];
        let word = [Remote { base: met.word_at, length: 8 }];
        read_memory(met.who.process, &word, &[Span::of(&mut seen)]).map_err(|error| match error.kind() {
            io::ErrorKind::PermissionDenied => io::Error::new(
                error.kind(),
                "the kernel lets processes read no memory of each other (kernel.yama.ptrace_scope, or a sandbox)",
            ),
            _ => error,
        })?;
        if u64::from_le_bytes(seen) != met.word {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(IpcLane {
            process: met.who.process,
            word: met.word,
            word_at: met.word_at,
            near: Arc::new(Near::new(met.conversation, met.slate)),
            watch: Arc::clone(&self.watch),
            peer: self.peer.clone(),
            now_ms: self.now_ms,
            asking: VecDeque::new(),
            unsent: VecDeque::new(),
            copies: VecDeque::new(),
            attached: Vec::new(),
            open: true,
        })
    }
}

impl Shortcut for Neighbour {
    fn dial(&self, deadline: Instant) -> Result<Box<dyn Driven>, TransportError> {
        match self.connect(deadline) {
            Ok(lane) => Ok(Box::new(lane)),
            Err(cause) => Err(self.unreachable(cause)),
        }
    }

    fn transport(&self) -> &'static str {
        "ipc"
    }
}

/// A buffer of the neighbour's, as it was attached, and its memory where that could be mapped.
struct Attached {
    granted: Granted,
    shown: Option<Arc<Shown>>,
}

impl Attached {
    /// Whether a range lies in it.
    fn has(&self, range: &Range) -> bool {
        range.length > 0 && range.end().is_some_and(|end| end <= self.granted.length)
    }

    /// A range of it, by the neighbour's addresses.
    fn remote(&self, range: &Range) -> Remote {
        let length = usize::try_from(range.length).expect("a frame is at most 64 MiB");
        Remote { base: self.granted.base + range.offset, length }
    }
}

struct IpcLane {
    near: Arc<Near>,
    watch: Arc<Watch>,
    process: i32,
    /// The word on the slate, and where it lies in the owner's memory.
    word: u64,
    word_at: u64,
    peer: PeerIdentity,
    now_ms: fn() -> u64,
    /// Attaches sent and not answered; nothing for one that was given up.
    asking: VecDeque<Option<u64>>,
    /// Attaches that did not go out yet.
    unsent: VecDeque<(u64, Vec<u8>)>,
    copies: VecDeque<Submission>,
    attached: Vec<Attached>,
    open: bool,
}

impl IpcLane {
    fn lost(&mut self, doing: &'static str, cause: Option<io::Error>) -> TransportError {
        self.open = false;
        TransportError::Disconnected { peer: self.peer.name.clone(), doing, cause }
    }

    fn ask(&mut self) -> Result<bool, TransportError> {
        let mut moved = false;
        while let Some((id, record)) = self.unsent.front() {
            match self.near.conversation.send(record, None) {
                Ok(()) => {
                    self.asking.push_back(Some(*id));
                    self.unsent.pop_front();
                    moved = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(self.lost("attaching", Some(error))),
            }
        }
        Ok(moved)
    }

    fn hear(&mut self, finished: &mut Vec<Finished>) -> Result<bool, TransportError> {
        let mut record = [0u8; RECORD_BYTES_MAX];
        let (length, descriptor) = match self.near.conversation.receive(&mut record) {
            Ok((0, _)) => return Err(self.lost("waiting for an answer", None)),
            Ok(received) => received,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(self.lost("waiting for an answer", Some(error))),
        };
        let Some(asked) = self.asking.pop_front() else {
            return Err(self.lost("hearing what it had not asked for", None));
        };
        let outcome = match near::granted(&record[..length]) {
            Some(Ok(granted)) => {
                let views = self.attached.iter().filter(|attached| attached.shown.is_some()).count();
                let shown = descriptor
                    .filter(|_| views < VIEWS_MAX)
                    .and_then(|descriptor| near::map(&self.near, &self.watch, &granted, descriptor, 0));
                self.attached.push(Attached { granted, shown });
                let mut header = Header::new(Kind::Reply, 0);
                header.handle = self.attached.len() as u64;
                header.offset = granted.length;
                Outcome::Done(header, Vec::new())
            }
            Some(Err(refusal)) => Outcome::Refused(refusal),
            None => return Err(self.lost("reading an answer that is none", None)),
        };
        if let Some(id) = asked {
            finished.push(Finished { id, outcome });
        }
        Ok(true)
    }

    /// The buffer behind a handle, if it may be used for this now.
    fn attached(&self, handle: u64, write: bool) -> Result<&Attached, Refusal> {
        let index = usize::try_from(handle).ok().and_then(|handle| handle.checked_sub(1));
        let Some(attached) = index.and_then(|index| self.attached.get(index)) else {
            return Err(Refusal::new(Code::UnknownHandle, format!("handle {handle} was not given out here")));
        };
        if write && !attached.granted.writable {
            return Err(Refusal::new(Code::ReadOnly, "the advert may only be read"));
        }
        if (self.now_ms)() >= attached.granted.expires_at_ms {
            return Err(Refusal::new(Code::GrantExpired, "the advert's time is over"));
        }
        Ok(attached)
    }

    /// One copy. A refusal leaves the lane whole.
    fn copy(&self, submission: &Submission) -> io::Result<Outcome> {
        let header = &submission.header;
        let write = header.kind == Kind::Write;
        let attached = match self.attached(header.handle, write) {
            Ok(attached) => attached,
            Err(refusal) => return Ok(Outcome::Refused(refusal)),
        };
        let single = [Range { offset: header.offset, length: header.length }];
        let ranges = if submission.ranges.is_empty() { &single[..] } else { &submission.ranges };
        if let Some(range) = ranges.iter().find(|range| !attached.has(range)) {
            let detail = format!(
                "bytes {}..{} are outside the buffer, which has {} bytes",
                range.offset,
                range.offset.saturating_add(range.length),
                attached.granted.length
            );
            return Ok(Outcome::Refused(Refusal::new(Code::OutOfRange, detail)));
        }
        let spans: &[Span] = match &submission.payload {
            Payload::Spans(spans) if write => spans,
            _ => &submission.into,
        };
        if self.move_ranges(attached, write, ranges, spans)? {
            return Ok(Outcome::Done(Header::new(Kind::Reply, 0), Vec::new()));
        }
        let detail = format!("{} took this buffer back", self.peer.name);
        Ok(Outcome::Refused(Refusal::new(Code::ExtentLost, detail)))
    }

    /// Moves ranges that lie in the buffer; `false` when it was taken back.
    fn move_ranges(&self, attached: &Attached, write: bool, ranges: &[Range], spans: &[Span]) -> io::Result<bool> {
        if !write && let Some(shown) = &attached.shown {
            match self.near.look(shown, ranges, spans) {
                Look::Seen => return Ok(true),
                Look::TakenBack => return Ok(false),
                Look::Gone => return Err(io::ErrorKind::ConnectionReset.into()),
                Look::Unmapped => {}
            }
        }
        if let ([range], [span]) = (ranges, spans) {
            return self.copy_by_kernel(attached, write, &mut [attached.remote(range), NOTHING], &mut [*span, *span]);
        }
        let mut remote: Vec<Remote> = ranges.iter().map(|range| attached.remote(range)).collect();
        remote.push(NOTHING);
        let mut local = spans.to_vec();
        local.extend(spans.last().copied());
        self.copy_by_kernel(attached, write, &mut remote, &mut local)
    }

    /// The kernel's copy, inside its place. Both lists have one free place at their ends; `false` as `move_ranges`.
    fn copy_by_kernel(
        &self,
        attached: &Attached,
        write: bool,
        remote: &mut [Remote],
        local: &mut [Span],
    ) -> io::Result<bool> {
        // A process that ended leaves its number to another. A read brings the owner's word with its bytes, in one copy: it
        // is still the owner's memory then. A write asks the connection, whose end the kernel tells.
        let mut word = [0u8; 8];
        let (remotes, locals) = (remote.len() - 1, local.len() - 1);
        remote[remotes] = Remote { base: self.word_at, length: word.len() };
        local[locals] = Span::of(&mut word);
        let (gate, inside) = self.near.slate.place(attached.granted.place);
        // Counted before the gate is read: an owner that shuts it either is seen here, or sees this one inside.
        inside.fetch_add(1, Ordering::SeqCst);
        let result = if gate.load(Ordering::SeqCst) != attached.granted.gate {
            Ok(false)
        } else if write && self.near.conversation.is_over() {
            Err(io::ErrorKind::ConnectionReset.into())
        } else if write {
            write_memory(self.process, &remote[..remotes], &local[..locals]).map(|()| true)
        } else {
            read_memory(self.process, remote, local).map(|()| true)
        };
        inside.fetch_sub(1, Ordering::SeqCst);
        if !write && matches!(result, Ok(true)) && u64::from_le_bytes(word) != self.word {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        result
    }
}

/// A free place in a list of the neighbour's memory.
const NOTHING: Remote = Remote { base: 0, length: 0 };

impl Driven for IpcLane {
    fn submit(&mut self, submission: Submission) {
        if submission.header.kind == Kind::Open
            && let Payload::Owned(opening) = &submission.payload
        {
            let mut record = Vec::with_capacity(8 + opening.len());
            record.extend_from_slice(&submission.header.tag.to_le_bytes());
            record.extend_from_slice(opening);
            self.unsent.push_back((submission.id, record));
        } else {
            self.copies.push_back(submission);
        }
    }

    fn advance(&mut self, finished: &mut Vec<Finished>) -> Result<bool, TransportError> {
        if !self.open {
            return Err(TransportError::Closed { peer: self.peer.name.clone() });
        }
        let mut moved = self.ask()?;
        if !self.asking.is_empty() || self.copies.is_empty() {
            moved |= self.hear(finished)?;
        }
        let mut copied = 0;
        while copied < TURN_BYTES_MAX
            && let Some(submission) = self.copies.pop_front()
        {
            copied += submission.header.length;
            let outcome = match submission.header.kind {
                Kind::Read | Kind::Write => match self.copy(&submission) {
                    Ok(outcome) => outcome,
                    Err(error) => return Err(self.lost("copying its memory", Some(error))),
                },
                _ => Outcome::Refused(Refusal::new(Code::NotSupported, "this lane moves bytes and nothing else")),
            };
            finished.push(Finished { id: submission.id, outcome });
            moved = true;
        }
        Ok(moved)
    }

    fn at_once(&mut self, kind: Kind, handle: u64, offset: u64, span: Span) -> bool {
        if !self.open || !self.copies.is_empty() || !self.unsent.is_empty() || !self.asking.is_empty() {
            return false;
        }
        let write = kind == Kind::Write;
        let range = Range { offset, length: span.len() as u64 };
        match self.attached(handle, write) {
            Ok(attached) if attached.has(&range) => {
                matches!(self.move_ranges(attached, write, &[range], &[span]), Ok(true))
            }
            _ => false,
        }
    }

    fn forget(&mut self, id: u64) -> Forgotten {
        if let Some(index) = self.copies.iter().position(|submission| submission.id == id) {
            self.copies.remove(index);
            return Forgotten::Unsent;
        }
        if let Some(index) = self.unsent.iter().position(|(unsent, _)| *unsent == id) {
            self.unsent.remove(index);
            return Forgotten::Unsent;
        }
        if let Some(asked) = self.asking.iter_mut().find(|asked| **asked == Some(id)) {
            *asked = None;
            return Forgotten::Sent;
        }
        Forgotten::Unknown
    }

    fn outstanding(&self) -> usize {
        self.copies.len() + self.unsent.len() + self.asking.len()
    }

    fn readiness(&self) -> Option<(BorrowedFd<'_>, Interest)> {
        if !self.copies.is_empty() {
            return None;
        }
        Some((self.near.conversation.as_fd(), Interest { readable: true, writable: !self.unsent.is_empty() }))
    }

    fn reaches_extents(&self) -> bool {
        false
    }

    fn transport(&self) -> &'static str {
        "ipc"
    }

    fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    fn close(&mut self) {
        self.open = false;
        self.copies.clear();
        self.attached.clear();
    }
}
