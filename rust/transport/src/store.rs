//! What a server serves: extents, the gates in front of them, and which of their pages were ever written.
//!
//! An extent is memory this machine lends (a memfd, backed before anybody is told of it) or a window some process of this
//! machine owns. A [`Gate`] stands before all extents of a region: it knows the lowest generation that may pass, and how
//! many requests are inside, so that raising it returns only when nobody of an older generation is touching a byte.

use std::collections::HashMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use weft_sys::memory::{Mapping, PAGE_BYTES, Span};
use weft_wire::{Code, Range, Refusal};

use crate::bypass::{Bypass, Bypasses};

/// Most extents one server holds: a table a person can still read, far above what one machine lends.
const EXTENTS_MAX: usize = 65_536;

/// Writers remembered for one extent: an exclusive attachment has one at a time, and each keeps its name over all its
/// connections.
const WRITERS_MAX: usize = 64;
/// How long bytes that passed the gate may take to land: one non-blocking system call, and a thread that was descheduled.
const DRAIN_MAX: Duration = Duration::from_millis(100);

/// What the owner of memory says of one of its pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageState {
    /// It has content.
    Present,
    /// It was never written.
    Zero,
    /// Somebody else holds it.
    Elsewhere,
}

/// The view an owner has of the pages it lets be served, where they are not the server's own.
pub trait Pages: Send + Sync {
    /// The state of one page, counted from the start of the memory.
    fn state(&self, page: u64) -> PageState;
    /// The memory; it stays mapped for as long as this object lives.
    fn span(&self) -> Span;
    /// Whether every page always has content, so that nobody need ask page by page.
    fn is_plain(&self) -> bool {
        false
    }
}

/// Stands before a region's extents.
#[derive(Debug)]
pub struct Gate {
    region_id: String,
    generation: AtomicU64,
    inside: AtomicUsize,
    bypasses: Arc<Bypasses>,
}

/// Somebody is inside; leaves when dropped.
pub struct Pass<'a>(&'a Gate);

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Gate {
    fn new(region_id: &str, generation: u64, bypasses: Arc<Bypasses>) -> Self {
        Self {
            region_id: region_id.to_owned(),
            generation: AtomicU64::new(generation),
            inside: AtomicUsize::new(0),
            bypasses,
        }
    }

    /// The lowest generation that may pass.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::SeqCst)
    }

    /// Lets a request of `generation` in for the time of one system call, unless a newer attachment exists.
    pub fn enter(&self, generation: u64) -> Result<Pass<'_>, Refusal> {
        // Counted before the generation is read: whoever raises it either is seen here, or sees this one inside.
        self.inside.fetch_add(1, Ordering::SeqCst);
        let pass = Pass(self);
        let lowest = self.generation();
        if generation < lowest {
            return Err(Refusal::new(
                Code::StaleGeneration,
                format!("this attachment has generation {generation}, the region is at {lowest}; attach again"),
            ));
        }
        Ok(pass)
    }

    fn raise(&self, generation: u64, deadline: Instant) -> bool {
        self.generation.fetch_max(generation, Ordering::SeqCst);
        // Raised first, so that whoever gives keys out either sees the new generation or is asked to take them back.
        let closed = self.bypasses.all(|bypass| bypass.raise(&self.region_id, generation));
        self.drained(deadline) && closed
    }

    /// Lets only `generation` and newer in, for a moment's time. For whoever opens an exclusive grant: it may know of the
    /// attachment before the coordinator could tell this lender.
    pub fn raise_soon(&self, generation: u64) -> bool {
        self.raise(generation, Instant::now() + DRAIN_MAX)
    }

    /// Returns once whoever is inside now is out. A pass lasts one non-blocking system call, so this ends within
    /// microseconds unless a thread was descheduled.
    fn drained(&self, deadline: Instant) -> bool {
        while self.inside.load(Ordering::SeqCst) > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }
}

enum Memory {
    /// The content, and behind it a bit for each of its pages that was ever written: one memfd, so that a neighbour that
    /// maps it sees both.
    Lent {
        mapping: Mapping,
        content: usize,
    },
    Owned(Arc<dyn Pages>),
}

/// One extent as it is served.
pub struct Extent {
    /// The region it belongs to.
    pub region_id: String,
    /// Its number within the region.
    pub index: u32,
    /// What requests pass.
    pub gate: Arc<Gate>,
    memory: Memory,
    released: AtomicBool,
    /// The newest connection of each writer.
    writers: Mutex<Vec<(u64, u64)>>,
}

