//! The watchdog: no fault outlives its deadline, not even when the thread that serves it is stuck.
//!
//! Fault threads keep deadlines by themselves; this is for the case that one does not come back (a channel that breaks
//! its promise, a machine that starves it). The page is then given up over its head, what it was fetching is taken from
//! it, and when every fault thread is stuck, so are the faults that wait to be read.
//!
//! While there are faults it looks a few times in every deadline; some ticks after the last one it sleeps until a
//! fault thread wakes it, so that an idle window uses no CPU.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::Thread;
use std::time::{Duration, Instant};

use crate::lock::Held;
use crate::source::FetchError;
use crate::target::{Fault, Role, Target};

/// Looks at the fault threads for every deadline that passes.
const TICKS_PER_DEADLINE: u32 = 8;
/// Bounds of one tick: short enough for short deadlines, long enough not to be noticed.
const TICK_MIN: Duration = Duration::from_millis(10);
const TICK_MAX: Duration = Duration::from_millis(500);
/// Time past the deadline that a fault thread has to keep it by itself: to give a page up takes some system calls and a
/// line on standard error.
const SLACK: Duration = Duration::from_millis(100);
/// Ticks without any fault before the watchdog sleeps.
const QUIET_TICKS: u32 = 16;

/// What one fault thread is doing, for the watchdog to see.
#[derive(Debug)]
pub(crate) struct Watch {
    born: Instant,
    page: AtomicU64,
    /// When the fault must have ended, in ns since `born`; 0 while there is none.
    deadline_ns: AtomicU64,
    /// Faults begun, so that the watchdog sees activity between its looks.
    begun: AtomicU64,
    wake: Arc<Wake>,
}

/// Wakes the watchdog from its long sleep.
#[derive(Debug, Default)]
pub(crate) struct Wake {
    asleep: AtomicBool,
    thread: OnceLock<Thread>,
}

impl Wake {
    /// Ends the watchdog's sleep, if it sleeps.
    pub fn up(&self) {
        self.asleep.store(false, Ordering::SeqCst);
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }
}

impl Watch {
    pub fn new(wake: Arc<Wake>) -> Self {
        Self {
            born: Instant::now(),
            page: AtomicU64::new(0),
            deadline_ns: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            wake,
        }
    }

    /// A fault begins.
    pub fn begin(&self, fault: &Fault) {
        let deadline_ns = fault.deadline.saturating_duration_since(self.born).as_nanos() as u64;
        self.page.store(fault.page, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        // Sequentially consistent on both sides: either the watchdog sees this fault before it sleeps, or this sees that
        // it sleeps.
        self.deadline_ns.store(deadline_ns.max(1), Ordering::SeqCst);
        if self.wake.asleep.load(Ordering::SeqCst) {
            self.wake.up();
        }
    }

    /// It ended.
    pub fn end(&self) {
        self.deadline_ns.store(0, Ordering::Release);
    }

    /// The fault that is overdue, if there is one: which, and its page.
    fn overdue(&self) -> Option<(u64, u64)> {
        let deadline_ns = self.deadline_ns.load(Ordering::SeqCst);
        let now_ns = self.born.elapsed().as_nanos() as u64;
        (deadline_ns != 0 && now_ns > deadline_ns + SLACK.as_nanos() as u64)
            .then(|| (self.begun.load(Ordering::Relaxed), self.page.load(Ordering::Relaxed)))
    }
}

/// Watches until the target is stopped.
pub(crate) fn watch(target: &Target, watches: &[Arc<Watch>], wake: &Wake) {
    let _ = wake.thread.set(std::thread::current());
    let tick = (target.fault_deadline / TICKS_PER_DEADLINE).clamp(TICK_MIN, TICK_MAX);
    // Per fault thread, the fault it was last rescued from.
    let mut rescued = vec![0u64; watches.len()];
    let mut begun_before = 0;
    let mut quiet_ticks = 0;
    while !target.stopped() {
        let mut stuck = 0;
        for (owner, watch) in watches.iter().enumerate() {
            let Some((fault, page)) = watch.overdue() else { continue };
            stuck += 1;
            if rescued[owner] != fault {
                rescued[owner] = fault;
                rescue(target, owner, page);
            }
        }
        if stuck == watches.len() {
            give_up_unread(target);
        }
        let begun = watches.iter().map(|watch| watch.begun.load(Ordering::Relaxed)).sum();
        quiet_ticks = if begun == begun_before && stuck == 0 { quiet_ticks + 1 } else { 0 };
        begun_before = begun;
        if quiet_ticks < QUIET_TICKS {
            std::thread::park_timeout(tick);
            continue;
        }
        wake.asleep.store(true, Ordering::SeqCst);
        let busy = watches.iter().any(|watch| watch.deadline_ns.load(Ordering::SeqCst) != 0);
        while wake.asleep.load(Ordering::SeqCst) && !busy && !target.stopped() {
            std::thread::park();
        }
        wake.asleep.store(false, Ordering::SeqCst);
        quiet_ticks = 0;
    }
}

/// Gives up the page that the stuck thread `owner` is at, and those of the same fetch that others wait for.
fn rescue(target: &Target, owner: usize, page: u64) {
    let error = Arc::new(stuck(target, page));
    let mut pages = vec![page];
    target.in_flight.held().abandon(owner, page, |waiting| pages.push(waiting));
    for page in pages {
        target.counters.watchdog_rescues.add(1);
        target.give_up(page, &error, Role::FaultThread);
    }
}

/// Nobody is left to read faults: those that wait to be read end here.
fn give_up_unread(target: &Target) {
    while let Ok(Some(fault)) = target.next_fault() {
        target.counters.watchdog_rescues.add(1);
        target.give_up(fault.page, &Arc::new(stuck(target, fault.page)), Role::FaultThread);
    }
}

fn stuck(target: &Target, page: u64) -> FetchError {
    FetchError {
        node: target.home(page).to_owned(),
        code: "timed_out",
        detail: "the thread that fetches it does not come back".to_owned(),
        temporary: true,
    }
}
