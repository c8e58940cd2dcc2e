//! How long to spin before sleeping.
//!
//! Waking an idle CPU costs tens of microseconds, a whole fetch on a spinning pair seven. Spinning pays only while answers
//! come within the budget, and only where somebody else has a CPU to produce them on. So a spinner keeps a short memory of
//! its recent waits: while most ended within twice the budget (the wait of a sleeper includes the wake-up), it spins.

use std::time::{Duration, Instant};

/// How often the set of allowed CPUs is read again: a process can be pinned at any time.
const AFFINITY_AGE_MAX: Duration = Duration::from_millis(250);
/// The memory's full mark; half of it is the threshold.
const CREDIT_MAX: u32 = 16;

/// One waiter's memory.
#[derive(Debug)]
pub struct Spin {
    budget: Duration,
    credit: u32,
    alone: bool,
    affinity_read_at: Option<Instant>,
}

impl Spin {
    /// Spins for at most `budget` a wait; zero never spins.
    pub fn new(budget: Duration) -> Self {
        Self { budget, credit: CREDIT_MAX, alone: false, affinity_read_at: None }
    }

    /// How long the wait that starts at `now` may spin.
    pub fn allowance(&mut self, now: Instant) -> Duration {
        if self.affinity_read_at.is_none_or(|read_at| now.duration_since(read_at) > AFFINITY_AGE_MAX) {
            self.alone = weft_sys::cpu::allowed_count() < 2;
            self.affinity_read_at = Some(now);
        }
        if self.alone || self.credit * 2 < CREDIT_MAX { Duration::ZERO } else { self.budget }
    }

    /// Remembers a wait that took `waited`.
    pub fn waited(&mut self, waited: Duration) {
        if waited <= self.budget * 2 {
            self.credit = (self.credit + 1).min(CREDIT_MAX);
        } else {
            self.credit = self.credit.saturating_sub(2);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: Duration = Duration::from_micros(50);

    #[test]
    fn a_spinner_gives_up_after_long_waits_and_returns_after_short_ones() {
        let mut spin = Spin::new(BUDGET);
        for _ in 0..CREDIT_MAX {
            spin.waited(Duration::from_millis(5));
        }
        assert_eq!(spin.allowance(Instant::now()), Duration::ZERO);
        for _ in 0..CREDIT_MAX {
            spin.waited(Duration::from_micros(60));
        }
        if weft_sys::cpu::allowed_count() >= 2 {
            assert_eq!(spin.allowance(Instant::now()), BUDGET);
        }
    }

    #[test]
    fn a_spinner_without_budget_never_spins() {
        assert_eq!(Spin::new(Duration::ZERO).allowance(Instant::now()), Duration::ZERO);
    }
}
