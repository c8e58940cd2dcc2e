//! Homes that let a fault run to its end, and have given nothing since.
//!
//! Faults that wait to be read while every fault thread waits for such a home have used up their own time when their
//! turn comes. To ask the same home again for each would make the last of many threads wait for all of them; they end
//! at once instead. A fault that still has time asks, and one answer clears the home.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::lock::Held;

/// Names of homes; as many as a region has lenders, at most.
#[derive(Debug, Default)]
pub(crate) struct Suspects {
    homes: Mutex<Vec<String>>,
    /// As many as there are, so that the usual case, of none, takes no lock.
    count: AtomicUsize,
}

impl Suspects {
    /// `home` did not answer by a deadline.
    pub fn accuse(&self, home: &str) {
        let mut homes = self.homes.held();
        if !homes.iter().any(|suspect| suspect == home) {
            homes.push(home.to_owned());
        }
        self.count.store(homes.len(), Ordering::Release);
    }

    /// `home` has answered.
    pub fn clear(&self, home: &str) {
        if self.count.load(Ordering::Acquire) > 0 {
            let mut homes = self.homes.held();
            homes.retain(|suspect| suspect != home);
            self.count.store(homes.len(), Ordering::Release);
        }
    }

    /// Whether `home` has not answered since it was last accused.
    pub fn has(&self, home: &str) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.homes.held().iter().any(|suspect| suspect == home)
    }
}
