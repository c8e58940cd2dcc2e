//! Another process's memory, mapped here to be read.
//!
//! Its owner gives a descriptor away (see [`crate::memory::Mapping::lendable`]); what is mapped stays mapped, with its last
//! content, whatever becomes of the owner. What if the owner shrank it under us? A touch would end this process, so a
//! descriptor that could shrink is not taken. Whether what was read may still be believed, only its owner's word can say.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use rustix::fs::{SealFlags, fcntl_get_seals, fstat, fstatfs};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};

use crate::memory::{PAGE_BYTES, Span};

/// Up to this size the page table is filled when it is mapped, so that no read takes a minor fault; a larger one is filled
/// as it is read, sixteen pages at a time.
const POPULATE_BYTES_MAX: usize = 64 << 20;

/// The kernel's name for plain shared memory (`TMPFS_MAGIC`): huge pages that were promised and are not there end whoever
/// touches them.
const PLAIN: i64 = 0x0102_1994;

/// A range of somebody's memory, for reading.
#[derive(Debug)]
pub struct View {
    base: *mut u8,
    mapped: usize,
    lead: usize,
    len: usize,
}

// SAFETY: the mapping is only ever read, through raw copies, for as long as the view lives.
unsafe impl Send for View {}
// SAFETY: as above.
unsafe impl Sync for View {}

impl View {
    /// Maps `len` bytes at `offset` of what the descriptor is of, and the rest of the pages they lie in. The descriptor is
    /// closed.
    ///
    /// # Errors
    /// `InvalidData` for one that may shrink, is no plain memory, or ends before; out of memory or mappings.
    #[expect(clippy::needless_pass_by_value, reason = "a descriptor that was handed over ends here")]
    pub fn take(descriptor: OwnedFd, offset: u64, len: usize) -> io::Result<Self> {
        let sealed = fcntl_get_seals(&descriptor)?.contains(SealFlags::SHRINK);
        let plain = fstatfs(&descriptor)?.f_type == PLAIN;
        let size = u64::try_from(fstat(&descriptor)?.st_size).unwrap_or(0);
        let inside = offset.checked_add(len as u64).is_some_and(|end| end <= size);
        if !sealed || !plain || !inside || len == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let lead = usize::try_from(offset % PAGE_BYTES as u64).expect("less than a page");
        let mapped = (lead + len).next_multiple_of(PAGE_BYTES);
        let mut flags = MapFlags::SHARED;
        flags.set(MapFlags::POPULATE, mapped <= POPULATE_BYTES_MAX);
        // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing.
        let base =
            unsafe { mmap(std::ptr::null_mut(), mapped, ProtFlags::READ, flags, &descriptor, offset - lead as u64)? };
        let view = Self { base: base.cast(), mapped, lead, len };
        // SAFETY: the range was just mapped by us, whole pages of it.
        let pages = unsafe { Span::from_raw(view.base, mapped) };
        pages.keep_from_children()?;
        Ok(view)
    }

    /// Its length in bytes.
    pub fn len(&self) -> usize {
        self.len
    }

    /// A view is never empty; here for the lint that wants it beside `len`.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Copies from `offset` on as many bytes as `target` is long; `false`, and nothing copied, when that leaves the view. Others
    /// may write meanwhile: the copy then has some of both.
    pub fn copy_to(&self, offset: usize, target: Span) -> bool {
        if offset > self.len || target.len() > self.len - offset {
            return false;
        }
        // SAFETY: bounds were checked; the source is mapped while `self` lives and can neither shrink nor lose pages, for it
        // is sealed; the target is mapped and writable by its constructor's contract, and this process has no other way to
        // write the source, so the two do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(self.base.add(self.lead + offset), target.base(), target.len()) }
        true
    }

    /// The word at `offset`, which is aligned, as its owner last wrote it; `None` when it is not in the view.
    pub fn word(&self, offset: usize) -> Option<u64> {
        if offset > self.len || self.len - offset < 8 || !(self.lead + offset).is_multiple_of(8) {
            return None;
        }
        // SAFETY: bounds and alignment were checked, the mapping lives as long as `self`, and its owner writes words as
        // atomics.
        let word = unsafe { &*self.base.add(self.lead + offset).cast::<AtomicU64>() }.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        Some(word)
    }
}

