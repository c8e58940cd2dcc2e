//! Looking for a while before sleeping: bounded, and only while it pays.
//!
//! A wake-up costs more than many waits last. Whether a wait is worth looking through is told by the waits before it:
//! those that ended inside the limit, looked through or slept through, speak for it, the others against.

use std::time::{Duration, Instant};

use weft_sys::cpu;

/// Longest look; what a wake-up costs, so that at worst a wait costs twice what it must.
const SPIN_MAX: Duration = Duration::from_micros(50);
/// Short waits in a row after which the trust is full.
const TRUST_MAX: u32 = 8;

/// Decides, for one thread, whether to look through the next wait.
#[derive(Debug)]
pub struct Spin {
    limit: Duration,
    trust: u32,
}

impl Spin {
    /// Looks for `limit` at most; not at all on one CPU, where whoever is waited for could not run meanwhile.
    pub fn new(limit: Duration) -> Self {
        let limit = if cpu::allowed_count() > 1 { limit.min(SPIN_MAX) } else { Duration::ZERO };
        Self { limit, trust: 0 }
    }

    /// How long to look this time.
    pub fn limit(&self) -> Duration {
        if self.trust > 0 { self.limit } else { Duration::ZERO }
    }

    /// A wait that began at `start` has ended.
    pub fn waited_since(&mut self, start: Instant) {
        if self.limit.is_zero() {
            return;
        }
        if start.elapsed() <= self.limit {
            self.trust = (self.trust + 1).min(TRUST_MAX);
        } else {
            self.trust = self.trust.saturating_sub(2);
        }
    }
}
