//! A lender's extents on this machine, as a region's window reads them: a lane whose reads need no lender.
//!
//! The TCP connection stays: hellos, opens, writes and messages travel over it. What was opened there is then asked for once
//! more over a UNIX socket, with the same grant, and mapped; from then on its pages are copied out of the mapping, and which
//! of them were never written is read from the words behind the content.
//!
//! What if the extent is taken back, the grant runs out or the lender is gone? The read is asked over TCP, and the answer
//! there is the right one. What if the lender is stopped? Its memory answers for it, as with RDMA; what goes over TCP ends by
//! its deadline. Answers come in the order of posting: a request over TCP waits here while reads before it are not taken.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use weft_sys::memory::Span;
use weft_sys::neighbour::RECORD_BYTES_MAX;
use weft_sys::view::View;
use weft_transport::{Identity, Lane, PeerIdentity, Reply, Request, TransportError, Upgrade, written_bytes};
use weft_wire::{Flags, Header, Kind, PAGE_BYTES, Range, SPARSE_PAGES_MAX};

use crate::ipc::Watch;
use crate::ipc::near::{self, Look, Near, Shown, gather};

/// How long a lender of this machine may take to say hello, or to hand an extent over, before TCP is used.
const ANSWER_MAX: Duration = Duration::from_millis(500);
/// Requests posted and not completed on one lane, as on every lane.
const OUTSTANDING_MAX: usize = 256;

/// What went this way.
#[derive(Debug, Default)]
pub struct NearCounters {
    /// Connections that found their lender on this machine.
    pub upgrades: AtomicU64,
    /// Extents that were mapped.
    pub extents: AtomicU64,
    /// Bytes that were read out of mappings.
    pub read_bytes: AtomicU64,
    /// Reads that went over TCP after all, because a right had ended.
    pub fallbacks: AtomicU64,
}

impl NearCounters {
    /// All of them by name.
    pub fn all(&self) -> [(&'static str, u64); 4] {
        [
            ("near_upgrades", &self.upgrades),
            ("near_extents", &self.extents),
            ("near_read_bytes", &self.read_bytes),
            ("near_fallbacks", &self.fallbacks),
        ]
        .map(|(name, counter)| (name, counter.load(Ordering::Relaxed)))
    }
}

/// Makes more of connections to lenders of this machine; of others, whatever `otherwise` makes.
pub struct NearUpgrade {
    identity: Arc<Identity>,
    watch: Arc<Watch>,
    now_ms: fn() -> u64,
    otherwise: Option<Arc<dyn Upgrade>>,
    counters: Arc<NearCounters>,
}

impl NearUpgrade {
    /// For this process; `now_ms` is the clock for the ends of grants.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn new(
        identity: Arc<Identity>,
        now_ms: fn() -> u64,
        otherwise: Option<Arc<dyn Upgrade>>,
    ) -> std::io::Result<Self> {
        let watch = Arc::new(Watch::new(now_ms)?);
        Ok(Self { identity, watch, now_ms, otherwise, counters: Arc::default() })
    }

    /// What went this way so far.
    pub fn counters(&self) -> &Arc<NearCounters> {
        &self.counters
    }
}

impl Upgrade for NearUpgrade {
    fn upgrade(&self, lane: Box<dyn Lane>, deadline: Instant) -> Result<Box<dyn Lane>, TransportError> {
        let peer = lane.peer();
        let socket = self.identity.near_socket(&peer.name, peer.incarnation);
        // A lender of another machine listens under no such name here, which the kernel says at once.
        let Ok(met) = near::meet(&socket, peer.incarnation, deadline.min(Instant::now() + ANSWER_MAX)) else {
            return match &self.otherwise {
                Some(otherwise) => otherwise.upgrade(lane, deadline),
                None => Ok(lane),
            };
        };
        self.counters.upgrades.fetch_add(1, Ordering::Relaxed);
        Ok(Box::new(NearLane {
            tcp: lane,
            near: Some(Arc::new(Near::new(met.conversation, met.slate))),
            watch: Arc::clone(&self.watch),
            now_ms: self.now_ms,
            extents: HashMap::new(),
            outstanding: VecDeque::new(),
            begun: None,
            counters: Arc::clone(&self.counters),
            open: true,
        }))
    }
}