impl Extent {
    /// Its size in bytes.
    pub fn size_bytes(&self) -> u64 {
        self.span().len() as u64
    }

    /// Takes `epoch` as the newest connection of `writer`, and returns once nothing of an older one is landing any more.
    ///
    /// # Errors
    /// A newer connection of the same writer exists, or older bytes were still landing after a moment.
    pub fn take_writer(&self, writer: u64, epoch: u64) -> Result<(), Refusal> {
        {
            let mut writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
            match writers.iter_mut().find(|(known, _)| *known == writer) {
                Some((_, newest)) if *newest > epoch => return Err(overtaken()),
                Some((_, newest)) if *newest == epoch => return Ok(()),
                Some((_, newest)) => *newest = epoch,
                None => {
                    if writers.len() == WRITERS_MAX {
                        writers.remove(0);
                    }
                    writers.push((writer, epoch));
                }
            }
        }
        // Whoever passed before the epoch was taken is inside the gate until its bytes are down.
        let fenced = self.gate.bypasses.all(|bypass| bypass.fence(writer, epoch));
        if self.gate.drained(Instant::now() + DRAIN_MAX) && fenced {
            return Ok(());
        }
        Err(Refusal::new(Code::Busy, "bytes of an older connection are still landing; open again"))
    }

    /// Refuses bytes of a connection that its writer has given up for a newer one. Asked inside the gate.
    pub fn check_writer(&self, writer: u64, epoch: u64) -> Result<(), Refusal> {
        let writers = self.writers.lock().unwrap_or_else(PoisonError::into_inner);
        match writers.iter().find(|(known, _)| *known == writer) {
            Some((_, newest)) if *newest > epoch => Err(overtaken()),
            _ => Ok(()),
        }
    }

    /// Whether it was released since; a connection may still know it.
    pub fn is_released(&self) -> bool {
        self.released.load(Ordering::Acquire)
    }

    /// The whole memory, if keys to it may be given out: it is this machine's own, and present from end to end. A window
    /// whose pages come and go is nobody's to pin.
    pub fn pinnable(&self) -> Option<Span> {
        match &self.memory {
            Memory::Lent { .. } => Some(self.span()),
            Memory::Owned(pages) => pages.is_plain().then(|| pages.span()),
        }
    }

    /// What a process of this machine may be handed to read it, where there is such: the descriptor of the content and, from
    /// its end on, of the words that say which pages were ever written.
    pub fn lent(&self) -> Option<BorrowedFd<'_>> {
        match &self.memory {
            Memory::Lent { mapping, .. } => mapping.lent(),
            Memory::Owned(_) => None,
        }
    }

    fn span(&self) -> Span {
        match &self.memory {
            Memory::Lent { mapping, content } => mapping.span().part(0, *content).expect("the content comes first"),
            Memory::Owned(pages) => pages.span(),
        }
    }

    /// The memory of `range`.
    ///
    /// # Errors
    /// `OutOfRange`, with the numbers.
    pub fn part(&self, range: Range) -> Result<Span, Refusal> {
        let span = usize::try_from(range.offset)
            .ok()
            .zip(usize::try_from(range.length).ok())
            .and_then(|(offset, length)| self.span().part(offset, length));
        span.ok_or_else(|| {
            Refusal::new(
                Code::OutOfRange,
                format!(
                    "bytes {}..{} are outside extent {} of region {}, which has {} bytes",
                    range.offset,
                    range.offset.saturating_add(range.length),
                    self.index,
                    self.region_id,
                    self.size_bytes()
                ),
            )
        })
    }

    /// Remembers that the pages of `range` have content. Comes before the bytes: a page is never called zero while bytes
    /// land in it.
    pub fn mark_written(&self, range: Range) {
        let Memory::Lent { mapping, content } = &self.memory else { return };
        let written = mapping.words(*content);
        let (first, last) = pages_of(range);
        for page in first..=last {
            let (word, bit) = (usize::try_from(page / 64).expect("a page index fits"), page % 64);
            if written[word].load(Ordering::Relaxed) & (1 << bit) == 0 {
                written[word].fetch_or(1 << bit, Ordering::Release);
            }
        }
    }

    /// What is known of one page.
    pub fn page(&self, page: u64) -> PageState {
        match &self.memory {
            Memory::Lent { mapping, content } => {
                let written = mapping.words(*content);
                let word = usize::try_from(page / 64).expect("a page index fits");
                if written[word].load(Ordering::Acquire) & (1 << (page % 64)) == 0 {
                    PageState::Zero
                } else {
                    PageState::Present
                }
            }
            Memory::Owned(pages) => pages.state(page),
        }
    }

    /// Whether no page of `range` was ever written.
    pub fn is_zero(&self, range: Range) -> bool {
        if matches!(&self.memory, Memory::Owned(pages) if pages.is_plain()) {
            return false;
        }
        let (first, last) = pages_of(range);
        (first..=last).all(|page| self.page(page) == PageState::Zero)
    }
}

