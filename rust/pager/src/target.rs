//! The memory a pager serves, and everything its threads share about it.
//!
//! Two locks order all effects, always taken in this order and never across a wait for a home:
//! * `window`: reading the kernel's messages and heeding its events takes it alone; installing pages takes it shared.
//!   The kernel lets the program go on as soon as an event is *read*; with this lock no thread can be between "this
//!   content is still good" and the `ioctl` that installs it while another reads that it was dropped.
//! * `in_flight`: what is being fetched, by whom.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use weft_paging::PAGE_BYTES;
use weft_paging::directory::{Owner, PageDirectory};
use weft_paging::inflight::{InFlight, Slot};
use weft_paging::readahead::{Prefetcher, WINDOW_PAGES_MAX};
use weft_paging::runs::RunSet;
use weft_paging::statistics::Statistics;
use weft_paging::window::Window;
use weft_sys::memory::Span;
use weft_sys::pagemap::Pagemap;
use weft_sys::uffd::{Halt, Uffd, Why};

use crate::counters::Counters;
use crate::inbox::Inbox;
use crate::installer::Installer;
use crate::lock::{Held, Shared};
use crate::lost::{LostPages, announce};
use crate::source::{FetchError, PageSource};
use crate::suspects::Suspects;
use crate::wait::Doorbell;

/// One page, as lengths of memory are counted.
pub(crate) const PAGE: usize = PAGE_BYTES as usize;
/// How often a change of the address space is waited for by yielding, before sleeping in between.
const YIELDS_MAX: u32 = 64;
/// How long a question for the counts waits for those that are just being made.
const COUNTED_MAX: Duration = Duration::from_millis(20);
/// How long to sleep then: the thread that made the change has only to be scheduled.
const CHANGE_PAUSE: Duration = Duration::from_micros(50);

/// A thread waits for a page.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub page: u64,
    pub write: bool,
    /// The thread that waits; 0 where the kernel does not say.
    pub thread: u32,
    /// When it was read.
    pub since: Instant,
    /// When it must have ended.
    pub deadline: Instant,
    /// Whether it may have waited to be read for as long as a fault may take, and the deadline is grace.
    pub overdue: bool,
}

/// What pages are installed with.
#[derive(Clone, Copy)]
pub(crate) enum Content {
    /// The bytes of all pages, one after the other.
    Bytes(Span),
    /// Zeros that nobody wrote.
    Zeros,
}

/// Some pages of a run that is being fetched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part {
    /// The run's place among those in flight, and its first page.
    pub slot: Slot,
    pub first: u64,
    /// Which of its pages.
    pub index: u32,
    pub count: u32,
}

/// Who installs: a fault thread reads the kernel's messages by itself when they stand in the way, anybody else leaves
/// that to the fault threads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    FaultThread,
    Caller,
}

/// Where a window's pages come from.
pub(crate) enum Origin {
    /// Every page has a home.
    Homes(Arc<dyn PageSource>),
    /// A page is unknown until it is touched, then local; those that the directory says are remote have a home.
    Directory(Arc<PageDirectory>, Option<Arc<dyn PageSource>>),
}

impl Origin {
    pub fn source(&self) -> Option<&Arc<dyn PageSource>> {
        match self {
            Self::Homes(source) => Some(source),
            Self::Directory(_, source) => source.as_ref(),
        }
    }
}

pub(crate) struct Target {
    pub uffd: Arc<Uffd>,
    pub installer: Box<dyn Installer>,
    pub pagemap: Pagemap,
    pub window: RwLock<Window>,
    pub pages: u64,
    pub writable: bool,
    pub tracked: bool,
    pub origin: Origin,
    pub in_flight: Mutex<InFlight>,
    pub prefetcher: Mutex<Box<dyn Prefetcher>>,
    pub lost: LostPages,
    pub suspects: Suspects,
    /// Ranges of the region that were taken as written and have not come home.
    pub unsent: Mutex<RunSet>,
    pub statistics: Statistics,
    pub counters: Counters,
    pub doorbells: Vec<Doorbell>,
    pub inboxes: Vec<Inbox>,
    pub fault_deadline: Duration,
    pub stopping: AtomicBool,
    /// A page of zeros, for writes to pages that nobody wrote.
    pub zeros: weft_sys::memory::Mapping,
    /// Faults that were read while an event was looked for, and how many.
    pub backlog: Mutex<VecDeque<Fault>>,
    pub backlog_len: AtomicUsize,
    /// Faults whose page is there, or about to be, and which are not counted yet.
    pub uncounted: AtomicUsize,
    /// When this began; [`Target::quiet_ns`] counts from here.
    pub born: Instant,
    /// When no fault was waiting to be read, as far as is known: none that is read now began before.
    pub quiet_ns: AtomicU64,
}

