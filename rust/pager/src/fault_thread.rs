//! A fault thread: reads a fault, resolves it, and again. It never takes a lock of the program it serves, Python's least
//! of all, and allocates nothing between faults.
//!
//! The awkward questions:
//! * What if the home is slow? The thread waits for it and for nothing else, up to the fault's deadline; other faults go
//!   to other fault threads.
//! * What if a fault on a page comes twice? The second joins the fetch of the first.
//! * What if a reply comes for pages that nobody waits for any more? They are installed: they were asked for because
//!   they are likely to be touched.
//! * What if the program drops the content, or moves or unmaps the window meanwhile? See [`crate::events`].
//! * What if this thread is stuck all the same? See [`crate::watchdog`].
//! * What if this thread panics? The process ends: faults nobody resolves are worse than a loud end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use weft_paging::directory::Owner;
use weft_paging::inflight::{Joined, Slot, low_bits};
use weft_sys::cpu::Cpus;
use weft_sys::memory::Mapping;

use crate::lock::Held;
use crate::options::Options;
use crate::source::{FetchError, PageChannel, RUN_PAGES_MAX, ReplyHead};
use crate::spin::Spin;
use crate::stream::Stream;
use crate::target::{Content, Fault, Origin, PAGE, Part, Role, Target};
use crate::wait::Waiter;
use crate::watchdog::Watch;

/// Batches of one thread that are on their way: the one that is waited for, the one after it, and one that a fault
/// elsewhere overtook.
pub(crate) const BATCHES_MAX: usize = 3;
/// How long what was asked ahead may lie in the socket before it is installed without having been touched. Until then
/// it is better left there: its first touch is what asks for the batch after it.
const SETTLE: Duration = Duration::from_millis(2);
/// How long a batch may still take when nobody waits for it and something else might: past this its reply is not waited
/// for, and its pages are left to their faults. A home that is well answers in much less.
const OVERTAKEN_MAX: Duration = Duration::from_millis(250);
/// Pages to have received before they are installed, where not all are there: often enough that threads which wait for
/// them are woken early, rarely enough that the calls do not count.
const INSTALL_PAGES: u32 = 16;

/// Pages that were asked for in one request.
#[derive(Clone, Copy, Debug)]
struct Batch {
    slot: Slot,
    first: u64,
    count: u32,
    deadline: Instant,
    /// Whether it was asked for before anybody touched it.
    ahead: bool,
}

impl Batch {
    fn has(&self, page: u64) -> bool {
        page >= self.first && page - self.first < u64::from(self.count)
    }
}

pub(crate) struct FaultThread {
    index: usize,
    target: Arc<Target>,
    channel: Option<Box<dyn PageChannel>>,
    /// Where replies arrive; its pages are never given away, so receiving into it never faults.
    landing: Mapping,
    /// Requests posted and not completed, in order.
    batches: VecDeque<Batch>,
    watch: Arc<Watch>,
    spin: Spin,
    stream: Stream,
}

impl FaultThread {
    /// Makes everything it needs, so that serving allocates nothing.
    pub fn new(index: usize, target: Arc<Target>, watch: Arc<Watch>, landing: Mapping, options: &Options) -> Self {
        Self {
            index,
            target,
            channel: None,
            landing,
            batches: VecDeque::with_capacity(BATCHES_MAX),
            watch,
            spin: Spin::new(options.spin),
            stream: Stream::new(Cpus::allowed().ok()),
        }
    }

