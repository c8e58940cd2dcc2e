//! One queue pair at work: pieces of requests in flight, over a ring of registered memory.
//!
//! Bytes pass through the ring on this side, never straight into the caller's memory: that may be a window whose pages a
//! pager brings, and the device would have to pin it. Pieces are posted, complete and are taken in one order, so that the
//! ring is all the book there is. What if a piece fails? Everything after it is flushed, and the path is of no use any
//! more; whoever owns it goes another way.

use std::collections::VecDeque;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_sys::memory::{Mapping, Span};
use weft_transport::Spin;

use crate::ffi::{Access, Bounds, Completion, CompletionQueue, MemoryRegion, QueuePair, Remote, Verb, Work};
use crate::rail::Rail;
use crate::{Status, VerbsError};

/// Memory of one path: enough that sixteen of the largest pieces are under way, which is all the reads a device allows.
const RING_BYTES: usize = 4 << 20;
/// Largest piece.
pub const PIECE_BYTES: usize = 256 << 10;
/// Pieces in flight.
const PIECES_MAX: usize = 128;
/// Bytes of a write that travel inside its request.
const INLINE_BYTES: u32 = 64;
/// How long one sleep may last before the device is asked whether it is still there.
const SLEEP_SLICE: Duration = Duration::from_millis(50);

/// A part of a request, in flight.
#[derive(Clone, Copy, Debug)]
pub struct Piece {
    /// Where its bytes lie in the ring.
    pub at: usize,
    /// How many.
    pub length: usize,
    /// Ring bytes it holds, with what was skipped before it.
    held: usize,
    is_read: bool,
    done: bool,
}

/// A connected queue pair and its ring.
pub struct Path {
    // Dropped in this order: the queue pair goes before the memory it moves.
    queue_pair: QueuePair,
    completions: Arc<CompletionQueue>,
    ring: MemoryRegion,
    rail: Arc<Rail>,
    pieces: VecDeque<Piece>,
    /// The name of the oldest piece in flight.
    oldest: u64,
    head: usize,
    held: usize,
    reads: usize,
    reads_max: usize,
    finished: Vec<Completion>,
    spin: Spin,
}

impl Path {
    /// An end that is not connected yet.
    ///
    /// # Errors
    /// When the device gives no memory or queue.
    pub fn new(rail: &Arc<Rail>, spin: Duration) -> Result<Self, VerbsError> {
        rail.check()?;
        let memory = Mapping::anonymous(RING_BYTES, true)
            .map_err(|cause| VerbsError::Call { doing: "mapping memory for a queue pair", cause })?;
        let span = memory.span();
        let ring = MemoryRegion::register(rail.domain(), span, Access::Local, Arc::new(memory))?;
        let work = u32::try_from(PIECES_MAX).expect("small").min(rail.device().port().work_max.max(1));
        let completions = CompletionQueue::new(rail.device(), work)?;
        let bounds = Bounds { work, receives: 1, inline_bytes: INLINE_BYTES, answers: false };
        let queue_pair = QueuePair::new(rail.domain(), &completions, bounds, rail.sequence()?)?;
        Ok(Self {
            queue_pair,
            completions,
            ring,
            rail: Arc::clone(rail),
            pieces: VecDeque::with_capacity(PIECES_MAX),
            oldest: 0,
            head: 0,
            held: 0,
            reads: 0,
            reads_max: 1,
            finished: Vec::new(),
            spin: Spin::new(spin),
        })
    }

    /// This end, to be told to the other.
    pub fn side(&self) -> Remote {
        self.rail.side(self.queue_pair.number(), self.queue_pair.sequence())
    }

    /// Connects it.
    ///
    /// # Errors
    /// What the device says of the other end.
    pub fn connect(&mut self, remote: &Remote) -> Result<(), VerbsError> {
        self.queue_pair.connect(remote)?;
        self.reads_max = self.queue_pair.reads_out_max(remote).into();
        Ok(())
    }

    /// Posts a read of `length` bytes, if there is room now. Whether there was.
    ///
    /// # Errors
    /// What the device says; the path is of no use then.
    pub fn read(&mut self, address: u64, key: u32, length: usize) -> Result<bool, VerbsError> {
        if self.reads == self.reads_max {
            return Ok(false);
        }
        let Some((at, held)) = self.room(length) else { return Ok(false) };
        self.post(Verb::Read { address, key }, at, held, length)?;
        self.reads += 1;
        Ok(true)
    }

    /// Posts a write of `length` bytes that `fill` puts into the ring, if there is room now. Whether there was.
    ///
    /// # Errors
    /// As [`Path::read`].
    pub fn write(
        &mut self,
        address: u64,
        key: u32,
        length: usize,
        fill: impl FnOnce(Span),
    ) -> Result<bool, VerbsError> {
        let Some((at, held)) = self.room(length) else { return Ok(false) };
        fill(self.part(at, length));
        self.post(Verb::Write { address, key, after_reads: self.reads > 0 }, at, held, length)?;
        Ok(true)
    }

    /// The oldest piece, if it is finished; its bytes stay until it is taken.
    pub fn finished(&mut self) -> Result<Option<Piece>, VerbsError> {
        if self.pieces.front().is_some_and(|piece| !piece.done) {
            self.collect()?;
        }
        Ok(self.pieces.front().copied().filter(|piece| piece.done))
    }

