//! A fault thread beside the thread whose walk it serves: on its CPU, for as long as the walk lasts.
//!
//! A walk takes turns: the fault thread installs 64 pages, then the toucher runs through them, then it faults again. On two
//! CPUs each turn is a wake-up of the other CPU, and the pages just copied are read out of the other's cache; on one, a
//! turn is a switch of threads. Measured with 64-page batches on two CPUs: 0.85 million pages a second beside the toucher,
//! 0.58 million apart, and before this the scheduler chose one or the other once and kept to it.
//!
//! * What if the toucher moves? Where it runs is read again every [`RECHECK_BATCHES`].
//! * What if several threads walk? Each is served by whichever fault thread reads its faults; a fault thread whose faults
//!   are not one thread's stays where the scheduler puts it.
//! * What if the walk ends? The first fault outside it, or the first sleep that ends without a fault, sets the thread free.

use weft_sys::cpu::{Cpus, last_cpu_of, pin_to};

/// Batches in a row, each for the same thread and asked for before it was touched, that make a walk worth moving for.
const FOLLOW_BATCHES: u32 = 8;
/// Batches after which it is asked again where the toucher runs: 16 MiB, beside which a read of /proc is nothing.
const RECHECK_BATCHES: u32 = 64;

/// Where one fault thread runs, and for whom.
#[derive(Debug)]
pub(crate) struct Stream {
    /// Where it may run; `None` where there is no choice or the kernel does not say.
    free: Option<Cpus>,
    /// The thread whose walk is served; 0 while there is none.
    toucher: u32,
    /// Batches of that walk.
    batches: u32,
    /// The CPU it has moved to.
    beside: Option<usize>,
}

impl Stream {
    /// Of a thread that may run on `free`.
    pub fn new(free: Option<Cpus>) -> Self {
        Self { free: free.filter(|cpus| cpus.count() > 1), toucher: 0, batches: 0, beside: None }
    }

    /// Whether it shares the CPU of the toucher, which cannot fault while this thread looks for its fault.
    pub fn is_beside(&self) -> bool {
        self.beside.is_some()
    }

    /// A batch that was asked for ahead was touched by `thread` (0 where the kernel does not say).
    pub fn went_on(&mut self, thread: u32) {
        let Some(free) = &self.free else { return };
        if thread == 0 || thread != self.toucher {
            self.end();
            self.toucher = thread;
            return;
        }
        self.batches = self.batches.wrapping_add(1);
        if self.batches == FOLLOW_BATCHES || self.batches.is_multiple_of(RECHECK_BATCHES) {
            let runs_on = last_cpu_of(thread).filter(|&cpu| free.has(cpu));
            if runs_on.is_some() && runs_on != self.beside {
                self.beside = runs_on.filter(|&cpu| pin_to(cpu).is_ok());
            }
        }
    }

    /// The walk has ended, or nobody knows whether it goes on.
    pub fn end(&mut self) {
        self.toucher = 0;
        self.batches = 0;
        if let (Some(_), Some(free)) = (self.beside.take(), &self.free) {
            // Fails only where the CPUs it was born with are gone; then the one it is on is as good.
            let _ = free.confine();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A walk of this many batches by the calling thread.
    fn walk(stream: &mut Stream, batches: u32) {
        for _ in 0..batches {
            stream.went_on(rustix::thread::gettid().as_raw_pid() as u32);
        }
    }

    #[test]
    fn a_walk_is_joined_after_a_few_batches_and_left_when_it_ends() {
        let Some(free) = Cpus::allowed().ok().filter(|cpus| cpus.count() > 1) else { return };
        let mut stream = Stream::new(Some(free));
        walk(&mut stream, FOLLOW_BATCHES);
        assert!(!stream.is_beside());
        walk(&mut stream, 1);
        assert!(stream.is_beside());
        assert_eq!(Cpus::allowed().expect("affinity").count(), 1);
        stream.end();
        assert!(!stream.is_beside());
        assert_eq!(Cpus::allowed().expect("affinity"), free);
    }

    #[test]
    fn another_threads_fault_ends_a_walk_and_an_unnamed_thread_begins_none() {
        let Some(free) = Cpus::allowed().ok().filter(|cpus| cpus.count() > 1) else { return };
        let mut stream = Stream::new(Some(free));
        walk(&mut stream, 2 * FOLLOW_BATCHES);
        stream.went_on(u32::MAX);
        assert!(!stream.is_beside());
        for _ in 0..2 * FOLLOW_BATCHES {
            stream.went_on(0);
        }
        assert!(!stream.is_beside());
        assert_eq!(Cpus::allowed().expect("affinity"), free);
    }

    #[test]
    fn a_thread_with_one_cpu_stays_there() {
        let mut stream = Stream::new(None);
        walk(&mut stream, 2 * FOLLOW_BATCHES);
        assert!(!stream.is_beside());
    }
}
