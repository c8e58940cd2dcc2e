//! What is shared with one neighbour: the conversation, its slate, and what of its memory is mapped here.
//!
//! A mapping outlives the right to it: the kernel takes nothing back. So every read looks at its place on the slate before
//! and after, as a reader of a sequence lock does. What was taken back in between was perhaps read as it will be used next,
//! and is not believed. Nobody waits for such a reader: reading memory that stays mapped disturbs nobody.
//!
//! What if the owner is killed? Its memory stays here as it was, and the end of its connection is told to
//! [`super::Watch`], which says so within the time of a wake-up; reads that come before are answered with its last content.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};
use std::time::{Duration, Instant};

use weft_sys::event::{self, Interest};
use weft_sys::memory::Span;
use weft_sys::neighbour::{Conversation, Credentials, PLACES, RECORD_BYTES_MAX, Slate};
use weft_sys::view::View;
use weft_wire::{Code, Range, Refusal};

use crate::ipc::{GRANTED, GRANTED_BYTES, HELLO_BYTES, MAGIC, Watch};

/// How long one sleep may last before the deadline is looked at again.
const SLEEP_SLICE: Duration = Duration::from_millis(50);

/// One neighbour, as all who look after it see it.
pub struct Near {
    /// Where attaches are asked.
    pub conversation: Conversation,
    /// Its gates.
    pub slate: Slate,
    /// Whether the watch knows it; written under the watch's lock.
    pub is_watched: AtomicBool,
    gone: AtomicBool,
    shown: Mutex<Vec<Weak<Shown>>>,
}

/// A buffer of the neighbour's that is mapped here, until it is taken back, its time is over or the neighbour is gone.
pub struct Shown {
    view: Mutex<Option<View>>,
    place: usize,
    gate: u32,
    expires_at_ms: u64,
}

/// What came of a look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// The bytes are there, and were lent all the while.
    Seen,
    /// The owner has taken the buffer back.
    TakenBack,
    /// The owner is gone.
    Gone,
    /// It is not mapped any more.
    Unmapped,
}

impl Near {
    /// Nothing is mapped yet.
    pub fn new(conversation: Conversation, slate: Slate) -> Self {
        let (is_watched, gone) = (AtomicBool::new(false), AtomicBool::new(false));
        Self { conversation, slate, is_watched, gone, shown: Mutex::default() }
    }

    /// Keeps a view under its place, until it must go.
    pub fn show(&self, view: View, place: usize, gate: u32, expires_at_ms: u64) -> Arc<Shown> {
        let shown = Arc::new(Shown { view: Mutex::new(Some(view)), place, gate, expires_at_ms });
        self.shown.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&shown));
        shown
    }

    /// Fills `into` with `ranges` of what is shown, which have as many bytes.
    pub fn look(&self, shown: &Shown, ranges: &[Range], into: &[Span]) -> Look {
        self.look_with(shown, |view| gather(view, ranges, into, 0, usize::MAX))
    }

    /// Has `reading` read what is shown. What it brought may be believed when this says that it was seen.
    pub fn look_with(&self, shown: &Shown, reading: impl FnOnce(&View)) -> Look {
        let view = shown.view.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(view) = view.as_ref() else { return Look::Unmapped };
        if !self.is_lent(shown) {
            return Look::TakenBack;
        }
        reading(view);
        // What was read before this is not read after: a gate that is still open now was open all the while.
        fence(Ordering::Acquire);
        if !self.is_lent(shown) {
            return Look::TakenBack;
        }
        if self.gone.load(Ordering::Acquire) { Look::Gone } else { Look::Seen }
    }

    /// Lets go of what was taken back or has run out. How much is still mapped.
    pub fn sweep(&self, now_ms: u64) -> usize {
        let gone = self.gone.load(Ordering::Acquire);
        let mut list = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|shown| {
            let Some(shown) = shown.upgrade() else { return false };
            if !gone && self.is_lent(&shown) && now_ms < shown.expires_at_ms {
                return true;
            }
            // One that is being read goes with the next sweep.
            let mut view = match shown.view.try_lock() {
                Ok(view) => view,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return true,
            };
            drop(view.take());
            false
        });
        list.len()
    }

    /// The neighbour's connection has ended: nothing that is read from now on is its.
    pub fn leave(&self) {
        self.gone.store(true, Ordering::Release);
    }

    fn is_lent(&self, shown: &Shown) -> bool {
        self.slate.place(shown.place).0.load(Ordering::Acquire) == shown.gate
    }
}