/// An extent that is mapped here.
struct Mapped {
    shown: Arc<Shown>,
    content: u64,
    expires_at_ms: u64,
}

/// A request that is outstanding, with what asking takes.
struct Entry {
    header: Header,
    ranges: Vec<Range>,
    payload: Vec<Span>,
    /// What an open was asked with.
    opening: Option<Vec<u8>>,
    by: By,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    /// Posted.
    Tcp,
    /// Not posted yet: reads out of mappings come before it.
    Held,
    /// Out of a mapping, when it is begun.
    View,
}

/// How a begun answer goes on.
enum Begun {
    /// Over TCP.
    Tcp,
    /// Out of a mapping: these ranges, this many bytes.
    View { parts: Vec<Range>, bytes: usize },
}

struct NearLane {
    tcp: Box<dyn Lane>,
    /// Nothing once the conversation came to nothing.
    near: Option<Arc<Near>>,
    watch: Arc<Watch>,
    now_ms: fn() -> u64,
    extents: HashMap<u64, Mapped>,
    outstanding: VecDeque<Entry>,
    begun: Option<Begun>,
    counters: Arc<NearCounters>,
    open: bool,
}

impl NearLane {
    /// Asks for an extent that was just opened over TCP, and maps it. What does not work out stays on TCP.
    fn attach(&mut self, handle: u64, index: u64, life: u64, opening: &[u8], deadline: Instant) {
        let Some(near) = &self.near else { return };
        let Ok(index) = u32::try_from(index) else { return };
        let mut record = Vec::with_capacity(12 + opening.len());
        record.extend_from_slice(&index.to_le_bytes());
        record.extend_from_slice(&life.to_le_bytes());
        record.extend_from_slice(opening);
        let mut answer = [0u8; RECORD_BYTES_MAX];
        let heard = near
            .conversation
            .send(&record, None)
            .and_then(|()| near::hear(&near.conversation, &mut answer, deadline.min(Instant::now() + ANSWER_MAX)));
        let Ok((length @ 1.., descriptor)) = heard else {
            // A late answer would be taken for the next one's.
            self.near = None;
            self.extents.clear();
            return;
        };
        let Some(Ok(granted)) = near::granted(&answer[..length]) else { return };
        let Ok(tail) = usize::try_from(written_bytes(granted.length)) else { return };
        let mapped = descriptor.and_then(|descriptor| near::map(near, &self.watch, &granted, descriptor, tail));
        if let Some(shown) = mapped {
            self.counters.extents.fetch_add(1, Ordering::Relaxed);
            let (content, expires_at_ms) = (granted.length, granted.expires_at_ms);
            self.extents.insert(handle, Mapped { shown, content, expires_at_ms });
        }
    }

    /// Whether a request can be answered out of a mapping. What is wrong with it is said over TCP, in the lender's words.
    fn is_shown(&self, request: &Request<'_>) -> bool {
        let header = &request.header;
        if header.kind != Kind::Read || self.near.is_none() {
            return false;
        }
        let Some(mapped) = self.extents.get(&header.handle) else { return false };
        let inside = |range: &Range| range.length > 0 && range.end().is_some_and(|end| end <= mapped.content);
        let whole = Range { offset: header.offset, length: header.length };
        let fits = if request.ranges.is_empty() { inside(&whole) } else { request.ranges.iter().all(inside) };
        let sparse = header.flags.has(Flags::SPARSE);
        let pages = request.ranges.is_empty()
            && whole.offset.is_multiple_of(PAGE_BYTES)
            && whole.length.is_multiple_of(PAGE_BYTES)
            && whole.length / PAGE_BYTES <= SPARSE_PAGES_MAX;
        fits && (pages || !sparse) && (self.now_ms)() < mapped.expires_at_ms
    }

