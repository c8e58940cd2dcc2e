//! A lane that comes back by itself.
//!
//! A [`Peer`] connects on first use, opens grants once per connection, and when the connection breaks connects again and
//! opens them anew: a handle given out here stays good across reconnects. Reads and writes are one-sided and move the same
//! bytes however often they run, so they are repeated within the deadline; a message is not, because nobody can tell
//! whether it arrived.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_sys::memory::Span;
use weft_wire::{Code, Flags, Header, Kind, PAYLOAD_BYTES_MAX, RANGES_MAX, Range, open_request, total_bytes};

use crate::book::zero;
use crate::patience::Patience;
use crate::tcp::{ConnectOptions, TcpLane};
use crate::{Identity, Lane, PeerIdentity, Reply, Request, TransportError, Upgrade};

/// Pings whose best is taken as the round-trip time of a fresh connection.
const PINGS: usize = 5;
/// The topic of a message that only wants to be answered.
const TOPIC_PING: u64 = 0;

/// Where a peer is to be found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddress {
    /// The node's id, for errors until the peer named itself.
    pub node: String,
    /// Its data port.
    pub address: SocketAddr,
}

/// How good a path is, by transport and measured round trip: never by a hardware's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tier {
    /// Under 150 µs: pages can be fetched eagerly.
    Fast,
    /// Under 500 µs.
    Standard,
    /// Anything slower works, and deserves a hint.
    Slow,
}

impl Tier {
    /// The tier of a round-trip time.
    pub fn of(rtt: Duration) -> Self {
        match rtt.as_micros() {
            0..150 => Self::Fast,
            150..500 => Self::Standard,
            _ => Self::Slow,
        }
    }

    /// As it is shown.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fast => "fast",
            Self::Standard => "standard",
            Self::Slow => "slow",
        }
    }
}

/// An extent this side opened on a peer: good until the peer is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    index: usize,
    /// Size of the extent in bytes.
    pub size_bytes: u64,
}

/// A grant, and the handle the present connection knows it by.
#[derive(Debug)]
struct Opening {
    grant: Arc<[u8]>,
    extent: u32,
    incarnation: u64,
    handle: Option<u64>,
}

/// One peer, over one lane at a time.
pub struct Peer {
    address: PeerAddress,
    identity: Arc<Identity>,
    options: ConnectOptions,
    lane: Option<Box<dyn Lane>>,
    openings: Vec<Opening>,
    rtt: Option<Duration>,
    closed: bool,
    /// Names this peer's writes at the lender, over all its connections.
    writer: u64,
    /// Counts its connections: what is outstanding on one is not outstanding on the next.
    epoch: u64,
    upgrade: Option<Arc<dyn Upgrade>>,
}

impl Peer {
    /// A peer that connects when it is first used.
    pub fn new(address: PeerAddress, identity: Arc<Identity>, options: ConnectOptions) -> Self {
        let mut writer = [0u8; 8];
        // Without randomness every peer of the process is the same writer, which refuses too much and never too little.
        let _ = weft_sys::random::fill(&mut writer);
        Self {
            address,
            identity,
            options,
            lane: None,
            openings: Vec::new(),
            rtt: None,
            closed: false,
            writer: u64::from_le_bytes(writer),
            epoch: 0,
            upgrade: None,
        }
    }

    /// Makes more of this peer's connections, from the next one on.
    pub fn set_upgrade(&mut self, upgrade: Arc<dyn Upgrade>) {
        self.upgrade = Some(upgrade);
    }

    /// Connects now, and measures the round trip.
    ///
    /// # Errors
    /// As [`TcpLane::connect`].
    pub fn connect(&mut self, deadline: Instant) -> Result<(), TransportError> {
        self.ensure_lane(deadline)?;
        if self.rtt.is_none() {
            self.ping(deadline)?;
        }
        Ok(())
    }

    /// Who is at the other end; nothing before the first connection.
    pub fn identity(&self) -> Option<&PeerIdentity> {
        self.lane.as_deref().map(Lane::peer)
    }

    /// The node as it is addressed.
    pub fn node(&self) -> &str {
        &self.address.node
    }

    /// Best round trip measured on the present connection.
    pub fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// Takes a new address; the present connection is given up if it differs.
    pub fn set_address(&mut self, address: SocketAddr) {
        if self.address.address != address {
            self.address.address = address;
            self.drop_lane();
        }
    }

    /// Takes a renewed grant for everything that is open. It is presented when the lender says the old one expired.
    pub fn renew(&mut self, grant: &Arc<[u8]>) {
        for opening in &mut self.openings {
            opening.grant = Arc::clone(grant);
        }
    }