impl Drop for View {
    fn drop(&mut self) {
        // SAFETY: the range was mapped by us with this length and is unmapped once.
        unsafe {
            let _ = munmap(self.base.cast(), self.mapped);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use rustix::fs::{FallocateFlags, MemfdFlags, memfd_create};

    use super::*;
    use crate::memory::Mapping;

    fn handed_over(mapping: &Mapping) -> OwnedFd {
        mapping.lent().expect("this kernel seals").try_clone_to_owned().expect("a descriptor")
    }

    #[test]
    fn a_view_shows_a_range_as_its_owner_writes_it() {
        let mapping = Mapping::lendable("lent", 4 * PAGE_BYTES).expect("memory");
        let view = View::take(handed_over(&mapping), 5000, 6000).expect("it is sealed");
        mapping.span().part(5000, 3).expect("inside").copy_from(b"abc");
        let mut seen = [0; 3];
        assert!(view.copy_to(0, Span::of(&mut seen)));
        assert_eq!(&seen, b"abc");
        mapping.span().part(10_997, 3).expect("inside").copy_from(b"xyz");
        assert!(view.copy_to(5997, Span::of(&mut seen)));
        assert_eq!(&seen, b"xyz");
        assert!(!view.copy_to(5998, Span::of(&mut seen)) && !view.copy_to(usize::MAX, Span::of(&mut seen)));
        drop(mapping);
        assert!(view.copy_to(5997, Span::of(&mut seen)), "what is mapped stays");
        assert_eq!(&seen, b"xyz");
    }

    #[test]
    fn a_word_is_seen_as_it_was_written_last() {
        let mapping = Mapping::lendable("lent", 2 * PAGE_BYTES).expect("memory");
        let view = View::take(handed_over(&mapping), 0, 2 * PAGE_BYTES).expect("it is sealed");
        let words = mapping.words(PAGE_BYTES);
        words[511].store(7, Ordering::Release);
        assert_eq!((words.len(), view.word(2 * PAGE_BYTES - 8)), (512, Some(7)));
        assert_eq!((view.word(2 * PAGE_BYTES - 7), view.word(4), view.word(usize::MAX)), (None, None, None));
    }

    #[test]
    fn what_was_given_away_can_be_neither_written_nor_cut_short() {
        let mapping = Mapping::lendable("lent", 2 * PAGE_BYTES).expect("memory");
        let theirs = handed_over(&mapping);
        // Opened again for writing, as a process of the same user may: the seals hold whatever the descriptor.
        let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&theirs));
        let reopened = rustix::fs::open(path, rustix::fs::OFlags::RDWR, rustix::fs::Mode::empty());
        for descriptor in [Some(theirs.as_fd()), reopened.as_ref().ok().map(AsFd::as_fd)].into_iter().flatten() {
            let rights = ProtFlags::READ | ProtFlags::WRITE;
            // SAFETY: a fresh mapping at an address of the kernel's choice aliases nothing, and none is made.
            let writing = unsafe { mmap(std::ptr::null_mut(), PAGE_BYTES, rights, MapFlags::SHARED, descriptor, 0) };
            assert!(writing.is_err(), "it was mapped for writing");
            assert!(rustix::io::pwrite(descriptor, b"x", 0).is_err(), "it was written");
            assert!(rustix::fs::ftruncate(descriptor, 0).is_err(), "it was cut short");
            let hole = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            assert!(rustix::fs::fallocate(descriptor, hole, 0, PAGE_BYTES as u64).is_err(), "a page was taken out");
        }
    }

    #[test]
    fn what_may_shrink_or_is_too_short_is_not_taken() {
        let plain = memfd_create("plain", MemfdFlags::CLOEXEC).expect("memory");
        rustix::fs::ftruncate(&plain, 8192).expect("memory");
        assert_eq!(View::take(plain, 0, 4096).expect_err("it may shrink").kind(), io::ErrorKind::InvalidData);
        let mapping = Mapping::lendable("lent", PAGE_BYTES).expect("memory");
        for (offset, len) in [(0, PAGE_BYTES + 1), (4096, 1), (u64::MAX, 2), (0, 0)] {
            assert!(View::take(handed_over(&mapping), offset, len).is_err(), "{len} bytes at {offset}");
        }
    }
}