    /// The bytes of a piece.
    pub fn bytes(&self, piece: &Piece) -> Span {
        self.part(piece.at, piece.length)
    }

    /// Asks for the descriptor to become readable with the next completion, and takes what it told before.
    ///
    /// # Errors
    /// What the device says.
    pub fn arm(&self) -> Result<(), VerbsError> {
        self.completions.take_tellings();
        self.completions.arm()
    }

    /// What to sleep on once it is armed.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.completions.as_fd()
    }

    /// Gives the oldest piece's room back.
    pub fn take(&mut self) {
        let piece = self.pieces.pop_front().expect("a finished piece was seen");
        assert!(piece.done, "a piece in flight is the device's");
        self.oldest += 1;
        self.held -= piece.held;
    }

    /// Waits until the oldest piece is finished.
    ///
    /// # Errors
    /// `TimedOut` at the deadline; `Work` when it failed; `DeviceLost`.
    pub fn wait(&mut self, deadline: Instant) -> Result<Piece, VerbsError> {
        if let Some(piece) = self.finished()? {
            return Ok(piece);
        }
        let started = Instant::now();
        let allowance = self.spin.allowance(started);
        loop {
            let now = Instant::now();
            if now >= deadline {
                return Err(VerbsError::TimedOut("waiting for an RDMA request"));
            }
            if now.duration_since(started) >= allowance {
                // Armed before the last look: what finishes between the two is told.
                self.completions.arm()?;
                if let Some(piece) = self.finished()? {
                    self.spin.waited(started.elapsed());
                    return Ok(piece);
                }
                self.rail.check()?;
                self.completions.sleep(SLEEP_SLICE.min(deadline.duration_since(now)))?;
            }
            if let Some(piece) = self.finished()? {
                self.spin.waited(started.elapsed());
                return Ok(piece);
            }
        }
    }

    /// Takes in what the device finished, and fails with the first that failed.
    fn collect(&mut self) -> Result<(), VerbsError> {
        self.finished.clear();
        let mut finished = std::mem::take(&mut self.finished);
        let polled = self.completions.poll(&mut finished);
        let result = polled.and_then(|()| {
            for completion in &finished {
                if completion.status != Status::Done {
                    return Err(VerbsError::Work { doing: "moving bytes over RDMA", status: completion.status });
                }
                let index = completion.id.checked_sub(self.oldest).and_then(|index| usize::try_from(index).ok());
                let Some(piece) = index.and_then(|index| self.pieces.get_mut(index)).filter(|piece| !piece.done) else {
                    return Err(VerbsError::State(format!("the device finished work {} twice", completion.id)));
                };
                piece.done = true;
                self.reads -= usize::from(piece.is_read);
            }
            Ok(())
        });
        self.finished = finished;
        result
    }

    fn post(&mut self, verb: Verb, at: usize, held: usize, length: usize) -> Result<(), VerbsError> {
        let id = self.oldest + self.pieces.len() as u64;
        self.queue_pair.post(&Work { id, verb, memory: &self.ring, offset: at, length })?;
        let is_read = matches!(verb, Verb::Read { .. });
        self.pieces.push_back(Piece { at, length, held, is_read, done: false });
        self.head = (at + length) % RING_BYTES;
        self.held += held;
        Ok(())
    }

    /// Where `length` bytes in a row are free behind what is held, and what they hold with what is skipped for them.
    fn room(&self, length: usize) -> Option<(usize, usize)> {
        assert!(length > 0 && length <= PIECE_BYTES, "a piece has 1 to {PIECE_BYTES} bytes");
        if self.pieces.len() == PIECES_MAX.min(self.rail.device().port().work_max.max(1) as usize) {
            return None;
        }
        let to_end = RING_BYTES - self.head;
        let (at, held) = if length <= to_end { (self.head, length) } else { (0, to_end + length) };
        (self.held + held <= RING_BYTES).then_some((at, held))
    }

    fn part(&self, at: usize, length: usize) -> Span {
        self.ring.span().part(at, length).expect("a piece lies within the ring")
    }
}

impl Drop for Path {
    fn drop(&mut self) {
        self.queue_pair.fail();
    }
}

/// Copies from many spans, after `skip` bytes, as much as `into` holds.
pub fn gather(from: &[Span], mut skip: usize, into: Span) {
    let mut done = 0;
    for span in from {
        if skip >= span.len() {
            skip -= span.len();
            continue;
        }
        let length = (span.len() - skip).min(into.len() - done);
        let source = span.part(skip, length).expect("within the span");
        source.copy_span_to(into.part(done, length).expect("within the target"));
        (done, skip) = (done + length, 0);
        if done == into.len() {
            return;
        }
    }
    assert!(done == into.len(), "the spans hold fewer bytes than their request said");
}

/// Copies `from` into many spans, after `skip` bytes.
pub fn scatter(from: Span, into: &[Span], mut skip: usize) {
    let mut done = 0;
    for span in into {
        if skip >= span.len() {
            skip -= span.len();
            continue;
        }
        let length = (span.len() - skip).min(from.len() - done);
        let target = span.part(skip, length).expect("within the span");
        from.part(done, length).expect("within the source").copy_span_to(target);
        (done, skip) = (done + length, 0);
        if done == from.len() {
            return;
        }
    }
    assert!(done == from.len(), "the spans hold fewer bytes than the answer");
}
