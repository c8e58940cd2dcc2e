//! What a pager did, as numbers that only grow.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `amount`.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// As of now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters of one pager.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: Counter,)*
        }

        impl Counters {
            /// Every counter by its name, as of now.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get()),)*]
            }
        }
    };
}

counters! {
    /// Faults that joined a fetch of the same page.
    faults_coalesced,
    /// Faults outside the window as it is now: memory that `mremap` added.
    faults_outside,
    /// Pages installed with bytes, by faults, read-ahead and prefetch together.
    pages_installed,
    /// Pages installed as zeros that nobody had written.
    pages_zero,
    /// Pages that came and were there already.
    pages_present,
    /// Pages that were asked for ahead of any touch.
    pages_ahead,
    /// Pages given up: poisoned.
    pages_lost,
    /// Pages given up by the watchdog because their fault thread was stuck.
    watchdog_rescues,
    /// Bytes that came from homes.
    bytes_fetched,
    /// Bytes that came home by `flush`.
    bytes_flushed,
    /// `mremap`, `munmap` and `madvise` calls on the window.
    events,
}