    /// Serves until the target is stopped.
    pub fn serve(mut self, waiter: &Waiter) {
        // The first fault thread serves the first fault, which should not pay for a connection.
        if self.index == 0 {
            self.channel = self.target.origin.source().and_then(|source| source.channel().ok());
        }
        let target = Arc::clone(&self.target);
        let doorbell = &target.doorbells[self.index];
        let mut idle_since = Instant::now();
        while !target.stopped() {
            if let Some(fault) = self.look() {
                // Only a fault that was its own speaks for looking: one that another thread serves wakes this one too.
                if self.serve_one(&fault) {
                    self.spin.waited_since(idle_since);
                }
                idle_since = Instant::now();
                continue;
            }
            let ahead = !self.batches.is_empty();
            let woken = waiter.wait(doorbell, ahead.then_some(SETTLE));
            if !woken.fault {
                self.stream.end();
            }
            if ahead && !woken.fault && !woken.rung {
                self.settle();
            }
        }
        self.settle();
    }

    /// `false` when the fault is another thread's.
    fn serve_one(&mut self, fault: &Fault) -> bool {
        self.watch.begin(fault);
        let served = self.resolve(fault);
        self.watch.end();
        served
    }

    /// The next fault, if there is one now or while it pays to look.
    fn look(&self) -> Option<Fault> {
        let start = Instant::now();
        loop {
            if let Some(fault) = self.target.inboxes[self.index].take() {
                if self.batches.iter().any(|batch| batch.has(fault.page)) {
                    return Some(fault);
                }
                // It came when the batch was through already.
                self.target.wake_bits(fault.page, 1);
            }
            match self.target.next_fault() {
                Ok(Some(fault)) => return Some(fault),
                Ok(None) => {}
                Err(error) => panic!("the userfaultfd cannot be read: {error}"),
            }
            let now = Instant::now();
            self.target.is_quiet(now);
            if self.stream.is_beside() || now - start >= self.spin.limit() {
                return None;
            }
            std::hint::spin_loop();
        }
    }

    /// Receives and installs whatever is on its way.
    fn settle(&mut self) {
        while let Some(batch) = self.batches.front().copied() {
            self.complete(batch, None);
        }
    }

    fn resolve(&mut self, fault: &Fault) -> bool {
        let target = Arc::clone(&self.target);
        if let Origin::Directory(directory, _) = &target.origin {
            let owner = directory.get_owner(fault.page);
            if !matches!(owner, Owner::Remote(_)) {
                if owner == Owner::Unknown {
                    directory.claim_page(fault.page);
                }
                self.zero_fill(fault);
                return true;
            }
        }
        let joined = target.in_flight.held().join(fault.page, self.index);
        if let Some(joined) = joined.filter(|joined| self.is_elsewhere(joined)) {
            self.leave_to(joined, fault);
            return false;
        }
        self.fetch(fault)
    }

    /// Whether another fault thread brings the page. What a caller of `prefetch` has asked for comes in that caller's order;
    /// a page that is touched is wanted now.
    fn is_elsewhere(&self, joined: &Joined) -> bool {
        joined.owner != self.index && joined.owner < self.target.doorbells.len()
    }

    /// The first touch of what another thread asked for ahead is a step of that thread's walk, and its to serve. Any
    /// other joins a fetch that somebody waits for already.
    fn leave_to(&self, joined: Joined, fault: &Fault) {
        if !joined.is_first || !self.target.inboxes[joined.owner].leave(*fault) {
            self.target.counters.faults_coalesced.add(1);
        }
        if joined.is_first {
            self.target.doorbells[joined.owner].ring();
        }
    }

    fn zero_fill(&self, fault: &Fault) {
        let slot = self.target.in_flight.held().begin(fault.page, 1, self.index).expect("a slot for every thread");
        let part = Part { slot, first: fault.page, index: 0, count: 1 };
        self.target.uncounted.fetch_add(1, Ordering::AcqRel);
        let installed = self.target.install(part, Content::Zeros, fault.write, Role::FaultThread);
        self.target.statistics.record_local(elapsed_us(fault));
        self.target.uncounted.fetch_sub(1, Ordering::AcqRel);
        let waiting = self.target.in_flight.held().end(slot);
        if let Err(error) = installed {
            self.target.give_up_bits(fault.page, waiting | 1, &Arc::new(error), Role::FaultThread);
        }
    }

