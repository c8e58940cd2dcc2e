//! Facts for Python: the limits compiled in, and golden bytes that the other implementation is compared with.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict};
use weft_sys::pagemap::Pagemap;
use weft_sys::uffd::{Features, Uffd};
use weft_wire::{Advert, ClientHello, Grant, Header, Item, Kind, Mode, Rights};

pub fn limits(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let limits = PyDict::new(py);
    for (name, value) in [
        ("wire_version", u64::from(weft_wire::VERSION)),
        ("header_bytes", weft_wire::HEADER_BYTES as u64),
        ("payload_bytes_max", weft_wire::PAYLOAD_BYTES_MAX),
        ("message_bytes_max", weft_wire::MESSAGE_BYTES_MAX),
        ("ranges_max", weft_wire::RANGES_MAX.into()),
        ("sparse_pages_max", weft_wire::SPARSE_PAGES_MAX),
        ("page_bytes", weft_wire::PAGE_BYTES),
        ("name_bytes_max", weft_wire::NAME_BYTES_MAX as u64),
    ] {
        limits.set_item(name, value)?;
    }
    Ok(limits)
}

/// Golden bytes, made from fixed values; `tests/conformance` and `docs/wire.md` name them.
#[pyfunction]
pub fn wire_vectors(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let vectors = PyDict::new(py);
    let grant = Grant {
        cluster_id: *b"0123456789abcdef",
        region_id: "r00112233aabbccdd".to_owned(),
        generation: 7,
        mode: Mode::Exclusive,
        rights: Rights::READ_WRITE,
        holder: "borrower".to_owned(),
        expires_at_ms: 1_700_000_000_000,
    };
    vectors.set_item("grant", PyBytes::new(py, &grant.mint(&weft_wire::grant_key(b"secret"))))?;
    let mut header = Header::new(Kind::Read, 5);
    header.handle = 2;
    header.offset = 4096;
    header.length = 8192;
    vectors.set_item("header_read", PyBytes::new(py, &header.encode()))?;
    let hello = ClientHello {
        cluster_id: *b"0123456789abcdef",
        nonce: [9; 32],
        incarnation: 0x0102_0304_0506_0708,
        name: "borrower".to_owned(),
    };
    vectors.set_item("client_hello", PyBytes::new(py, &hello.encode()))?;
    let ends_ms = 1_700_000_000_123;
    let right = Advert::grant_for(*b"0123456789abcdef", 99, true, ends_ms);
    let advert = Advert {
        buffer: 99,
        incarnation: 5,
        size_bytes: 1000,
        writable: true,
        owner: "lender".to_owned(),
        grant: right.mint(&weft_wire::grant_key(b"secret")).into(),
        extent: None,
    };
    vectors.set_item("advert", PyBytes::new(py, &advert.encode()))?;
    if let Some(item) = Item::of(&advert, 0x7fff_ffff_ff00, ends_ms) {
        vectors.set_item("item", PyBytes::new(py, &item.encode()))?;
    }
    Ok(vectors)
}

/// What this machine's kernel offers the data plane.
///
/// `userfaultfd` says whether one can be opened at all, and `userfaultfd_error` why not; `kernel_faults` whether system
/// calls on missing pages wait for them; `tcp_devmem` whether TCP can leave payload in a device's memory; each feature by its name; `pagemap_scan` whether written pages can be listed.
#[pyfunction]
pub fn machine_report(py: Python<'_>) -> PyResult<Bound<'_, PyDict>> {
    let report = PyDict::new(py);
    report.set_item("cpus_allowed", weft_sys::cpu::allowed_count())?;
    report.set_item("pagemap_scan", Pagemap::open().is_ok_and(|pagemap| pagemap.can_scan()))?;
    let supported = Uffd::supported();
    report.set_item("userfaultfd", supported.is_ok())?;
    report.set_item("userfaultfd_error", supported.as_ref().err().map_or_else(String::new, ToString::to_string))?;
    let devmem = weft_transport::Devmem::probe();
    report.set_item("tcp_devmem", devmem.is_ok())?;
    report.set_item("tcp_devmem_error", devmem.err().unwrap_or_default())?;
    report.set_item("kernel_faults", Uffd::open(Features::NONE).is_ok_and(|uffd| uffd.kernel_faults()))?;
    let features = supported.unwrap_or(Features::NONE);
    for (name, feature) in [
        ("event_remap", Features::EVENT_REMAP),
        ("event_remove", Features::EVENT_REMOVE),
        ("event_unmap", Features::EVENT_UNMAP),
        ("thread_id", Features::THREAD_ID),
        ("poison", Features::POISON),
        ("write_protect", Features::WRITE_PROTECT),
        ("write_protect_async", Features::WRITE_PROTECT_ASYNC),
        ("move", Features::MOVE),
    ] {
        report.set_item(name, features.has(feature))?;
    }
    Ok(report)
}
