//! TLS, as Python asks for it: one certificate a process, shown on every connection from the moment it is taken into use.

use std::sync::{Arc, Mutex, PoisonError};

use pyo3::prelude::*;
use weft_transport::{Authority, Tls, TlsConfigError};

use crate::errors;

static TLS: Mutex<Option<Arc<Tls>>> = Mutex::new(None);

/// How this process speaks TLS; none where it does not.
pub fn current() -> Option<Arc<Tls>> {
    TLS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// Speaks TLS on everything that is made from now on. The names of the certificate.
#[pyfunction]
#[pyo3(signature = (*, authority, certificate, key))]
pub fn use_tls(authority: &[u8], certificate: &[u8], key: &[u8]) -> PyResult<Vec<String>> {
    let wrong = |error: TlsConfigError| {
        errors::raise("misconfigured", &error.to_string(), &[("variable", error.part.variable().to_owned())])
    };
    let tls = Tls::from_pem(authority, certificate, key).map_err(wrong)?;
    tls.check().map_err(wrong)?;
    let names = tls.names().to_vec();
    *TLS.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(tls));
    Ok(names)
}

/// Speaks no TLS on what is made from now on.
#[pyfunction]
pub fn leave_tls() {
    *TLS.lock().unwrap_or_else(PoisonError::into_inner) = None;
}

/// The names of the certificate in use; `None` without one.
#[pyfunction]
pub fn tls_names() -> Option<Vec<String>> {
    current().map(|tls| tls.names().to_vec())
}

/// A new authority for a cluster: its certificate and its key, in PEM.
#[pyfunction]
#[pyo3(signature = (*, now_s, lasts_s))]
pub fn make_authority(now_s: i64, lasts_s: i64) -> PyResult<(String, String)> {
    let made = Authority::make(now_s, lasts_s).map_err(|what| errors::argument(&what))?;
    Ok((made.certificate, made.key))
}

/// A certificate for a machine, signed by the authority with this key: the certificate and its own key, in PEM.
#[pyfunction]
#[pyo3(signature = (*, authority_key, names, now_s, lasts_s))]
pub fn issue_certificate(
    authority_key: &str,
    names: Vec<String>,
    now_s: i64,
    lasts_s: i64,
) -> PyResult<(String, String)> {
    let issued = Authority::of_key(authority_key)
        .and_then(|authority| authority.issue(&names, now_s, lasts_s))
        .map_err(|what| errors::argument(&what))?;
    Ok((issued.certificate, issued.key))
}
