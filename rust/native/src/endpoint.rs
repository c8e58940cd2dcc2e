//! `Endpoint`: one process's end of transfers, as Python holds it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use weft_engine::{Endpoint as Engine, EndpointConfig};
use weft_sys::memory::Span;
use weft_sys::socket::Options;
use weft_transport::{ServerConfig, TcpxOptions, Tier};
use weft_verbs::gid_text;

use crate::allocation::Allocation;
use crate::buffer::Held;
use crate::clock::now_ms;
use crate::connection::{connect_options, identity, resolve};
use crate::errors;
use crate::peer::{Advert, Peer};
use crate::transfer::Holds;

/// Connections one server serves at once: each holds 32 KiB and a descriptor.
const CONNECTIONS_MAX: usize = 1024;
/// A peer proves the secret within this.
const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(2);
/// Answers under way have this when the server closes.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

/// Listens, connects, and keeps what may be reached.
#[pyclass(frozen, module = "weft._native")]
pub struct Endpoint {
    pub engine: Arc<Engine>,
    holds: Arc<Holds>,
    registered: Mutex<HashMap<u64, Held>>,
    connect_timeout: Duration,
}

/// Sender, name and content.
type Notice<'py> = (String, Bound<'py, PyBytes>, Bound<'py, PyBytes>);

