//! `Server`: what this machine lends, as Python holds it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use weft_engine::NearLender;
use weft_sys::memory::Span;
use weft_sys::socket::Options;
use weft_transport::{Extent, Identity, Server as Engine, ServerConfig, Ticket};
use weft_verbs::{EndpointRecord, Lender, gid_text};
use weft_wire::{Code, Range, Refusal};

use crate::buffer::Held;
use crate::connection::identity;
use crate::errors;
use crate::rdma;

/// Connections one server serves at once: each holds 32 KiB and a descriptor.
pub const CONNECTIONS_MAX: usize = 1024;
/// A peer proves the secret within this.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(2);
/// Answers under way have this when the server closes.
pub const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Serves extents of this machine's memory to peers that hold a grant.
#[pyclass(frozen, module = "weft._native")]
pub struct Server {
    pub engine: Arc<Engine>,
    identity: Identity,
    rdma: Mutex<Option<Lender>>,
    near: Mutex<Option<NearLender>>,
    closed: AtomicBool,
}

#[pymethods]
impl Server {
    #[new]
    #[pyo3(signature = (*, host, port_first, port_last, cluster_id, secret, name, incarnation, congestion=None, spin_us=50))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only in Python, where each has its name")]
    fn new(
        py: Python<'_>,
        host: &str,
        port_first: u16,
        port_last: u16,
        cluster_id: &[u8],
        secret: &[u8],
        name: String,
        incarnation: u64,
        congestion: Option<String>,
        spin_us: u64,
    ) -> PyResult<Self> {
        let identity = identity(cluster_id, secret, name, incarnation)?;
        let address: IpAddr =
            host.parse().map_err(|_| errors::argument(&format!("host must be an IP address, not {host:?}")))?;
        if port_first > port_last {
            return Err(errors::argument("port_first must not be above port_last"));
        }
        let config = ServerConfig {
            host: address,
            ports: port_first..=port_last,
            socket: Options { congestion, ..Options::default() },
            spin: Duration::from_micros(spin_us),
            connections_max: CONNECTIONS_MAX,
            handshake_deadline: HANDSHAKE_DEADLINE,
            drain_deadline: DRAIN_DEADLINE,
            now_ms,
        };
        let engine = py.detach(|| Engine::start(identity.clone(), config)).map_err(|error| {
            let doing = format!(
                "no port between {port_first} and {port_last} could be taken at {host}; free one or choose others with \
                 --port-first and --port-last"
            );
            errors::system(&doing, &error)
        })?;
        let engine = Arc::new(engine);
        Ok(Self { engine, identity, rdma: Mutex::default(), near: Mutex::default(), closed: AtomicBool::new(false) })
    }

    #[getter]
    fn host(&self) -> String {
        self.engine.address().ip().to_string()
    }

    #[getter]
    fn port(&self) -> u16 {
        self.engine.address().port()
    }

    /// Lends over RDMA as well: (queue pair, LID, GID, packet sequence) to publish; `None` when no device is in use.
    fn lend_rdma(&self, py: Python<'_>) -> PyResult<Option<(u32, u16, String, u32)>> {
        self.check_open()?;
        let Some(rail) = rdma::rail() else { return Ok(None) };
        let record: EndpointRecord = py.detach(|| {
            let mut lender = self.rdma.lock().unwrap_or_else(PoisonError::into_inner);
            if lender.is_none() {
                let started = Lender::start(&rail, &self.engine, now_ms)
                    .map_err(|error| errors::raise("not_supported", &error.to_string(), &[]))?;
                *lender = Some(started);
            }
            Ok::<_, PyErr>(lender.as_ref().expect("started above").record())
        })?;
        Ok(Some((record.qpn, record.lid, gid_text(&record.gid), record.psn)))
    }

    /// Hands extents to processes of this machine as well, to be mapped and read.
    fn lend_near(&self, py: Python<'_>) -> PyResult<()> {
        self.check_open()?;
        py.detach(|| {
            let mut near = self.near.lock().unwrap_or_else(PoisonError::into_inner);
            if near.is_none() {
                *near = Some(NearLender::start(&self.engine, &self.identity)?);
            }
            Ok(())
        })
        .map_err(|error| errors::system("no UNIX socket could be had to hand memory over", &error))
    }

    fn reserve_extent(
        &self,
        py: Python<'_>,
        region_id: &str,
        index: u32,
        size_bytes: u64,
        generation: u64,
    ) -> PyResult<()> {
        self.check_open()?;
        py.detach(|| self.engine.store().reserve(region_id, index, size_bytes, generation))
            .map_err(|refusal| errors::refusal(&refusal))
    }

