//! Faults that one fault thread leaves to another: the one that has the page in its socket already.
//!
//! What was asked for ahead lies in the socket of the thread that asked until it is touched. Which thread reads that first
//! touch is chance; served by the one that asked, it is one more step of its walk, and the batch after it goes out.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::lock::Held;
use crate::target::Fault;

/// Faults that can lie here: a thread has at most three batches on their way, and each is touched for the first time once.
const FAULTS_MAX: usize = 8;

/// What others have left for one fault thread.
pub(crate) struct Inbox {
    faults: Mutex<VecDeque<Fault>>,
    /// How many, for whoever looks often.
    count: AtomicUsize,
}

impl Inbox {
    pub fn new() -> Self {
        Self { faults: Mutex::new(VecDeque::with_capacity(FAULTS_MAX)), count: AtomicUsize::new(0) }
    }

    /// Leaves a fault here; `false` when there is no room.
    pub fn leave(&self, fault: Fault) -> bool {
        let mut faults = self.faults.held();
        let fits = faults.len() < FAULTS_MAX;
        if fits {
            faults.push_back(fault);
            self.count.store(faults.len(), Ordering::Release);
        }
        fits
    }

    /// Takes the oldest.
    pub fn take(&self) -> Option<Fault> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        let mut faults = self.faults.held();
        let fault = faults.pop_front();
        self.count.store(faults.len(), Ordering::Release);
        fault
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn what_is_left_is_taken_in_order_and_beyond_its_room_nothing_is() {
        let inbox = Inbox::new();
        assert!(inbox.take().is_none());
        let now = Instant::now();
        let fault = |page| Fault { page, write: false, thread: 0, since: now, deadline: now, overdue: false };
        for page in 0..FAULTS_MAX as u64 {
            assert!(inbox.leave(fault(page)));
        }
        assert!(!inbox.leave(fault(99)));
        let pages: Vec<u64> = std::iter::from_fn(|| inbox.take()).map(|fault| fault.page).collect();
        assert_eq!(pages, (0..FAULTS_MAX as u64).collect::<Vec<_>>());
    }
}