/// Copies ranges out of a view into spans that are cut elsewhere and may have less room: the bytes from the `from`-th to the
/// `to`-th of them all, each to the same place of the spans.
pub fn gather(view: &View, ranges: &[Range], into: &[Span], from: usize, to: usize) {
    if let ([range], [span], 0) = (ranges, into, from)
        && range.length == span.len() as u64
        && to >= span.len()
    {
        let inside = view.copy_to(usize::try_from(range.offset).unwrap_or(usize::MAX), *span);
        assert!(inside, "the range was checked against the buffer");
        return;
    }
    let (mut spans, mut span_from) = (into.iter(), 0usize);
    let mut span = spans.next();
    let mut range_from = 0usize;
    for range in ranges {
        let length = usize::try_from(range.length).expect("a frame is at most 64 MiB");
        let range_to = range_from + length;
        let (mut at, end) = (range_from.max(from), range_to.min(to));
        while at < end {
            let Some(target) = span else { return };
            let span_to = span_from + target.len();
            if at >= span_to {
                (span_from, span) = (span_to, spans.next());
                continue;
            }
            let take = end.min(span_to) - at;
            let offset = usize::try_from(range.offset).unwrap_or(usize::MAX).saturating_add(at - range_from);
            let inside = view.copy_to(offset, target.part(at - span_from, take).expect("within the span"));
            assert!(inside, "the range was checked against the buffer");
            at += take;
        }
        range_from = range_to;
    }
}

/// What an owner says of itself when it is met, and who the kernel says it is.
pub struct Met {
    /// Where it is asked.
    pub conversation: Conversation,
    /// Its gates.
    pub slate: Slate,
    /// The word on its slate.
    pub word: u64,
    /// Where that lies in its memory.
    pub word_at: u64,
    /// Its process and user.
    pub who: Credentials,
}

/// Connects to the owner that listens under `socket`, and hears its hello.
///
/// # Errors
/// Nobody listens, it is another life than `incarnation`, or it says something else, or nothing until the deadline.
pub fn meet(socket: &str, incarnation: u64, deadline: Instant) -> io::Result<Met> {
    let conversation = Conversation::connect(socket)?;
    let who = conversation.credentials()?;
    let mut hello = [0u8; RECORD_BYTES_MAX];
    let (length, descriptor) = hear(&conversation, &mut hello, deadline)?;
    let number = |at: usize| u64::from_le_bytes(hello[at..at + 8].try_into().expect("eight bytes"));
    let Some(descriptor) = descriptor else { return Err(io::ErrorKind::InvalidData.into()) };
    if length != HELLO_BYTES || hello[..4] != MAGIC || number(4) != incarnation {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let slate = Slate::take(descriptor)?;
    let (word, word_at) = (number(12), number(20));
    if slate.word().load(Ordering::SeqCst) != word {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(Met { conversation, slate, word, word_at, who })
}

/// The next record of a conversation, and the descriptor that came with it. Waits.
///
/// # Errors
/// The conversation's; `TimedOut` at the deadline.
pub fn hear(conversation: &Conversation, record: &mut [u8], deadline: Instant) -> io::Result<(usize, Option<OwnedFd>)> {
    loop {
        match conversation.receive(record) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let left = deadline.saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                event::wait_for(conversation.as_fd(), Interest::READ, left.min(SLEEP_SLICE))?;
            }
            received => return received,
        }
    }
}

/// What was granted, as the owner wrote it.
#[derive(Clone, Copy, Debug)]
pub struct Granted {
    /// The place on the slate.
    pub place: usize,
    /// What its gate shows while the right holds.
    pub gate: u32,
    /// Where the buffer lies in its owner.
    pub base: u64,
    /// Its size.
    pub length: u64,
    /// Whether it may be written.
    pub writable: bool,
    /// When the right ends.
    pub expires_at_ms: u64,
    /// Where it begins in what the descriptor is of.
    pub offset: u64,
}

/// An answer to an attach; `None` for bytes that are none.
pub fn granted(record: &[u8]) -> Option<Result<Granted, Refusal>> {
    if record.first() == Some(&GRANTED) && record.len() == GRANTED_BYTES {
        let short = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().expect("four bytes"));
        let number = |at: usize| u64::from_le_bytes(record[at..at + 8].try_into().expect("eight bytes"));
        let place = usize::try_from(short(1)).ok().filter(|place| *place < PLACES)?;
        return Some(Ok(Granted {
            place,
            gate: short(5),
            base: number(9),
            length: number(17),
            writable: record[25] == 1,
            expires_at_ms: number(26),
            offset: number(34),
        }));
    }
    let (head, detail) = record.split_first_chunk::<3>()?;
    let code = Code::from_number(u16::from_le_bytes([head[1], head[2]]).into());
    Some(Err(Refusal::new(code, String::from_utf8_lossy(detail))))
}

/// Maps what was granted, of which there are `tail` more bytes behind it, and has it looked after. Nothing where that cannot
/// be: there is another way to every memory.
pub fn map(near: &Arc<Near>, watch: &Watch, granted: &Granted, descriptor: OwnedFd, tail: usize) -> Option<Arc<Shown>> {
    let length = usize::try_from(granted.length).ok()?.checked_add(tail)?;
    let view = View::take(descriptor, granted.offset, length).ok()?;
    let shown = near.show(view, granted.place, granted.gate, granted.expires_at_ms);
    watch.look_after(near).is_ok().then_some(shown)
}
