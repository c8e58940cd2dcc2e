//! `Peer` and `Advert`: the way to another endpoint, and what of its memory may be reached.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyTuple};
use weft_engine::{Direction, Endpoint as Engine, Failure, Link, Part, Transfer as Moving};
use weft_sys::memory::Span;
use weft_verbs::{EndpointRecord, parse_gid};
use weft_wire::{Advert as Right, ExtentName};

use crate::buffer::Held;
use crate::connection::deadline;
use crate::errors;
use crate::transfer::{Holds, Transfer};

/// A right to reach one range of somebody's buffer, to be handed over as bytes.
#[pyclass(frozen, module = "weft._native")]
pub struct Advert {
    pub right: Arc<Right>,
}

#[pymethods]
impl Advert {
    #[new]
    fn new(data: &[u8]) -> PyResult<Self> {
        let right = Right::decode(data)
            .map_err(|cause| errors::argument(&format!("this is no advert: {cause}; pass what `encode` gave")))?;
        Ok(Self { right: Arc::new(right) })
    }

    #[staticmethod]
    fn of_extent(region_id: String, index: u32, incarnation: u64, size_bytes: u64, grant: &[u8]) -> PyResult<Self> {
        let mut random = [0u8; 8];
        weft_sys::random::fill(&mut random).map_err(|error| errors::system("no randomness", &error))?;
        let (number, name) = (u64::from_le_bytes(random), ExtentName { region_id, index });
        Ok(Self { right: Arc::new(Right::of_extent(number, name, incarnation, size_bytes, grant.into())) })
    }

    fn encode<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        if self.right.extent.is_some() {
            return Err(errors::argument(
                "the right to an extent does not travel; hand over the grant it was made from",
            ));
        }
        Ok(PyBytes::new(py, &self.right.encode()))
    }

    #[getter]
    fn buffer(&self) -> u64 {
        self.right.buffer
    }

    #[getter]
    fn size_bytes(&self) -> u64 {
        self.right.size_bytes
    }

    #[getter]
    fn writable(&self) -> bool {
        self.right.writable
    }

    #[getter]
    fn owner(&self) -> &str {
        &self.right.owner
    }

    #[getter]
    fn incarnation(&self) -> u64 {
        self.right.incarnation
    }

    #[getter]
    fn grant<'py>(&self, py: Python<'py>) -> Bound<'py, PyBytes> {
        PyBytes::new(py, &self.right.grant)
    }
}

/// The way to another endpoint.
#[pyclass(frozen, module = "weft._native")]
pub struct Peer {
    pub engine: Arc<Engine>,
    pub link: Arc<Link>,
    pub holds: Arc<Holds>,
}

type Item<'py> = (PyRef<'py, Advert>, u64, Bound<'py, PyAny>);

impl Peer {
    fn hold(direction: Direction, buffer: &Bound<'_, PyAny>) -> PyResult<Held> {
        if direction == Direction::Read { Held::writable(buffer) } else { Held::readable(buffer) }
    }

    fn part(advert: &Advert, offset: u64, span: Span) -> Part {
        Part { advert: Arc::clone(&advert.right), offset, span }
    }

    fn vector(direction: Direction, items: &Bound<'_, PyAny>) -> PyResult<(Vec<Part>, Vec<Held>, usize)> {
        let count = items.len()?;
        let (mut parts, mut holds, mut bytes) = (Vec::with_capacity(count), Vec::with_capacity(count), 0usize);
        for item in items.try_iter()? {
            let item = item?;
            let (advert, offset, buffer): Item<'_> = item.cast::<PyTuple>()?.extract()?;
            let held = Self::hold(direction, &buffer)?;
            let span = held.span();
            bytes = bytes.saturating_add(span.len());
            parts.push(Self::part(&advert, offset, span));
            holds.push(held);
        }
        Ok((parts, holds, bytes))
    }

    fn now(&self, py: Python<'_>, direction: Direction, parts: &[Part], until: Instant) -> PyResult<u64> {
        py.detach(|| self.engine.move_now(&self.link, direction, parts, until))
            .map_err(|failure| errors::failure(&failure))
    }

