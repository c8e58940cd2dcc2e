//! One movement of bytes, as its caller holds it.
//!
//! ```text
//! queued ──► in flight ──► done(bytes)
//!    │            ├──────► failed(reason)
//!    └────────────┴──────► cancelled
//! ```
//!
//! The last three are for ever. Whoever moves the bytes ends the transfer only after it has let go of the caller's
//! memory, so an ended transfer's memory is the caller's again, whichever way it ended.

use std::collections::VecDeque;
use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use weft_sys::event::Waker;

use crate::Failure;

/// Where a transfer stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nothing of it has been sent.
    Queued,
    /// Some of it has.
    InFlight,
    /// All of it is where it should be: this many bytes.
    Done(u64),
    /// It was not carried out, or not whole.
    Failed(Failure),
    /// Its caller took it back.
    Cancelled,
}

impl Status {
    /// Whether it stays so for ever.
    pub const fn is_terminal(&self) -> bool {
        matches!(self, Self::Done(_) | Self::Failed(_) | Self::Cancelled)
    }
}

struct State {
    status: Status,
    listeners: Vec<Arc<Notifier>>,
    /// Threads that wait; telling nobody costs a system call.
    waiting: usize,
}

/// A handle on one movement of bytes.
pub struct Transfer {
    id: u64,
    deadline: Instant,
    state: Mutex<State>,
    changed: Condvar,
    ended: AtomicBool,
    under_way: Arc<AtomicUsize>,
}

impl Transfer {
    /// A queued transfer, counted in `under_way` until it ends.
    pub(crate) fn new(id: u64, deadline: Instant, under_way: &Arc<AtomicUsize>) -> Arc<Self> {
        under_way.fetch_add(1, Ordering::Relaxed);
        Arc::new(Self {
            id,
            deadline,
            state: Mutex::new(State { status: Status::Queued, listeners: Vec::new(), waiting: 0 }),
            changed: Condvar::new(),
            ended: AtomicBool::new(false),
            under_way: Arc::clone(under_way),
        })
    }

    /// Its number; unique in its endpoint.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// When it fails at the latest.
    pub fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Where it stands. The same for ever once it has ended.
    pub fn poll(&self) -> Status {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).status.clone()
    }

    /// Whether it has ended, at the cost of one load.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// Waits until it has ended or `until` has passed, whichever comes first; where it stands then.
    pub fn wait(&self, until: Instant) -> Status {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while !state.status.is_terminal() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            state.waiting += 1;
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
            state.waiting -= 1;
        }
        state.status.clone()
    }

    /// Has `notifier` told when it ends; at once when it has.
    pub fn notify(&self, notifier: &Arc<Notifier>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.status.is_terminal() {
            drop(state);
            notifier.tell(self.id);
        } else {
            state.listeners.push(Arc::clone(notifier));
        }
    }

    pub(crate) fn start(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.status == Status::Queued {
            state.status = Status::InFlight;
        }
    }

    /// Ends it, unless it has ended. Whether this ended it.
    pub(crate) fn end(&self, status: Status) -> bool {
        assert!(status.is_terminal(), "a transfer ends done, failed or cancelled");
        let (listeners, waiting) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.status.is_terminal() {
                return false;
            }
            state.status = status;
            (std::mem::take(&mut state.listeners), state.waiting > 0)
        };
        self.ended.store(true, Ordering::Release);
        self.under_way.fetch_sub(1, Ordering::Relaxed);
        if waiting {
            self.changed.notify_all();
        }
        for notifier in listeners {
            notifier.tell(self.id);
        }
        true
    }
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transfer").field("id", &self.id).field("status", &self.poll()).finish_non_exhaustive()
    }
}

/// Tells an event loop which transfers ended: a descriptor that becomes readable, and their numbers.
pub struct Notifier {
    waker: Waker,
    ended: Mutex<VecDeque<u64>>,
}

impl Notifier {
    /// Nothing has ended.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn new() -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self { waker: Waker::new()?, ended: Mutex::new(VecDeque::new()) }))
    }

    fn tell(&self, id: u64) {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).push_back(id);
        self.waker.wake();
    }

    /// The transfers that ended since this was last asked. Bounded by how many were to be told of.
    pub fn take(&self) -> Vec<u64> {
        self.waker.clear();
        self.ended.lock().unwrap_or_else(PoisonError::into_inner).drain(..).collect()
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }
}
