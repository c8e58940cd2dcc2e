//! Pages over lanes: what the pager asks of its homes, carried out.
//!
//! A [`Channel`] belongs to one thread and keeps one connection to each lender it needs, so that a fault is resolved by
//! the thread that took it, without a hand-over. What if a connection breaks with requests outstanding? They are asked
//! again, in order, on the next one: a read moves the same bytes however often it runs. A lender that came back as another
//! life refuses to open what the last one held, and that refusal is the answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use weft_pager::source::{FetchError, PageChannel, ReplyHead};
use weft_sys::memory::Span;
use weft_wire::{Flags, Header, Kind, PAGE_BYTES};

use crate::homes::{Homes, Links, fetch_error};
use crate::patience::Patience;
use crate::{Lane, Reply, Request, TransportError};

/// Where some pages live: an extent, by its number in [`Homes::extents`], and the place in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The extent.
    pub extent: usize,
    /// Byte offset of the first page in it.
    pub offset: u64,
    /// Pages from the first on that lie there one after another.
    pub pages: u64,
}

/// Says where a page lives.
pub trait Router: Send + Sync {
    /// The place of `page`.
    ///
    /// # Errors
    /// When nobody is known to hold it.
    fn locate(&self, page: u64) -> Result<Place, FetchError>;
}

/// One thread's way to the pages of a window.
pub struct Channel<R> {
    links: Links,
    router: Arc<R>,
    posted: VecDeque<Posted>,
    /// The reply that was begun, and the lane it was begun on.
    begun: Option<(ReplyHead, u64)>,
}

#[derive(Clone, Copy)]
struct Posted {
    count: u32,
    place: Place,
    lender: usize,
    /// The lane it was posted on.
    epoch: u64,
}

impl<R: Router> Channel<R> {
    /// A channel that connects when first used.
    pub fn new(homes: Arc<Homes>, router: Arc<R>) -> Self {
        Self { links: Links::new(homes), router, posted: VecDeque::with_capacity(64), begun: None }
    }

    /// Posts on the lender's present lane, and returns that lane's number.
    fn post_now(&mut self, posted: Posted, deadline: Instant) -> Result<u64, FetchError> {
        let (peer, opened) = self.links.ready(posted.place.extent, deadline)?;
        let mut header = Header::new(Kind::Read, 0);
        header.flags = Flags::SPARSE;
        header.offset = posted.place.offset;
        header.length = u64::from(posted.count) * PAGE_BYTES;
        let result = peer.handle(opened, deadline).and_then(|handle| {
            header.handle = handle;
            let lane = peer.lane().expect("a handle comes with a lane");
            lane.post(Request { header, ranges: &[], payload: &[] }, deadline)
        });
        match result {
            Ok(()) => Ok(peer.epoch()),
            Err(error) => {
                let failed = fetch_error(&error, peer.node());
                if error.breaks_lane() {
                    peer.drop_lane();
                }
                Err(failed)
            }
        }
    }

    /// Whether everything outstanding on `lender` was posted on its present lane. A lane may be replaced whenever a grant or
    /// an address changes: what was posted on the last one is not answered on this one.
    fn is_current(&mut self, lender: usize) -> bool {
        let Some(peer) = self.links.peer(lender) else { return false };
        let epoch = if peer.lane().is_some() { peer.epoch() } else { return false };
        self.posted.iter().all(|posted| posted.lender != lender || posted.epoch == epoch)
    }

    /// Asks again, on a new connection, for everything outstanding on `lender`, in its order.
    fn post_again(&mut self, lender: usize, deadline: Instant) -> Result<(), FetchError> {
        let mut patience = Patience::until(deadline);
        loop {
            if let Some(peer) = self.links.peer(lender) {
                peer.drop_lane();
            }
            let mut failed = None;
            for index in 0..self.posted.len() {
                if self.posted[index].lender == lender {
                    match self.post_now(self.posted[index], deadline) {
                        Ok(epoch) => self.posted[index].epoch = epoch,
                        Err(error) => {
                            failed = Some(error);
                            break;
                        }
                    }
                }
            }
            match failed {
                None if self.is_current(lender) => return Ok(()),
                // The lane was replaced while posting on it: all over again, which ends when changes do.
                None if Instant::now() < deadline => {}
                None => return Err(given_up(self.links.name_of(lender))),
                Some(error) => {
                    if !error.temporary || !patience.wait(error.code) {
                        return Err(error);
                    }
                }
            }
        }
    }

