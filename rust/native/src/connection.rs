//! `Connection`: a peer, as Python holds it.

use std::net::ToSocketAddrs;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use weft_sys::socket::Options;
use weft_transport::{ConnectOptions, Identity, Opened, Peer, PeerAddress, Tier, TransportError};
use weft_wire::Range;

use crate::buffer::Held;
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

struct State {
    peer: Peer,
    opened: Vec<Opened>,
}

/// One lane to one peer: persistent, authenticated, pipelined in order of posting.
#[pyclass(frozen, module = "weft._native")]
pub struct Connection {
    state: Mutex<State>,
}

impl Connection {
    fn with<T>(&self, py: Python<'_>, work: impl FnOnce(&mut State) -> Result<T, TransportError> + Send) -> PyResult<T>
    where
        T: Send,
    {
        py.detach(|| {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            work(&mut state)
        })
        .map_err(|error| errors::transport(&error))
    }

    fn move_ranges(
        &self,
        py: Python<'_>,
        write: bool,
        handle: u64,
        ranges: &[Range],
        held: &Held,
        timeout_ms: Option<u64>,
    ) -> PyResult<usize> {
        let span = held.span();
        let deadline = deadline(timeout_ms, span.len());
        self.with(py, |state| {
            let opened = usize::try_from(handle)
                .ok()
                .and_then(|index| index.checked_sub(1))
                .and_then(|index| state.opened.get(index))
                .copied()
                .ok_or_else(|| {
                    TransportError::BadArgument(format!("handle {handle} was not opened on this connection"))
                })?;
            if write {
                state.peer.write(opened, ranges, &[span], deadline)?;
            } else {
                state.peer.read(opened, ranges, &[span], deadline)?;
            }
            Ok(span.len())
        })
    }
}

fn check_message(bytes: usize) -> PyResult<()> {
    if bytes as u64 <= weft_wire::MESSAGE_BYTES_MAX {
        return Ok(());
    }
    let limit = weft_wire::MESSAGE_BYTES_MAX;
    Err(errors::raise("too_large", &format!("a message has at most {limit} bytes, this one {bytes}"), &[]))
}

fn ranges(pairs: Vec<(u64, u64)>) -> Vec<Range> {
    pairs.into_iter().map(|(offset, length)| Range { offset, length }).collect()
}

#[pymethods]
impl Connection {
    #[new]
    #[pyo3(signature = (*, host, port, cluster_id, secret, name, incarnation, congestion=None, spin_us=50, timeout_ms=2000))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only in Python, where each has its name")]
    fn new(
        py: Python<'_>,
        host: &str,
        port: u16,
        cluster_id: &[u8],
        secret: &[u8],
        name: String,
        incarnation: u64,
        congestion: Option<String>,
        spin_us: u64,
        timeout_ms: u64,
    ) -> PyResult<Self> {
        let identity = Arc::new(identity(cluster_id, secret, name, incarnation)?);
        let label = format!("{host}:{port}");
        let timeout = Duration::from_millis(timeout_ms);
        let options = connect_options(congestion, spin_us, timeout);
        py.detach(|| {
            let mut peer = Peer::new(resolve(&label, host, port)?, identity, options);
            peer.connect(Instant::now() + timeout).map_err(|error| errors::transport(&error))?;
            Ok(Self { state: Mutex::new(State { peer, opened: Vec::new() }) })
        })
    }

    #[getter]
    fn peer_name(&self, py: Python<'_>) -> PyResult<String> {
        self.with(py, |state| Ok(state.peer.identity().map_or_else(String::new, |peer| peer.name.clone())))
    }

    #[getter]
    fn peer_incarnation(&self, py: Python<'_>) -> PyResult<u64> {
        self.with(py, |state| Ok(state.peer.identity().map_or(0, |peer| peer.incarnation)))
    }

    #[getter]
    fn rtt_us(&self, py: Python<'_>) -> PyResult<f64> {
        self.with(py, |state| Ok(state.peer.rtt().unwrap_or_default().as_secs_f64() * 1e6))
    }

