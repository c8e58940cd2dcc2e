//! `Server`: what this machine lends, as Python holds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use weft_engine::Endpoint as Engine;
use weft_transport::Ticket;
use weft_verbs::{EndpointRecord, gid_text};
use weft_wire::{Code, Refusal};

use crate::endpoint::Endpoint;
use crate::errors;
use crate::rdma;

/// What this machine lends and hears, at an endpoint that keeps its messages.
#[pyclass(frozen, module = "weft._native")]
pub struct Server {
    pub engine: Arc<Engine>,
    /// Kept: the endpoint ends with its last holder.
    endpoint: Py<Endpoint>,
    closed: AtomicBool,
}

#[pymethods]
impl Server {
    #[new]
    fn new(endpoint: Bound<'_, Endpoint>) -> Self {
        let engine = Arc::clone(&endpoint.get().engine);
        Self { engine, endpoint: endpoint.unbind(), closed: AtomicBool::new(false) }
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
        let record: EndpointRecord =
            py.detach(|| self.engine.use_rdma(&rail)).map_err(|failure| errors::failure(&failure))?;
        Ok(Some((record.qpn, record.lid, gid_text(&record.gid), record.psn)))
    }

    /// Hands extents to processes of this machine as well, to be mapped and read.
    fn lend_near(&self, py: Python<'_>) -> PyResult<()> {
        self.check_open()?;
        py.detach(|| self.engine.lend_near()).map_err(|failure| errors::failure(&failure))
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
        py.detach(|| self.engine.server().store().reserve(region_id, index, size_bytes, generation))
            .map_err(|refusal| errors::refusal(&refusal))
    }

    #[pyo3(signature = (region_id, generation, timeout_ms=2000))]
    fn raise_generation(&self, py: Python<'_>, region_id: &str, generation: u64, timeout_ms: u64) -> PyResult<()> {
        self.check_open()?;
        let timeout = Duration::from_millis(timeout_ms);
        if py.detach(|| self.engine.server().store().raise_generation(region_id, generation, timeout)) {
            return Ok(());
        }
        Err(errors::raise(
            "timed_out",
            &format!("a request of an older generation of region {region_id} did not finish within {timeout_ms} ms"),
            &[],
        ))
    }

    fn release_extent(&self, py: Python<'_>, region_id: &str, index: u32) {
        py.detach(|| self.engine.server().store().release(region_id, index));
    }

    fn extents(&self) -> Vec<(String, u32, u64, u64)> {
        self.engine.server().store().list()
    }

    fn counters(&self) -> std::collections::BTreeMap<String, u64> {
        self.engine.server().counters().list().into_iter().collect()
    }

    fn receive_message<'py>(&self, py: Python<'py>, timeout_ms: u64) -> Option<Received<'py>> {
        let message = py.detach(|| self.engine.server().receive_message(Duration::from_millis(timeout_ms)))?;
        let ticket = message.ticket.map(|ticket| (ticket.event_loop, ticket.connection, ticket.request));
        Some((message.sender, message.topic, PyBytes::new(py, &message.payload), ticket))
    }

    fn answer(&self, ticket: PyTicket, data: &[u8]) -> PyResult<()> {
        if data.len() as u64 > weft_wire::MESSAGE_BYTES_MAX {
            return Err(errors::argument("an answer is longer than a message may be"));
        }
        self.engine.server().answer(self::ticket(ticket), Ok(data.to_vec()));
        Ok(())
    }

    fn refuse(&self, ticket: PyTicket, code: &str, detail: String) -> PyResult<()> {
        let code = Code::ALL
            .into_iter()
            .find(|known| known.name() == code)
            .ok_or_else(|| errors::argument(&format!("there is no refusal {code:?}")))?;
        self.engine.server().answer(self::ticket(ticket), Err(Refusal::new(code, detail)));
        Ok(())
    }

    fn close(&self, py: Python<'_>) {
        self.closed.store(true, Ordering::Release);
        self.endpoint.get().close(py);
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
    fn check_open(&self) -> PyResult<()> {
        if self.closed.load(Ordering::Acquire) {
            return Err(errors::raise("closed", "the server was closed", &[]));
        }
        Ok(())
    }
}