    /// Presents `grant` for one extent.
    ///
    /// # Errors
    /// What the lender refuses: a forged or expired grant, an older generation, a lost extent; or the connection's.
    pub fn open(
        &mut self,
        grant: &Arc<[u8]>,
        extent: u32,
        incarnation: u64,
        deadline: Instant,
    ) -> Result<Opened, TransportError> {
        let index = self.openings.len();
        self.openings.push(Opening { grant: Arc::clone(grant), extent, incarnation, handle: None });
        let opened = self.retry(deadline, |peer, deadline| {
            let (_, size_bytes) = peer.open_now(index, deadline)?;
            Ok(Opened { index, size_bytes })
        });
        if opened.is_err() {
            self.openings.truncate(index);
        }
        opened
    }

    /// Reads `ranges` of an opened extent into `into`, which must hold exactly as many bytes.
    ///
    /// # Errors
    /// The lender's refusal, or the connection's error once retrying did not help within the deadline.
    pub fn read(
        &mut self,
        opened: Opened,
        ranges: &[Range],
        into: &[Span],
        deadline: Instant,
    ) -> Result<(), TransportError> {
        self.move_bytes(Kind::Read, opened, ranges, into, deadline)
    }

    /// Writes `from` over `ranges` of an opened extent.
    ///
    /// # Errors
    /// As [`Peer::read`]. After an error each page of the ranges is either old or new.
    pub fn write(
        &mut self,
        opened: Opened,
        ranges: &[Range],
        from: &[Span],
        deadline: Instant,
    ) -> Result<(), TransportError> {
        self.move_bytes(Kind::Write, opened, ranges, from, deadline)
    }

    fn move_bytes(
        &mut self,
        kind: Kind,
        opened: Opened,
        ranges: &[Range],
        spans: &[Span],
        deadline: Instant,
    ) -> Result<(), TransportError> {
        let batches = cut(ranges, spans)?;
        self.retry(deadline, |peer, deadline| {
            let handle = peer.handle(opened, deadline)?;
            let lane = peer.lane.as_deref_mut().expect("a handle comes with a lane");
            // Two in flight: the peer works on the next while this side receives the last.
            let mut posted: VecDeque<&Batch> = VecDeque::with_capacity(2);
            for batch in &batches {
                if posted.len() == 2 {
                    complete(lane, kind, posted.pop_front().expect("two are posted"), deadline)?;
                }
                lane.post(batch.request(kind, handle), deadline)?;
                posted.push_back(batch);
            }
            while let Some(batch) = posted.pop_front() {
                complete(lane, kind, batch, deadline)?;
            }
            Ok(())
        })
    }

    /// Sends a message; returns when the peer has taken it in. Never repeated: after a broken connection nobody can tell
    /// whether it arrived.
    ///
    /// # Errors
    /// `Refused` with `Busy` when the peer's inbox is full, or the connection's error.
    pub fn message(&mut self, topic: u64, payload: Span, deadline: Instant) -> Result<(), TransportError> {
        self.ensure_lane(deadline)?;
        let sent = self.message_now(topic, payload, deadline);
        self.keep_or_drop_lane(sent)
    }

    /// Sends a message and returns its answer, of at most `answer_bytes_max`. Never repeated, as a message.
    ///
    /// # Errors
    /// The receiver's refusal, `Busy` when its inbox is full, or the connection's error.
    pub fn request(
        &mut self,
        topic: u64,
        payload: Span,
        answer_bytes_max: usize,
        deadline: Instant,
    ) -> Result<Vec<u8>, TransportError> {
        self.ensure_lane(deadline)?;
        let answered = self.request_now(topic, payload, answer_bytes_max, deadline);
        self.keep_or_drop_lane(answered)
    }

    fn request_now(
        &mut self,
        topic: u64,
        payload: Span,
        answer_bytes_max: usize,
        deadline: Instant,
    ) -> Result<Vec<u8>, TransportError> {
        let lane = self.lane.as_deref_mut().expect("the caller made sure of a lane");
        let mut header = Header::new(Kind::Message, 0);
        header.flags = Flags::ANSWER;
        header.tag = topic;
        header.length = payload.len() as u64;
        lane.post(Request { header, ranges: &[], payload: &[payload] }, deadline)?;
        let mut answer = vec![0u8; answer_bytes_max];
        let into = [Span::of(&mut answer)];
        let reply = lane.begin(&into, deadline)?;
        let bytes = lane.fill(&into, reply.filled, reply.bytes(), deadline)?;
        answer.truncate(bytes);
        Ok(answer)
    }

