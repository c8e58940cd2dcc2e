//! How this side connects: who it says it is, where to, and until when.

use std::net::ToSocketAddrs;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use weft_sys::socket::Options;
use weft_transport::{ConnectOptions, Identity, PeerAddress, TransportError};

use crate::errors;

/// A transfer that names no deadline has this, and its size at the slowest rate that counts as alive.
const TRANSFER_DEADLINE: Duration = Duration::from_secs(30);
const SLOWEST_BYTES_PER_MS: u64 = 10_000;

pub fn deadline(timeout_ms: Option<u64>, bytes: usize) -> Instant {
    let wait = timeout_ms.map_or_else(
        || TRANSFER_DEADLINE + Duration::from_millis(bytes as u64 / SLOWEST_BYTES_PER_MS),
        Duration::from_millis,
    );
    Instant::now() + wait
}

pub fn identity(cluster_id: &[u8], secret: &[u8], name: String, incarnation: u64) -> PyResult<Identity> {
    let cluster_id: [u8; 16] = cluster_id.try_into().map_err(|_| errors::argument("cluster_id must be 16 bytes"))?;
    if secret.is_empty() {
        return Err(errors::argument("secret must not be empty; set WEFT_SECRET (see `weft join`)"));
    }
    if name.is_empty() || name.len() > weft_wire::NAME_BYTES_MAX {
        return Err(errors::argument("name must have 1 to 256 bytes"));
    }
    Ok(Identity::new(cluster_id, secret, name, incarnation).with_tls(crate::tls::current()))
}

pub fn connect_options(congestion: Option<String>, spin_us: u64, timeout: Duration) -> ConnectOptions {
    ConnectOptions {
        socket: Options { congestion, ..Options::default() },
        spin: Duration::from_micros(spin_us),
        timeout,
    }
}

pub fn resolve(node: &str, host: &str, port: u16) -> PyResult<PeerAddress> {
    let address = (host, port)
        .to_socket_addrs()
        .and_then(|mut found| found.next().ok_or_else(|| std::io::ErrorKind::NotFound.into()))
        .map_err(|cause| {
            errors::transport(&TransportError::Unreachable { peer: format!("{node} at {host}:{port}"), cause })
        })?;
    Ok(PeerAddress { node: node.to_owned(), address })
}
