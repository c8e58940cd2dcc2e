//! `Window`: mapped memory whose pages come from other machines, as Python holds it.

use std::ffi::c_int;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use pyo3::exceptions::PyBufferError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyList};
use weft_engine::{Endpoint as Engine, NearCounters, NearUpgrade};
use weft_pager::{Options, Pager, RegionMode};
use weft_paging::directory::{Owner, PageDirectory};
use weft_paging::layout::{Band, Layout};
use weft_paging::statistics::Distribution;
use weft_sys::memory::{PAGE_BYTES, Span};
use weft_sys::pagemap::Pagemap;
use weft_transport::{ClaimedPages, ClaimedSource, NODES_MAX, RegionSource, RegionSpec, Upgrade};

use crate::buffer::Held;
use crate::clock::now_ms;
use crate::connection::{connect_options, deadline, identity, resolve};
use crate::errors;
use crate::rdma;
use crate::server::Server;

/// The unit of layout, in bytes.
const STRIPE_BYTES: u64 = 2 << 20;
/// Connecting to a lender, within a fault's deadline.
const CONNECT_DEADLINE: Duration = Duration::from_secs(2);
/// What the threads of a window have to end: a fault under way is given up by its own deadline.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);

/// Where the window's pages come from.
enum Homes {
    Region(Arc<RegionSource>),
    Claimed { source: Arc<ClaimedSource>, directory: Arc<PageDirectory>, node: u32, server: Arc<Engine> },
}

#[derive(Default)]
struct State {
    pager: Option<Arc<Pager>>,
    exports: usize,
}

/// A mapped range whose pages come from other machines as they are touched.
#[pyclass(frozen, module = "weft._native")]
pub struct Window {
    state: Mutex<State>,
    homes: Homes,
    base: usize,
    len: usize,
    writable: bool,
    kernel_faults: bool,
    /// What came out of memory of lenders on this machine.
    near: Option<Arc<NearCounters>>,
}

type PyBand = (u64, u64, Vec<(u32, String, u64)>);