    /// The best of a few round trips; remembered as this connection's.
    ///
    /// # Errors
    /// The connection's error.
    pub fn ping(&mut self, deadline: Instant) -> Result<Duration, TransportError> {
        self.ensure_lane(deadline)?;
        let mut best = Duration::MAX;
        for _ in 0..PINGS {
            let started = Instant::now();
            let answered = self.message_now(TOPIC_PING, Span::of_const(&[]), deadline);
            self.keep_or_drop_lane(answered)?;
            best = best.min(started.elapsed());
        }
        self.rtt = Some(best);
        Ok(best)
    }

    /// Ends the connection for good.
    pub fn close(&mut self) {
        self.closed = true;
        self.drop_lane();
    }

    fn message_now(&mut self, topic: u64, payload: Span, deadline: Instant) -> Result<(), TransportError> {
        let lane = self.lane.as_deref_mut().expect("the caller made sure of a lane");
        let mut header = Header::new(Kind::Message, 0);
        header.tag = topic;
        header.length = payload.len() as u64;
        lane.post(Request { header, ranges: &[], payload: &[payload] }, deadline)?;
        lane.begin(&[], deadline).map(|_| ())
    }

    fn keep_or_drop_lane<T>(&mut self, result: Result<T, TransportError>) -> Result<T, TransportError> {
        if let Err(error) = &result
            && error.breaks_lane()
        {
            self.drop_lane();
        }
        result
    }

    /// Runs `attempt` until it succeeds, fails for good, or the deadline passed.
    fn retry<T>(
        &mut self,
        deadline: Instant,
        mut attempt: impl FnMut(&mut Self, Instant) -> Result<T, TransportError>,
    ) -> Result<T, TransportError> {
        let mut patience = Patience::until(deadline);
        let mut presented = false;
        loop {
            let result = attempt(self, deadline);
            let error = match self.keep_or_drop_lane(result) {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let expired = matches!(&error, TransportError::Refused { code: Code::GrantExpired, .. });
            if expired && !presented {
                // A renewed grant may be waiting: present it before giving up.
                self.forget_handles();
                presented = true;
                continue;
            }
            if !error.temporary() || !patience.wait(error.code()) {
                return Err(error);
            }
        }
    }

    pub(crate) fn ensure_lane(&mut self, deadline: Instant) -> Result<&mut dyn Lane, TransportError> {
        if self.closed {
            return Err(TransportError::Closed { peer: self.address.node.clone() });
        }
        if self.lane.is_none() {
            let mut options = self.options.clone();
            options.timeout = options.timeout.min(deadline.saturating_duration_since(Instant::now()));
            if options.timeout.is_zero() {
                return Err(TransportError::TimedOut { peer: self.address.node.clone(), doing: "connecting" });
            }
            let lane = TcpLane::connect(self.address.address, &self.address.node, &self.identity, &options)?;
            self.lane = Some(match &self.upgrade {
                Some(upgrade) => {
                    upgrade.upgrade(Box::new(lane), deadline.min(Instant::now() + self.options.timeout))?
                }
                None => Box::new(lane),
            });
            self.epoch += 1;
        }
        Ok(self.lane.as_deref_mut().expect("connected above"))
    }

    /// The number of the present connection, or of the last one.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The lane, if connected. For drivers that pipeline by themselves.
    pub(crate) fn lane(&mut self) -> Option<&mut dyn Lane> {
        match &mut self.lane {
            Some(lane) => Some(lane.as_mut()),
            None => None,
        }
    }

    /// The present connection's handle of `opened`, connecting and opening as needed.
    pub(crate) fn handle(&mut self, opened: Opened, deadline: Instant) -> Result<u64, TransportError> {
        if self.lane.is_some()
            && let Some(handle) = self.openings[opened.index].handle
        {
            return Ok(handle);
        }
        self.open_now(opened.index, deadline).map(|(handle, _)| handle)
    }

    fn open_now(&mut self, index: usize, deadline: Instant) -> Result<(u64, u64), TransportError> {
        self.ensure_lane(deadline)?;
        let opening = &self.openings[index];
        let (header, payload) =
            open_request(opening.extent, opening.incarnation, self.writer, self.epoch, &opening.grant);
        let lane = self.lane.as_deref_mut().expect("ensured above");
        lane.post(Request { header, ranges: &[], payload: &[Span::of_const(&payload)] }, deadline)?;
        let Reply { header, .. } = lane.begin(&[], deadline)?;
        self.openings[index].handle = Some(header.handle);
        Ok((header.handle, header.offset))
    }

    pub(crate) fn forget_handles(&mut self) {
        for opening in &mut self.openings {
            opening.handle = None;
        }
    }

    pub(crate) fn drop_lane(&mut self) {
        if let Some(mut lane) = self.lane.take() {
            lane.close();
        }
        self.rtt = None;
        self.forget_handles();
    }
}

/// What fits one frame: some ranges and the memory they go to or come from.
pub(crate) struct Batch {
    pub ranges: Vec<Range>,
    pub spans: Vec<Span>,
    pub length: u64,
}

impl Batch {
    pub fn request(&self, kind: Kind, handle: u64) -> Request<'_> {
        let mut header = Header::new(kind, 0);
        header.handle = handle;
        header.length = self.length;
        let contiguous = self.ranges.len() == 1;
        if contiguous {
            header.offset = self.ranges[0].offset;
        }
        Request {
            header,
            ranges: if contiguous { &[] } else { &self.ranges },
            payload: if kind == Kind::Write { &self.spans } else { &[] },
        }
    }
}

