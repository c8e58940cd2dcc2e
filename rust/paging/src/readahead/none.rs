//! Fetches what is touched, and nothing else.

use super::{Advice, Prefetcher};

/// No read-ahead: for windows whose faults are known to be random.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoReadahead;

impl Prefetcher for NoReadahead {
    fn advise(&mut self, _page: u64, _limit: &dyn Fn(u64) -> u32) -> Advice {
        Advice::ONE
    }
}
