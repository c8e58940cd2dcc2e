//! What to fetch besides the page that was touched: a trait, and one file for each choice.
//!
//! A prefetcher sees the faults of a window in the order they were read and answers how many pages to have at once, and
//! how many after those to set on their way. It knows pages, not homes; `limit` tells it how far one request may reach.

mod none;
mod sequential;

pub use none::NoReadahead;
pub use sequential::SequentialReadahead;

/// Most pages that one request brings: 256 KiB, where the cost of a request has become small beside that of its bytes.
pub const WINDOW_PAGES_MAX: u32 = 64;

/// What to fetch for one fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advice {
    /// Pages to have now, the faulted one first; at least 1.
    pub now: u32,
    /// Pages right after those to have on their way before anybody touches them.
    pub ahead: u32,
}

impl Advice {
    /// The faulted page and nothing else.
    pub const ONE: Self = Self { now: 1, ahead: 0 };
}

/// A choice of what to fetch ahead.
pub trait Prefetcher: Send {
    /// What to fetch for a fault on `page`. `limit(page)` is how many pages one request from `page` on may bring; 0 past
    /// the window's end.
    fn advise(&mut self, page: u64, limit: &dyn Fn(u64) -> u32) -> Advice;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// What one prefetcher made of one trace.
    #[derive(Debug, PartialEq, Eq)]
    struct Outcome {
        faults: usize,
        pages: usize,
    }

    const PAGES: u64 = 4096;
    const EXTENT_PAGES: u64 = 512;

    /// Touches the pages of `trace` in order, against a window where nothing is resident at first. What was sent ahead is
    /// resident once the fault that it was sent for is over, as it would be for a home that answers quickly, but for the
    /// last run: the pager leaves that in the socket until its first page is touched.
    fn replay(prefetcher: &mut dyn Prefetcher, trace: &[u64]) -> Outcome {
        let limit = |page: u64| {
            if page < PAGES { (EXTENT_PAGES - page % EXTENT_PAGES).min(u64::from(WINDOW_PAGES_MAX)) as u32 } else { 0 }
        };
        let mut resident = HashSet::new();
        let mut requested = HashSet::new();
        let mut faults = 0;
        for &page in trace {
            if resident.contains(&page) {
                continue;
            }
            faults += 1;
            let advice = prefetcher.advise(page, &limit);
            assert!(advice.now >= 1 && advice.now <= limit(page), "{advice:?} at {page}");
            assert!(advice.ahead <= limit(page + u64::from(advice.now)), "{advice:?} at {page}");
            resident.extend(page..page + u64::from(advice.now));
            requested.extend(page..page + u64::from(advice.now + advice.ahead));
        }
        Outcome { faults, pages: requested.len() }
    }

    fn shuffled(count: u64) -> Vec<u64> {
        let mut pages: Vec<u64> = (0..count).collect();
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        for index in (1..pages.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            pages.swap(index, (state >> 33) as usize % (index + 1));
        }
        pages
    }

    /// The recorded trace of a program that walks two arrays side by side and looks into a table at random.
    fn mixed() -> Vec<u64> {
        let table = shuffled(256);
        (0..512).flat_map(|step| [step, 1024 + step, 3072 + table[step as usize % 256] * 2]).collect()
    }

    #[test]
    fn a_program_that_takes_its_time_between_pages_stays_on_its_walk() {
        let mut prefetcher = SequentialReadahead::default();
        let limit = |page: u64| (PAGES - page).min(u64::from(WINDOW_PAGES_MAX)) as u32;
        let (mut page, mut faults) = (0, 0);
        while page < PAGES {
            // Everything that was asked for is there before the next page is touched.
            let advice = prefetcher.advise(page, &limit);
            page += u64::from(advice.now + advice.ahead);
            faults += 1;
        }
        assert_eq!(faults, 37);
    }

    #[test]
    fn every_choice_on_every_trace() {
        let sequential: Vec<u64> = (0..PAGES).collect();
        let strided: Vec<u64> = (0..PAGES).step_by(16).collect();
        let backwards: Vec<u64> = (0..256).rev().collect();
        let table: [(&str, &[u64], Outcome, Outcome); 5] = [
            // trace, no read-ahead, sequential read-ahead
            ("sequential", &sequential, Outcome { faults: 4096, pages: 4096 }, Outcome { faults: 70, pages: 4096 }),
            ("strided", &strided, Outcome { faults: 256, pages: 256 }, Outcome { faults: 256, pages: 256 }),
            ("backwards", &backwards, Outcome { faults: 256, pages: 256 }, Outcome { faults: 256, pages: 256 }),
            ("random", &shuffled(PAGES), Outcome { faults: 4096, pages: 4096 }, Outcome { faults: 4096, pages: 4096 }),
            ("mixed", &mixed(), Outcome { faults: 1280, pages: 1280 }, Outcome { faults: 284, pages: 1408 }),
        ];
        for (name, trace, none, sequential) in table {
            assert_eq!(replay(&mut NoReadahead, trace), none, "{name}, none");
            assert_eq!(replay(&mut SequentialReadahead::default(), trace), sequential, "{name}, sequential");
        }
    }
}
