//! What is shared with one neighbour: the conversation, its slate, and what of its memory is mapped here.
//!
//! A mapping outlives the right to it: the kernel takes nothing back. So every read looks at its place on the slate before
//! and after, as a reader of a sequence lock does. What was taken back in between was perhaps read as it will be used next,
//! and is not believed. Nobody waits for such a reader: reading memory that stays mapped disturbs nobody.
//!
//! What if the owner is killed? Its memory stays here as it was, and the end of its connection is told to
//! [`super::Watch`], which says so within the time of a wake-up; reads that come before are answered with its last content.

use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::sync::{Arc, Mutex, PoisonError, TryLockError, Weak};

use weft_sys::memory::Span;
use weft_sys::neighbour::{Conversation, Slate};
use weft_sys::view::View;
use weft_wire::Range;

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
        let view = shown.view.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(view) = view.as_ref() else { return Look::Unmapped };
        if !self.is_lent(shown) {
            return Look::TakenBack;
        }
        gather(view, ranges, into);
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

/// Copies ranges out of a view into spans that are cut elsewhere.
fn gather(view: &View, ranges: &[Range], into: &[Span]) {
    if let ([range], [span]) = (ranges, into) {
        let inside = view.copy_to(usize::try_from(range.offset).unwrap_or(usize::MAX), *span);
        assert!(inside && range.length == span.len() as u64, "the range was checked against the buffer");
        return;
    }
    let mut spans = into.iter();
    let mut left: Option<Span> = None;
    for range in ranges {
        let mut done = 0u64;
        while done < range.length {
            let target = left.take().or_else(|| spans.next().copied()).expect("both sides have the same length");
            let take = usize::try_from(range.length - done).unwrap_or(usize::MAX).min(target.len());
            let part = target.part(0, take).expect("within the span");
            let inside = view.copy_to(usize::try_from(range.offset + done).unwrap_or(usize::MAX), part);
            assert!(inside, "the range was checked against the buffer");
            left = target.part(take, target.len() - take).filter(|rest| !rest.is_empty());
            done += take as u64;
        }
    }
}
