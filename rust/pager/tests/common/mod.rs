//! A home in memory, and windows onto it.
#![allow(dead_code, reason = "every test file uses a part of this")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use weft_pager::source::{FetchError, PageChannel, PageSink, PageSource, RUN_PAGES_MAX, ReplyHead};
use weft_pager::{Options, Pager, PagerError, RegionMode};
use weft_sys::memory::Span;

pub const PAGE: usize = 4096;
/// Pages that lie together in one extent of the home.
pub const STRETCH_PAGES: u64 = 512;

/// A page's content: `None` was never written.
type Page = Option<Box<[u8]>>;

/// What a home has, and what was asked of it.
pub struct Home {
    pages: Mutex<Vec<Page>>,
    /// Requests in the order they were posted: (first page, pages).
    pub asked: Mutex<Vec<(u64, u32)>>,
    /// While set, replies wait.
    stalled: Mutex<bool>,
    moved: Condvar,
    /// While set, channels do not keep their deadlines either.
    pub stuck: AtomicBool,
    /// While set, writes are refused.
    pub refuses_writes: AtomicBool,
    pub bytes_sent: AtomicU64,
}

impl Home {
    /// Every page written, with its number in its first eight bytes and its last.
    pub fn written(pages: u64) -> Arc<Self> {
        Self::of((0..pages).map(|page| Some(content(page))).collect())
    }

    /// No page ever written.
    pub fn fresh(pages: u64) -> Arc<Self> {
        Self::of((0..pages).map(|_| None).collect())
    }

    fn of(pages: Vec<Page>) -> Arc<Self> {
        Arc::new(Self {
            pages: Mutex::new(pages),
            asked: Mutex::default(),
            stalled: Mutex::new(false),
            moved: Condvar::new(),
            stuck: AtomicBool::new(false),
            refuses_writes: AtomicBool::new(false),
            bytes_sent: AtomicU64::new(0),
        })
    }

    pub fn len(&self) -> u64 {
        self.pages.lock().unwrap().len() as u64
    }

    pub fn forget(&self, page: u64) {
        self.pages.lock().unwrap()[page as usize] = None;
    }

    pub fn put(&self, page: u64, byte: u8) {
        self.pages.lock().unwrap()[page as usize] = Some(vec![byte; PAGE].into());
    }

    pub fn first_byte(&self, page: u64) -> u8 {
        self.pages.lock().unwrap()[page as usize].as_ref().map_or(0, |bytes| bytes[0])
    }

    pub fn stall(&self, stalled: bool) {
        *self.stalled.lock().unwrap() = stalled;
        self.moved.notify_all();
    }

    pub fn asked(&self) -> Vec<(u64, u32)> {
        self.asked.lock().unwrap().clone()
    }

    /// Waits until this many requests were posted.
    pub fn await_asked(&self, count: usize) {
        await_that(|| self.asked.lock().unwrap().len() >= count);
    }
}

/// A page whose first and last words are its number.
pub fn content(page: u64) -> Box<[u8]> {
    let mut bytes = vec![0u8; PAGE];
    bytes[..8].copy_from_slice(&page.to_le_bytes());
    bytes[PAGE - 8..].copy_from_slice(&page.to_le_bytes());
    bytes.into()
}

/// Waits for a condition; a test that hangs fails here.
pub fn await_that(condition: impl Fn() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited too long");
        std::thread::sleep(Duration::from_micros(200));
    }
}

pub struct Source(pub Arc<Home>);

impl PageSource for Source {
    fn channel(&self) -> Result<Box<dyn PageChannel>, FetchError> {
        Ok(Box::new(Channel { home: Arc::clone(&self.0), posted: VecDeque::new(), begun: None }))
    }

    fn home(&self, page: u64) -> &str {
        if (page / STRETCH_PAGES).is_multiple_of(2) { "even" } else { "odd" }
    }

    fn run_at(&self, page: u64) -> u32 {
        (STRETCH_PAGES - page % STRETCH_PAGES).min(u64::from(RUN_PAGES_MAX)) as u32
    }
}

struct Channel {
    home: Arc<Home>,
    posted: VecDeque<(u64, u32)>,
    begun: Option<Vec<u8>>,
}

fn timed_out() -> FetchError {
    FetchError { node: "even".into(), code: "timed_out", detail: "no answer by the deadline".into(), temporary: true }
}

impl PageChannel for Channel {
    fn post(&mut self, page: u64, count: u32, _deadline: Instant) -> Result<(), FetchError> {
        assert!(count >= 1 && count <= Source(Arc::clone(&self.home)).run_at(page), "{count} pages at {page}");
        self.home.asked.lock().unwrap().push((page, count));
        self.posted.push_back((page, count));
        Ok(())
    }

