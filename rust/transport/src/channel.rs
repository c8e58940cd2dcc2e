//! Pages over lanes: what the pager asks of its homes, carried out.
//!
//! A [`Channel`] belongs to one thread and keeps one connection to each lender it needs, so that a fault is resolved by
//! the thread that took it, without a hand-over. What if a connection breaks with requests outstanding? They are asked
//! again, in order, on the next one: a read moves the same bytes however often it runs. A lender that came back as another
//! life refuses to open what the last one held, and that refusal is the answer.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_pager::source::{FetchError, PageChannel, ReplyHead};
use weft_sys::memory::Span;
use weft_wire::{Flags, Header, Kind, PAGE_BYTES};

use crate::homes::{Homes, Links, fetch_error};
use crate::{Reply, Request, TransportError};

/// Connections tried for the requests outstanding on one lender before they fail.
const ATTEMPTS_MAX: u32 = 4;
/// First pause between two attempts; it doubles.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);

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
    begun: Option<ReplyHead>,
}

#[derive(Clone, Copy)]
struct Posted {
    count: u32,
    place: Place,
    lender: usize,
}

impl<R: Router> Channel<R> {
    /// A channel that connects when first used.
    pub fn new(homes: Arc<Homes>, router: Arc<R>) -> Self {
        Self { links: Links::new(homes), router, posted: VecDeque::with_capacity(64), begun: None }
    }

    fn post_now(&mut self, posted: Posted, deadline: Instant) -> Result<(), FetchError> {
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
        result.map_err(|error| {
            let error_out = fetch_error(&error, peer.node());
            if error.breaks_lane() {
                peer.drop_lane();
            }
            error_out
        })
    }

    /// Asks again, on a new connection, for everything outstanding on `lender`.
    fn post_again(&mut self, lender: usize, deadline: Instant) -> Result<(), FetchError> {
        let mut backoff = BACKOFF_FIRST;
        for attempt in 1.. {
            if let Some(peer) = self.links.peer(lender) {
                peer.drop_lane();
            }
            let again: Vec<Posted> = self.posted.iter().copied().filter(|posted| posted.lender == lender).collect();
            let result = again.into_iter().try_for_each(|posted| self.post_now(posted, deadline));
            match result {
                Ok(()) => return Ok(()),
                Err(error) => {
                    if !error.temporary || attempt == ATTEMPTS_MAX || Instant::now() + backoff >= deadline {
                        return Err(error);
                    }
                }
            }
            std::thread::sleep(backoff);
            backoff *= 2;
        }
        unreachable!("the loop returns by its last attempt")
    }

    /// Runs `receive` on the lane of the oldest request, asking again for as long as that may help.
    fn receive(
        &mut self,
        deadline: Instant,
        mut receive: impl FnMut(&mut dyn crate::Lane, Posted) -> Result<Reply, TransportError>,
    ) -> Result<Reply, FetchError> {
        let posted = *self.posted.front().expect("a reply follows a request");
        for attempt in 1.. {
            let connected = self.links.peer(posted.lender).is_some_and(|peer| peer.lane().is_some());
            if !connected && let Err(error) = self.post_again(posted.lender, deadline) {
                self.posted.pop_front();
                return Err(error);
            }
            let peer = self.links.peer(posted.lender).expect("posted through this peer");
            let lane = peer.lane().expect("connected above");
            let error = match receive(lane, posted) {
                Ok(reply) => return Ok(reply),
                Err(error) => error,
            };
            let expired =
                matches!(&error, TransportError::Refused { code: weft_wire::Code::GrantExpired, .. }) && attempt == 1;
            let failed = fetch_error(&error, peer.node());
            if error.breaks_lane() || error.temporary() || expired {
                // Refused requests are asked again in their order, which takes a fresh lane.
                peer.drop_lane();
            }
            if !(error.temporary() || expired) || attempt == ATTEMPTS_MAX || Instant::now() >= deadline {
                self.posted.pop_front();
                return Err(failed);
            }
        }
        unreachable!("the loop returns by its last attempt")
    }
}

impl<R: Router> PageChannel for Channel<R> {
    fn post(&mut self, page: u64, count: u32, deadline: Instant) -> Result<(), FetchError> {
        let place = self.router.locate(page)?;
        assert!(u64::from(count) <= place.pages, "a run lies in one stretch of one extent");
        let posted = Posted { count, place, lender: self.links.lender_of(place.extent) };
        let first_try = self.post_now(posted, deadline);
        match first_try {
            Ok(()) => {
                self.posted.push_back(posted);
                Ok(())
            }
            Err(error) if error.temporary => {
                self.posted.push_back(posted);
                self.post_again(posted.lender, deadline).inspect_err(|_| {
                    self.posted.pop_back();
                })
            }
            Err(error) => Err(error),
        }
    }

    fn begin(&mut self, into: Span, deadline: Instant) -> Result<ReplyHead, FetchError> {
        let count = self.posted.front().expect("begin follows a post").count;
        let reply = self.receive(deadline, |lane, posted| {
            let wanted = posted.count as usize * PAGE_BYTES as usize;
            let room = into.part(0, wanted.min(into.len())).expect("bounded by the span");
            let reply = lane.begin(&[room], deadline)?;
            check_size(lane, &reply, posted.count)?;
            Ok(reply)
        })?;
        let head = reply_head(&reply, count);
        if head.filled == head.bytes {
            self.posted.pop_front();
        } else {
            self.begun = Some(head);
        }
        Ok(head)
    }

    fn fill(&mut self, into: Span, filled: usize, at_least: usize, deadline: Instant) -> Result<usize, FetchError> {
        if filled >= at_least {
            return Ok(filled);
        }
        let begun = self.begun.expect("fill follows a begin that was not complete");
        let (mut already, mut interrupted) = (filled, false);
        let reply = self.receive(deadline, |lane, posted| {
            let room = into.part(0, begun.bytes).expect("the span holds the reply");
            if interrupted {
                // A fresh lane: the reply is received from its start, over the same bytes.
                let reply = lane.begin(&[room], deadline)?;
                check_size(lane, &reply, posted.count)?;
                if reply_head(&reply, posted.count).zero_map != begun.zero_map {
                    return Err(TransportError::TimedOut {
                        peer: lane.peer().name.clone(),
                        doing: "repeating a read whose pages changed meanwhile",
                    });
                }
                already = reply.filled;
                interrupted = false;
            }
            let result = lane.fill(&[room], already, at_least.max(already), deadline);
            match result {
                Ok(now) => Ok(Reply { header: Header::new(Kind::Reply, 0), filled: now }),
                Err(error) => {
                    interrupted = true;
                    Err(error)
                }
            }
        });
        match reply {
            Ok(reply) => {
                if reply.filled == begun.bytes {
                    self.begun = None;
                    self.posted.pop_front();
                }
                Ok(reply.filled)
            }
            Err(error) => {
                self.begun = None;
                Err(error)
            }
        }
    }

    fn outstanding(&self) -> usize {
        self.posted.len()
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
fn check_size(lane: &mut dyn crate::Lane, reply: &Reply, count: u32) -> Result<(), TransportError> {
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
