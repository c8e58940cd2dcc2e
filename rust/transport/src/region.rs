//! A region's window: where its pages live by division, and the way home for what was written.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use weft_pager::source::{FetchError, PageChannel, PageSink, PageSource, RUN_PAGES_MAX};
use weft_paging::layout::Layout;
use weft_sys::memory::Span;
use weft_wire::{Kind, PAGE_BYTES, Range};

use crate::channel::{Channel, Place, Router};
use crate::homes::{ExtentHome, Homes, Links, fetch_error};
use crate::peer::{Batch, complete};
use crate::tcp::ConnectOptions;
use crate::{Identity, TransportError, Upgrade};

/// Most bytes of one write frame: large enough to hide the turn-round, small enough that a lender's other readers wait
/// little.
const WRITE_BYTES_MAX: u64 = 4 << 20;
/// Most ranges of one write frame.
const WRITE_RANGES_MAX: usize = 256;
/// Write frames in flight to one lender.
const WRITES_IN_FLIGHT: usize = 2;

/// What a region's window is made from: the layout as the coordinator planned it.
#[derive(Clone, Debug)]
pub struct RegionSpec {
    /// Bands and their extents.
    pub layout: Layout,
    /// The lender's name and incarnation of each extent, by the extent's index.
    pub extents: Vec<(String, u64)>,
    /// Data addresses of lenders; one that is missing cannot be reached until it is told.
    pub addresses: Vec<(String, SocketAddr)>,
    /// The attachment's grant.
    pub grant: Arc<[u8]>,
}

/// The homes of a region's pages.
pub struct RegionSource {
    homes: Arc<Homes>,
    router: Arc<RegionRouter>,
}

struct RegionRouter {
    layout: Layout,
}

impl Router for RegionRouter {
    fn locate(&self, page: u64) -> Result<Place, FetchError> {
        self.place(page).ok_or_else(|| FetchError {
            node: String::new(),
            code: "out_of_range",
            detail: format!("page {page} is outside the region"),
            temporary: false,
        })
    }
}

impl RegionRouter {
    fn place(&self, page: u64) -> Option<Place> {
        let place = self.layout.place(page.checked_mul(PAGE_BYTES)?)?;
        let extent = place.extent as usize;
        Some(Place { extent, offset: place.offset, pages: place.contiguous / PAGE_BYTES })
    }
}

impl RegionSource {
    /// A source over the layout of `spec`.
    pub fn new(spec: RegionSpec, identity: Arc<Identity>, options: ConnectOptions) -> Self {
        let mut lenders: Vec<String> = spec.extents.iter().map(|(lender, _)| lender.clone()).collect();
        lenders.sort();
        lenders.dedup();
        let extents: Vec<ExtentHome> = spec
            .extents
            .iter()
            .zip(0u32..)
            .map(|((lender, incarnation), index)| ExtentHome {
                lender: lenders.binary_search(lender).expect("every extent's lender is in the list"),
                index,
                incarnation: Some(*incarnation),
            })
            .collect();
        let addresses = lenders
            .iter()
            .map(|lender| spec.addresses.iter().find(|(name, _)| name == lender).map(|(_, address)| *address))
            .collect();
        let grants = extents.iter().map(|_| Arc::clone(&spec.grant)).collect();
        let homes = Arc::new(Homes::new(identity, options, extents, lenders, addresses, grants));
        Self { homes, router: Arc::new(RegionRouter { layout: spec.layout }) }
    }

    /// Takes a renewed grant; channels present it when a lender asks for it.
    pub fn renew(&self, grant: &Arc<[u8]>) {
        self.homes.renew(grant);
    }

    /// Takes a lender's new address.
    pub fn set_address(&self, lender: &str, address: SocketAddr) {
        self.homes.set_address(lender, address);
    }

    /// Makes more of the connections to its lenders than TCP, where that can be had.
    pub fn set_upgrade(&self, upgrade: Arc<dyn Upgrade>) {
        self.homes.set_upgrade(upgrade);
    }

    /// A way home for what was written.
    pub fn sink(&self) -> RegionSink {
        RegionSink { links: Links::new(Arc::clone(&self.homes)), router: Arc::clone(&self.router) }
    }
}

impl PageSource for RegionSource {
    fn channel(&self) -> Result<Box<dyn PageChannel>, FetchError> {
        Ok(Box::new(Channel::new(Arc::clone(&self.homes), Arc::clone(&self.router))))
    }

    fn home(&self, page: u64) -> &str {
        self.router.place(page).map_or("", |place| &self.homes.lenders[self.homes.extents[place.extent].lender])
    }

    fn run_at(&self, page: u64) -> u32 {
        let pages = self.router.place(page).map_or(1, |place| place.pages);
        u32::try_from(pages).unwrap_or(u32::MAX).clamp(1, RUN_PAGES_MAX)
    }
}

/// Writes pages home, pipelined over the lenders.
pub struct RegionSink {
    links: Links,
    router: Arc<RegionRouter>,
}

/// One extent's frame.
struct Frame {
    extent: usize,
    batch: Batch,
}

