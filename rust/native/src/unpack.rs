//! `UnpackBlock` and `BounceConnection`: fragments and the bounce buffer they lie in, as Python and its devices use them.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::PyBytes;
use weft_sys::memory::Span;
use weft_transport::{Lane, Request, Taken, TcpxLane, TcpxOptions, TransportError};
use weft_unpack::{Block, BlockError, Ends, Fragment, Order, PAGE_BYTES, Slot};
use weft_wire::{Flags, Header, Kind, open_request};

use crate::buffer::Held;
use crate::connection::{connect_options, deadline, identity, resolve};
use crate::errors;
use crate::peer::Advert;

/// Largest bounce buffer a connection may ask for: what one connection may hold of a machine's memory.
const BOUNCE_BYTES_MAX: usize = 1 << 30;

fn refused(error: &BlockError) -> PyErr {
    errors::argument(&error.to_string())
}

/// A checked list of fragments.
#[pyclass(frozen, module = "weft._native")]
pub struct UnpackBlock {
    block: Block,
}

#[pymethods]
impl UnpackBlock {
    #[new]
    fn new(data: &[u8]) -> PyResult<Self> {
        Ok(Self { block: Block::decode(data).map_err(|error| refused(&error))? })
    }

    #[staticmethod]
    fn of(fragments: Vec<(u32, u32, u64)>, bounce_bytes: u64, target_bytes: u64) -> PyResult<Self> {
        let fragments =
            fragments.into_iter().map(|(source, length, target)| Fragment { source, length, target }).collect();
        let block = Block::new(Ends { bounce_bytes, target_bytes }, fragments).map_err(|error| refused(&error))?;
        Ok(Self { block })
    }

    fn encode<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.block.encode())
    }

    #[getter]
    fn count(&self) -> usize {
        self.block.fragments().len()
    }

    #[getter]
    fn total_bytes(&self) -> u64 {
        self.block.total_bytes()
    }

    #[getter]
    fn longest(&self) -> u32 {
        self.block.longest()
    }

    #[getter]
    fn bounce_bytes(&self) -> u64 {
        self.block.ends().bounce_bytes
    }

    #[getter]
    fn target_bytes(&self) -> u64 {
        self.block.ends().target_bytes
    }

    fn unpack(&self, py: Python<'_>, bounce: &Bound<'_, PyAny>, target: &Bound<'_, PyAny>) -> PyResult<u64> {
        let (bounce, mut target) = (Held::readable(bounce)?, Held::writable(target)?);
        let (first, second) = (bounce.span(), target.span());
        let (start, end) = (first.base() as usize, first.base() as usize + first.len());
        if start < second.base() as usize + second.len() && (second.base() as usize) < end {
            return Err(errors::argument("bounce and target share memory; pass two buffers"));
        }
        let (from, into) = (bounce.bytes(), target.bytes_mut());
        py.detach(|| weft_unpack::unpack(&self.block, from, into)).map_err(|error| refused(&error))?;
        Ok(self.block.total_bytes())
    }
}

/// A connection whose answers land in a bounce buffer, for whoever gathers them from there.
#[pyclass(frozen, module = "weft._native")]
pub struct BounceConnection {
    lane: Mutex<TcpxLane>,
    bounce: Span,
}

impl BounceConnection {
    fn lane(&self) -> MutexGuard<'_, TcpxLane> {
        self.lane.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T: Send>(
        &self,
        py: Python<'_>,
        work: impl FnOnce(&mut TcpxLane) -> Result<T, TransportError> + Send,
    ) -> PyResult<T> {
        py.detach(|| work(&mut self.lane())).map_err(|error| errors::transport(&error))
    }

    fn opened(
        &self,
        py: Python<'_>,
        index: u32,
        incarnation: u64,
        grant: &[u8],
        timeout_ms: u64,
    ) -> PyResult<(u64, u64)> {
        let deadline = Instant::now() + Duration::from_millis(timeout_ms);
        let (header, payload) = open_request(index, incarnation, 0, 0, grant);
        self.with(py, |lane| {
            lane.post(Request { header, ranges: &[], payload: &[Span::of_const(&payload)] }, deadline)?;
            let reply = lane.begin(&[], deadline)?;
            Ok((reply.header.handle, reply.header.offset))
        })
    }
}

