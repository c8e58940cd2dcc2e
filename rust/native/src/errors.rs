//! One table from the engine's errors to Python's classes: by `code`, through `weft.model.errors.from_native`.

use std::io;

use pyo3::prelude::*;
use pyo3::types::PyDict;
use weft_pager::source::FetchError;
use weft_transport::TransportError;
use weft_wire::Refusal;

/// Builds the exception with this code; what cannot be built is itself the exception.
pub fn raise(code: &str, message: &str, facts: &[(&str, String)]) -> PyErr {
    Python::attach(|py| {
        let build = || -> PyResult<PyErr> {
            let dict = PyDict::new(py);
            for (name, value) in facts {
                dict.set_item(name, value)?;
            }
            let error = py.import("weft.model.errors")?.call_method1("from_native", (code, message, dict))?;
            Ok(PyErr::from_value(error))
        };
        build().unwrap_or_else(|error| error)
    })
}

/// A transport's error.
pub fn transport(error: &TransportError) -> PyErr {
    raise(error.code(), &error.to_string(), &[("peer", error.peer().to_owned())])
}

/// A refusal by this process's own store.
pub fn refusal(refusal: &Refusal) -> PyErr {
    raise(refusal.code.name(), &refusal.detail, &[])
}

/// A home's error.
pub fn fetch(error: &FetchError) -> PyErr {
    raise(error.code, &error.detail, &[("node", error.node.clone())])
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