#[pymethods]
impl Endpoint {
    #[new]
    #[pyo3(signature = (*, host, port_first, port_last, cluster_id, secret, name, incarnation, congestion=None, spin_us=50, connect_timeout_ms=2000, drain_timeout_ms=2000, ipc=true, bounce=false, rdma=true, listens=true, inbox=false))]
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
        connect_timeout_ms: u64,
        drain_timeout_ms: u64,
        ipc: bool,
        bounce: bool,
        rdma: bool,
        listens: bool,
        inbox: bool,
    ) -> PyResult<Self> {
        // Looked at here for its sentences; the engine makes its own.
        let _ = identity(cluster_id, secret, name.clone(), incarnation)?;
        let address: IpAddr =
            host.parse().map_err(|_| errors::argument(&format!("host must be an IP address, not {host:?}")))?;
        let connect_timeout = Duration::from_millis(connect_timeout_ms);
        if bounce && crate::tls::current().is_some() {
            return Err(errors::argument(
                "the transport tcpx receives past TLS, which this process speaks; leave it out",
            ));
        }
        let config = EndpointConfig {
            cluster_id: cluster_id.try_into().map_err(|_| errors::argument("cluster_id must be 16 bytes"))?,
            secret: secret.to_vec(),
            name,
            incarnation,
            server: listens.then(|| ServerConfig {
                host: address,
                ports: port_first..=port_last,
                socket: Options { congestion: congestion.clone(), ..Options::default() },
                spin: Duration::from_micros(spin_us),
                connections_max: CONNECTIONS_MAX,
                handshake_deadline: HANDSHAKE_DEADLINE,
                drain_deadline: DRAIN_DEADLINE.min(Duration::from_millis(drain_timeout_ms)),
                now_ms,
            }),
            inbox,
            connect: connect_options(congestion, spin_us, connect_timeout),
            now_ms,
            ipc,
            tls: crate::tls::current(),
        };
        let engine = py.detach(|| Engine::start(config)).map_err(|error| {
            let doing = if inbox {
                format!(
                    "no port between {port_first} and {port_last} could be taken at {host}; free one or choose others \
                     with --port-first and --port-last"
                )
            } else {
                format!("the endpoint could not listen at {host}, ports {port_first} to {port_last}")
            };
            errors::system(&doing, &error)
        })?;
        if bounce {
            engine.through_bounce(TcpxOptions::default());
        }
        let rail = crate::rdma::rail().filter(|_| rdma);
        if let Some(rail) = rail.as_ref().filter(|_| !listens) {
            engine.call_by_rdma(rail);
        } else if let Some(rail) = rail
            && let Err(failure) = py.detach(|| engine.use_rdma(&rail))
        {
            // Memory that cannot be pinned, say: everything works over TCP.
            rail.say(format!("this endpoint stays on TCP: {failure}"));
        }
        Ok(Self {
            engine: Arc::new(engine),
            holds: Arc::new(Holds::default()),
            registered: Mutex::default(),
            connect_timeout,
        })
    }

    #[getter]
    fn host(&self) -> String {
        self.engine.address().ip().to_string()
    }

    #[getter]
    fn port(&self) -> u16 {
        self.engine.address().port()
    }

    #[pyo3(signature = (host, port, timeout_ms=None, *, plain=false))]
    fn connect(&self, py: Python<'_>, host: &str, port: u16, timeout_ms: Option<u64>, plain: bool) -> PyResult<Peer> {
        let timeout = timeout_ms.map_or(self.connect_timeout, Duration::from_millis);
        let link = py.detach(|| {
            let address = resolve(&format!("{host}:{port}"), host, port)?.address;
            let deadline = Instant::now() + timeout;
            let link = if plain { self.engine.meet(address, deadline) } else { self.engine.connect(address, deadline) };
            link.map_err(|failure| errors::failure(&failure))
        })?;
        Ok(Peer { engine: Arc::clone(&self.engine), link, holds: Arc::clone(&self.holds) })
    }

    #[pyo3(signature = (host, port, timeout_ms=2000))]
    fn measure(&self, py: Python<'_>, host: &str, port: u16, timeout_ms: u64) -> PyResult<(f64, &'static str)> {
        let rtt = py.detach(|| {
            let address = resolve(&format!("{host}:{port}"), host, port)?.address;
            let until = Instant::now() + Duration::from_millis(timeout_ms);
            self.engine.measure(address, until).map_err(|failure| errors::failure(&failure))
        })?;
        Ok((rtt.as_secs_f64() * 1e6, Tier::of(rtt).name()))
    }

    #[pyo3(signature = (timeout_ms, *, plain=false))]
    fn accept(&self, py: Python<'_>, timeout_ms: u64, plain: bool) -> PyResult<Option<Peer>> {
        let until = Instant::now() + Duration::from_millis(timeout_ms);
        loop {
            let slice = until.min(Instant::now() + Duration::from_millis(100));
            let accepted =
                py.detach(|| if plain { self.engine.accept_plain(slice) } else { self.engine.accept(slice) });
            let link = accepted.map_err(|failure| errors::failure(&failure))?;
            if let Some(link) = link {
                return Ok(Some(Peer { engine: Arc::clone(&self.engine), link, holds: Arc::clone(&self.holds) }));
            }
            if Instant::now() >= until {
                return Ok(None);
            }
            py.check_signals()?;
        }
    }

    fn allocate(&self, py: Python<'_>, size_bytes: usize) -> PyResult<Allocation> {
        let mapping = py.detach(|| self.engine.allocate(size_bytes)).map_err(|failure| errors::failure(&failure))?;
        Ok(Allocation { mapping, size_bytes })
    }

    fn register(&self, buffer: &Bound<'_, PyAny>) -> PyResult<(u64, usize)> {
        let held = Held::readable(buffer)?;
        let span = held.span();
        let number = self.engine.memory().register(span).map_err(|failure| errors::failure(&failure))?;
        self.registered.lock().unwrap_or_else(PoisonError::into_inner).insert(number, held);
        Ok((number, span.len()))
    }

    fn register_address(&self, base: usize, size_bytes: usize) -> PyResult<u64> {
        if base == 0 {
            return Err(errors::argument("a registration needs an address that is not zero"));
        }
        // SAFETY: the caller says that this memory is mapped and stays so until the registration is released, as with
        // every interface that takes addresses for numbers; Python has no other way to say it.
        let span = unsafe { Span::from_raw(base as *mut u8, size_bytes) };
        self.engine.memory().register(span).map_err(|failure| errors::failure(&failure))
    }

    fn release(&self, py: Python<'_>, registration: u64) -> PyResult<()> {
        py.detach(|| self.engine.release(registration)).map_err(|failure| errors::failure(&failure))?;
        let held = self.registered.lock().unwrap_or_else(PoisonError::into_inner).remove(&registration);
        drop(held);
        Ok(())
    }

    fn advertise(
        &self,
        registration: u64,
        offset: u64,
        size_bytes: u64,
        writable: bool,
        lasts_ms: u64,
    ) -> PyResult<Advert> {
        if writable {
            let registered = self.registered.lock().unwrap_or_else(PoisonError::into_inner);
            if registered.get(&registration).is_some_and(Held::is_readonly) {
                return Err(errors::argument(
                    "the buffer is read-only, so no peer may write it; advertise it with writable=False",
                ));
            }
        }
        let lasts = Duration::from_millis(lasts_ms);
        let right = self
            .engine
            .advertise(registration, offset, size_bytes, writable, lasts)
            .map_err(|failure| errors::failure(&failure))?;
        Ok(Advert { right: Arc::new(right) })
    }

    fn withdraw(&self, py: Python<'_>, buffer: u64) -> PyResult<()> {
        py.detach(|| self.engine.withdraw(buffer)).map_err(|failure| errors::failure(&failure))
    }

    fn notifications<'py>(&self, py: Python<'py>, timeout_ms: u64) -> PyResult<Vec<Notice<'py>>> {
        let until = Instant::now() + Duration::from_millis(timeout_ms);
        loop {
            let slice = until.min(Instant::now() + Duration::from_millis(100));
            let notices = py.detach(|| self.engine.notices(slice));
            if !notices.is_empty() || Instant::now() >= until {
                return Ok(notices
                    .into_iter()
                    .map(|notice| (notice.sender, PyBytes::new(py, &notice.name), PyBytes::new(py, &notice.bytes)))
                    .collect());
            }
            py.check_signals()?;
        }
    }

    fn status<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let status = self.engine.status();
        let report = PyDict::new(py);
        let peers: Vec<_> = status
            .links
            .into_iter()
            .map(|link| {
                let moved: BTreeMap<_, _> = link.moved.into_iter().collect();
                let (host, port) = (link.address.ip().to_string(), link.address.port());
                (link.peer, host, port, link.transport, link.wanted, link.trouble, moved)
            })
            .collect();
        report.set_item("peers", peers)?;
        report.set_item("registrations", status.memory.registrations)?;
        report.set_item("backings", status.memory.backings)?;
        report.set_item("backings_made", status.memory.backings_made)?;
        report.set_item("backings_shared", status.memory.backings_shared)?;
        report.set_item("adverts", status.memory.adverts)?;
        report.set_item("transfers", status.transfers)?;
        Ok(report)
    }

    fn use_rdma(&self, py: Python<'_>) -> PyResult<Option<(u32, u16, String, u32)>> {
        let Some(rail) = crate::rdma::rail() else { return Ok(None) };
        let record = py.detach(|| self.engine.use_rdma(&rail)).map_err(|failure| errors::failure(&failure))?;
        Ok(Some((record.qpn, record.lid, gid_text(&record.gid), record.psn)))
    }

    fn drop_rdma(&self, py: Python<'_>) -> bool {
        py.detach(|| self.engine.drop_rdma())
    }

    fn rdma_trouble(&self) -> Option<String> {
        self.engine.rdma_trouble()
    }

    fn counters(&self) -> BTreeMap<String, u64> {
        self.engine.server().counters().list().into_iter().collect()
    }

    pub fn close(&self, py: Python<'_>) {
        py.detach(|| self.engine.close());
        self.holds.clear();
        let registered = std::mem::take(&mut *self.registered.lock().unwrap_or_else(PoisonError::into_inner));
        drop(registered);
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        // The registered buffers go with this object, and nobody may reach them then.
        self.engine.close();
    }
}
