//! How long to spin before sleeping.
//!
//! Waking an idle CPU costs tens of microseconds, a whole fetch on a spinning pair seven. Spinning pays only while answers
//! come within the budget, and only where somebody else has a CPU to produce them on. So a spinner keeps a short memory of
//! its recent waits: while most ended within twice the budget (the wait of a sleeper includes the wake-up), it spins.
//!
//! Under load the scheduler may put both ends on one CPU. A spin then only keeps the other end from answering, and ends in
//! vain, while a sleep ends sooner than any wake-up of an idle CPU. Whoever spins twice in vain therefore sleeps at once,
//! for as long as such sleeps are short, and now and then tries again.

use std::time::{Duration, Instant};

/// How often the set of allowed CPUs is read again: a process can be pinned at any time.
const AFFINITY_AGE_MAX: Duration = Duration::from_millis(250);
/// The memory's full mark; half of it is the threshold.
const CREDIT_MAX: u32 = 16;
/// Spins in vain, one after the other, that make a spinner try sleep. One alone may be an answer that was late.
const VAIN_MAX: u32 = 2;
/// Waits slept at once before a spin is tried again.
const RESTS_MAX: u32 = 64;

/// How long one sleep may last before the deadline is looked at again.
pub const SLEEP_SLICE: Duration = Duration::from_millis(50);

/// How a step of a wait may pass its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Not at all.
    Look,
    /// Asleep, at most for so long.
    Sleep(Duration),
}

/// One waiter's memory.
#[derive(Debug)]
pub struct Spin {
    budget: Duration,
    credit: u32,
    granted: Duration,
    vain: u32,
    rests: u32,
    alone: bool,
    affinity_read_at: Option<Instant>,
}

impl Spin {
    /// Spins for at most `budget` a wait; zero never spins.
    pub fn new(budget: Duration) -> Self {
        Self {
            budget,
            credit: CREDIT_MAX,
            granted: Duration::ZERO,
            vain: 0,
            rests: 0,
            alone: false,
            affinity_read_at: None,
        }
    }

    /// Repeats `step` until it says that something moved: looks, spins for the allowance, then sleeps in slices. Whether
    /// anything moved before `deadline`.
    ///
    /// # Errors
    /// Those of `step`.
    pub fn wait<E>(&mut self, deadline: Instant, mut step: impl FnMut(Step) -> Result<bool, E>) -> Result<bool, E> {
        if step(Step::Look)? {
            return Ok(true);
        }
        let started = Instant::now();
        let allowance = self.allowance(started);
        let mut now = started;
        loop {
            let spins = now.duration_since(started) < allowance;
            let slice = SLEEP_SLICE.min(deadline.saturating_duration_since(now));
            if step(if spins { Step::Look } else { Step::Sleep(slice) })? {
                self.waited(started.elapsed());
                return Ok(true);
            }
            now = Instant::now();
            if now >= deadline {
                return Ok(false);
            }
        }
    }

    /// How long the wait that starts at `now` may spin.
    pub fn allowance(&mut self, now: Instant) -> Duration {
        if self.affinity_read_at.is_none_or(|read_at| now.duration_since(read_at) > AFFINITY_AGE_MAX) {
            self.alone = weft_sys::cpu::allowed_count() < 2;
            self.affinity_read_at = Some(now);
        }
        let sleeps = self.alone || self.credit * 2 < CREDIT_MAX || self.rests > 0;
        self.granted = if sleeps { Duration::ZERO } else { self.budget };
        self.granted
    }

    /// Remembers a wait that took `waited`, its spin included.
    pub fn waited(&mut self, waited: Duration) {
        if self.granted.is_zero() {
            self.rested(waited);
        } else if waited > self.granted {
            self.vain = (self.vain + 1).min(VAIN_MAX);
            self.rests = if self.vain == VAIN_MAX { RESTS_MAX } else { 0 };
        } else {
            self.vain = 0;
        }
        if waited <= self.budget * 2 {
            self.credit = (self.credit + 1).min(CREDIT_MAX);
        } else {
            self.credit = self.credit.saturating_sub(2);
        }
    }

    /// A sleep as long as a wake-up says that the other end has a CPU of its own, where spinning pays.
    fn rested(&mut self, waited: Duration) {
        if waited * 2 > self.budget {
            self.rests = 0;
            self.vain = 0;
        } else {
            self.rests = self.rests.saturating_sub(1);
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
    fn a_spinner_that_spins_in_vain_sleeps_while_sleeps_are_short() {
        let mut spin = Spin::new(BUDGET);
        let may_spin = spin.allowance(Instant::now());
        for _ in 0..VAIN_MAX {
            assert_eq!(spin.allowance(Instant::now()), may_spin);
            spin.waited(BUDGET + Duration::from_micros(9));
        }
        for _ in 0..RESTS_MAX {
            assert_eq!(spin.allowance(Instant::now()), Duration::ZERO);
            spin.waited(Duration::from_micros(8));
        }
        assert_eq!(spin.allowance(Instant::now()), may_spin);
        spin.waited(BUDGET + Duration::from_micros(9));
        assert_eq!(spin.allowance(Instant::now()), Duration::ZERO);
        spin.waited(Duration::from_micros(45));
        assert_eq!(spin.allowance(Instant::now()), may_spin);
    }

    #[test]
    fn a_late_answer_between_quick_ones_changes_nothing() {
        let mut spin = Spin::new(BUDGET);
        let may_spin = spin.allowance(Instant::now());
        for _ in 0..CREDIT_MAX {
            spin.waited(BUDGET + Duration::from_micros(9));
            assert_eq!(spin.allowance(Instant::now()), may_spin);
            spin.waited(Duration::from_micros(7));
            assert_eq!(spin.allowance(Instant::now()), may_spin);
        }
    }

    #[test]
    fn a_spinner_without_budget_never_spins() {
        assert_eq!(Spin::new(Duration::ZERO).allowance(Instant::now()), Duration::ZERO);
    }
}