    #[pyo3(signature = (region_id, generation, timeout_ms=2000))]
    fn raise_generation(&self, py: Python<'_>, region_id: &str, generation: u64, timeout_ms: u64) -> PyResult<()> {
        self.check_open()?;
        let timeout = Duration::from_millis(timeout_ms);
        if py.detach(|| self.engine.store().raise_generation(region_id, generation, timeout)) {
            return Ok(());
        }
        Err(errors::raise(
            "timed_out",
            &format!("a request of an older generation of region {region_id} did not finish within {timeout_ms} ms"),
            &[],
        ))
    }

    fn release_extent(&self, py: Python<'_>, region_id: &str, index: u32) {
        py.detach(|| self.engine.store().release(region_id, index));
    }

    fn extents(&self) -> Vec<(String, u32, u64, u64)> {
        self.engine.store().list()
    }

    fn counters(&self) -> std::collections::BTreeMap<String, u64> {
        self.engine.counters().list().into_iter().collect()
    }

    fn receive_message<'py>(&self, py: Python<'py>, timeout_ms: u64) -> Option<Received<'py>> {
        let message = py.detach(|| self.engine.receive_message(Duration::from_millis(timeout_ms)))?;
        let ticket = message.ticket.map(|ticket| (ticket.event_loop, ticket.connection, ticket.request));
        Some((message.sender, message.topic, PyBytes::new(py, &message.payload), ticket))
    }

    fn answer(&self, ticket: PyTicket, data: &[u8]) -> PyResult<()> {
        if data.len() as u64 > weft_wire::MESSAGE_BYTES_MAX {
            return Err(errors::argument("an answer is longer than a message may be"));
        }
        self.engine.answer(self::ticket(ticket), Ok(data.to_vec()));
        Ok(())
    }

    fn refuse(&self, ticket: PyTicket, code: &str, detail: String) -> PyResult<()> {
        let code = Code::ALL
            .into_iter()
            .find(|known| known.name() == code)
            .ok_or_else(|| errors::argument(&format!("there is no refusal {code:?}")))?;
        self.engine.answer(self::ticket(ticket), Err(Refusal::new(code, detail)));
        Ok(())
    }

    fn read_extent(
        &self,
        py: Python<'_>,
        region_id: &str,
        index: u32,
        offset: u64,
        into: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        let held = Held::writable(into)?;
        let target = held.span();
        let (_extent, part) = self.part(region_id, index, offset, target.len())?;
        py.detach(|| part.copy_span_to(target));
        Ok(target.len())
    }

    fn write_extent(
        &self,
        py: Python<'_>,
        region_id: &str,
        index: u32,
        offset: u64,
        data: &Bound<'_, PyAny>,
    ) -> PyResult<usize> {
        let held = Held::readable(data)?;
        let source = held.span();
        let (extent, part) = self.part(region_id, index, offset, source.len())?;
        extent.mark_written(Range { offset, length: source.len() as u64 });
        py.detach(|| source.copy_span_to(part));
        Ok(source.len())
    }

    fn close(&self, py: Python<'_>) {
        self.closed.store(true, Ordering::Release);
        py.detach(|| {
            // Keys first: the memory behind them goes with the engine's store.
            drop(self.rdma.lock().unwrap_or_else(PoisonError::into_inner).take());
            drop(self.near.lock().unwrap_or_else(PoisonError::into_inner).take());
            self.engine.close();
        });
    }
}

/// Where an answer goes, as Python carries it.
type PyTicket = (usize, u64, u64);
/// Sender, topic, payload, and where the answer goes if one is wanted.
type Received<'py> = (String, u64, Bound<'py, PyBytes>, Option<PyTicket>);

fn ticket((event_loop, connection, request): PyTicket) -> Ticket {
    Ticket { event_loop, connection, request }
}

impl Server {
    /// An extent of this server and the memory of one range of it.
    fn part(&self, region_id: &str, index: u32, offset: u64, len: usize) -> PyResult<(Arc<Extent>, Span)> {
        self.check_open()?;
        let extent = self.engine.store().find(region_id, index).ok_or_else(|| {
            errors::raise("extent_lost", &format!("extent {index} of region {region_id} is not held here"), &[])
        })?;
        if len == 0 {
            return Err(errors::argument("the buffer is empty"));
        }
        let range = Range { offset, length: len as u64 };
        let part = extent.part(range).map_err(|refusal| errors::refusal(&refusal))?;
        Ok((extent, part))
    }

    fn check_open(&self) -> PyResult<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(errors::raise("closed", "the server was closed", &[]));
        }
        Ok(())
    }
}