impl Target {
    /// The pages from `page` on that one request may bring; 0 where no home has `page`.
    pub fn run_at(&self, page: u64) -> u32 {
        let Some(source) = self.origin.source().filter(|_| page < self.pages) else { return 0 };
        let rest = u32::try_from(self.pages - page).unwrap_or(u32::MAX);
        let run = source.run_at(page).min(rest).min(WINDOW_PAGES_MAX);
        let Origin::Directory(directory, _) = &self.origin else { return run };
        let owner = directory.get_owner(page);
        if !matches!(owner, Owner::Remote(_)) {
            return 0;
        }
        (1..run).find(|&next| directory.get_owner(page + u64::from(next)) != owner).unwrap_or(run)
    }

    /// The node that answers for `page`, for messages.
    pub fn home(&self, page: u64) -> &str {
        self.origin.source().map_or("none", |source| source.home(page))
    }

    /// Installs a part of a run, except pages whose content was dropped since they were asked for; wakes whoever waits
    /// for any of them. With `written` they count as written.
    ///
    /// # Errors
    /// The machine refused, for want of memory. The pages are not through.
    pub fn install(&self, part: Part, content: Content, written: bool, role: Role) -> Result<(), FetchError> {
        let Part { slot, first, index, count } = part;
        let mut done = 0;
        let mut tries = 0;
        while done < count {
            let window = self.window.shared();
            let kept = self.in_flight.held().keep(slot, index + done, count - done);
            let page = first + u64::from(index + done);
            let content = match content {
                Content::Bytes(span) => Content::Bytes(rest_of(span, done)),
                Content::Zeros => Content::Zeros,
            };
            let halted = self.install_kept(&window, page, count - done, kept, content, written);
            match halted {
                Ok(()) => break,
                Err(halt) => {
                    drop(window);
                    done += (halt.done / PAGE) as u32;
                    if let Why::Failed(error) = halt.why {
                        return Err(self.refused(&error));
                    }
                    self.await_change(role, &mut tries);
                }
            }
        }
        let wanted = self.in_flight.held().finish(slot, index, count);
        self.wake_bits(first + u64::from(index), wanted);
        Ok(())
    }

    /// As `install`, for pages of which bit `i` of `kept` says whether page `i` may be installed.
    fn install_kept(
        &self,
        window: &Window,
        page: u64,
        count: u32,
        kept: u64,
        content: Content,
        written: bool,
    ) -> Result<(), Halt> {
        let mut index = 0;
        while index < count {
            let Some((address, contiguous)) = window.address_of((page + u64::from(index)) * PAGE_BYTES) else {
                index += 1;
                continue;
            };
            if kept >> index & 1 == 0 {
                // Stale, or taken from us: whoever waits asks again and gets what is right by now.
                let _ = self.installer.wake(address, PAGE);
                index += 1;
                continue;
            }
            let run = (kept >> index).trailing_ones().min(count - index);
            let run = run.min(u32::try_from(contiguous / PAGE_BYTES).unwrap_or(u32::MAX));
            let part = match content {
                Content::Bytes(span) => Content::Bytes(rest_of(span, index)),
                Content::Zeros => Content::Zeros,
            };
            self.place(address, run, part, written)
                .map_err(|halt| Halt { done: index as usize * PAGE + halt.done, why: halt.why })?;
            index += run;
        }
        Ok(())
    }