    fn begin(&mut self, into: Span, deadline: Instant) -> Result<ReplyHead, FetchError> {
        let (first, count) = self.posted.pop_front().expect("something was posted");
        let mut stalled = self.home.stalled.lock().unwrap();
        while *stalled {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() && !self.home.stuck.load(Ordering::Relaxed) {
                return Err(timed_out());
            }
            stalled = self.home.moved.wait_timeout(stalled, left.max(Duration::from_millis(5))).unwrap().0;
        }
        drop(stalled);
        let pages = self.home.pages.lock().unwrap();
        let (mut zero_map, mut payload) = (0u64, Vec::new());
        for index in 0..u64::from(count) {
            match &pages[(first + index) as usize] {
                None => zero_map |= 1 << index,
                Some(bytes) => payload.extend_from_slice(bytes),
            }
        }
        self.home.bytes_sent.fetch_add(payload.len() as u64, Ordering::Relaxed);
        // A socket hands over what has come so far: here a page and a half.
        let filled = payload.len().min(PAGE + PAGE / 2);
        into.copy_from(&payload[..filled]);
        let head = ReplyHead { zero_map, bytes: payload.len(), filled };
        self.begun = (filled < head.bytes).then_some(payload);
        Ok(head)
    }

    fn fill(&mut self, into: Span, filled: usize, at_least: usize, _deadline: Instant) -> Result<usize, FetchError> {
        let payload = self.begun.as_ref().expect("a reply was begun and is not all there");
        let end = (at_least + 100).min(payload.len());
        into.part(filled, end - filled).expect("inside").copy_from(&payload[filled..end]);
        if end == payload.len() {
            self.begun = None;
        }
        Ok(end)
    }

    fn outstanding(&self) -> usize {
        self.posted.len() + usize::from(self.begun.is_some())
    }
}

/// The way back to the same home.
pub struct Sink(pub Arc<Home>);

impl PageSink for Sink {
    fn write(&mut self, writes: &[(u64, Span)], _deadline: Instant) -> Result<(), FetchError> {
        for (index, (offset, span)) in writes.iter().enumerate() {
            if self.0.refuses_writes.load(Ordering::Relaxed) && index == writes.len() / 2 {
                return Err(FetchError {
                    node: "odd".into(),
                    code: "disconnected",
                    detail: "gone".into(),
                    temporary: true,
                });
            }
            assert!(offset.is_multiple_of(PAGE as u64) && span.len().is_multiple_of(PAGE));
            let mut bytes = vec![0u8; span.len()];
            span.copy_to(&mut bytes);
            let first = *offset as usize / PAGE;
            let mut pages = self.0.pages.lock().unwrap();
            for (page, bytes) in bytes.chunks_exact(PAGE).enumerate() {
                pages[first + page] = Some(bytes.into());
            }
        }
        Ok(())
    }
}

pub fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

/// A window onto all of `home`; `None`, with the reason printed, where there is no userfaultfd.
pub fn window(home: &Arc<Home>, mode: RegionMode, options: &Options) -> Option<Pager> {
    let sink = (mode == RegionMode::Exclusive).then(|| Box::new(Sink(Arc::clone(home))) as Box<dyn PageSink>);
    let bytes = home.len() * PAGE as u64;
    available(Pager::region("r-test", bytes, mode, Arc::new(Source(Arc::clone(home))), sink, options))
}

/// `None`, with the reason printed, where windows are not possible.
pub fn available(made: Result<Pager, PagerError>) -> Option<Pager> {
    match made {
        Ok(pager) => Some(pager),
        Err(error @ (PagerError::NoPrivilege { .. } | PagerError::NotSupported { .. })) => {
            eprintln!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

pub fn options() -> Options {
    Options { threads: 2, ..Options::default() }
}

/// One page of the window.
pub fn page_of(pager: &Pager, page: u64) -> Span {
    pager.span().part(page as usize * PAGE, PAGE).expect("inside")
}

/// Touches a page to read it; answers its first word.
pub fn touch(pager: &Pager, page: u64) -> u64 {
    let mut word = [0u8; 8];
    page_of(pager, page).copy_to(&mut word);
    // A touch happens even where nobody looks at what it found.
    u64::from_le_bytes(std::hint::black_box(word))
}

/// Touches a page to write its first byte.
pub fn write_byte(pager: &Pager, page: u64, byte: u8) {
    page_of(pager, page).copy_from(&[byte]);
}

/// Runs the test `name` of this binary again as a child that is told so by the environment; answers its end and what it
/// said on standard error.
pub fn child(name: &str) -> (std::process::ExitStatus, String) {
    let output = std::process::Command::new(std::env::current_exe().expect("own path"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env("WEFT_PAGER_TEST_CHILD", "1")
        .output()
        .expect("child");
    (output.status, String::from_utf8_lossy(&output.stderr).into_owned())
}

pub fn is_child() -> bool {
    std::env::var_os("WEFT_PAGER_TEST_CHILD").is_some()
}