    /// Answers the oldest request out of its mapping; nothing when it has to be asked over TCP.
    fn begin_shown(&mut self, into: &[Span]) -> Option<Reply> {
        let entry = self.outstanding.front()?;
        let mapped = self.extents.get(&entry.header.handle)?;
        let near = self.near.as_ref()?;
        let room: usize = into.iter().map(|span| span.len()).sum();
        let (header, content) = (&entry.header, mapped.content);
        let single = [Range { offset: header.offset, length: header.length }];
        let ranges = if entry.ranges.is_empty() { &single[..] } else { &entry.ranges };
        let mut reply = Header::new(Kind::Reply, 0);
        let mut parts = Vec::new();
        let look = near.look_with(&mapped.shown, |view| {
            if header.flags.has(Flags::SPARSE) {
                sparse(view, content, ranges[0], &mut reply, &mut parts);
            } else if ranges.iter().all(|range| pages_of(range).all(|page| !is_written(view, content, page))) {
                reply.flags = Flags::ZERO;
            } else {
                reply.length = header.length;
                parts.extend_from_slice(ranges);
            }
            gather(view, &parts, into, 0, room);
        });
        if look != Look::Seen {
            self.counters.fallbacks.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        let bytes = usize::try_from(reply.length).expect("a frame is at most 64 MiB");
        let filled = bytes.min(room);
        self.counters.read_bytes.fetch_add(filled as u64, Ordering::Relaxed);
        if filled == bytes {
            self.outstanding.pop_front();
        } else {
            self.begun = Some(Begun::View { parts, bytes });
        }
        Some(Reply { header: reply, filled })
    }

    fn closed(&self) -> TransportError {
        TransportError::Closed { peer: self.tcp.peer().name.clone() }
    }

    fn begin_over_tcp(&mut self, into: &[Span], deadline: Instant) -> Result<Reply, TransportError> {
        let result = self.tcp.begin(into, deadline);
        match &result {
            Ok(reply) if reply.filled < reply.bytes() => self.begun = Some(Begun::Tcp),
            Ok(reply) => {
                let entry = self.outstanding.pop_front().expect("the caller saw it");
                if let Some(opening) = entry.opening {
                    self.attach(reply.header.handle, entry.header.offset, entry.header.tag, &opening, deadline);
                }
            }
            Err(error) if error.breaks_lane() => self.close(),
            Err(_) => {
                self.outstanding.pop_front();
            }
        }
        result
    }
}

impl Lane for NearLane {
    fn post(&mut self, request: Request<'_>, deadline: Instant) -> Result<(), TransportError> {
        if !self.open {
            return Err(self.closed());
        }
        if self.outstanding.len() == OUTSTANDING_MAX {
            return Err(TransportError::BadArgument(format!(
                "{OUTSTANDING_MAX} requests are outstanding on this lane; complete some before posting more"
            )));
        }
        let mut entry = Entry {
            header: request.header,
            ranges: request.ranges.to_vec(),
            payload: request.payload.to_vec(),
            opening: None,
            by: By::Held,
        };
        if request.header.kind == Kind::Open {
            let mut bytes = vec![0; request.payload.iter().map(|span| span.len()).sum()];
            let mut at = 0;
            for span in request.payload {
                span.copy_to(&mut bytes[at..at + span.len()]);
                at += span.len();
            }
            entry.opening = Some(bytes);
        }
        // A connection answers in the order of what was posted on it: a read out of a mapping comes before or behind all.
        let all_shown = self.outstanding.iter().all(|entry| entry.by == By::View);
        let all_posted = self.outstanding.iter().all(|entry| entry.by == By::Tcp);
        if all_shown && self.is_shown(&request) {
            entry.by = By::View;
        } else if all_posted {
            self.tcp.post(request, deadline).inspect_err(|error| {
                if error.breaks_lane() {
                    self.open = false;
                }
            })?;
            entry.by = By::Tcp;
        }
        self.outstanding.push_back(entry);
        Ok(())
    }