    /// Has the page that was touched, first; then what is advised with it; then what was overtaken.
    fn fetch(&mut self, fault: &Fault) -> bool {
        let home = self.target.home(fault.page);
        if fault.overdue && self.target.suspects.has(home) {
            let error = FetchError {
                node: home.to_owned(),
                code: "timed_out",
                detail: "it does not answer".to_owned(),
                temporary: true,
            };
            self.target.give_up(fault.page, &Arc::new(error), Role::FaultThread);
            return true;
        }
        let advice = self.target.prefetcher.held().advise(fault.page, &|page| self.target.run_at(page));
        if !self.batches.iter().any(|batch| batch.has(fault.page)) {
            if self.batches.len() == BATCHES_MAX {
                self.settle();
            }
            match self.post(fault.page, advice.now.max(1), fault.deadline, false) {
                Ok(None) => {}
                // Another thread began to fetch it since this one looked.
                Ok(Some(joined)) => {
                    self.leave_to(joined, fault);
                    return false;
                }
                Err(error) => {
                    self.target.give_up(fault.page, &Arc::new(error), Role::FaultThread);
                    return true;
                }
            }
        }
        while let Some(batch) = self.batches.front().copied() {
            if batch.has(fault.page) {
                self.complete(batch, Some((fault, advice.ahead)));
                return true;
            }
            self.complete(batch, None);
        }
        true
    }

    /// Asks for a batch. Nothing was posted when another fault thread is fetching its first page already.
    fn post(&mut self, first: u64, count: u32, deadline: Instant, ahead: bool) -> Result<Option<Joined>, FetchError> {
        if self.channel.is_none() {
            let source = self.target.origin.source().ok_or_else(|| no_home(first))?;
            self.channel = Some(source.channel()?);
        }
        // There is a slot for every batch of every thread, so that what is fetched is always known.
        let slot = {
            let mut in_flight = self.target.in_flight.held();
            if ahead {
                in_flight.begin_ahead(first, count, self.index)
            } else {
                let joined = in_flight.join(first, self.index).filter(|joined| self.is_elsewhere(joined));
                if joined.is_some() {
                    return Ok(joined);
                }
                in_flight.begin(first, count, self.index)
            }
            .expect("a slot for every batch")
        };
        if let Err(error) = self.channel().post(first, count, deadline) {
            let waiting = self.target.in_flight.held().end(slot);
            self.target.wake_bits(first, waiting);
            return Err(error);
        }
        self.batches.push_back(Batch { slot, first, count, deadline, ahead });
        Ok(None)
    }

    /// Receives the oldest reply and installs it: the page that was `touched` first, then asks for so many pages behind the
    /// batch, then the rest. Where nothing was touched nobody is known to wait for it, and it has only so long.
    fn complete(&mut self, batch: Batch, touched: Option<(&Fault, u32)>) {
        let overtaken = || batch.deadline.min(Instant::now() + OVERTAKEN_MAX);
        let deadline = touched.map_or_else(overtaken, |(fault, _)| fault.deadline);
        let mut has_page = false;
        let result = self.receive(batch, touched, deadline, &mut has_page);
        self.batches.pop_front();
        let waiting = self.target.in_flight.held().end(batch.slot);
        match (result, touched) {
            (Ok(()), _) => {}
            (Err(error), Some((fault, _))) => {
                if Instant::now() >= fault.deadline {
                    self.target.suspects.accuse(self.target.home(fault.page));
                }
                let page = if has_page { 0 } else { 1 << (fault.page - batch.first) };
                self.target.give_up_bits(batch.first, waiting | page, &Arc::new(error), Role::FaultThread);
            }
            // Whoever waits for a page of it has not had its own time yet: it faults again and gets it.
            (Err(_), None) => self.target.wake_bits(batch.first, waiting),
        }
    }