#[pymethods]
impl Window {
    #[staticmethod]
    #[pyo3(signature = (*, region, size_bytes, mode, bands, peers, grant, cluster_id, secret, name, incarnation,
                        congestion=None, spin_us=50, fault_timeout_ms=5000, fault_threads=0, near=true))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only in Python, where each has its name")]
    fn attach_region(
        py: Python<'_>,
        region: &str,
        size_bytes: u64,
        mode: &str,
        bands: Vec<PyBand>,
        peers: Vec<(String, String, u16)>,
        grant: &[u8],
        cluster_id: &[u8],
        secret: &[u8],
        name: String,
        incarnation: u64,
        congestion: Option<String>,
        spin_us: u64,
        fault_timeout_ms: u64,
        fault_threads: usize,
        near: bool,
    ) -> PyResult<Self> {
        let identity = Arc::new(identity(cluster_id, secret, name, incarnation)?);
        let mode = match mode {
            "read" => RegionMode::Read,
            "exclusive" => RegionMode::Exclusive,
            "private" => RegionMode::Private,
            other => {
                return Err(errors::argument(&format!(
                    "mode must be \"read\", \"exclusive\" or \"private\", not {other:?}"
                )));
            }
        };
        let (layout, extents) = layout(bands)?;
        let bytes = whole_pages(size_bytes)?;
        if bytes > layout.bytes() {
            return Err(errors::argument(&format!(
                "size_bytes is {size_bytes}, the bands hold {} bytes",
                layout.bytes()
            )));
        }
        let grant: Arc<[u8]> = grant.into();
        let options = connect_options(congestion, spin_us, CONNECT_DEADLINE);
        let pager_options = pager_options(fault_timeout_ms, fault_threads);
        py.detach(|| {
            // A lender whose name does not resolve is met when one of its pages is touched, like one that is gone.
            let addresses = peers
                .iter()
                .filter_map(|(node, host, port)| Some((node.clone(), resolve(node, host, *port).ok()?.address)))
                .collect();
            let spec = RegionSpec { layout, extents, addresses, grant };
            let source = Arc::new(RegionSource::new(spec, Arc::clone(&identity), options));
            let by_rdma = rdma::upgrade(spin_us).map(|upgrade| upgrade as Arc<dyn Upgrade>);
            // Without descriptors for it lenders of this machine are reached as all others.
            let nearer = near.then(|| NearUpgrade::new(identity, now_ms, by_rdma.clone()).ok()).flatten().map(Arc::new);
            let counters = nearer.as_ref().map(|upgrade| Arc::clone(upgrade.counters()));
            if let Some(upgrade) = nearer.map(|upgrade| upgrade as Arc<dyn Upgrade>).or(by_rdma) {
                source.set_upgrade(upgrade);
            }
            let sink = (mode == RegionMode::Exclusive).then(|| Box::new(source.sink()) as Box<_>);
            let pager = Pager::region(region, bytes, mode, Arc::clone(&source) as Arc<_>, sink, &pager_options)
                .map_err(|error| errors::pager(&error))?;
            let len = usize::try_from(size_bytes).expect("the pager mapped it");
            let mut made = Self::over(pager, Homes::Region(source), len, mode != RegionMode::Read);
            made.near = counters;
            Ok(made)
        })
    }

    #[staticmethod]
    #[pyo3(signature = (*, base, size_bytes, node_id, server, cluster_id, secret, name, incarnation,
                        congestion=None, spin_us=50, fault_timeout_ms=5000, fault_threads=0))]
    #[expect(clippy::too_many_arguments, reason = "keyword-only in Python, where each has its name")]
    fn claim_memory(
        py: Python<'_>,
        base: usize,
        size_bytes: u64,
        node_id: u32,
        server: &Server,
        cluster_id: &[u8],
        secret: &[u8],
        name: String,
        incarnation: u64,
        congestion: Option<String>,
        spin_us: u64,
        fault_timeout_ms: u64,
        fault_threads: usize,
    ) -> PyResult<Self> {
        let identity = Arc::new(identity(cluster_id, secret, name, incarnation)?);
        if base == 0
            || !base.is_multiple_of(PAGE_BYTES)
            || size_bytes == 0
            || !size_bytes.is_multiple_of(PAGE_BYTES as u64)
        {
            return Err(errors::argument("base and len must be whole pages of 4096 bytes, and not zero"));
        }
        if node_id >= NODES_MAX {
            return Err(errors::argument(&format!("node_id must be below {NODES_MAX}")));
        }
        let len = usize::try_from(size_bytes).map_err(|_| errors::argument("len does not fit this machine"))?;
        let directory = Arc::new(PageDirectory::new((len / PAGE_BYTES) as u64));
        let options = connect_options(congestion, spin_us, CONNECT_DEADLINE);
        let pager_options = pager_options(fault_timeout_ms, fault_threads);
        let server = Arc::clone(&server.engine);
        py.detach(|| {
            claim_what_is_there(base, len, &directory)
                .map_err(|error| errors::system("the memory could not be looked at", &error))?;
            let source = Arc::new(ClaimedSource::new(Arc::clone(&directory), identity, options));
            // SAFETY: `start_pager` asks its caller to keep the range mapped until `stop`, which is when this ends.
            let span = unsafe { Span::from_raw(base as *mut u8, len) };
            let pager = Pager::claim(
                &format!("window-{node_id}"),
                span,
                Arc::clone(&directory),
                Some(Arc::clone(&source) as Arc<_>),
                &pager_options,
            )
            .map_err(|error| errors::pager(&error))?;
            ClaimedPages::serve(server.server().store(), node_id, span, Arc::clone(&directory))
                .map_err(|refusal| errors::refusal(&refusal))?;
            Ok(Self::over(pager, Homes::Claimed { source, directory, node: node_id, server }, len, true))
        })
    }

    #[getter]
    fn base(&self) -> usize {
        self.base
    }

    #[getter]
    fn size_bytes(&self) -> usize {
        self.len
    }

    #[getter]
    fn user_mode_only(&self) -> bool {
        !self.kernel_faults
    }

    #[getter]
    fn exports(&self) -> usize {
        self.state().exports
    }

    /// # Safety
    /// Called by Python with a view to fill in, as the buffer protocol says.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let window = slf.get();
        let mut state = window.state();
        if state.pager.is_none() {
            return Err(PyBufferError::new_err("the window is closed"));
        }
        let len = ffi::Py_ssize_t::try_from(window.len).expect("a mapping fits");
        // SAFETY: the view is Python's to fill; the memory stays mapped until the export is released, because closing
        // refuses while one is out.
        let filled = unsafe {
            ffi::PyBuffer_FillInfo(
                view,
                slf.as_ptr(),
                window.base as *mut std::ffi::c_void,
                len,
                c_int::from(!window.writable),
                flags,
            )
        };
        if filled != 0 {
            return Err(PyErr::fetch(slf.py()));
        }
        state.exports += 1;
        Ok(())
    }

    /// # Safety
    /// Called by Python with a view that `__getbuffer__` filled in.
    unsafe fn __releasebuffer__(&self, _view: *mut ffi::Py_buffer) {
        self.state().exports -= 1;
    }

    #[pyo3(signature = (offset, into, timeout_ms=None))]
    fn read(&self, py: Python<'_>, offset: u64, into: &Bound<'_, PyAny>, timeout_ms: Option<u64>) -> PyResult<usize> {
        let mut held = Held::writable(into)?;
        let len = held.span().len();
        let (pager, deadline) = (self.pager()?, deadline(timeout_ms, len));
        let target = held.bytes_mut();
        py.detach(|| pager.read(offset, target, deadline)).map_err(|error| errors::pager(&error))?;
        Ok(len)
    }

    #[pyo3(signature = (offset, data, timeout_ms=None))]
    fn write(&self, py: Python<'_>, offset: u64, data: &Bound<'_, PyAny>, timeout_ms: Option<u64>) -> PyResult<usize> {
        let held = Held::readable(data)?;
        let source = held.bytes();
        let (pager, deadline) = (self.pager()?, deadline(timeout_ms, source.len()));
        py.detach(|| pager.write(offset, source, deadline)).map_err(|error| errors::pager(&error))?;
        Ok(source.len())
    }

    #[pyo3(signature = (offset, size_bytes, timeout_ms=None))]
    fn prefetch(&self, py: Python<'_>, offset: u64, size_bytes: usize, timeout_ms: Option<u64>) -> PyResult<usize> {
        let (pager, deadline) = (self.pager()?, deadline(timeout_ms, size_bytes));
        py.detach(|| pager.prefetch(offset, size_bytes as u64, deadline)).map_err(|error| errors::pager(&error))?;
        Ok(size_bytes)
    }

    #[pyo3(signature = (timeout_ms=None))]
    fn flush(&self, py: Python<'_>, timeout_ms: Option<u64>) -> PyResult<u64> {
        let (pager, deadline) = (self.pager()?, deadline(timeout_ms, self.len));
        py.detach(|| pager.flush(deadline)).map_err(|error| errors::pager(&error))
    }

    fn renew_grant(&self, grant: &[u8]) -> PyResult<()> {
        let Homes::Region(source) = &self.homes else {
            return Err(errors::argument("a window over memory of one's own needs no grant"));
        };
        source.renew(&grant.into());
        Ok(())
    }

    fn set_peer(&self, py: Python<'_>, node_id: &str, host: &str, port: u16) -> PyResult<()> {
        let address = py.detach(|| resolve(node_id, host, port))?.address;
        match &self.homes {
            Homes::Region(source) => source.set_address(node_id, address),
            Homes::Claimed { source, .. } => source.set_address(node_number(node_id)?, address),
        }
        Ok(())
    }

    fn stats<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let pager = self.pager()?;
        let snapshot = pager.statistics();
        let stats = PyDict::new(py);
        stats.set_item("local_faults", snapshot.local_faults)?;
        stats.set_item("remote_faults", snapshot.remote_faults)?;
        stats.set_item("median_latency_us", snapshot.median_us())?;
        stats.set_item("p99_latency_us", snapshot.p99_us())?;
        stats.set_item("remote_miss_ratio", snapshot.remote_miss_ratio())?;
        for (prefix, distribution) in [("local", &snapshot.local), ("remote", &snapshot.remote)] {
            stats.set_item(format!("{prefix}_median_latency_us"), distribution.median_us())?;
            stats.set_item(format!("{prefix}_p99_latency_us"), distribution.p99_us())?;
            stats.set_item(format!("{prefix}_histogram"), histogram(py, distribution)?)?;
        }
        for (name, count) in pager.counters().all() {
            stats.set_item(name, count)?;
        }
        if let Some(near) = &self.near {
            for (name, count) in near.all() {
                stats.set_item(name, count)?;
            }
        }
        Ok(stats)
    }

    fn owner(&self, page: u64) -> PyResult<String> {
        let (directory, _) = self.directory()?;
        check_page(directory, page)?;
        Ok(match directory.get_owner(page) {
            Owner::Unknown => "unknown".to_owned(),
            Owner::Local => "local".to_owned(),
            Owner::Remote(node) => node.to_string(),
        })
    }

    fn claim(&self, page: u64) -> PyResult<bool> {
        let (directory, _) = self.directory()?;
        check_page(directory, page)?;
        Ok(directory.claim_page(page))
    }

    #[pyo3(signature = (page, node_id))]
    fn set_owner(&self, page: u64, node_id: Option<&str>) -> PyResult<()> {
        let (directory, own) = self.directory()?;
        check_page(directory, page)?;
        let owner = match node_id.map(node_number).transpose()? {
            None => Owner::Unknown,
            Some(node) if node == own => Owner::Local,
            Some(node) => Owner::Remote(node),
        };
        directory.set_owner(page, owner);
        Ok(())
    }

    fn page_count(&self) -> PyResult<u64> {
        Ok(self.directory()?.0.page_count())
    }

    fn close(&self, py: Python<'_>) -> PyResult<()> {
        let pager = {
            let mut state = self.state();
            if state.exports > 0 {
                let message = format!(
                    "{} buffers or arrays still point into this memory; release or delete them before closing it",
                    state.exports
                );
                return Err(errors::raise("still_exported", &message, &[]));
            }
            state.pager.take()
        };
        let Some(pager) = pager else { return Ok(()) };
        py.detach(|| {
            if let Homes::Claimed { node, server, .. } = &self.homes {
                ClaimedPages::withdraw(server.server().store(), *node);
            }
            pager.close(Instant::now() + CLOSE_DEADLINE)
        })
        .map_err(|error| errors::pager(&error))
    }
}

