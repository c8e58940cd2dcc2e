//! `PAGEMAP_SCAN` (Linux 6.7): which pages of this process are there, and which were written since they were last
//! protected. See `Documentation/admin-guide/mm/pagemap.rst`.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

/// Runs of pages that one call reports at most; sixteen kilobytes on the stack of whoever scans.
const REGIONS_MAX: usize = 512;

const PAGE_IS_WRITTEN: u64 = 1 << 1;
const PAGE_IS_PRESENT: u64 = 1 << 3;
const PAGE_IS_SWAPPED: u64 = 1 << 4;
const PAGE_IS_PFNZERO: u64 = 1 << 5;

const PM_SCAN_WP_MATCHING: u64 = 1 << 0;
const PM_SCAN_CHECK_WPASYNC: u64 = 1 << 1;

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct PageRegion {
    start: u64,
    end: u64,
    categories: u64,
}

/// `struct pm_scan_arg`.
#[repr(C)]
#[derive(Default)]
struct ScanArgument {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    vec: u64,
    vec_len: u64,
    max_pages: u64,
    category_inverted: u64,
    category_mask: u64,
    category_anyof_mask: u64,
    return_mask: u64,
}

/// `_IOWR('f', 16, struct pm_scan_arg)`.
const PAGEMAP_SCAN: libc::c_ulong = (3 << 30) | ((size_of::<ScanArgument>() as libc::c_ulong) << 16) | 0x6610;

/// This process's page tables, seen from above.
#[derive(Debug)]
pub struct Pagemap {
    file: File,
}

impl Pagemap {
    /// Opens this process's own.
    ///
    /// # Errors
    /// Where `/proc` is not mounted.
    pub fn open() -> io::Result<Self> {
        Ok(Self { file: File::open("/proc/self/pagemap")? })
    }

    /// Whether this kernel knows `PAGEMAP_SCAN`.
    pub fn can_scan(&self) -> bool {
        let mut argument = ScanArgument { size: size_of::<ScanArgument>() as u64, ..ScanArgument::default() };
        // SAFETY: an empty range with no result vector; the kernel writes only `walk_end` of a live struct.
        unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) == 0 }
    }

    /// Calls `found(start, end)` for every run of pages in `start..end` that was written since it was last protected,
    /// and in the same breath protects it: a write from here on is found by the next scan. The range must be registered
    /// for asynchronous write protection. Pages that are still the shared page of zeros were never written and do not
    /// count, whether protected or not; missing pages neither. Poisoned pages may be reported.
    ///
    /// # Errors
    /// `EPERM` when the range is not registered so. What was found before the error has been reported and protected.
    pub fn take_written(&self, start: u64, end: u64, found: impl FnMut(u64, u64)) -> io::Result<()> {
        // "Written" alone would also match empty entries on the kernel's fast path; a page that counts is in memory or
        // swapped out, and its frame is its own.
        let argument = ScanArgument {
            flags: PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC,
            category_inverted: PAGE_IS_PFNZERO,
            category_mask: PAGE_IS_WRITTEN | PAGE_IS_PFNZERO,
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_WRITTEN,
            ..ScanArgument::default()
        };
        self.scan(argument, start, end, found)
    }

    /// Calls `found(start, end)` for every run of pages that a touch would not miss: in memory, swapped out, or poisoned.
    ///
    /// # Errors
    /// Whatever the scan says.
    pub fn resident(&self, start: u64, end: u64, found: impl FnMut(u64, u64)) -> io::Result<()> {
        let argument = ScanArgument {
            category_anyof_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            return_mask: PAGE_IS_PRESENT | PAGE_IS_SWAPPED,
            ..ScanArgument::default()
        };
        self.scan(argument, start, end, found)
    }

    fn scan(
        &self,
        mut argument: ScanArgument,
        start: u64,
        end: u64,
        mut found: impl FnMut(u64, u64),
    ) -> io::Result<()> {
        let mut regions = [PageRegion::default(); REGIONS_MAX];
        argument.size = size_of::<ScanArgument>() as u64;
        argument.start = start;
        argument.end = end;
        argument.vec_len = REGIONS_MAX as u64;
        while argument.start < end {
            argument.vec = regions.as_mut_ptr() as u64;
            // SAFETY: the argument and the vector it points to are live for the call and of the length it says; the
            // kernel writes at most `vec_len` regions. The scan itself reads page tables and sets protection bits.
            let count = unsafe { libc::ioctl(self.file.as_raw_fd(), PAGEMAP_SCAN, &raw mut argument) };
            if count < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
            for region in &regions[..usize::try_from(count).expect("not negative")] {
                found(region.start, region.end);
            }
            // The walk ends early when the vector is full; an end that stands still would loop for ever.
            if argument.walk_end <= argument.start {
                return Err(io::Error::other("the page map scan made no progress"));
            }
            argument.start = argument.walk_end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::{Mapping, PAGE_BYTES};
    use crate::uffd::{Features, Uffd};

    fn runs(mapping: &Mapping, scan: impl FnOnce(u64, u64, &mut Vec<(u64, u64)>)) -> Vec<(u64, u64)> {
        let base = mapping.base() as u64;
        let mut found = Vec::new();
        scan(base, base + mapping.len() as u64, &mut found);
        found
            .iter()
            .map(|(start, end)| ((start - base) / PAGE_BYTES as u64, (end - base) / PAGE_BYTES as u64))
            .collect()
    }

    #[test]
    fn the_scan_has_the_number_of_the_kernel_header() {
        assert_eq!(PAGEMAP_SCAN, 0xC060_6610);
    }

    #[test]
    fn written_pages_are_found_once_and_zero_or_protected_pages_never() {
        let wanted = Features::WRITE_PROTECT.with(Features::WRITE_PROTECT_ASYNC);
        let Ok(uffd) = Uffd::open(wanted) else {
            eprintln!("skipped: no userfaultfd with asynchronous write protection here");
            return;
        };
        let pagemap = Pagemap::open().expect("pagemap");
        let window = Mapping::anonymous(16 * PAGE_BYTES, true).expect("window");
        let source = Mapping::anonymous(16 * PAGE_BYTES, true).expect("source");
        uffd.register(window.span(), true).expect("register");
        let page = |index: usize| window.span().part(index * PAGE_BYTES, PAGE_BYTES).expect("page");
        let address = |index: usize| page(index).base() as u64;
        uffd.copy(address(0), source.span().part(0, 4 * PAGE_BYTES).expect("part"), true).expect("protected copy");
        uffd.zero(address(6), 2 * PAGE_BYTES).expect("zero pages");
        uffd.copy(address(10), page_of(&source), false).expect("copy that counts as written");
        page(1).copy_from(&[1]);
        page(7).copy_from(&[1]);

        let take = |start, end, found: &mut Vec<(u64, u64)>| {
            pagemap.take_written(start, end, |start, end| found.push((start, end))).expect("scan");
        };
        assert_eq!(runs(&window, take), [(1, 2), (7, 8), (10, 11)]);
        assert_eq!(runs(&window, take), []);
        page(2).copy_from(&[1]);
        page(6).copy_from(&[1]);
        assert_eq!(runs(&window, take), [(2, 3), (6, 7)]);
        let resident = |start, end, found: &mut Vec<(u64, u64)>| {
            pagemap.resident(start, end, |start, end| found.push((start, end))).expect("scan");
        };
        assert_eq!(runs(&window, resident), [(0, 4), (6, 8), (10, 11)]);
    }

    fn page_of(mapping: &Mapping) -> crate::memory::Span {
        mapping.span().part(0, PAGE_BYTES).expect("page")
    }
}