/// Receives the answer to `batch`, the oldest request of `lane`.
pub(crate) fn complete(
    lane: &mut dyn Lane,
    kind: Kind,
    batch: &Batch,
    deadline: Instant,
) -> Result<(), TransportError> {
    if kind == Kind::Write {
        return lane.begin(&[], deadline).map(|_| ());
    }
    let reply = lane.begin(&batch.spans, deadline)?;
    let wanted = usize::try_from(batch.length).expect("a batch is at most 64 MiB");
    if reply.header.flags.has(Flags::ZERO) && reply.bytes() == 0 {
        for span in &batch.spans {
            zero(*span);
        }
        return Ok(());
    }
    if reply.bytes() != wanted {
        lane.close();
        return Err(TransportError::Garbage {
            peer: lane.peer().name.clone(),
            cause: weft_wire::WireError::Payload("the answer is shorter than what was asked for"),
        });
    }
    lane.fill(&batch.spans, reply.filled, wanted, deadline).map(|_| ())
}

/// Cuts `ranges` and the memory beside them into frames' worth.
fn cut(ranges: &[Range], spans: &[Span]) -> Result<Vec<Batch>, TransportError> {
    let bad = |what: &str| Err(TransportError::BadArgument(what.to_owned()));
    if ranges.iter().any(|range| range.length == 0 || range.end().is_none()) {
        return bad("a range is empty or wraps around; give each an offset and a length of at least one byte");
    }
    let memory: u128 = spans.iter().map(|span| span.len() as u128).sum();
    if memory != ranges.iter().map(|range| u128::from(range.length)).sum::<u128>() {
        return bad("the buffer and the ranges have different sizes; they must hold the same number of bytes");
    }
    let fits = ranges.len() <= RANGES_MAX as usize && total_bytes(ranges).is_some();
    if fits {
        let length = total_bytes(ranges).expect("it fits");
        return Ok(vec![Batch { ranges: ranges.to_vec(), spans: spans.to_vec(), length }]);
    }
    let mut batches = Vec::new();
    let mut batch = Batch { ranges: Vec::new(), spans: Vec::new(), length: 0 };
    let mut cursor = SpanCursor { spans, index: 0, offset: 0 };
    for range in ranges {
        let mut range = *range;
        while range.length > 0 {
            let length = range.length.min(BULK_BYTES - batch.length);
            batch.ranges.push(Range { offset: range.offset, length });
            cursor.take(usize::try_from(length).expect("bounded by a frame"), &mut batch.spans);
            batch.length += length;
            range = Range { offset: range.offset + length, length: range.length - length };
            if batch.length == BULK_BYTES || batch.ranges.len() == RANGES_MAX as usize {
                batches.push(std::mem::replace(&mut batch, Batch { ranges: Vec::new(), spans: Vec::new(), length: 0 }));
            }
        }
    }
    if batch.length > 0 {
        batches.push(batch);
    }
    Ok(batches)
}

/// What one frame of a transfer too large for one carries: big enough to hide the turn-round, small enough that two fit
/// the caches and buffers between.
const BULK_BYTES: u64 = 16 << 20;
const _: () = assert!(BULK_BYTES <= PAYLOAD_BYTES_MAX);

struct SpanCursor<'a> {
    spans: &'a [Span],
    index: usize,
    offset: usize,
}

impl SpanCursor<'_> {
    fn take(&mut self, mut wanted: usize, into: &mut Vec<Span>) {
        while wanted > 0 {
            let span = self.spans[self.index];
            let len = (span.len() - self.offset).min(wanted);
            if len > 0 {
                into.push(span.part(self.offset, len).expect("within the span"));
            }
            wanted -= len;
            self.offset += len;
            if self.offset == span.len() {
                self.index += 1;
                self.offset = 0;
            }
        }
    }
}