    fn posted(&self, moving: Result<Arc<Moving>, Failure>, held: Vec<Held>) -> PyResult<Transfer> {
        let moving = moving.map_err(|failure| errors::failure(&failure))?;
        self.holds.keep(&moving, held);
        Ok(Transfer { moving, engine: Arc::clone(&self.engine), holds: Arc::clone(&self.holds) })
    }

    fn one_now(
        &self,
        py: Python<'_>,
        direction: Direction,
        advert: &Advert,
        offset: u64,
        buffer: &Bound<'_, PyAny>,
        timeout_ms: Option<u64>,
    ) -> PyResult<u64> {
        let held = Self::hold(direction, buffer)?;
        let span = held.span();
        let until = deadline(timeout_ms, span.len());
        self.now(py, direction, &[Self::part(advert, offset, span)], until)
    }

    fn one_posted(
        &self,
        direction: Direction,
        advert: &Advert,
        offset: u64,
        buffer: &Bound<'_, PyAny>,
        timeout_ms: Option<u64>,
    ) -> PyResult<Transfer> {
        let held = Self::hold(direction, buffer)?;
        let span = held.span();
        let until = deadline(timeout_ms, span.len());
        let moving = self.engine.post(&self.link, direction, &[Self::part(advert, offset, span)], until);
        self.posted(moving, vec![held])
    }

    fn many_now(
        &self,
        py: Python<'_>,
        direction: Direction,
        items: &Bound<'_, PyAny>,
        timeout_ms: Option<u64>,
    ) -> PyResult<u64> {
        let (parts, _held, bytes) = Self::vector(direction, items)?;
        self.now(py, direction, &parts, deadline(timeout_ms, bytes))
    }

    fn many_posted(
        &self,
        direction: Direction,
        items: &Bound<'_, PyAny>,
        timeout_ms: Option<u64>,
    ) -> PyResult<Transfer> {
        let (parts, held, bytes) = Self::vector(direction, items)?;
        self.posted(self.engine.post(&self.link, direction, &parts, deadline(timeout_ms, bytes)), held)
    }
}

#[pymethods]
impl Peer {
    #[getter]
    fn name(&self) -> &str {
        &self.link.peer.name
    }

    #[getter]
    fn incarnation(&self) -> u64 {
        self.link.peer.incarnation
    }

    #[getter]
    fn host(&self) -> String {
        self.link.address.ip().to_string()
    }

    #[getter]
    fn port(&self) -> u16 {
        self.link.address.port()
    }