    /// Runs `receive` on the lane of the oldest request, asking again for as long as that may help.
    fn receive(
        &mut self,
        deadline: Instant,
        mut receive: impl FnMut(&mut dyn Lane, u64, Posted) -> Result<Reply, TransportError>,
    ) -> Result<Reply, FetchError> {
        let lender = self.posted.front().expect("a reply follows a request").lender;
        let mut patience = Patience::until(deadline);
        let mut presented = false;
        loop {
            if !self.is_current(lender)
                && let Err(error) = self.post_again(lender, deadline)
            {
                self.posted.pop_front();
                return Err(error);
            }
            let posted = *self.posted.front().expect("it is still outstanding");
            let peer = self.links.peer(lender).expect("posted through this peer");
            let lane = peer.lane().expect("it is current");
            let error = match receive(lane, posted.epoch, posted) {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let expired =
                matches!(&error, TransportError::Refused { code: weft_wire::Code::GrantExpired, .. }) && !presented;
            presented |= expired;
            let failed = fetch_error(&error, peer.node());
            if error.breaks_lane() || error.temporary() || expired {
                // Refused requests are asked again in their order, which takes a fresh lane.
                peer.drop_lane();
            }
            if !expired && (!error.temporary() || !patience.wait(error.code())) {
                self.posted.pop_front();
                return Err(failed);
            }
        }
    }
}

impl<R: Router> PageChannel for Channel<R> {
    fn post(&mut self, page: u64, count: u32, deadline: Instant) -> Result<(), FetchError> {
        let place = self.router.locate(page)?;
        assert!(u64::from(count) <= place.pages, "a run lies in one stretch of one extent");
        let posted = Posted { count, place, lender: self.links.lender_of(place.extent), epoch: 0 };
        let first_try = self.post_now(posted, deadline);
        match first_try {
            Ok(epoch) => self.posted.push_back(Posted { epoch, ..posted }),
            Err(error) if error.temporary => self.posted.push_back(posted),
            Err(error) => return Err(error),
        }
        if self.is_current(posted.lender) {
            return Ok(());
        }
        self.post_again(posted.lender, deadline).inspect_err(|_| {
            self.posted.pop_back();
        })
    }

    fn begin(&mut self, into: Span, deadline: Instant) -> Result<ReplyHead, FetchError> {
        let count = self.posted.front().expect("begin follows a post").count;
        let mut begun_on = 0;
        let reply = self.receive(deadline, |lane, epoch, posted| {
            begun_on = epoch;
            begin_now(lane, into, posted.count, deadline)
        })?;
        let head = reply_head(&reply, count);
        if head.filled == head.bytes {
            self.posted.pop_front();
        } else {
            self.begun = Some((head, begun_on));
        }
        Ok(head)
    }

    fn fill(&mut self, into: Span, filled: usize, at_least: usize, deadline: Instant) -> Result<usize, FetchError> {
        if filled >= at_least {
            return Ok(filled);
        }
        let (begun, mut begun_on) = self.begun.expect("fill follows a begin that was not complete");
        let mut already = filled;
        let reply = self.receive(deadline, |lane, epoch, posted| {
            let room = into.part(0, begun.bytes).expect("the span holds the reply");
            if epoch != begun_on {
                // Another lane: the reply is received from its start, over the same bytes.
                let reply = begin_now(lane, room, posted.count, deadline)?;
                if reply_head(&reply, posted.count).zero_map != begun.zero_map {
                    return Err(TransportError::TimedOut {
                        peer: lane.peer().name.clone(),
                        doing: "repeating a read whose pages changed meanwhile",
                    });
                }
                (already, begun_on) = (reply.filled, epoch);
            }
            let filled = lane.fill(&[room], already, at_least.max(already), deadline)?;
            Ok(Reply { header: Header::new(Kind::Reply, 0), filled })
        });
        let filled = reply.map(|reply| reply.filled);
        match filled {
            Ok(filled) if filled < begun.bytes => self.begun = Some((begun, begun_on)),
            Ok(_) => {
                self.begun = None;
                self.posted.pop_front();
            }
            Err(_) => self.begun = None,
        }
        filled
    }

    fn outstanding(&self) -> usize {
        self.posted.len()
    }
}

fn begin_now(lane: &mut dyn Lane, into: Span, count: u32, deadline: Instant) -> Result<Reply, TransportError> {
    let wanted = count as usize * PAGE_BYTES as usize;
    let room = into.part(0, wanted.min(into.len())).expect("bounded by the span");
    let reply = lane.begin(&[room], deadline)?;
    check_size(lane, &reply, count)?;
    Ok(reply)
}

fn given_up(lender: &str) -> FetchError {
    FetchError {
        node: lender.to_owned(),
        code: "timed_out",
        detail: "its connection was replaced until the deadline passed".to_owned(),
        temporary: true,
    }
}

fn reply_head(reply: &Reply, count: u32) -> ReplyHead {
    let all = if count == 64 { u64::MAX } else { (1 << count) - 1 };
    let zero_map = if reply.header.flags.has(Flags::ZERO) {
        all
    } else if reply.header.flags.has(Flags::SPARSE) {
        reply.header.tag & all
    } else {
        0
    };
    ReplyHead { zero_map, bytes: reply.bytes(), filled: reply.filled }
}

/// A reply whose bytes are not those of the pages it does not call zero would shift every page after the first.
fn check_size(lane: &mut dyn Lane, reply: &Reply, count: u32) -> Result<(), TransportError> {
    let zero_pages = reply_head(reply, count).zero_map.count_ones();
    if reply.bytes() == (count - zero_pages) as usize * PAGE_BYTES as usize {
        return Ok(());
    }
    lane.close();
    Err(TransportError::Garbage {
        peer: lane.peer().name.clone(),
        cause: weft_wire::WireError::Payload("the pages that came are not the pages that were announced"),
    })
}
