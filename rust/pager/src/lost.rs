//! Pages that were given up: what is known of each, and the line that says so before the process gets SIGBUS.
//!
//! A page is lost when its home did not give it by the deadline and a thread waits for it. The thread must go on, and
//! not with zeros. So the page is poisoned: every touch raises SIGBUS. The line on standard error comes first, since
//! the signal usually ends the process. Whoever *asks* for the page afterwards (`read`, `prefetch`) gets
//! [`PageUnavailable`] from what is kept here. `madvise(MADV_DONTNEED)` on the page, or writing the whole of it, makes
//! it an ordinary page again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use weft_paging::PAGE_BYTES;

use crate::error::PageUnavailable;
use crate::lock::Held;
use crate::source::FetchError;

/// Page → why it was lost. Bounded by the pages of the window, each of which cost somebody a fault and a deadline.
#[derive(Debug)]
pub struct LostPages {
    region: String,
    pages: Mutex<BTreeMap<u64, Arc<FetchError>>>,
    /// As many as the map holds, so that the usual question, of none, takes no lock.
    count: AtomicUsize,
}

impl LostPages {
    /// None lost yet.
    pub fn new(region: String) -> Self {
        Self { region, pages: Mutex::default(), count: AtomicUsize::new(0) }
    }

    /// The region's name.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Keeps that `page` is lost; `false` when that was known.
    pub fn insert(&self, page: u64, error: &Arc<FetchError>) -> bool {
        let mut pages = self.pages.held();
        let new = pages.insert(page, Arc::clone(error)).is_none();
        self.count.store(pages.len(), Ordering::Release);
        new
    }

    /// Pages `first..end` are ordinary pages again.
    pub fn remove(&self, first: u64, end: u64) {
        if self.count.load(Ordering::Acquire) == 0 {
            return;
        }
        let mut pages = self.pages.held();
        pages.retain(|page, _| !(first..end).contains(page));
        self.count.store(pages.len(), Ordering::Release);
    }

    /// The first lost page of `first..end`.
    pub fn first_in(&self, first: u64, end: u64) -> Option<u64> {
        if self.count.load(Ordering::Acquire) == 0 || first >= end {
            return None;
        }
        self.pages.held().range(first..end).next().map(|(page, _)| *page)
    }

    /// Calls `found` for every lost page.
    pub fn each(&self, found: impl FnMut(u64)) {
        if self.count.load(Ordering::Acquire) > 0 {
            self.pages.held().keys().copied().for_each(found);
        }
    }

    /// What is known of `page`, if it is lost.
    pub fn unavailable(&self, page: u64) -> Option<PageUnavailable> {
        let error = self.pages.held().get(&page).map(Arc::clone)?;
        Some(self.describe(page, &error))
    }

    /// An error of a home as what it means for `page`.
    pub fn describe(&self, page: u64, error: &FetchError) -> PageUnavailable {
        PageUnavailable {
            region: self.region.clone(),
            offset: page * PAGE_BYTES,
            node: error.node.clone(),
            code: error.code,
            reason: error.detail.clone(),
            temporary: error.temporary,
        }
    }
}

/// Says on standard error that a page is lost, in one `write`, so that lines of several threads do not mix, and past
/// every buffer, since the process may end right after.
pub fn announce(region: &str, offset: u64, node: &str, code: &str, reason: &str) {
    let remedy = match code {
        "extent_lost" => "What it held is gone: delete the region, make it anew and fill it again.",
        "stale_generation" => "Another attachment took the region over: attach it again when that one is done.",
        "grant_expired" => "The attachment was not renewed: attach the region again.",
        _ => "See `weft status` for what still runs, then attach the region again.",
    };
    let reason = reason.trim_end_matches(['.', '?']);
    let line = format!(
        "weft: page lost: region {region} offset {offset:#x} node {node}: {reason}. Touching it raises SIGBUS. {remedy}\n"
    );
    // There is nobody to tell when standard error is closed.
    let _ = rustix::io::write(rustix::stdio::stderr(), line.as_bytes());
}