    fn begin(&mut self, into: &[Span], deadline: Instant) -> Result<Reply, TransportError> {
        if !self.open || self.outstanding.is_empty() || self.begun.is_some() {
            self.close();
            return Err(self.closed());
        }
        if self.outstanding[0].by == By::View {
            if let Some(reply) = self.begin_shown(into) {
                return Ok(reply);
            }
            // What ended does not begin again: from here on its reads are posted at once.
            self.extents.remove(&self.outstanding[0].header.handle);
            self.outstanding[0].by = By::Held;
        }
        if self.outstanding[0].by == By::Held {
            let entry = &mut self.outstanding[0];
            entry.by = By::Tcp;
            let request = Request { header: entry.header, ranges: &entry.ranges, payload: &entry.payload };
            if let Err(error) = self.tcp.post(request, deadline) {
                self.close();
                return Err(error);
            }
        }
        self.begin_over_tcp(into, deadline)
    }

    fn fill(
        &mut self,
        into: &[Span],
        filled: usize,
        at_least: usize,
        deadline: Instant,
    ) -> Result<usize, TransportError> {
        if filled >= at_least {
            return Ok(filled);
        }
        if !self.open {
            return Err(self.closed());
        }
        match &self.begun {
            None => Err(self.closed()),
            Some(Begun::Tcp) => {
                let result = self.tcp.fill(into, filled, at_least, deadline);
                match &result {
                    Ok(_) if self.tcp.outstanding() < self.posted() => {
                        self.begun = None;
                        self.outstanding.pop_front();
                    }
                    Ok(_) => {}
                    Err(_) => self.close(),
                }
                result
            }
            Some(Begun::View { parts, bytes }) => {
                let bytes = *bytes;
                let mapped = self.extents.get(&self.outstanding[0].header.handle);
                let looked = mapped.zip(self.near.as_ref()).map(|(mapped, near)| {
                    near.look_with(&mapped.shown, |view| gather(view, parts, into, filled, bytes))
                });
                if looked != Some(Look::Seen) {
                    // Its head was given out already, so it cannot be asked again on this lane.
                    let peer = self.tcp.peer().name.clone();
                    self.close();
                    let doing = "reading an extent that was taken back meanwhile";
                    return Err(TransportError::Disconnected { peer, doing, cause: None });
                }
                self.counters.read_bytes.fetch_add((bytes - filled) as u64, Ordering::Relaxed);
                self.begun = None;
                self.outstanding.pop_front();
                Ok(bytes)
            }
        }
    }

    fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    fn peer(&self) -> &PeerIdentity {
        self.tcp.peer()
    }

    fn close(&mut self) {
        self.open = false;
        self.begun = None;
        self.outstanding.clear();
        self.extents.clear();
        self.near = None;
        self.tcp.close();
    }
}

impl NearLane {
    /// Requests that the connection has.
    fn posted(&self) -> usize {
        self.outstanding.iter().filter(|entry| entry.by == By::Tcp).count()
    }
}

/// The pages a range lies in.
fn pages_of(range: &Range) -> std::ops::RangeInclusive<u64> {
    range.offset / PAGE_BYTES..=(range.offset + range.length - 1) / PAGE_BYTES
}

/// Whether a page has content, by the words behind it all.
fn is_written(view: &View, content: u64, page: u64) -> bool {
    let at = usize::try_from(content + page / 64 * 8).expect("a mapping fits");
    view.word(at).is_none_or(|word| word & (1 << (page % 64)) != 0)
}

/// What a sparse read of whole pages is answered with, and the runs of pages that have content.
fn sparse(view: &View, content: u64, range: Range, reply: &mut Header, parts: &mut Vec<Range>) {
    let pages = range.length / PAGE_BYTES;
    let (first, mut zero_map) = (range.offset / PAGE_BYTES, 0u64);
    for page in 0..pages {
        let offset = range.offset + page * PAGE_BYTES;
        if !is_written(view, content, first + page) {
            zero_map |= 1 << page;
        } else if let Some(last) = parts.last_mut().filter(|last: &&mut Range| last.offset + last.length == offset) {
            last.length += PAGE_BYTES;
        } else {
            parts.push(Range { offset, length: PAGE_BYTES });
        }
    }
    let none = u64::from(zero_map.count_ones()) == pages;
    reply.flags = if none { Flags::ZERO } else { Flags::SPARSE };
    reply.tag = zero_map;
    reply.length = (pages - u64::from(zero_map.count_ones())) * PAGE_BYTES;
}