impl RegionSink {
    /// Cuts writes into frames, a queue for each lender.
    fn frames(&self, writes: &[(u64, Span)]) -> Result<Vec<VecDeque<Frame>>, FetchError> {
        let mut queues: Vec<VecDeque<Frame>> = self.links.lenders().map(|_| VecDeque::new()).collect();
        for (offset, span) in writes {
            let mut done = 0usize;
            while done < span.len() {
                let at = offset + done as u64;
                let place = self.router.locate(at / PAGE_BYTES)?;
                let within = at % PAGE_BYTES;
                let length = (place.pages * PAGE_BYTES - within).min((span.len() - done) as u64).min(WRITE_BYTES_MAX);
                let range = Range { offset: place.offset + within, length };
                let part = span.part(done, usize::try_from(length).expect("bounded")).expect("within the span");
                let queue = &mut queues[self.links.lender_of(place.extent)];
                push(queue, place.extent, range, part);
                done += part.len();
            }
        }
        Ok(queues)
    }

    /// Posts and completes the queues of all lenders in turn, so that they work at the same time.
    fn send(&mut self, queues: &[VecDeque<Frame>], deadline: Instant) -> Result<(), (usize, FetchError)> {
        let mut next = vec![0usize; queues.len()];
        let mut completed = vec![0usize; queues.len()];
        let mut epochs = vec![None; queues.len()];
        loop {
            let mut busy = false;
            for lender in 0..queues.len() {
                while next[lender] < queues[lender].len() && next[lender] - completed[lender] < WRITES_IN_FLIGHT {
                    let epoch = self.post(&queues[lender][next[lender]], deadline).map_err(|error| (lender, error))?;
                    // Another lane answers nothing of the last one: the pipeline begins anew.
                    if *epochs[lender].get_or_insert(epoch) != epoch {
                        return Err((lender, replaced(self.links.name_of(lender))));
                    }
                    next[lender] += 1;
                }
            }
            for lender in 0..queues.len() {
                if completed[lender] < next[lender] {
                    busy = true;
                    let frame = &queues[lender][completed[lender]];
                    let peer = self.links.peer(lender).expect("posted through this peer");
                    let node = peer.node().to_owned();
                    if Some(peer.epoch()) != epochs[lender] || peer.lane().is_none() {
                        return Err((lender, replaced(&node)));
                    }
                    let result = match peer.lane() {
                        Some(lane) => complete(lane, Kind::Write, &frame.batch, deadline),
                        None => Err(TransportError::Closed { peer: node.clone() }),
                    };
                    result.map_err(|error| (lender, fetch_error(&error, &node)))?;
                    completed[lender] += 1;
                }
            }
            if !busy {
                return Ok(());
            }
        }
    }

    /// Posts on the lender's present lane, and returns that lane's number.
    fn post(&mut self, frame: &Frame, deadline: Instant) -> Result<u64, FetchError> {
        let (peer, opened) = self.links.ready(frame.extent, deadline)?;
        let result = peer.handle(opened, deadline).and_then(|handle| {
            peer.lane().expect("a handle comes with a lane").post(frame.batch.request(Kind::Write, handle), deadline)
        });
        result.map(|()| peer.epoch()).map_err(|error| fetch_error(&error, peer.node()))
    }

    /// Writes what is left to one lender by itself, with the peer's own repeating.
    fn send_alone(&mut self, queue: &VecDeque<Frame>, deadline: Instant) -> Result<(), FetchError> {
        for frame in queue {
            let (peer, opened) = self.links.ready(frame.extent, deadline)?;
            peer.write(opened, &frame.batch.ranges, &frame.batch.spans, deadline)
                .map_err(|error| fetch_error(&error, peer.node()))?;
        }
        Ok(())
    }
}

impl PageSink for RegionSink {
    fn write(&mut self, writes: &[(u64, Span)], deadline: Instant) -> Result<(), FetchError> {
        let queues = self.frames(writes)?;
        let Err((_, error)) = self.send(&queues, deadline) else { return Ok(()) };
        // The pipelines stopped in the middle: no lane's book can be trusted. Writing again moves the same bytes.
        for lender in 0..queues.len() {
            if let Some(peer) = self.links.peer(lender) {
                peer.drop_lane();
            }
        }
        if !error.temporary && error.code != "grant_expired" {
            return Err(error);
        }
        for queue in &queues {
            self.send_alone(queue, deadline)?;
        }
        Ok(())
    }
}

fn replaced(lender: &str) -> FetchError {
    FetchError {
        node: lender.to_owned(),
        code: "disconnected",
        detail: "its connection was replaced in the middle of a flush".to_owned(),
        temporary: true,
    }
}

fn push(queue: &mut VecDeque<Frame>, extent: usize, range: Range, part: Span) {
    if let Some(last) = queue.back_mut()
        && last.extent == extent
        && last.batch.length + range.length <= WRITE_BYTES_MAX
        && last.batch.ranges.len() < WRITE_RANGES_MAX
    {
        last.batch.length += range.length;
        last.batch.spans.push(part);
        match last.batch.ranges.last_mut() {
            Some(before) if before.offset + before.length == range.offset => before.length += range.length,
            _ => last.batch.ranges.push(range),
        }
        return;
    }
    let batch = Batch { ranges: vec![range], spans: vec![part], length: range.length };
    queue.push_back(Frame { extent, batch });
}