/// Bytes behind an extent's content, whole pages: a bit for each of its pages that was ever written, in words of 64.
pub fn written_bytes(content_bytes: u64) -> u64 {
    let page = PAGE_BYTES as u64;
    (content_bytes.div_ceil(page * 64) * 8).next_multiple_of(page)
}

fn overtaken() -> Refusal {
    Refusal::new(
        Code::StaleGeneration,
        "this writer has opened a newer connection; what it sent over this one is dropped",
    )
}

fn pages_of(range: Range) -> (u64, u64) {
    let page = PAGE_BYTES as u64;
    (range.offset / page, (range.offset + range.length - 1) / page)
}

/// All that a server serves.
#[derive(Default)]
pub struct Store {
    extents: RwLock<HashMap<(String, u32), Arc<Extent>>>,
    gates: Mutex<HashMap<String, Arc<Gate>>>,
    bypasses: Arc<Bypasses>,
}

impl Store {
    /// Reserves `size_bytes` for one extent and backs every page before it returns. Asking again for what is there is done
    /// at once.
    ///
    /// # Errors
    /// `NoMemory` when the machine cannot hold it, `TooLarge` for a size that is not whole pages or a full table.
    pub fn reserve(&self, region_id: &str, index: u32, size_bytes: u64, generation: u64) -> Result<(), Refusal> {
        let len = usize::try_from(size_bytes).ok().filter(|len| *len > 0 && len.is_multiple_of(PAGE_BYTES));
        let Some(len) = len else {
            return Err(Refusal::new(
                Code::TooLarge,
                format!("an extent of {size_bytes} bytes cannot be reserved: it must be a whole number of pages"),
            ));
        };
        if let Some(extent) = self.find(region_id, index) {
            if extent.size_bytes() == size_bytes {
                return Ok(());
            }
            return Err(Refusal::new(
                Code::Busy,
                format!("extent {index} of region {region_id} is reserved with another size; release it first"),
            ));
        }
        let no_memory = |error: std::io::Error| {
            Refusal::new(
                Code::NoMemory,
                format!(
                    "{size_bytes} bytes for extent {index} of region {region_id} cannot be had: {error}; lend less"
                ),
            )
        };
        let words_bytes = written_bytes(size_bytes);
        let whole = usize::try_from(words_bytes).ok().and_then(|words| len.checked_add(words));
        let mapping = whole.ok_or_else(|| io::ErrorKind::OutOfMemory.into());
        let mapping = mapping.and_then(|whole| Mapping::lendable("weft-extent", whole)).map_err(no_memory)?;
        self.insert(region_id, index, generation, Memory::Lent { mapping, content: len })
    }

    /// Serves memory that belongs to somebody else.
    ///
    /// # Errors
    /// `TooLarge` for a full table, `Busy` when the extent exists.
    pub fn serve(&self, region_id: &str, index: u32, pages: Arc<dyn Pages>) -> Result<(), Refusal> {
        self.insert(region_id, index, 0, Memory::Owned(pages))
    }