    #[getter]
    fn transport(&self) -> &'static str {
        self.link.transport()
    }

    #[pyo3(signature = (advert, offset, into, timeout_ms=None))]
    fn read_now(
        &self,
        py: Python<'_>,
        advert: &Advert,
        offset: u64,
        into: &Bound<'_, PyAny>,
        timeout_ms: Option<u64>,
    ) -> PyResult<u64> {
        self.one_now(py, Direction::Read, advert, offset, into, timeout_ms)
    }

    #[pyo3(signature = (advert, offset, data, timeout_ms=None))]
    fn write_now(
        &self,
        py: Python<'_>,
        advert: &Advert,
        offset: u64,
        data: &Bound<'_, PyAny>,
        timeout_ms: Option<u64>,
    ) -> PyResult<u64> {
        self.one_now(py, Direction::Write, advert, offset, data, timeout_ms)
    }

    #[pyo3(signature = (items, timeout_ms=None))]
    fn readv_now(&self, py: Python<'_>, items: &Bound<'_, PyAny>, timeout_ms: Option<u64>) -> PyResult<u64> {
        self.many_now(py, Direction::Read, items, timeout_ms)
    }

    #[pyo3(signature = (items, timeout_ms=None))]
    fn writev_now(&self, py: Python<'_>, items: &Bound<'_, PyAny>, timeout_ms: Option<u64>) -> PyResult<u64> {
        self.many_now(py, Direction::Write, items, timeout_ms)
    }

    #[pyo3(signature = (advert, offset, into, timeout_ms=None))]
    fn read(
        &self,
        advert: &Advert,
        offset: u64,
        into: &Bound<'_, PyAny>,
        timeout_ms: Option<u64>,
    ) -> PyResult<Transfer> {
        self.one_posted(Direction::Read, advert, offset, into, timeout_ms)
    }

    #[pyo3(signature = (advert, offset, data, timeout_ms=None))]
    fn write(
        &self,
        advert: &Advert,
        offset: u64,
        data: &Bound<'_, PyAny>,
        timeout_ms: Option<u64>,
    ) -> PyResult<Transfer> {
        self.one_posted(Direction::Write, advert, offset, data, timeout_ms)
    }

    #[pyo3(signature = (items, timeout_ms=None))]
    fn readv(&self, items: &Bound<'_, PyAny>, timeout_ms: Option<u64>) -> PyResult<Transfer> {
        self.many_posted(Direction::Read, items, timeout_ms)
    }

    #[pyo3(signature = (items, timeout_ms=None))]
    fn writev(&self, items: &Bound<'_, PyAny>, timeout_ms: Option<u64>) -> PyResult<Transfer> {
        self.many_posted(Direction::Write, items, timeout_ms)
    }

    #[pyo3(signature = (tag, data, timeout_ms=None))]
    fn send(&self, tag: u64, data: &Bound<'_, PyAny>, timeout_ms: Option<u64>) -> PyResult<Transfer> {
        let held = Held::readable(data)?;
        let span = held.span();
        self.posted(self.engine.send(&self.link, tag, span, deadline(timeout_ms, span.len())), vec![held])
    }

    #[pyo3(signature = (tag, into, timeout_ms=None))]
    fn receive(&self, tag: u64, into: &Bound<'_, PyAny>, timeout_ms: Option<u64>) -> PyResult<Transfer> {
        let held = Held::writable(into)?;
        let span = held.span();
        self.posted(self.engine.receive(&self.link, tag, span, deadline(timeout_ms, span.len())), vec![held])
    }

    #[pyo3(signature = (name, data, timeout_ms=None))]
    fn notify(&self, name: &[u8], data: &Bound<'_, PyAny>, timeout_ms: Option<u64>) -> PyResult<Transfer> {
        let held = Held::readable(data)?;
        let until = deadline(timeout_ms, held.span().len());
        self.posted(self.engine.notify(&self.link, name, held.bytes(), until), Vec::new())
    }

    #[pyo3(signature = (topic, data, timeout_ms=None))]
    fn ask<'py>(
        &self,
        py: Python<'py>,
        topic: u64,
        data: &Bound<'_, PyAny>,
        timeout_ms: Option<u64>,
    ) -> PyResult<Bound<'py, PyBytes>> {
        let held = Held::readable(data)?;
        let until = deadline(timeout_ms, held.span().len());
        let answer =
            py.detach(|| self.link.ask(topic, held.bytes(), until)).map_err(|failure| errors::failure(&failure))?;
        Ok(PyBytes::new(py, &answer))
    }

    fn facts(&self) -> (bool, bool, bool, bool) {
        let facts = self.engine.facts(&self.link);
        (facts.same_machine, facts.same_user, facts.answers_here, facts.answers_there)
    }

    #[pyo3(signature = (transport, timeout_ms=2000, *, expected=None))]
    fn take_way(
        &self,
        py: Python<'_>,
        transport: &str,
        timeout_ms: u64,
        expected: Option<(u32, u16, String, u32)>,
    ) -> PyResult<()> {
        let expected = expected
            .map(|(qpn, lid, gid, psn)| {
                let gid = parse_gid(&gid).ok_or_else(|| errors::argument(&format!("{gid:?} is no GID")))?;
                Ok::<_, PyErr>(EndpointRecord { qpn, lid, gid, psn })
            })
            .transpose()?;
        let until = Instant::now() + Duration::from_millis(timeout_ms);
        py.detach(|| self.engine.take_way(&self.link, transport, expected, until))
            .map_err(|failure| errors::failure(&failure))
    }

    fn retry_way(&self, py: Python<'_>, timeout_ms: u64) -> bool {
        py.detach(|| self.link.retry(Instant::now() + Duration::from_millis(timeout_ms)))
    }

    #[getter]
    fn wanted(&self) -> &'static str {
        self.link.wanted()
    }

    #[getter]
    fn trouble(&self) -> Option<String> {
        self.link.status().trouble
    }

    #[getter]
    fn moved_bytes(&self) -> BTreeMap<&'static str, u64> {
        self.link.moved.list().into_iter().collect()
    }

    #[getter]
    fn is_closed(&self) -> bool {
        self.link.is_closed()
    }

    fn close(&self) {
        self.engine.disconnect(&self.link);
    }
}