    #[getter]
    fn tier(&self, py: Python<'_>) -> PyResult<&'static str> {
        self.with(py, |state| Ok(Tier::of(state.peer.rtt().unwrap_or_default()).name()))
    }

    #[pyo3(signature = (grant, index, incarnation, timeout_ms=5000))]
    fn open(
        &self,
        py: Python<'_>,
        grant: &[u8],
        index: u32,
        incarnation: u64,
        timeout_ms: u64,
    ) -> PyResult<(u64, u64)> {
        let grant: Arc<[u8]> = grant.into();
        let deadline = Instant::now() + Duration::from_millis(timeout_ms);
        self.with(py, |state| {
            let opened = state.peer.open(&grant, index, incarnation, deadline)?;
            state.opened.push(opened);
            Ok((state.opened.len() as u64, opened.size_bytes))
        })
    }

    #[pyo3(signature = (handle, offset, into, timeout_ms=None))]
    fn read(
        &self,
        py: Python<'_>,
        handle: u64,
        offset: u64,
        into: &Bound<'_, PyAny>,
        timeout_ms: Option<u64>,
    ) -> PyResult<usize> {
        let held = Held::writable(into)?;
        let range = Range { offset, length: held.span().len() as u64 };
        self.move_ranges(py, false, handle, &[range], &held, timeout_ms)
    }

    #[pyo3(signature = (handle, ranges, into, timeout_ms=None))]
    fn read_ranges(
        &self,
        py: Python<'_>,
        handle: u64,
        ranges: Vec<(u64, u64)>,
        into: &Bound<'_, PyAny>,
        timeout_ms: Option<u64>,
    ) -> PyResult<usize> {
        let held = Held::writable(into)?;
        self.move_ranges(py, false, handle, &self::ranges(ranges), &held, timeout_ms)
    }

    #[pyo3(signature = (handle, offset, data, timeout_ms=None))]
    fn write(
        &self,
        py: Python<'_>,
        handle: u64,
        offset: u64,
        data: &Bound<'_, PyAny>,
        timeout_ms: Option<u64>,
    ) -> PyResult<usize> {
        let held = Held::readable(data)?;
        let range = Range { offset, length: held.span().len() as u64 };
        self.move_ranges(py, true, handle, &[range], &held, timeout_ms)
    }

    #[pyo3(signature = (handle, ranges, data, timeout_ms=None))]
    fn write_ranges(
        &self,
        py: Python<'_>,
        handle: u64,
        ranges: Vec<(u64, u64)>,
        data: &Bound<'_, PyAny>,
        timeout_ms: Option<u64>,
    ) -> PyResult<usize> {
        let held = Held::readable(data)?;
        self.move_ranges(py, true, handle, &self::ranges(ranges), &held, timeout_ms)
    }

    #[pyo3(signature = (tag, data, timeout_ms=None))]
    fn message(&self, py: Python<'_>, tag: u64, data: &Bound<'_, PyAny>, timeout_ms: Option<u64>) -> PyResult<()> {
        let held = Held::readable(data)?;
        let span = held.span();
        check_message(span.len())?;
        let deadline = deadline(timeout_ms, span.len());
        self.with(py, |state| state.peer.message(tag, span, deadline))
    }

    #[pyo3(signature = (tag, data, answer_bytes_max=65536, timeout_ms=None))]
    fn request<'py>(
        &self,
        py: Python<'py>,
        tag: u64,
        data: &Bound<'_, PyAny>,
        answer_bytes_max: usize,
        timeout_ms: Option<u64>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let held = Held::readable(data)?;
        let span = held.span();
        let deadline = deadline(timeout_ms, span.len());
        let room = answer_bytes_max.min(weft_wire::MESSAGE_BYTES_MAX as usize);
        check_message(span.len())?;
        let answer = self.with(py, |state| state.peer.request(tag, span, room, deadline))?;
        Ok(PyBytes::new(py, &answer))
    }

    #[pyo3(signature = (timeout_ms=2000))]
    fn ping(&self, py: Python<'_>, timeout_ms: u64) -> PyResult<f64> {
        let deadline = Instant::now() + Duration::from_millis(timeout_ms);
        self.with(py, |state| Ok(state.peer.ping(deadline)?.as_secs_f64() * 1e6))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |state| {
            state.peer.close();
            Ok(())
        })
    }
}
