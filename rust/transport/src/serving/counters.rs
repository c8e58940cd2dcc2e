//! What a server counted since it started. Every number is shown by `weft status` or the metrics; none is kept for itself.

use std::sync::atomic::{AtomicU64, Ordering};

use weft_wire::Code;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// Monotonic counts, readable at any time.
        #[derive(Debug, Default)]
        pub struct Counters {
            $($(#[$doc])* pub $name: AtomicU64,)*
            refused: [AtomicU64; Code::ALL.len()],
        }

        impl Counters {
            /// Every count with its name; refusals by code.
            pub fn list(&self) -> Vec<(String, u64)> {
                let mut list = vec![$((stringify!($name).to_owned(), self.$name.load(Ordering::Relaxed)),)*];
                for (code, count) in Code::ALL.iter().zip(&self.refused) {
                    list.push((format!("refused_{}", code.name()), count.load(Ordering::Relaxed)));
                }
                list
            }
        }
    };
}

counters! {
    /// Connections accepted.
    connections_accepted,
    /// Connections that ended.
    connections_closed,
    /// Connections turned away because the table was full.
    connections_turned_away,
    /// Connections closed because a frame or an answer was not finished in time.
    connections_stalled,
    /// Connections ended because TLS could not be spoken on them.
    tls_refused,
    /// Grants opened.
    grants_opened,
    /// Reads answered.
    reads,
    /// Bytes sent in answers to reads.
    read_bytes,
    /// Pages answered as zero, without bytes.
    zero_pages,
    /// Writes carried out.
    writes,
    /// Bytes received by writes.
    write_bytes,
    /// Messages taken in, pings included.
    messages,
}

impl Counters {
    /// Counts a refusal.
    pub fn refuse(&self, code: Code) {
        self.refused[code as usize - 1].fetch_add(1, Ordering::Relaxed);
    }

    /// Refusals with this code.
    pub fn refused(&self, code: Code) -> u64 {
        self.refused[code as usize - 1].load(Ordering::Relaxed)
    }

    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }
}
