//! A window and the threads that serve it: made, used, closed.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

use weft_paging::directory::{Owner, PageDirectory};
use weft_paging::inflight::InFlight;
use weft_paging::runs::RunSet;
use weft_paging::statistics::{Snapshot, Statistics};
use weft_paging::window::Window;
use weft_sys::memory::{Mapping, Span};
use weft_sys::pagemap::Pagemap;
use weft_sys::uffd::{Features, Uffd};

use crate::caller::{Lanes, span_at};
use crate::counters::Counters;
use crate::error::PagerError;
use crate::fault_thread::{BATCHES_MAX, FaultThread, LANDING_BYTES};
use crate::gate::Gate;
use crate::inbox::Inbox;
use crate::installer::SameProcess;
use crate::lock::{Held, Shared};
use crate::lost::LostPages;
use crate::options::Options;
use crate::prefetch::CALLER_SLOTS;
use crate::source::{FetchError, PageSink, PageSource};
use crate::suspects::Suspects;
use crate::target::{Origin, PAGE, Target};
use crate::wait::{Doorbell, Waiter};
use crate::watchdog::{Wake, Watch, watch};

/// Fault threads run a loop of known depth; the channels they call are what needs the room.
const STACK_BYTES: usize = 512 << 10;
/// What `Drop` gives the threads to end. Longer than a fault that is being given up; `close` may give more.
const DROP_DEADLINE: Duration = Duration::from_secs(10);

/// How a region's window may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegionMode {
    /// Read only: the mapping has no right to write.
    Read,
    /// One reader and writer: what is written is tracked, and [`Pager::flush`] sends it home.
    Exclusive,
    /// What is written stays in this window.
    Private,
}

/// The memory behind a window, as it was at first.
#[derive(Clone, Copy, Debug)]
struct Memory {
    span: Span,
    /// Whether the pager mapped it, and unmaps it.
    ours: bool,
}

/// One window, served.
pub struct Pager {
    pub(crate) target: Arc<Target>,
    pub(crate) gate: Gate,
    pub(crate) lanes: Lanes,
    pub(crate) sink: Mutex<Option<Box<dyn PageSink>>>,
    memory: Memory,
    threads: Mutex<Vec<JoinHandle<()>>>,
    wake: Arc<Wake>,
    released: AtomicBool,
    /// The process that made it: a forked child has neither the window nor the threads.
    process: rustix::process::Pid,
}

impl Pager {
    /// Maps a window of `bytes` (whole pages) onto a region whose pages `source` brings, and serves it. An exclusive
    /// window sends what is written home through `sink`.
    ///
    /// # Errors
    /// No right to use userfaultfd, or a kernel without what the window needs (Linux 6.8), each with what would help.
    pub fn region(
        name: &str,
        bytes: u64,
        mode: RegionMode,
        source: Arc<dyn PageSource>,
        sink: Option<Box<dyn PageSink>>,
        options: &Options,
    ) -> Result<Self, PagerError> {
        if (mode == RegionMode::Exclusive) != sink.is_some() {
            let detail = "an exclusive window, and no other, has a way home for its pages".to_owned();
            return Err(PagerError::BadArgument { detail });
        }
        let len = usize::try_from(bytes).unwrap_or(0);
        check_len(len)?;
        let mapping =
            Mapping::anonymous(len, mode != RegionMode::Read).map_err(PagerError::system("map the window"))?;
        let memory = Memory { span: mapping.into_span(), ours: true };
        Self::serve(name, memory, mode, Origin::Homes(source), sink, options)
    }

    /// Serves memory that the caller has: private and anonymous, whole pages, nothing in it yet. A page that `directory`
    /// does not know is claimed for this process by its first touch and begins as zeros; a page that it says is remote
    /// comes from `source`. The span stays mapped until the pager is dropped or [closed](Pager::close).
    ///
    /// # Errors
    /// As [`Pager::region`], and memory that cannot be registered.
    pub fn claim(
        name: &str,
        span: Span,
        directory: Arc<PageDirectory>,
        source: Option<Arc<dyn PageSource>>,
        options: &Options,
    ) -> Result<Self, PagerError> {
        check_len(span.len())?;
        if !(span.base() as usize).is_multiple_of(PAGE) || directory.pages() < (span.len() / PAGE) as u64 {
            let detail = "the memory begins at a page, and its directory is as long as it is".to_owned();
            return Err(PagerError::BadArgument { detail });
        }
        let origin = Origin::Directory(directory, source);
        Self::serve(name, Memory { span, ours: false }, RegionMode::Private, origin, None, options)
    }