fn read(handle: u64, offset: u64, length: u64) -> Header {
    Header { handle, offset, length, ..Header::new(Kind::Read, 0) }
}

#[pymethods]
impl BounceConnection {
    #[new]
    #[pyo3(signature = (*, host, port, cluster_id, secret, name, incarnation, congestion=None, spin_us=50, bounce_bytes=2 << 20, shuffle=None, timeout_ms=2000))]
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
        bounce_bytes: usize,
        shuffle: Option<u64>,
        timeout_ms: u64,
    ) -> PyResult<Self> {
        if bounce_bytes == 0 || !bounce_bytes.is_multiple_of(PAGE_BYTES) || bounce_bytes > BOUNCE_BYTES_MAX {
            return Err(errors::argument(&format!(
                "bounce_bytes must be a multiple of {PAGE_BYTES}, at most {BOUNCE_BYTES_MAX}; it is {bounce_bytes}"
            )));
        }
        let identity = identity(cluster_id, secret, name, incarnation)?;
        let options = connect_options(congestion, spin_us, Duration::from_millis(timeout_ms));
        let tcpx = TcpxOptions { bounce_bytes, order: shuffle.map_or(Order::InTurn, Order::Shuffled) };
        let label = format!("{host}:{port}");
        py.detach(|| {
            let address = resolve(&label, host, port)?.address;
            let lane = TcpxLane::connect(address, &label, &identity, &options, tcpx)
                .map_err(|error| errors::transport(&error))?;
            Ok(Self { bounce: lane.bounce(), lane: Mutex::new(lane) })
        })
    }

    #[getter]
    fn peer_name(&self) -> String {
        self.lane().peer().name.clone()
    }

    #[getter]
    fn bounce_address(&self) -> usize {
        self.bounce.base() as usize
    }

    #[getter]
    fn bounce_bytes(&self) -> usize {
        self.bounce.len()
    }

    #[getter]
    fn remaining(&self) -> usize {
        self.lane().remaining()
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
        self.opened(py, index, incarnation, grant, timeout_ms)
    }

    #[pyo3(signature = (advert, timeout_ms=5000))]
    fn open_advert(&self, py: Python<'_>, advert: &Advert, timeout_ms: u64) -> PyResult<(u64, u64)> {
        let right = &advert.right;
        self.opened(py, right.index(), right.incarnation, &right.grant, timeout_ms)
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
        let span = held.span();
        let deadline = deadline(timeout_ms, span.len());
        self.with(py, |lane| {
            let header = read(handle, offset, span.len() as u64);
            lane.post(Request { header, ranges: &[], payload: &[] }, deadline)?;
            let reply = lane.begin(&[span], deadline)?;
            if reply.header.flags.has(Flags::ZERO) {
                weft_transport::zero(span);
            } else {
                lane.fill(&[span], reply.filled, reply.bytes(), deadline)?;
            }
            Ok(span.len())
        })
    }

    #[pyo3(signature = (handle, offset, length, timeout_ms=None))]
    fn begin_read(
        &self,
        py: Python<'_>,
        handle: u64,
        offset: u64,
        length: u64,
        timeout_ms: Option<u64>,
    ) -> PyResult<u64> {
        let deadline = deadline(timeout_ms, usize::try_from(length).unwrap_or(usize::MAX));
        self.with(py, |lane| {
            lane.post(Request { header: read(handle, offset, length), ranges: &[], payload: &[] }, deadline)?;
            Ok(lane.begin_blocks(deadline)?.bytes() as u64)
        })
    }

    #[pyo3(signature = (at, target_bytes, timeout_ms=None))]
    fn take(
        &self,
        py: Python<'_>,
        at: u64,
        target_bytes: u64,
        timeout_ms: Option<u64>,
    ) -> PyResult<Option<(u64, UnpackBlock)>> {
        let deadline = deadline(timeout_ms, 0);
        let taken = self.with(py, |lane| lane.take(at, target_bytes, deadline))?;
        Ok(match taken {
            Taken::Block(slot, block) => Some((slot.number(), UnpackBlock { block })),
            Taken::Full | Taken::Complete => None,
        })
    }

    fn give_back(&self, py: Python<'_>, slot: u64) -> PyResult<()> {
        self.with(py, |lane| lane.give_back(Slot::from_number(slot)))
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        self.with(py, |lane| {
            lane.close();
            Ok(())
        })
    }
}
