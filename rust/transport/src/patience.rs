//! How long to go on asking again.
//!
//! The deadline bounds it. A peer that cannot even be connected to is given up sooner: its process is gone, and one that
//! comes back is another life which holds nothing of what is asked for. A second is long enough for a path that blinks.

use std::time::{Duration, Instant};

/// First pause between two attempts; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// Longest pause: a path that comes back is noticed within it.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// How long a peer that cannot be connected to is tried.
const UNREACHABLE_MAX: Duration = Duration::from_secs(1);

/// One operation's patience.
#[derive(Debug)]
pub struct Patience {
    deadline: Instant,
    started: Instant,
    pause: Duration,
}

impl Patience {
    /// Until `deadline` at most.
    pub fn until(deadline: Instant) -> Self {
        Self { deadline, started: Instant::now(), pause: PAUSE_FIRST }
    }

    /// Waits before the next attempt after an error with this code. Whether there is one.
    pub fn wait(&mut self, code: &str) -> bool {
        let end = if code == "unreachable" { self.deadline.min(self.started + UNREACHABLE_MAX) } else { self.deadline };
        if Instant::now() + self.pause >= end {
            return false;
        }
        std::thread::sleep(self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
        true
    }
}