    fn serve(
        name: &str,
        memory: Memory,
        mode: RegionMode,
        origin: Origin,
        sink: Option<Box<dyn PageSink>>,
        options: &Options,
    ) -> Result<Self, PagerError> {
        if options.threads == 0 || options.fault_deadline.is_zero() {
            return Err(PagerError::BadArgument { detail: "a pager has fault threads and a deadline".to_owned() });
        }
        let span = memory.span;
        let tracked = mode == RegionMode::Exclusive;
        let target = Arc::new(make_target(name, span, mode, tracked, origin, options)?);
        // From here on dropping the pager undoes what was done.
        let mut pager = Self {
            gate: Gate::default(),
            lanes: Lanes::new(),
            sink: Mutex::new(sink),
            memory,
            threads: Mutex::new(Vec::with_capacity(options.threads + 1)),
            wake: Arc::new(Wake::default()),
            released: AtomicBool::new(false),
            process: rustix::process::getpid(),
            target,
        };
        span.keep_from_children().map_err(PagerError::system("keep the window from children"))?;
        span.keep_small().map_err(PagerError::system("keep the window in small pages"))?;
        pager.target.uffd.register(span, tracked).map_err(PagerError::system("register the window"))?;
        pager.start(options)?;
        Ok(pager)
    }

    fn start(&mut self, options: &Options) -> Result<(), PagerError> {
        let threads = self.threads.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut watches = Vec::with_capacity(options.threads);
        // In this order they come to sleep on the userfaultfd, and in this order they are woken.
        for index in 0..options.threads {
            let watch = Arc::new(Watch::new(Arc::clone(&self.wake)));
            watches.push(Arc::clone(&watch));
            let waiter = Waiter::new(&*self.target.uffd, &self.target.doorbells[index])
                .map_err(PagerError::system("watch the userfaultfd"))?;
            let landing = warm_landing().map_err(PagerError::system("map a landing"))?;
            let target = Arc::clone(&self.target);
            let options = options.clone();
            let body = move || FaultThread::new(index, target, watch, landing, &options).serve(&waiter);
            threads.push(spawn(&format!("weft-fault-{index}"), body)?);
        }
        let (target, wake) = (Arc::clone(&self.target), Arc::clone(&self.wake));
        threads.push(spawn("weft-watchdog", move || watch(&target, &watches, &wake))?);
        Ok(())
    }

    /// The window. It stays mapped until the pager is dropped; touching it after [`Pager::close`] is a SIGSEGV.
    pub fn span(&self) -> Span {
        self.memory.span
    }

    /// Faults and their service times so far.
    pub fn statistics(&self) -> Snapshot {
        self.target.await_counts();
        self.target.statistics.snapshot()
    }

    /// What else was counted.
    pub fn counters(&self) -> &Counters {
        self.target.await_counts();
        &self.target.counters
    }

    /// Whether a system call that meets a missing page of the window waits for it (`true`), or fails with `EFAULT`
    /// because this process may only handle faults of its own code.
    pub fn serves_system_calls(&self) -> bool {
        self.target.uffd.kernel_faults()
    }

    /// Ends operations and threads, and takes the window out of use. The caller has made sure that nobody holds on to
    /// the window's memory. What was written and not flushed is lost. In memory that was claimed, pages that are there
    /// stay, missing pages that were remote become SIGBUS, and all others become ordinary zeros. Closing twice does
    /// nothing more.
    ///
    /// # Errors
    /// Something was still going on at the deadline. The window is out of use all the same, and what is left ends by
    /// its own deadline.
    pub fn close(&self, deadline: Instant) -> Result<(), PagerError> {
        if rustix::process::getpid() != self.process || self.released.swap(true, Ordering::AcqRel) {
            return Ok(());
        }
        let alone = self.gate.close(deadline);
        self.target.stopping.store(true, Ordering::Release);
        self.target.ring_all();
        self.wake.up();
        let ended = self.join(deadline);
        self.release().map_err(PagerError::system("take the window out of use"))?;
        if alone && ended { Ok(()) } else { Err(PagerError::TimedOut { what: "the end of the window's operations" }) }
    }

