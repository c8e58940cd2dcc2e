//! RDMA, as Python asks for it: one device a process, in use from the moment it is asked for.

use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use weft_verbs::{Rail, RailOptions, RdmaUpgrade, VerbsError};

use crate::errors;

static RAIL: Mutex<Option<Arc<Rail>>> = Mutex::new(None);

/// The device in use, if one is; none under TLS, which its bytes would go past.
pub fn rail() -> Option<Arc<Rail>> {
    let rail = RAIL.lock().unwrap_or_else(PoisonError::into_inner).clone();
    rail.filter(|_| crate::tls::current().is_none())
}

/// Makes more of connections to lenders, where a device is in use.
pub fn upgrade(spin_us: u64) -> Option<Arc<RdmaUpgrade>> {
    rail().map(|rail| Arc::new(RdmaUpgrade::new(&rail, None, Duration::from_micros(spin_us))))
}

/// Takes a device into use and returns its name. Twice is once: the first stays, unless it is lost by now.
#[pyfunction]
#[pyo3(signature = (*, device=None, library=None))]
pub fn use_rdma(py: Python<'_>, device: Option<String>, library: Option<PathBuf>) -> PyResult<String> {
    if crate::tls::current().is_some() {
        let reason =
            "this process speaks TLS only, and RDMA does not encrypt; unset WEFT_RDMA, or the WEFT_TLS_ variables";
        return Err(errors::raise("not_supported", reason, &[]));
    }
    // The exception is made once the lock is let go of: making it takes the GIL, whose holder may want the lock.
    let opened = py.detach(|| {
        let mut rail = RAIL.lock().unwrap_or_else(PoisonError::into_inner);
        if rail.as_ref().is_none_or(|rail| rail.check().is_err()) {
            *rail = Some(Rail::open(&RailOptions { library, device })?);
        }
        Ok::<_, VerbsError>(rail.as_ref().expect("opened above").device().name().to_owned())
    });
    opened.map_err(|error| errors::raise("not_supported", &error.to_string(), &[]))
}

/// The device in use, what moved over it, and what was said since the last call; `None` without one.
#[pyfunction]
pub fn rdma_report(py: Python<'_>) -> PyResult<Option<Bound<'_, PyDict>>> {
    let Some(rail) = rail() else { return Ok(None) };
    let report = PyDict::new(py);
    report.set_item("device", rail.device().name())?;
    let counters = &rail.counters;
    for (name, counter) in [
        ("upgrades", &counters.upgrades),
        ("fallbacks", &counters.fallbacks),
        ("read_bytes", &counters.read_bytes),
        ("written_bytes", &counters.written_bytes),
    ] {
        report.set_item(name, counter.load(Ordering::Relaxed))?;
    }
    report.set_item("said", rail.said())?;
    Ok(Some(report))
}
