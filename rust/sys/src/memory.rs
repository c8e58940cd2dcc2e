//! Mapped memory, and checked views of it that travel to the kernel.
//!
//! A [`Mapping`] owns pages. A [`Span`] is an address range of somebody's memory that other threads or processes may read
//! and write at the same time, so Rust references to it would be unsound: a span is only ever handed to the kernel or
//! copied byte-wise.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::AtomicU64;

use rustix::fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create};
use rustix::mm::{MapFlags, ProtFlags, mmap, mmap_anonymous, munmap};

/// The unit of paging on every machine Weft supports.
pub const PAGE_BYTES: usize = 4096;

/// An address range that others may touch concurrently. Bounds are checked at every narrowing.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    base: *mut u8,
    len: usize,
}

// SAFETY: a span is an address and a length; all access goes through the kernel or volatile-free byte copies whose
// callers own the range for the time of the call (see the constructors).
unsafe impl Send for Span {}
// SAFETY: as above; a span has no interior state.
unsafe impl Sync for Span {}

impl Span {
    /// A span over memory the caller vouches for.
    ///
    /// # Safety
    /// `base..base + len` stays mapped, with the rights that the use needs, for as long as the span or any part is used.
    pub const unsafe fn from_raw(base: *mut u8, len: usize) -> Self {
        Self { base, len }
    }

    /// A span over a slice that is exclusively borrowed; the borrow must outlive the span's use.
    pub fn of(slice: &mut [u8]) -> Self {
        Self { base: slice.as_mut_ptr(), len: slice.len() }
    }

    /// A span over a slice that will only be read.
    pub fn of_const(slice: &[u8]) -> Self {
        Self { base: slice.as_ptr().cast_mut(), len: slice.len() }
    }

    /// First address.
    pub fn base(self) -> *mut u8 {
        self.base
    }

    /// Length in bytes.
    pub fn len(self) -> usize {
        self.len
    }

    /// Whether it covers nothing.
    pub fn is_empty(self) -> bool {
        self.len == 0
    }

    /// The part from `offset`, `len` bytes long; `None` when it would leave the span.
    pub fn part(self, offset: usize, len: usize) -> Option<Self> {
        if offset <= self.len && len <= self.len - offset {
            // SAFETY: the range was just checked to lie inside this span, which is mapped by its own contract.
            Some(Self { base: unsafe { self.base.add(offset) }, len })
        } else {
            None
        }
    }

    /// Copies `source` into the head of the span; `source` must not be longer.
    pub fn copy_from(self, source: &[u8]) {
        assert!(source.len() <= self.len, "copy of {} bytes into a span of {}", source.len(), self.len);
        // SAFETY: bounds asserted above; the span is mapped and writable by its constructor's contract, and `source` is a
        // live Rust slice that cannot overlap memory nobody holds a reference to.
        unsafe { std::ptr::copy(source.as_ptr(), self.base, source.len()) }
    }

    /// Copies the head of the span into `target`; `target` must not be longer.
    pub fn copy_to(self, target: &mut [u8]) {
        assert!(target.len() <= self.len, "copy of {} bytes out of a span of {}", target.len(), self.len);
        // SAFETY: as in `copy_from`, with the direction reversed.
        unsafe { std::ptr::copy(self.base, target.as_mut_ptr(), target.len()) }
    }

    /// Keeps a forked child from inheriting the range, which is whole pages.
    pub fn keep_from_children(self) -> io::Result<()> {
        self.advise(libc::MADV_DONTFORK)
    }

    /// Keeps the kernel from backing the range, which is whole pages, with huge pages of its own accord.
    pub fn keep_small(self) -> io::Result<()> {
        self.advise(libc::MADV_NOHUGEPAGE)
    }

    /// Drops the content of the range, which is whole pages: they are missing from then on.
    pub fn discard(self) -> io::Result<()> {
        self.advise(libc::MADV_DONTNEED)
    }