    /// Joins the threads that end by the deadline; `false` when some did not.
    fn join(&self, deadline: Instant) -> bool {
        let mut threads = self.threads.held();
        // Threads end in microseconds unless they wait for a home, so a short nap between looks costs nothing.
        while threads.iter().any(|thread| !thread.is_finished()) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_micros(200));
        }
        let all = threads.iter().all(JoinHandle::is_finished);
        for thread in threads.drain(..).filter(JoinHandle::is_finished) {
            // A fault thread that panicked has ended the process before.
            let _ = thread.join();
        }
        all
    }

    /// Ends the registration without anybody ever reading a zero that is not the page's content.
    fn release(&self) -> io::Result<()> {
        let pieces = self.target.window.shared().pieces().to_vec();
        if self.memory.ours {
            // Whoever still waits is woken by the end of the registration, and meets a range without rights.
            for piece in &pieces {
                span_at(piece.address, piece.len).forbid()?;
            }
        } else {
            self.poison_remote()?;
        }
        // Each where it is mapped now. (A range that `mremap` added or left behind is no piece; it stays registered until
        // the process ends, and a touch of it waits rather than reads zeros.)
        pieces.iter().try_for_each(|piece| self.target.uffd.unregister(piece.address, piece.len as usize))
    }

    /// In claimed memory, makes the missing pages that others own SIGBUS instead of zeros.
    fn poison_remote(&self) -> io::Result<()> {
        let Origin::Directory(directory, _) = &self.target.origin else { return Ok(()) };
        let window = self.target.window.shared();
        for piece in window.pieces() {
            let mut next = piece.address;
            let mut missing = Vec::new();
            let end = piece.address + piece.len;
            self.target.pagemap.resident(piece.address, end, |start, end| {
                missing.push((next, start));
                next = end;
            })?;
            missing.push((next, end));
            for address in missing.into_iter().flat_map(|(start, end)| (start..end).step_by(PAGE)) {
                let page = (piece.offset + (address - piece.address)) / PAGE as u64;
                if matches!(directory.get_owner(page), Owner::Remote(_)) {
                    // A page that has come meanwhile is there, and that is as good.
                    let _ = self.target.installer.poison(address, PAGE);
                }
            }
        }
        Ok(())
    }
}

impl Drop for Pager {
    fn drop(&mut self) {
        if rustix::process::getpid() != self.process {
            // A forked child: its address space never had the window, and what is at its address is another's.
            return;
        }
        // What cannot be ended by now ends by itself; there is nobody to tell.
        let _ = self.close(Instant::now() + DROP_DEADLINE);
        if self.memory.ours {
            self.unmap();
        }
    }
}

impl Pager {
    /// Unmaps what is left of the window where it was mapped. What the program unmapped there is no longer ours, and what
    /// it moved elsewhere it has taken over, without rights to it.
    #[expect(unsafe_code, reason = "the one place where a window is unmapped")]
    fn unmap(&self) {
        let (start, end) =
            (self.memory.span.base() as u64, self.memory.span.base() as u64 + self.memory.span.len() as u64);
        for piece in self.target.window.shared().shown_in(start, end) {
            // SAFETY: the pager mapped this range and the program has not unmapped it; the pager is being dropped, so
            // by the contract of `close` nobody uses it.
            let _ = unsafe { span_at(piece.address, piece.len).unmap() };
        }
    }
}

fn make_target(
    name: &str,
    span: Span,
    mode: RegionMode,
    tracked: bool,
    origin: Origin,
    options: &Options,
) -> Result<Target, PagerError> {
    let uffd = Arc::new(open_uffd(tracked)?);
    let pagemap = Pagemap::open().map_err(PagerError::system("open the page map"))?;
    if !pagemap.can_scan() {
        return Err(PagerError::NotSupported { detail: "windows need PAGEMAP_SCAN, Linux 6.7 or newer".to_owned() });
    }
    let doorbells: io::Result<Vec<_>> = (0..options.threads).map(|_| Doorbell::new()).collect();
    let slots = options.threads * (BATCHES_MAX + 1) + CALLER_SLOTS;
    Ok(Target {
        installer: Box::new(SameProcess::new(Arc::clone(&uffd))),
        uffd,
        pagemap,
        window: RwLock::new(Window::new(span.base() as u64, span.len() as u64)),
        pages: (span.len() / PAGE) as u64,
        writable: mode != RegionMode::Read,
        tracked,
        origin,
        in_flight: Mutex::new(InFlight::new(slots)),
        prefetcher: Mutex::new(options.readahead.prefetcher()),
        lost: LostPages::new(name.to_owned()),
        suspects: Suspects::default(),
        unsent: Mutex::new(RunSet::default()),
        statistics: Statistics::default(),
        counters: Counters::default(),
        inboxes: (0..options.threads).map(|_| Inbox::new()).collect(),
        doorbells: doorbells.map_err(PagerError::system("make a doorbell"))?,
        fault_deadline: options.fault_deadline,
        stopping: AtomicBool::new(false),
        zeros: Mapping::anonymous(PAGE, true).map_err(PagerError::system("map a page of zeros"))?,
        backlog: Mutex::new(VecDeque::with_capacity(256)),
        backlog_len: AtomicUsize::new(0),
        uncounted: AtomicUsize::new(0),
        born: Instant::now(),
        quiet_ns: AtomicU64::new(0),
    })
}

