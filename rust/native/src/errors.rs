//! One table from the engine's errors to Python's classes: by `code`, through `weft.model.errors.from_native`.

use std::io;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use weft_engine::Failure;
use weft_pager::PagerError;
use weft_transport::TransportError;
use weft_wire::Refusal;

/// Builds the exception with this code; what cannot be built is itself the exception.
pub fn raise(code: &str, message: &str, facts: &[(&str, String)]) -> PyErr {
    Python::attach(|py| {
        let dict = PyDict::new(py);
        match facts.iter().try_for_each(|(name, value)| dict.set_item(name, value)) {
            Ok(()) => build(py, code, message, &dict),
            Err(error) => error,
        }
    })
}

fn build(py: Python<'_>, code: &str, message: &str, facts: &Bound<'_, PyDict>) -> PyErr {
    py.import("weft.model.errors")
        .and_then(|errors| errors.call_method1("from_native", (code, message, facts)))
        .map_or_else(|error| error, PyErr::from_value)
}

/// A transport's error.
pub fn transport(error: &TransportError) -> PyErr {
    raise(error.code(), &error.to_string(), &[("peer", error.peer().to_owned())])
}

/// A refusal by this process's own store.
pub fn refusal(refusal: &Refusal) -> PyErr {
    raise(refusal.code.name(), &refusal.detail, &[])
}

/// A transfer's failure, with the facts a program may want.
pub fn failure(failure: &Failure) -> PyErr {
    Python::attach(|py| {
        let facts = PyDict::new(py);
        let filled = facts.set_item("peer", &failure.peer).and_then(|()| {
            facts.set_item("reason", failure.code)?;
            if failure.region.is_empty() {
                return Ok(());
            }
            facts.set_item("region", &failure.region)?;
            facts.set_item("offset", failure.offset)
        });
        filled.map_or_else(|error| error, |()| build(py, failure.code, &failure.detail, &facts))
    })
}

/// A window's error.
pub fn pager(error: &PagerError) -> PyErr {
    let message = error.to_string();
    match error {
        PagerError::Unavailable(page) => Python::attach(|py| {
            let facts = PyDict::new(py);
            let filled = facts
                .set_item("region", &page.region)
                .and_then(|()| facts.set_item("offset", page.offset))
                .and_then(|()| facts.set_item("node", &page.node))
                .and_then(|()| facts.set_item("reason", format!("{}: {}", page.code, page.reason)));
            filled.map_or_else(|error| error, |()| build(py, error.code(), &message, &facts))
        }),
        PagerError::NotFlushed { error: cause, .. } => raise(cause.code, &message, &[("node", cause.node.clone())]),
        _ => raise(error.code(), &message, &[]),
    }
}

/// A wrong argument.
pub fn argument(message: &str) -> PyErr {
    raise("bad_argument", message, &[])
}

/// The kernel's error, with what was attempted.
pub fn system(doing: &str, error: &io::Error) -> PyErr {
    let code = match error.kind() {
        io::ErrorKind::PermissionDenied => "no_privilege",
        io::ErrorKind::OutOfMemory | io::ErrorKind::StorageFull => "no_memory",
        _ => "not_supported",
    };
    raise(code, &format!("{doing}: {error}"), &[])
}