    /// Puts `count` pages at `address`, leaving alone what is there already.
    pub fn place(&self, address: u64, count: u32, content: Content, written: bool) -> Result<(), Halt> {
        let len = count as usize * PAGE;
        let mut done = 0;
        while done < len {
            let at = address + done as u64;
            let result = match content {
                Content::Bytes(span) => {
                    let source = span.part(done, len - done).expect("the content is as long as its pages");
                    self.installer.copy(at, source, self.tracked && !written)
                }
                // The shared page of zeros would fault a second time for the write.
                Content::Zeros if written => {
                    assert_eq!(count, 1, "one page at a time is written to");
                    self.installer.copy(at, self.zeros.span(), false)
                }
                Content::Zeros => self.installer.zero(at, len - done),
            };
            match result {
                Ok(()) => break,
                Err(Halt { done: part, why: Why::Present | Why::Gone }) => {
                    done += part;
                    // Present: somebody was faster, or the kernel was asked twice. Gone: the range is no longer ours,
                    // and whoever waits there finds out by touching it again.
                    let _ = self.installer.wake(address + done as u64, PAGE);
                    self.counters.pages_present.add(1);
                    done += PAGE;
                }
                Err(Halt { done: part, why }) => return Err(Halt { done: done + part, why }),
            }
        }
        match content {
            Content::Bytes(_) => self.counters.pages_installed.add(u64::from(count)),
            Content::Zeros => self.counters.pages_zero.add(u64::from(count)),
        }
        Ok(())
    }

    /// Gives `page` up: says so, and makes every touch of it SIGBUS, that of the thread that waits included.
    pub fn give_up(&self, page: u64, error: &Arc<FetchError>, role: Role) {
        if self.lost.insert(page, error) {
            announce(self.lost.region(), page * PAGE_BYTES, &error.node, error.code, &error.detail);
            self.counters.pages_lost.add(1);
        }
        let mut tries = 0;
        loop {
            let window = self.window.shared();
            let Some((address, _)) = window.address_of(page * PAGE_BYTES) else { return };
            match self.installer.poison(address, PAGE) {
                Ok(()) => return,
                Err(Halt { why: Why::Changing, .. }) => {
                    drop(window);
                    self.await_change(role, &mut tries);
                }
                Err(Halt { why, .. }) => {
                    // It is there after all, or no longer ours, or there is no memory for even the mark: whoever waits
                    // tries again, and if it is still missing its fault begins anew.
                    self.lost.remove(page, page + 1);
                    if let Why::Failed(error) = why {
                        let reason = format!("cannot be marked ({error})");
                        announce(self.lost.region(), page * PAGE_BYTES, "here", "internal", &reason);
                    }
                    let _ = self.installer.wake(address, PAGE);
                    return;
                }
            }
        }
    }

    /// Gives up the pages from `first` on whose bits are set.
    pub fn give_up_bits(&self, first: u64, mut bits: u64, error: &Arc<FetchError>, role: Role) {
        while bits != 0 {
            self.give_up(first + u64::from(bits.trailing_zeros()), error, role);
            bits &= bits - 1;
        }
    }

    /// Lets those who wait for the pages from `first` on whose bits are set try again.
    pub fn wake_bits(&self, first: u64, mut bits: u64) {
        if bits == 0 {
            return;
        }
        let window = self.window.shared();
        while bits != 0 {
            let page = first + u64::from(bits.trailing_zeros());
            if let Some((address, _)) = window.address_of(page * PAGE_BYTES) {
                let _ = self.installer.wake(address, PAGE);
            }
            bits &= bits - 1;
        }
    }

    /// The address space is changing and nothing can be installed: reads the event that stands in the way, or lets a
    /// fault thread do it.
    pub fn await_change(&self, role: Role, tries: &mut u32) {
        if role == Role::FaultThread && self.heed_event() {
            return;
        }
        *tries += 1;
        if *tries <= YIELDS_MAX { std::thread::yield_now() } else { std::thread::sleep(CHANGE_PAUSE) }
    }

    /// Waits until every fault whose page can be seen is counted, so that a program that touches and then asks finds its
    /// touch. Counting follows installing by a microsecond; the bound is for a thread that lost its processor between.
    pub fn await_counts(&self) {
        let start = Instant::now();
        while self.uncounted.load(Ordering::Acquire) > 0 && start.elapsed() < COUNTED_MAX {
            std::thread::yield_now();
        }
    }

    /// Rings every fault thread.
    pub fn ring_all(&self) {
        self.doorbells.iter().for_each(Doorbell::ring);
    }

    pub fn stopped(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    fn refused(&self, error: &io::Error) -> FetchError {
        FetchError {
            node: "here".to_owned(),
            code: if error.raw_os_error() == Some(rustix::io::Errno::NOMEM.raw_os_error()) {
                "no_memory"
            } else {
                "internal"
            },
            detail: format!("the page could not be installed ({error})"),
            temporary: true,
        }
    }
}

/// What follows the first `pages` pages.
fn rest_of(span: Span, pages: u32) -> Span {
    let skip = pages as usize * PAGE;
    span.part(skip, span.len() - skip).expect("the content is as long as its pages")
}
