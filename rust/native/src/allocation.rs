//! `Allocation`: memory that Weft had from the kernel for a program, as Python holds it.

use std::os::raw::c_int;
use std::sync::Arc;

use pyo3::ffi;
use pyo3::prelude::*;
use weft_sys::memory::Mapping;

/// Memory that neighbours may map once they have a right to it. It goes with the last buffer of it.
#[pyclass(frozen, module = "weft._native")]
pub struct Allocation {
    pub mapping: Arc<Mapping>,
    /// As many bytes as were asked for; the mapping has whole pages.
    pub size_bytes: usize,
}

#[pymethods]
impl Allocation {
    fn __len__(&self) -> usize {
        self.size_bytes
    }

    /// Whether neighbours may map it; this kernel cannot seal where they may not.
    #[getter]
    fn mappable(&self) -> bool {
        self.mapping.lent().is_some()
    }

    /// # Safety
    /// Called by Python with a view to fill in, as the buffer protocol says.
    unsafe fn __getbuffer__(slf: Bound<'_, Self>, view: *mut ffi::Py_buffer, flags: c_int) -> PyResult<()> {
        let allocation = slf.get();
        let size = ffi::Py_ssize_t::try_from(allocation.size_bytes).expect("a mapping fits");
        let base = allocation.mapping.base().cast();
        // SAFETY: the view is Python's to fill; it keeps this object, and with it the mapping, until it is released.
        let filled = unsafe { ffi::PyBuffer_FillInfo(view, slf.as_ptr(), base, size, 0, flags) };
        if filled == 0 { Ok(()) } else { Err(PyErr::fetch(slf.py())) }
    }
}
