//! A gate that operations pass while a window is open, and that closing waits at.

use std::sync::{Condvar, Mutex};
use std::time::Instant;

use crate::error::PagerError;
use crate::lock::Held;

#[derive(Debug, Default)]
struct State {
    inside: usize,
    closed: bool,
}

/// Counts who is inside.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    left: Condvar,
}

/// Inside; leaves when dropped.
#[derive(Debug)]
pub(crate) struct Inside<'a>(&'a Gate);

impl Gate {
    /// Goes in.
    ///
    /// # Errors
    /// The gate is closed.
    pub fn enter(&self) -> Result<Inside<'_>, PagerError> {
        let mut state = self.state.held();
        if state.closed {
            return Err(PagerError::Closed);
        }
        state.inside += 1;
        Ok(Inside(self))
    }

    /// Lets nobody in any more, and waits until all are out; `false` when that took longer than the deadline.
    pub fn close(&self, deadline: Instant) -> bool {
        let mut state = self.state.held();
        state.closed = true;
        while state.inside > 0 {
            let Some(left) = deadline.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return false;
            };
            state = match self.left.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
        true
    }
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.0.state.held().inside -= 1;
        self.0.left.notify_all();
    }
}
