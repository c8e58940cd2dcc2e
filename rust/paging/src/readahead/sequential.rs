//! Follows walks: a fault right after another, twice in a row, opens a window that doubles with each further one.
//!
//! The state is a few *walks*, each the page it expects next. A fault that no walk expects replaces the one that was
//! followed longest ago, those without a window first: random accesses in between do not end a walk, and alone they never
//! open one, since they would have to hit the next page of a recent fault twice in a row.
//!
//! ```text
//! fault at    7        8        9 ─ opens       13               21
//! have now    7        8        9..13           13..21           21..37
//! on its way                    13..21          21..37           37..69    (to 64 pages each)
//! ```

use super::{Advice, Prefetcher, WINDOW_PAGES_MAX};

/// Walks followed at a time: as many arrays as one loop is likely to read side by side.
const WALKS_MAX: usize = 8;
/// Faults elsewhere that an open walk outlives. With a full window it faults once in 64 pages, and random accesses
/// between two pages must not end it.
const PATIENCE_FAULTS: u64 = 512;
/// Pages of a window that has just opened.
const WINDOW_PAGES_FIRST: u32 = 4;

#[derive(Clone, Copy, Debug, Default)]
struct Walk {
    /// The page that continues it.
    next: u64,
    /// Pages from `next` on that are on their way.
    ahead: u32,
    /// Pages of the next batch, where a stretch is that long; 0 until the window opens.
    window: u32,
    /// Faults in a row that continued it.
    followed: u32,
    /// When it was last followed, in faults seen.
    at: u64,
}

impl Walk {
    /// Whether it has a window, and is not yet forgotten after `faults` faults.
    fn is_open(&self, faults: u64) -> bool {
        self.followed >= 2 && faults - self.at < PATIENCE_FAULTS
    }

    /// Whether a fault on `page` continues it: at the page it expects, among those on their way, or right behind those,
    /// which a program that takes its time finds there when it gets to them.
    fn expects(&self, page: u64) -> bool {
        self.at > 0 && page >= self.next && page - self.next <= u64::from(self.ahead)
    }
}

/// Read-ahead that doubles from 4 pages to 64, with the next batch in flight.
#[derive(Clone, Debug, Default)]
pub struct SequentialReadahead {
    walks: [Walk; WALKS_MAX],
    faults: u64,
}

impl Prefetcher for SequentialReadahead {
    fn advise(&mut self, page: u64, limit: &dyn Fn(u64) -> u32) -> Advice {
        self.faults += 1;
        let Some(walk) = self.walks.iter_mut().find(|walk| walk.expects(page)) else {
            let faults = self.faults;
            let oldest = self.walks.iter_mut().min_by_key(|walk| (walk.is_open(faults), walk.at)).expect("some");
            *oldest = Walk { next: page + 1, at: self.faults, ..Walk::default() };
            return Advice::ONE;
        };
        walk.at = self.faults;
        walk.followed += 1;
        if walk.followed < 2 {
            walk.next = page + 1;
            return Advice::ONE;
        }
        // What is on its way already is the batch of this fault, or what is left of it behind the page.
        let mut now = walk.ahead - (page - walk.next) as u32;
        if now == 0 {
            walk.window = walk.window.max(WINDOW_PAGES_FIRST);
            now = walk.window.min(limit(page));
        }
        walk.window = (2 * walk.window).min(WINDOW_PAGES_MAX);
        walk.next = page + u64::from(now);
        walk.ahead = walk.window.min(limit(walk.next));
        Advice { now, ahead: walk.ahead }
    }
}
