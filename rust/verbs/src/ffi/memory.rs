//! Memory the device may reach: pinned, with a key for this side and one for the others.
//!
//! Pinning asks the kernel for every page of a range. On a range whose missing pages a pager brings, that would fetch all
//! of it, or wait for ever on the very transport that asks: such memory is refused here, at the only door, by asking the
//! kernel what the range is.

use std::any::Any;
use std::ffi::c_int;
use std::sync::Arc;

use weft_sys::memory::Span;

use super::device::Domain;
use super::layout::*;
use crate::VerbsError;

/// What others may do with registered memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Nothing: it is where this side's own work lands and comes from.
    Local,
    /// Read it.
    RemoteRead,
    /// Read and write it.
    RemoteReadWrite,
}

impl Access {
    const fn flags(self) -> u32 {
        match self {
            Self::Local => IBV_ACCESS_LOCAL_WRITE,
            Self::RemoteRead => IBV_ACCESS_REMOTE_READ,
            Self::RemoteReadWrite => IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE,
        }
    }
}

/// Registered memory. Its keys end when it is dropped: the call returns once nobody reaches it by them any more.
pub struct MemoryRegion {
    domain: Arc<Domain>,
    mr: *mut ibv_mr,
    span: Span,
    keep: Option<Arc<dyn Any + Send + Sync>>,
}

// SAFETY: the registration's fields do not change, and the library's calls on it are thread safe.
unsafe impl Send for MemoryRegion {}
// SAFETY: as above.
unsafe impl Sync for MemoryRegion {}

impl MemoryRegion {
    /// Registers `span`. `keep` owns the memory, and is kept until the device has let go of it.
    ///
    /// # Errors
    /// `Memory` for a range that userfaultfd watches, is empty or is not mapped; what the kernel says (`ENOMEM`: see
    /// `ulimit -l`).
    pub fn register(
        domain: &Arc<Domain>,
        span: Span,
        access: Access,
        keep: Arc<dyn Any + Send + Sync>,
    ) -> Result<Self, VerbsError> {
        if span.is_empty() {
            return Err(VerbsError::Memory("an empty range cannot be registered".to_owned()));
        }
        match weft_sys::watched::by_userfaultfd(span) {
            Ok(false) => {}
            Ok(true) => {
                return Err(VerbsError::Memory(
                    "the range belongs to a window whose pages a pager brings; pinning it would fetch all of them. Move \
                     its bytes through memory of your own"
                        .to_owned(),
                ));
            }
            Err(cause) => return Err(VerbsError::Call { doing: "asking what a range of memory is", cause }),
        }
        let flags = c_int::try_from(access.flags()).expect("a few low bits");
        // SAFETY: `keep` owns the span's memory and outlives the registration (see `drop`); the domain is live.
        let mr = unsafe { (domain.device.library.table.reg_mr)(domain.pd, span.base().cast(), span.len(), flags) };
        if mr.is_null() {
            return Err(VerbsError::last("registering memory with the device (is `ulimit -l` large enough?)"));
        }
        Ok(Self { domain: Arc::clone(domain), mr, span, keep: Some(keep) })
    }

    /// The address others name.
    pub fn address(&self) -> u64 {
        self.span.base() as u64
    }

    /// The memory.
    pub fn span(&self) -> Span {
        self.span
    }

    /// The key this side names.
    pub fn local_key(&self) -> u32 {
        // SAFETY: live until dropped.
        unsafe { (*self.mr).lkey }
    }

    /// The key others name.
    pub fn remote_key(&self) -> u32 {
        // SAFETY: live until dropped.
        unsafe { (*self.mr).rkey }
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        // SAFETY: registered by us, given back once.
        if unsafe { (self.domain.device.library.table.dereg_mr)(self.mr) } != 0 {
            // The device still reaches the memory: it may never be unmapped. A leak is the lesser evil.
            std::mem::forget(self.keep.take());
        }
    }
}