/// A userfaultfd with all that a window needs.
fn open_uffd(tracked: bool) -> Result<Uffd, PagerError> {
    let events = Features::EVENT_REMAP.with(Features::EVENT_REMOVE).with(Features::EVENT_UNMAP);
    let mut wanted = events.with(Features::POISON);
    if tracked {
        wanted = wanted.with(Features::WRITE_PROTECT).with(Features::WRITE_PROTECT_ASYNC);
    }
    let supported = match Uffd::supported() {
        Ok(supported) => supported,
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::PERM.raw_os_error()) => {
            return Err(PagerError::NoPrivilege {
                detail: "this process may not use userfaultfd: run it as root or with CAP_SYS_PTRACE, make \
                         /dev/userfaultfd readable and writable to it, or set vm.unprivileged_userfaultfd to 1"
                    .to_owned(),
            });
        }
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NOSYS.raw_os_error()) => {
            let detail = "this kernel is built without userfaultfd".to_owned();
            return Err(PagerError::NotSupported { detail });
        }
        Err(error) => return Err(PagerError::System { what: "open a userfaultfd", error }),
    };
    let lacking = supported.lacking(wanted);
    if lacking != Features::NONE {
        return Err(PagerError::NotSupported {
            detail: format!("this kernel's userfaultfd lacks features {:#x}: use Linux 6.7 or newer", lacking.0),
        });
    }
    // Moving pages is a faster way where it is there, and a fault thread runs beside a walk where it is told whose it is.
    let optional = [Features::MOVE, Features::THREAD_ID].into_iter().filter(|&feature| supported.has(feature));
    Uffd::open(optional.fold(wanted, Features::with)).map_err(PagerError::system("open a userfaultfd"))
}

/// A landing whose pages are there.
pub(crate) fn warm_landing() -> io::Result<Mapping> {
    let landing = Mapping::anonymous(LANDING_BYTES, true)?;
    for start in (0..LANDING_BYTES).step_by(PAGE) {
        landing.span().part(start, 1).expect("inside").copy_from(&[0]);
    }
    Ok(landing)
}

fn check_len(len: usize) -> Result<(), PagerError> {
    if len > 0 && len.is_multiple_of(PAGE) {
        return Ok(());
    }
    Err(PagerError::BadArgument { detail: format!("a window is a whole number of pages, not {len} bytes") })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, PagerError> {
    /// Ends the process when a thread of the pager panics: faults nobody resolves would hang it in silence.
    struct Loud;
    impl Drop for Loud {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let _ = rustix::io::write(rustix::stdio::stderr(), b"weft: a pager thread panicked: aborting\n");
                std::process::abort();
            }
        }
    }
    let quiet = move || {
        let _loud = Loud;
        // Refused by no kernel known; a signal handler on this stack would be a nuisance, not a danger.
        let _ = weft_sys::signal::block_all();
        body();
    };
    Builder::new()
        .name(name.to_owned())
        .stack_size(STACK_BYTES)
        .spawn(quiet)
        .map_err(PagerError::system("start a pager thread"))
}

impl std::fmt::Debug for Pager {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Pager").field("region", &self.target.lost.region()).field("span", &self.span()).finish()
    }
}

/// For the errors of a home when a page was asked for and not touched.
pub(crate) fn unavailable(target: &Target, page: u64, error: &FetchError) -> PagerError {
    PagerError::Unavailable(Box::new(target.lost.describe(page, error)))
}