    /// Takes away every right to touch the range, which is whole pages: from here on a touch is a SIGSEGV.
    pub fn forbid(self) -> io::Result<()> {
        // SAFETY: the span is mapped by its constructor's contract, and nobody holds Rust references into it.
        let rc = unsafe { libc::mprotect(self.base.cast(), self.len, libc::PROT_NONE) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Unmaps the range, which is whole pages.
    ///
    /// # Safety
    /// The caller owns the mapping, and nobody uses it from here on.
    pub unsafe fn unmap(self) -> io::Result<()> {
        // SAFETY: the caller's promise.
        Ok(unsafe { munmap(self.base.cast(), self.len) }?)
    }

    fn advise(self, advice: libc::c_int) -> io::Result<()> {
        // SAFETY: the span is mapped by its constructor's contract, and nobody holds Rust references into it, so neither
        // what fork copies nor what its pages hold is anything the compiler relies on.
        let rc = unsafe { libc::madvise(self.base.cast(), self.len, advice) };
        if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Copies as many bytes as `target` is long between two spans.
    pub fn copy_span_to(self, target: Span) {
        assert!(target.len <= self.len, "copy of {} bytes out of a span of {}", target.len, self.len);
        // SAFETY: both ranges are mapped by their constructors' contracts and bounds were asserted; overlap is allowed.
        unsafe { std::ptr::copy(self.base, target.base, target.len) }
    }
}

/// What the machine could give to whoever asks now; nothing where it does not say.
fn available_bytes() -> Option<u64> {
    let report = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = report.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}

/// Pages this process mapped and unmaps when dropped.
#[derive(Debug)]
pub struct Mapping {
    base: *mut u8,
    len: usize,
    memfd: Option<OwnedFd>,
    /// Whether the memfd may be given away.
    sealed: bool,
}

// SAFETY: the mapping is an address range; see `Span` for how it is accessed.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Private anonymous memory, reserved but not backed. `len` must be a whole number of pages and not zero.
    pub fn anonymous(len: usize, writable: bool) -> io::Result<Self> {
        assert!(len > 0 && len.is_multiple_of(PAGE_BYTES), "a mapping is a whole number of pages");
        let prot = if writable { ProtFlags::READ | ProtFlags::WRITE } else { ProtFlags::READ };
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
        let base = unsafe { mmap_anonymous(std::ptr::null_mut(), len, prot, MapFlags::PRIVATE | MapFlags::NORESERVE)? };
        Ok(Self { base: base.cast(), len, memfd: None, sealed: false })
    }

    /// Memory behind a memfd that may be given away: backed from end to end, and mapped for writing here for the last time.
    /// Seals keep anybody from shrinking it or punching holes, which would end whoever touches it, and from writing it by
    /// any way that is made from now on; the descriptor that is kept was opened for reading. Where the kernel seals nothing
    /// of the kind it is memory as any other, which is not given away.
    ///
    /// # Errors
    /// `ENOSPC` or `ENOMEM` when the machine cannot hold it, and then nothing of it is kept; out of descriptors.
    pub fn lendable(name: &str, len: usize) -> io::Result<Self> {
        assert!(len > 0 && len.is_multiple_of(PAGE_BYTES), "a mapping is a whole number of pages");
        let memfd = memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&memfd, len as u64)?;
        // SAFETY: as in `anonymous`; the descriptor is live for the call.
        let base = unsafe {
            mmap(std::ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &memfd, 0)?
        };
        let mut mapping = Self { base: base.cast(), len, memfd: Some(memfd), sealed: false };
        mapping.back()?;
        // Without either it is mapped, backed and nobody else's, which is all that others may rely on.
        mapping.sealed = mapping.seal().is_ok();
        Ok(mapping)
    }

    fn seal(&mut self) -> io::Result<()> {
        let memfd = self.memfd.as_ref().expect("only memfd mappings are sealed");
        let seals = SealFlags::SHRINK | SealFlags::GROW | SealFlags::FUTURE_WRITE | SealFlags::SEAL;
        let path = format!("/proc/self/fd/{}", memfd.as_raw_fd());
        let reading = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        fcntl_add_seals(memfd, seals)?;
        self.memfd = Some(reading);
        Ok(())
    }

    /// Gives every page of a memfd mapping a physical page now, so that no later write can fail for want of memory.
    fn back(&self) -> io::Result<()> {
        let memfd = self.memfd.as_ref().expect("only memfd mappings are backed ahead of use");
        // The kernel would take page after page until it has to end some process, and not say no.
        if available_bytes().is_some_and(|available| self.len as u64 > available) {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        rustix::fs::fallocate(memfd, rustix::fs::FallocateFlags::empty(), 0, self.len as u64)?;
        // MADV_POPULATE_WRITE also fills this process's page table, so that serving never takes a minor fault.
        // SAFETY: the range is our own mapping; populating changes no content.
        let rc = unsafe { libc::madvise(self.base.cast(), self.len, libc::MADV_POPULATE_WRITE) };
        if rc != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// Keeps a forked child from inheriting the range.
    pub fn keep_from_children(&self) -> io::Result<()> {
        self.span().keep_from_children()
    }

    /// Gives the range up without unmapping it, for an owner that may have to unmap it in parts. Not for a memfd.
    pub fn into_span(self) -> Span {
        assert!(self.memfd.is_none(), "a memfd is closed with its mapping");
        let span = self.span();
        std::mem::forget(self);
        span
    }

    /// First address.
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// Length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// A mapping is never empty; here for the lint that wants it beside `len`.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The descriptor to give away, where that is safe: whoever has it can read, and do nothing else.
    pub fn lent(&self) -> Option<BorrowedFd<'_>> {
        self.memfd.as_ref().filter(|_| self.sealed).map(AsFd::as_fd)
    }

    /// The words from `offset` to the end, as counters that other processes may see; nobody reaches them as bytes.
    pub fn words(&self, offset: usize) -> &[AtomicU64] {
        assert!(offset.is_multiple_of(8) && offset <= self.len, "words are aligned and inside the mapping");
        // SAFETY: the range was checked to lie in the mapping, which is aligned to pages, lives as long as `self` and is
        // writable; all touch these words as atomics alone.
        unsafe { std::slice::from_raw_parts(self.base.add(offset).cast(), (self.len - offset) / 8) }
    }

    /// The whole range. The caller keeps the mapping alive while the span is used.
    pub fn span(&self) -> Span {
        Span { base: self.base, len: self.len }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by us with this length and is unmapped once.
        unsafe {
            let _ = munmap(self.base.cast(), self.len);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_than_the_machine_has_is_refused_before_a_page_is_taken() {
        assert!(available_bytes().expect("this kernel says") > 1 << 20);
        let refused = Mapping::lendable("lent", 1 << 46).expect_err("no machine has so much");
        assert_eq!(refused.kind(), io::ErrorKind::OutOfMemory);
    }
}