    fn insert(&self, region_id: &str, index: u32, generation: u64, memory: Memory) -> Result<(), Refusal> {
        // Extents first, then gates, as `release` does: a gate is never given up between being found and being used.
        let mut extents = self.extents.write().unwrap_or_else(PoisonError::into_inner);
        let gate = Arc::clone(
            self.gates
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(region_id.to_owned())
                .or_insert_with(|| Arc::new(Gate::new(region_id, generation, Arc::clone(&self.bypasses)))),
        );
        gate.generation.fetch_max(generation, Ordering::SeqCst);
        let extent = Arc::new(Extent {
            region_id: region_id.to_owned(),
            index,
            gate,
            memory,
            released: AtomicBool::new(false),
            writers: Mutex::new(Vec::new()),
        });
        if extents.len() >= EXTENTS_MAX {
            return Err(Refusal::new(Code::TooLarge, format!("{EXTENTS_MAX} extents are served already")));
        }
        match extents.entry((region_id.to_owned(), index)) {
            std::collections::hash_map::Entry::Occupied(_) => {
                Err(Refusal::new(Code::Busy, format!("extent {index} of region {region_id} is served already")))
            }
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(extent);
                Ok(())
            }
        }
    }

    /// Lets only `generation` and newer reach the region from now on. Returns whether everybody older was out in time; the
    /// gate is raised either way.
    pub fn raise_generation(&self, region_id: &str, generation: u64, timeout: Duration) -> bool {
        let gate = self.gates.lock().unwrap_or_else(PoisonError::into_inner).get(region_id).cloned();
        gate.is_none_or(|gate| gate.raise(generation, Instant::now() + timeout))
    }

    /// Gives one extent's memory back. What is not there is already released.
    pub fn release(&self, region_id: &str, index: u32) {
        let mut extents = self.extents.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(extent) = extents.remove(&(region_id.to_owned(), index)) {
            extent.released.store(true, Ordering::Release);
        }
        if !extents.keys().any(|(id, _)| id == region_id) {
            self.gates.lock().unwrap_or_else(PoisonError::into_inner).remove(region_id);
        }
        drop(extents);
        self.bypasses.all(|bypass| {
            bypass.release(region_id, index);
            true
        });
    }

    /// Tells `bypass` of every right that ends, from now on.
    pub fn tell(&self, bypass: Arc<dyn Bypass>) {
        self.bypasses.add(bypass);
    }

    /// Tells it no more. It has taken back what it gave.
    pub fn tell_no_more(&self, bypass: &Arc<dyn Bypass>) {
        self.bypasses.remove(bypass);
    }

    /// One extent, if it is served.
    pub fn find(&self, region_id: &str, index: u32) -> Option<Arc<Extent>> {
        let extents = self.extents.read().unwrap_or_else(PoisonError::into_inner);
        extents.get(&(region_id.to_owned(), index)).cloned()
    }

    /// What is served: region, index, size, generation; sorted.
    pub fn list(&self) -> Vec<(String, u32, u64, u64)> {
        let extents = self.extents.read().unwrap_or_else(PoisonError::into_inner);
        let mut list: Vec<_> = extents
            .values()
            .map(|extent| (extent.region_id.clone(), extent.index, extent.size_bytes(), extent.gate.generation()))
            .collect();
        list.sort();
        list
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripe(offset: u64, length: u64) -> Range {
        Range { offset, length }
    }

    #[test]
    fn a_page_counts_as_zero_until_it_is_marked_written() {
        let store = Store::default();
        store.reserve("r1", 0, 2 << 20, 1).unwrap();
        let extent = store.find("r1", 0).unwrap();
        assert!(extent.is_zero(stripe(0, 2 << 20)));
        extent.mark_written(stripe(4095, 2));
        assert_eq!(extent.page(0), PageState::Present);
        assert_eq!(extent.page(1), PageState::Present);
        assert_eq!(extent.page(2), PageState::Zero);
    }

    #[test]
    fn a_range_that_leaves_the_extent_is_refused_without_wrapping() {
        let store = Store::default();
        store.reserve("r1", 0, 8192, 1).unwrap();
        let extent = store.find("r1", 0).unwrap();
        for range in [stripe(8192, 1), stripe(0, 8193), stripe(u64::MAX, 2), stripe(4096, u64::MAX)] {
            assert_eq!(extent.part(range).unwrap_err().code, Code::OutOfRange);
        }
        assert_eq!(extent.part(stripe(4096, 4096)).unwrap().len(), 4096);
    }

    #[test]
    fn raising_the_gate_waits_for_whoever_is_inside_and_then_refuses_the_older() {
        let gate = Gate::new("r1", 1, Arc::default());
        let pass = gate.enter(1).map_err(|refusal| refusal.code).unwrap();
        assert!(!gate.raise(2, Instant::now()));
        drop(pass);
        assert!(gate.raise(2, Instant::now() + Duration::from_secs(1)));
        assert_eq!(gate.enter(1).map(|_| ()).unwrap_err().code, Code::StaleGeneration);
        assert!(gate.enter(2).is_ok());
    }

    #[test]
    fn reserving_twice_is_reserving_once_and_releasing_frees_the_name() {
        let store = Store::default();
        store.reserve("r1", 3, 4096, 1).unwrap();
        store.reserve("r1", 3, 4096, 1).unwrap();
        assert_eq!(store.reserve("r1", 3, 8192, 1).unwrap_err().code, Code::Busy);
        let known = store.find("r1", 3).unwrap();
        store.release("r1", 3);
        assert!(known.is_released() && store.list().is_empty());
        store.reserve("r1", 3, 8192, 5).unwrap();
        assert_eq!(store.list(), vec![("r1".to_owned(), 3, 8192, 5)]);
    }
}
