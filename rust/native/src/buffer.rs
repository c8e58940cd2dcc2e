//! Python buffers as spans: contiguous memory of any element type, pinned by the buffer protocol while it is used.

use pyo3::buffer::PyUntypedBuffer;
use pyo3::prelude::*;
use weft_sys::memory::Span;

use crate::errors;

/// A buffer held for the time of a call, and its memory.
pub struct Held {
    buffer: PyUntypedBuffer,
}

impl Held {
    /// A buffer to read from.
    pub fn readable(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyUntypedBuffer::get(object)?;
        if !buffer.is_c_contiguous() {
            return Err(errors::argument("the buffer is not contiguous; pass a contiguous copy"));
        }
        Ok(Self { buffer })
    }

    /// A buffer to write to.
    pub fn writable(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let held = Self::readable(object)?;
        if held.buffer.readonly() {
            return Err(errors::argument("the buffer is read-only; pass one that can be written"));
        }
        Ok(held)
    }

    /// Whether it may not be written.
    pub fn is_readonly(&self) -> bool {
        self.buffer.readonly()
    }

    /// Its memory, for as long as this is held.
    pub fn span(&self) -> Span {
        // SAFETY: the buffer protocol keeps the memory in place and of this size until the buffer is released, which is
        // when `self` is dropped; every use of the span ends before that.
        unsafe { Span::from_raw(self.buffer.buf_ptr().cast(), self.buffer.len_bytes()) }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        let span = self.span();
        // SAFETY: as in `span`. Python lets other threads write a buffer while it is held; a program that does that to
        // bytes it is handing over gets one or the other of them, as with `socket.send`.
        unsafe { std::slice::from_raw_parts(span.base(), span.len()) }
    }

    /// Its bytes, to be written; only for a buffer that was taken as writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        let span = self.span();
        // SAFETY: as in `bytes`.
        unsafe { std::slice::from_raw_parts_mut(span.base(), span.len()) }
    }
}
