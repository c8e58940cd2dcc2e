//! Who owns each page of one window: the local view, which only this process changes.
//!
//! A page nobody asked about is [`Owner::Unknown`]. The first touch claims it; a claim that others must see is a message
//! to the page's home and not made here. Reads and claims take no lock, since fault threads make them.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Pages that are allocated together when the first of them gets an owner: 2 MiB of window for 2 KiB of directory.
const CHUNK_PAGES: u64 = 512;

const UNKNOWN: u32 = 0;
const LOCAL: u32 = 1;
/// Node `n` is kept as `n + 2`.
const REMOTE_FIRST: u32 = 2;
/// Largest node number that fits.
const NODE_MAX: u32 = u32::MAX - REMOTE_FIRST;

/// Who owns a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// Nobody that this window knows of: the page was never touched.
    Unknown,
    /// This process.
    Local,
    /// The node of this number; the caller keeps which node that is.
    Remote(u32),
}

type Chunk = Box<[AtomicU32]>;

/// Page number → owner, for the pages of one window. Sparse: what was never claimed costs sixteen bytes for each 2 MiB.
#[derive(Debug)]
pub struct PageDirectory {
    chunks: Box<[OnceLock<Chunk>]>,
    pages: u64,
    known: AtomicU64,
}

impl PageDirectory {
    /// A directory for pages `0..pages`, all unknown.
    pub fn new(pages: u64) -> Self {
        let chunks = (0..pages.div_ceil(CHUNK_PAGES)).map(|_| OnceLock::new()).collect();
        Self { chunks, pages, known: AtomicU64::new(0) }
    }

    /// How many pages it can speak of.
    pub fn pages(&self) -> u64 {
        self.pages
    }

    /// Who owns `page`; a page outside the window is nobody's.
    pub fn get_owner(&self, page: u64) -> Owner {
        let chunk = self.chunks.get((page / CHUNK_PAGES) as usize).and_then(OnceLock::get);
        chunk.map_or(Owner::Unknown, |chunk| decode(chunk[(page % CHUNK_PAGES) as usize].load(Ordering::Acquire)))
    }

    /// First touch: makes an unknown page local and answers whether it was this call that did.
    ///
    /// # Panics
    /// When `page` is outside the window.
    pub fn claim_page(&self, page: u64) -> bool {
        let claimed = self.slot(page).compare_exchange(UNKNOWN, LOCAL, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if claimed {
            self.known.fetch_add(1, Ordering::Relaxed);
        }
        claimed
    }

    /// Makes `owner` the owner of `page`, whoever it was before.
    ///
    /// # Panics
    /// When `page` is outside the window, or the node's number is one of the last two that 32 bits hold.
    pub fn set_owner(&self, page: u64, owner: Owner) {
        let before = self.slot(page).swap(encode(owner), Ordering::AcqRel);
        match (before == UNKNOWN, owner == Owner::Unknown) {
            (true, false) => drop(self.known.fetch_add(1, Ordering::Relaxed)),
            (false, true) => drop(self.known.fetch_sub(1, Ordering::Relaxed)),
            _ => {}
        }
    }

    /// How many pages have an owner.
    pub fn page_count(&self) -> u64 {
        self.known.load(Ordering::Relaxed)
    }

    fn slot(&self, page: u64) -> &AtomicU32 {
        assert!(page < self.pages, "page {page} is outside a window of {} pages", self.pages);
        let chunk = self.chunks[(page / CHUNK_PAGES) as usize]
            .get_or_init(|| (0..CHUNK_PAGES).map(|_| AtomicU32::new(UNKNOWN)).collect());
        &chunk[(page % CHUNK_PAGES) as usize]
    }
}

fn encode(owner: Owner) -> u32 {
    match owner {
        Owner::Unknown => UNKNOWN,
        Owner::Local => LOCAL,
        Owner::Remote(node) => {
            assert!(node <= NODE_MAX, "node number {node} is too large");
            node + REMOTE_FIRST
        }
    }
}

fn decode(raw: u32) -> Owner {
    match raw {
        UNKNOWN => Owner::Unknown,
        LOCAL => Owner::Local,
        node => Owner::Remote(node - REMOTE_FIRST),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_nobody_touched_is_unknown() {
        let directory = PageDirectory::new(1000);
        assert_eq!(directory.get_owner(42), Owner::Unknown);
        assert_eq!(directory.get_owner(5_000_000), Owner::Unknown);
        assert_eq!(directory.page_count(), 0);
    }

    #[test]
    fn the_first_touch_claims_and_the_second_does_not() {
        let directory = PageDirectory::new(1000);
        assert!(directory.claim_page(42));
        assert!(!directory.claim_page(42));
        assert_eq!(directory.get_owner(42), Owner::Local);
    }

    #[test]
    fn an_owner_that_is_set_replaces_the_one_before() {
        let directory = PageDirectory::new(1000);
        directory.claim_page(7);
        directory.set_owner(7, Owner::Remote(3));
        assert_eq!(directory.get_owner(7), Owner::Remote(3));
        assert!(!directory.claim_page(7));
        directory.set_owner(7, Owner::Unknown);
        assert_eq!((directory.get_owner(7), directory.page_count()), (Owner::Unknown, 0));
    }

    #[test]
    fn many_pages_have_owners_of_their_own() {
        let directory = PageDirectory::new(2000);
        for page in 0..1000 {
            directory.set_owner(page, if page % 2 == 0 { Owner::Local } else { Owner::Remote(page as u32) });
        }
        assert_eq!(directory.page_count(), 1000);
        assert_eq!(directory.get_owner(998), Owner::Local);
        assert_eq!(directory.get_owner(999), Owner::Remote(999));
    }

    #[test]
    fn owners_are_equal_by_kind_and_node_and_copies_are_equal() {
        let owner = Owner::Remote(1);
        let copy = owner;
        assert_eq!(owner, copy);
        assert_ne!(Owner::Remote(1), Owner::Remote(2));
        assert_ne!(Owner::Local, Owner::Unknown);
    }

    #[test]
    fn a_page_is_4096_bytes() {
        assert_eq!(crate::PAGE_BYTES, 4096);
    }

    #[test]
    fn of_threads_that_touch_a_page_at_once_exactly_one_claims_it() {
        let directory = PageDirectory::new(512);
        let claims: usize = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..512).filter(|&page| directory.claim_page(page)).count())).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!((claims, directory.page_count()), (512, 512));
    }
}
