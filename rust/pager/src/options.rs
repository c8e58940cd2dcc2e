//! The numbers a pager works with, each with what set it.

use std::time::Duration;

use weft_paging::readahead::{NoReadahead, Prefetcher, SequentialReadahead};
use weft_sys::cpu;

/// Most fault threads by default. Each may wait for one home, so this is how many homes may be slow at a time before
/// faults on the others wait; more threads than CPUs buy nothing else.
const THREADS_MAX: usize = 4;

/// What is fetched besides the page that was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Readahead {
    /// Nothing.
    None,
    /// The pages after it, where faults walk.
    Sequential,
}

impl Readahead {
    pub(crate) fn prefetcher(self) -> Box<dyn Prefetcher> {
        match self {
            Self::None => Box::new(NoReadahead),
            Self::Sequential => Box::new(SequentialReadahead::default()),
        }
    }
}

/// How a pager works.
#[derive(Clone, Debug)]
pub struct Options {
    /// Fault threads; at least one.
    pub threads: usize,
    /// How long a fault may take before its page is given up.
    pub fault_deadline: Duration,
    /// How long a fault thread looks for the next fault before it sleeps, while recent waits ended inside it; zero to
    /// sleep at once. Bounded by 50 µs, which is what a wake-up costs, and not used on one CPU.
    pub spin: Duration,
    /// What is fetched ahead.
    pub readahead: Readahead,
}

impl Default for Options {
    fn default() -> Self {
        let cpus = cpu::allowed_count();
        Self {
            threads: cpus.clamp(1, THREADS_MAX),
            fault_deadline: Duration::from_secs(5),
            spin: Duration::from_micros(50),
            readahead: Readahead::Sequential,
        }
    }
}