    fn receive(
        &mut self,
        batch: Batch,
        touched: Option<(&Fault, u32)>,
        deadline: Instant,
        has_page: &mut bool,
    ) -> Result<(), FetchError> {
        let landing = self.landing.span();
        let head = self.channel().begin(landing, deadline)?;
        if let Err(error) = check(&head, batch.count, self.target.home(batch.first)) {
            self.distrust();
            return Err(error);
        }
        let ahead = touched.map_or(0, |(_, ahead)| ahead);
        let touched = touched.map(|(fault, _)| (fault, (fault.page - batch.first) as u32));
        let mut reply = Reply { head, filled: head.filled, deadline, touched, has_page: false };
        let taken = self.take_in_order(&mut reply, batch, ahead);
        *has_page = reply.has_page;
        if let Err(Refusal::Here(error)) = taken {
            // The reply is sound, only this machine could not take it; the next one begins behind its last byte.
            self.channel().fill(landing, reply.filled, head.bytes, deadline)?;
            return Err(error);
        }
        self.target.counters.bytes_fetched.add(head.bytes as u64);
        self.target.suspects.clear(self.target.home(batch.first));
        taken.map_err(Refusal::into_error)
    }

    /// The faulted page, what is asked ahead, the pages before it in the batch, the pages after it.
    fn take_in_order(&mut self, reply: &mut Reply<'_>, batch: Batch, ahead: u32) -> Result<(), Refusal> {
        let Some((fault, index)) = reply.touched else {
            return self.take_all(reply, batch, 0, batch.count, INSTALL_PAGES);
        };
        if batch.ahead && 2 * reply.filled >= reply.head.bytes {
            // A stream, and most of the batch lay in the socket already. To wake the toucher for its first page would let it
            // run into the second at once, and the two threads take turns sixty-four times; all pages at once cost it
            // the time of one copy (measured: 2.5 times the pages a second).
            self.stream.went_on(fault.thread);
            self.post_ahead(batch, ahead);
            return self.take_all(reply, batch, 0, batch.count, batch.count);
        }
        self.stream.end();
        self.take(reply, batch, index, 1, fault.write)?;
        self.post_ahead(batch, ahead);
        self.take_all(reply, batch, 0, index, INSTALL_PAGES)?;
        self.take_all(reply, batch, index + 1, batch.count, INSTALL_PAGES)
    }

    /// What comes on this channel cannot be told apart any more: a new one is opened when next needed, and what was
    /// posted on the old one behind the oldest request is left to its faults.
    fn distrust(&mut self) {
        self.channel = None;
        while self.batches.len() > 1 {
            let batch = self.batches.pop_back().expect("more than one");
            let waiting = self.target.in_flight.held().end(batch.slot);
            self.target.wake_bits(batch.first, waiting);
        }
    }

    /// Asks for the pages behind `batch` before anybody touches them. What cannot be asked for is left to its fault.
    fn post_ahead(&mut self, batch: Batch, ahead: u32) {
        let next = batch.first + u64::from(batch.count);
        // The batch is not always what was advised: a page that was dropped faults in the middle of one.
        let ahead = ahead.min(self.target.run_at(next));
        if ahead == 0 || self.batches.len() == BATCHES_MAX || self.target.in_flight.held().covers(next) {
            return;
        }
        if self.post(next, ahead, Instant::now() + self.target.fault_deadline, true).is_ok() {
            self.target.counters.pages_ahead.add(u64::from(ahead));
        }
    }

    /// Takes pages `from..to` of the batch as they arrive, at least `least` at a time.
    fn take_all(&mut self, reply: &mut Reply<'_>, batch: Batch, from: u32, to: u32, least: u32) -> Result<(), Refusal> {
        let mut index = from;
        while index < to {
            let zeros = reply.head.zero_map >> index;
            let run = if zeros & 1 == 1 { zeros.trailing_ones() } else { zeros.trailing_zeros() }.min(to - index);
            let run = if zeros & 1 == 1 { run } else { run.min(reply.pages_from(index).max(least)) };
            self.take(reply, batch, index, run, false)?;
            index += run;
        }
        Ok(())
    }