impl Window {
    fn over(pager: Pager, homes: Homes, len: usize, writable: bool) -> Self {
        let (base, kernel_faults) = (pager.span().base() as usize, pager.serves_system_calls());
        let state = Mutex::new(State { pager: Some(Arc::new(pager)), exports: 0 });
        Self { state, homes, base, len, writable, kernel_faults, near: None }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pager(&self) -> PyResult<Arc<Pager>> {
        self.state().pager.clone().ok_or_else(|| errors::raise("closed", "the window was closed", &[]))
    }

    fn directory(&self) -> PyResult<(&Arc<PageDirectory>, u32)> {
        match &self.homes {
            Homes::Claimed { directory, node, .. } => Ok((directory, *node)),
            Homes::Region(_) => {
                Err(errors::argument("a region's pages have the homes its layout says; nobody owns them"))
            }
        }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // An export keeps the object alive, so none is out. A window that was never closed stops being served here.
        if let (Some(_), Homes::Claimed { node, server, .. }) = (&self.state().pager, &self.homes) {
            ClaimedPages::withdraw(server.server().store(), *node);
        }
    }
}

/// Memory that has pages already keeps them: they are this process's.
fn claim_what_is_there(base: usize, len: usize, directory: &PageDirectory) -> std::io::Result<()> {
    let (first, end) = (base as u64, (base + len) as u64);
    Pagemap::open()?.resident(first, end, |start, stop| {
        for page in (start - first) / PAGE_BYTES as u64..(stop - first) / PAGE_BYTES as u64 {
            directory.claim_page(page);
        }
    })
}

/// The layout, and the lender of each extent by the extent's number.
fn layout(bands: Vec<PyBand>) -> PyResult<(Layout, Vec<(String, u64)>)> {
    let count = bands.iter().map(|(_, _, extents)| extents.len()).sum();
    let mut lenders: Vec<Option<(String, u64)>> = vec![None; count];
    let mut shapes = Vec::with_capacity(bands.len());
    for (first_stripe, stripes, extents) in bands {
        let mut numbers = Vec::with_capacity(extents.len());
        for (index, node, incarnation) in extents {
            let slot = lenders.get_mut(index as usize).ok_or_else(|| {
                errors::argument(&format!("extent {index} is beyond the {count} extents of the bands"))
            })?;
            *slot = Some((node, incarnation));
            numbers.push(index);
        }
        shapes.push(Band { first_stripe, stripes, extents: numbers });
    }
    let layout = Layout::new(STRIPE_BYTES, shapes).map_err(|error| errors::argument(&error.to_string()))?;
    let lenders: Option<Vec<_>> = lenders.into_iter().collect();
    Ok((layout, lenders.ok_or_else(|| errors::argument("an extent stands in the bands twice"))?))
}

fn whole_pages(size_bytes: u64) -> PyResult<u64> {
    size_bytes
        .checked_next_multiple_of(PAGE_BYTES as u64)
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| errors::argument("size_bytes must be at least 1 and fit this machine"))
}

fn pager_options(fault_timeout_ms: u64, fault_threads: usize) -> Options {
    let mut options = Options { fault_deadline: Duration::from_millis(fault_timeout_ms), ..Options::default() };
    if fault_threads > 0 {
        options.threads = fault_threads;
    }
    options
}

fn node_number(node_id: &str) -> PyResult<u32> {
    node_id
        .parse()
        .ok()
        .filter(|number| *number < NODES_MAX)
        .ok_or_else(|| errors::argument(&format!("node_id must be a number below {NODES_MAX}, not {node_id:?}")))
}

fn check_page(directory: &PageDirectory, page: u64) -> PyResult<()> {
    if page < directory.pages() {
        return Ok(());
    }
    Err(errors::raise("out_of_range", &format!("page {page} is outside a window of {} pages", directory.pages()), &[]))
}

fn histogram<'py>(py: Python<'py>, distribution: &Distribution) -> PyResult<Bound<'py, PyList>> {
    PyList::new(py, distribution.counted().iter().copied())
}
