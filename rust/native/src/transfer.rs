//! `Transfer` and `Notifier`: movements of bytes, as Python holds them.

use std::collections::HashMap;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use weft_engine::{Endpoint as Engine, Notifier as Telling, Status, Transfer as Moving};

use crate::buffer::Held;
use crate::errors;

/// How long one sleep may last before signals are looked at.
const SIGNAL_SLICE: Duration = Duration::from_millis(100);
/// Transfers whose buffers are kept before those that ended are looked for.
const SWEEP_MIN: usize = 64;

/// A transfer and its buffers.
type Hold = (Arc<Moving>, Vec<Held>);

/// Keeps the buffers of transfers in place until they have ended. Only threads that hold the GIL let buffers go; the
/// engine never does.
#[derive(Default)]
pub struct Holds {
    held: Mutex<HashMap<u64, Hold>>,
}

impl Holds {
    /// Keeps `buffers` for as long as `moving` is under way.
    pub fn keep(&self, moving: &Arc<Moving>, buffers: Vec<Held>) {
        let ended = {
            let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.insert(moving.id(), (Arc::clone(moving), buffers));
            if held.len() >= SWEEP_MIN && held.len().is_power_of_two() {
                held.extract_if(|_, (moving, _)| moving.has_ended()).collect::<Vec<_>>()
            } else {
                Vec::new()
            }
        };
        // Letting a buffer go may run Python, so not under the lock.
        drop(ended);
    }

    /// Lets the buffers of a transfer that has ended go.
    pub fn release(&self, id: u64) {
        let ended = self.held.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
        drop(ended);
    }

    /// Lets all go, when nothing is under way any more.
    pub fn clear(&self) {
        let all = std::mem::take(&mut *self.held.lock().unwrap_or_else(PoisonError::into_inner));
        drop(all);
    }
}

/// A movement of bytes under way, or ended.
#[pyclass(frozen, module = "weft._native")]
pub struct Transfer {
    pub moving: Arc<Moving>,
    pub engine: Arc<Engine>,
    pub holds: Arc<Holds>,
}

impl Transfer {
    fn report(&self, status: &Status) -> (&'static str, u64) {
        if status.is_terminal() {
            self.holds.release(self.moving.id());
        }
        match status {
            Status::Queued => ("queued", 0),
            Status::InFlight => ("in_flight", 0),
            Status::Done(bytes) => ("done", *bytes),
            Status::Failed(_) => ("failed", 0),
            Status::Cancelled => ("cancelled", 0),
        }
    }
}

#[pymethods]
impl Transfer {
    #[getter]
    fn id(&self) -> u64 {
        self.moving.id()
    }

    fn poll(&self) -> (&'static str, u64) {
        self.report(&self.moving.poll())
    }

    fn result(&self) -> PyResult<u64> {
        match self.moving.poll() {
            Status::Done(bytes) => {
                self.holds.release(self.moving.id());
                Ok(bytes)
            }
            Status::Failed(failure) => {
                self.holds.release(self.moving.id());
                Err(errors::failure(&failure))
            }
            Status::Cancelled => {
                self.holds.release(self.moving.id());
                Err(errors::raise("cancelled", "the transfer was cancelled", &[]))
            }
            Status::Queued | Status::InFlight => {
                Err(errors::raise("busy", "the transfer is still under way; wait for it or poll it", &[]))
            }
        }
    }

    #[pyo3(signature = (timeout_ms=None))]
    fn wait(&self, py: Python<'_>, timeout_ms: Option<u64>) -> PyResult<(&'static str, u64)> {
        // Without a time of its own the wait ends when the transfer does, which has a deadline.
        let spare = Duration::from_secs(1);
        let until = timeout_ms
            .map_or_else(|| self.moving.deadline() + spare, |timeout| Instant::now() + Duration::from_millis(timeout));
        loop {
            let slice = until.min(Instant::now() + SIGNAL_SLICE);
            let status = py.detach(|| self.moving.wait(slice));
            if status.is_terminal() || Instant::now() >= until {
                return Ok(self.report(&status));
            }
            py.check_signals()?;
        }
    }

    fn cancel(&self) {
        self.engine.cancel(&self.moving);
    }

    fn notify(&self, notifier: &Notifier) {
        self.moving.notify(&notifier.telling);
    }
}

/// Tells an event loop which transfers ended.
#[pyclass(frozen, module = "weft._native")]
pub struct Notifier {
    telling: Arc<Telling>,
}

#[pymethods]
impl Notifier {
    #[new]
    fn new() -> PyResult<Self> {
        let telling = Telling::new().map_err(|error| errors::system("making an eventfd", &error))?;
        Ok(Self { telling })
    }

    fn fileno(&self) -> i32 {
        self.telling.as_fd().as_raw_fd()
    }

    fn take(&self) -> Vec<u64> {
        self.telling.take()
    }
}