    /// Takes `count` pages from `index` on, all of them zero or none.
    fn take(
        &mut self,
        reply: &mut Reply<'_>,
        batch: Batch,
        index: u32,
        count: u32,
        written: bool,
    ) -> Result<(), Refusal> {
        let content = if reply.head.zero_map >> index & 1 == 1 {
            Content::Zeros
        } else {
            let landing = self.landing.span();
            let start = reply.start_of(index);
            let end = start + count as usize * PAGE;
            if reply.filled < end {
                let filled = self.channel().fill(landing, reply.filled, end, reply.deadline);
                reply.filled = filled.map_err(Refusal::Home)?;
            }
            Content::Bytes(landing.part(start, end - start).expect("a batch fits the landing"))
        };
        let part = Part { slot: batch.slot, first: batch.first, index, count };
        let touched = reply.touched.filter(|(_, touched)| (index..index + count).contains(touched));
        let Some((fault, _)) = touched else {
            return self.target.install(part, content, written, Role::FaultThread).map_err(Refusal::Here);
        };
        self.target.uncounted.fetch_add(1, Ordering::AcqRel);
        let installed = self.target.install(part, content, written, Role::FaultThread);
        if installed.is_ok() {
            reply.has_page = true;
            self.target.statistics.record_remote(elapsed_us(fault));
        }
        self.target.uncounted.fetch_sub(1, Ordering::AcqRel);
        installed.map_err(Refusal::Here)
    }

    fn channel(&mut self) -> &mut dyn PageChannel {
        self.channel.as_mut().expect("a request was posted on it").as_mut()
    }
}

/// Why a reply was not taken to its end, and with it whether the channel still holds the rest of it.
enum Refusal {
    /// The home's fault: the channel has ended the request.
    Home(FetchError),
    /// Ours: the rest of the reply is still to come.
    Here(FetchError),
}

impl Refusal {
    fn into_error(self) -> FetchError {
        match self {
            Self::Home(error) | Self::Here(error) => error,
        }
    }
}

/// A reply that is being received.
struct Reply<'a> {
    head: ReplyHead,
    filled: usize,
    deadline: Instant,
    /// The fault that waits for it, and which of its pages was touched.
    touched: Option<(&'a Fault, u32)>,
    /// Whether that page is installed.
    has_page: bool,
}

impl Reply<'_> {
    /// Where page `index` begins in the payload.
    fn start_of(&self, index: u32) -> usize {
        (!self.head.zero_map & low_bits(index)).count_ones() as usize * PAGE
    }

    /// Whole pages received from page `index` on.
    fn pages_from(&self, index: u32) -> u32 {
        (self.filled.saturating_sub(self.start_of(index)) / PAGE) as u32
    }
}

/// A head that does not fit its request is not a page: better to lose the page than to install another's bytes.
pub(crate) fn check(head: &ReplyHead, count: u32, home: &str) -> Result<(), FetchError> {
    let pages = (!head.zero_map & low_bits(count)).count_ones() as usize;
    if head.bytes == pages * PAGE && head.filled <= head.bytes {
        return Ok(());
    }
    Err(FetchError {
        node: home.to_owned(),
        code: "bad_frame",
        detail: format!("its reply has {} bytes for {pages} pages", head.bytes),
        temporary: false,
    })
}

fn no_home(page: u64) -> FetchError {
    FetchError {
        node: "none".to_owned(),
        code: "unreachable",
        detail: format!("page {page} is said to be remote, and this window was given no way to other nodes"),
        temporary: false,
    }
}

fn elapsed_us(fault: &Fault) -> u64 {
    fault.since.elapsed().as_micros() as u64
}

/// Room for one reply.
pub(crate) const LANDING_BYTES: usize = RUN_PAGES_MAX as usize * PAGE;
