//! What a server does with a request: decisions only, no bytes are moved here.
//!
//! A [`Session`] is what one connection has proved and opened. A frame is judged from its header and ranges before its
//! payload is received, so that bytes that will be refused are never stored.

use std::ops::RangeInclusive;
use std::sync::{Arc, PoisonError, RwLock, Weak};

use weft_sys::memory::Span;
use weft_wire::{
    ClientHello, ClientProof, Code, Flags, Grant, GrantError, Header, Hello, Kind, Mode, PAGE_BYTES, Range, Refusal,
    Rights, SPARSE_PAGES_MAX, ServerHello, WireError, decode_opening,
};

use super::Counters;
use super::inbox::{Inbox, Message, MessageSink, Ticket};
use crate::store::{Extent, PageState, Store};
use crate::{Identity, PeerIdentity};

/// Grants one connection may have open: every extent of a large region for a few processes' worth of attachments.
const HANDLES_MAX: usize = 16_384;

/// Topics that only ever belong to a desk (see [`super::Server::open_desk`]): "WRD" and a byte.
pub const DESK_TOPICS: RangeInclusive<u64> = 0x5752_4400..=0x5752_44ff;

/// What every connection of a server shares.
pub struct Shared {
    /// Who the server is.
    pub identity: Identity,
    /// What it serves.
    pub store: Store,
    /// What it counted.
    pub counters: Counters,
    /// What peers sent.
    pub inbox: Inbox,
    /// Who takes the messages of which topics past the inbox.
    pub desks: RwLock<Vec<(RangeInclusive<u64>, Arc<Inbox>)>>,
    /// Who takes messages of its own topics past the inbox.
    pub sink: Option<Arc<dyn MessageSink>>,
    /// Milliseconds of the Unix clock, for the ends of grants.
    pub now_ms: fn() -> u64,
}

/// A grant that was presented and found good.
pub struct Granted {
    /// What it is for.
    pub extent: Arc<Extent>,
    /// Under which generation.
    pub generation: u64,
    /// To do what.
    pub rights: Rights,
    /// Until when, in milliseconds of the Unix clock.
    pub expires_at_ms: u64,
    /// Who presented it, and over which of its connections.
    pub writer: (u64, u64),
}

impl Shared {
    /// Nothing is served or counted yet.
    pub fn new(identity: Identity, sink: Option<Arc<dyn MessageSink>>, now_ms: fn() -> u64) -> Self {
        Self {
            identity,
            store: Store::default(),
            counters: Counters::default(),
            inbox: Inbox::default(),
            desks: RwLock::default(),
            sink,
            now_ms,
        }
    }

    /// The queue of a topic's messages: a desk's, or everybody's.
    fn put(&self, message: Message) -> Result<(), Refusal> {
        let desks = self.desks.read().unwrap_or_else(PoisonError::into_inner);
        match desks.iter().find(|(topics, _)| topics.contains(&message.topic)) {
            Some((_, desk)) => desk.put(message),
            // Its sender waits for an answer that nobody here would give.
            None if DESK_TOPICS.contains(&message.topic) => {
                Err(Refusal::new(Code::NotSupported, format!("{} has no RDMA", self.identity.name)))
            }
            None => self.inbox.put(message),
        }
    }

    /// Judges an opening: the grant, its time, whether the extent is there, and whether a newer holder or a newer
    /// connection of the same writer exists.
    ///
    /// # Errors
    /// The refusal the presenter gets.
    pub fn examine(&self, index: u64, incarnation: u64, opening: &[u8]) -> Result<Granted, Refusal> {
        let (writer, epoch, grant) =
            decode_opening(opening).map_err(|cause| Refusal::new(Code::GrantForged, cause.to_string()))?;
        let grant = Grant::verify(grant, &self.identity.grant_key).map_err(|error| match error {
            GrantError::Malformed(what) => Refusal::new(Code::GrantForged, format!("this is no grant: {what}")),
            GrantError::Forged => {
                Refusal::new(Code::GrantForged, "the grant was not minted with this cluster's secret")
            }
        })?;
        if grant.cluster_id != self.identity.cluster_id {
            return Err(Refusal::new(Code::WrongCluster, "the grant is another cluster's"));
        }
        still_good(self, grant.expires_at_ms, &grant.region_id)?;
        let lost = || lost(self, &grant.region_id, index);
        let index = u32::try_from(index).map_err(|_| lost())?;
        // A lender that came back is another life and holds nothing of the last: its memory would read as zeros.
        if incarnation != self.identity.incarnation {
            return Err(lost());
        }
        let extent = self.store.find(&grant.region_id, index).ok_or_else(lost)?;
        // The newest exclusive holder fences the older by arriving, should the coordinator's word have been lost.
        if grant.mode == Mode::Exclusive
            && grant.generation > extent.gate.generation()
            && !extent.gate.raise_soon(grant.generation)
        {
            return Err(Refusal::new(Code::Busy, "requests of an older generation are still under way; open again"));
        }
        drop(extent.gate.enter(grant.generation)?);
        if grant.rights.can_write() {
            extent.take_writer(writer, epoch)?;
        }
        Ok(Granted {
            extent,
            generation: grant.generation,
            rights: grant.rights,
            expires_at_ms: grant.expires_at_ms,
            writer: (writer, epoch),
        })
    }
}

enum Stage {
    Fresh,
    Challenged { client: ClientHello, server: ServerHello },
    Known(PeerIdentity),
}

struct Handle {
    extent: Weak<Extent>,
    region_id: String,
    index: u32,
    generation: u64,
    rights: Rights,
    expires_at_ms: u64,
    writer: u64,
    epoch: u64,
}

/// What to do with a frame's payload.
pub enum Intake {
    /// Receive it whole, then [`Session::collected`].
    Collect,
    /// Nothing follows: this is the answer.
    Answer(Answer),
    /// Receive it into memory.
    Land(Target),
    /// Receive it nowhere, then refuse.
    Discard(Refusal),
}

/// Where a write lands.
pub struct Target {
    /// The extent.
    pub extent: Arc<Extent>,
    /// The generation it was opened with.
    pub generation: u64,
    /// Where in it, in order.
    pub ranges: Vec<Range>,
    /// Whose bytes they are, and over which of its connections.
    pub writer: (u64, u64),
}

/// What goes back.
pub enum Answer {
    /// A head and a small body.
    Frame(Header, Vec<u8>),
    /// A head and bytes straight from an extent, sent only while `generation` may pass.
    Bytes {
        /// The head.
        header: Header,
        /// The memory to send, in order.
        parts: Vec<Span>,
        /// Keeps the memory.
        extent: Arc<Extent>,
        /// The generation it was opened with.
        generation: u64,
    },
    /// Nothing yet: whoever took the message from the inbox answers it.
    Later,
    /// A refusal; the connection goes on.
    Refuse(Refusal),
    /// A refusal after which the connection ends.
    Part(Refusal),
}

/// What one connection has proved and opened.
pub struct Session {
    event_loop: usize,
    connection: u64,
    stage: Stage,
    handles: Vec<Handle>,
}

impl Session {
    /// Nothing yet, on connection `connection` of loop `event_loop`.
    pub fn new(event_loop: usize, connection: u64) -> Self {
        Self { event_loop, connection, stage: Stage::Fresh, handles: Vec::new() }
    }

    /// Whether the peer proved the secret.
    pub fn is_known(&self) -> bool {
        matches!(self.stage, Stage::Known(_))
    }

    /// Judges a frame by its header and ranges.
    pub fn judge(&self, shared: &Shared, header: &Header, ranges: Vec<Range>) -> Intake {
        if !self.is_known() && header.kind != Kind::Hello {
            return Intake::Answer(Answer::Part(Refusal::new(
                Code::NotAuthenticated,
                "the first frames of a connection are hellos; prove the cluster's secret first",
            )));
        }
        match header.kind {
            Kind::Hello if self.is_known() => {
                Intake::Answer(Answer::Part(Refusal::new(Code::BadFrame, "the handshake is over")))
            }
            Kind::Hello | Kind::Open | Kind::Message => Intake::Collect,
            Kind::Read => Intake::Answer(match self.read(shared, header, ranges) {
                Ok(answer) => answer,
                Err(refusal) => Answer::Refuse(refusal),
            }),
            Kind::Write => match self.write(shared, header, ranges) {
                Ok(target) => Intake::Land(target),
                Err(refusal) => Intake::Discard(refusal),
            },
            Kind::Credit | Kind::Cancel => Intake::Answer(Answer::Refuse(Refusal::new(
                Code::NotSupported,
                "this lane answers in order and needs no credits; there is nothing to cancel",
            ))),
            Kind::Reply | Kind::Refusal => Intake::Answer(Answer::Part(Refusal::new(
                Code::BadFrame,
                "an answer was sent to the side that answers",
            ))),
        }
    }

    /// Answers a frame whose payload was collected.
    pub fn collected(&mut self, shared: &Shared, header: &Header, payload: Vec<u8>) -> Answer {
        match header.kind {
            Kind::Hello => self.hello(shared, header, &payload),
            Kind::Open => match self.open(shared, header, &payload) {
                Ok(answer) => answer,
                Err(refusal) => Answer::Refuse(refusal),
            },
            _ => self.message(shared, header, payload),
        }
    }

    fn hello(&mut self, shared: &Shared, header: &Header, payload: &[u8]) -> Answer {
        let identity = &shared.identity;
        match std::mem::replace(&mut self.stage, Stage::Fresh) {
            Stage::Fresh if header.tag == Hello::Client as u64 => {
                let client = match ClientHello::decode(payload) {
                    Ok(client) => client,
                    Err(cause) => return malformed(&cause),
                };
                if client.cluster_id != identity.cluster_id {
                    return Answer::Part(Refusal::new(
                        Code::WrongCluster,
                        format!("{} serves another cluster; check WEFT_COORDINATOR on both machines", identity.name),
                    ));
                }
                let mut nonce = [0u8; 32];
                if let Err(error) = weft_sys::random::fill(&mut nonce) {
                    return Answer::Part(Refusal::new(Code::Internal, format!("no randomness: {error}")));
                }
                let server =
                    ServerHello::prove(&identity.hello_key, &client, nonce, identity.incarnation, &identity.name);
                let body = server.encode();
                self.stage = Stage::Challenged { client, server };
                let mut reply = Header::new(Kind::Hello, header.request);
                reply.tag = Hello::Server as u64;
                reply.length = body.len() as u64;
                Answer::Frame(reply, body)
            }
            Stage::Challenged { client, server } if header.tag == Hello::Proof as u64 => {
                let proof = match ClientProof::decode(payload) {
                    Ok(proof) => proof,
                    Err(cause) => return malformed(&cause),
                };
                if !proof.verifies(&identity.hello_key, &client, &server) {
                    return Answer::Part(Refusal::new(
                        Code::WrongSecret,
                        "the proof does not fit the cluster's secret; give both machines the same WEFT_SECRET",
                    ));
                }
                self.stage = Stage::Known(PeerIdentity { name: client.name, incarnation: client.incarnation });
                Answer::Frame(Header::new(Kind::Reply, header.request), Vec::new())
            }
            _ => Answer::Part(Refusal::new(Code::BadFrame, "this hello does not follow the last")),
        }
    }

    fn open(&mut self, shared: &Shared, header: &Header, payload: &[u8]) -> Result<Answer, Refusal> {
        let granted = shared.examine(header.offset, header.tag, payload)?;
        if self.handles.len() == HANDLES_MAX {
            return Err(Refusal::new(Code::TooLarge, format!("{HANDLES_MAX} grants are open on this connection")));
        }
        let mut reply = Header::new(Kind::Reply, header.request);
        reply.offset = granted.extent.size_bytes();
        reply.tag = granted.generation;
        self.handles.push(Handle {
            extent: Arc::downgrade(&granted.extent),
            region_id: granted.extent.region_id.clone(),
            index: granted.extent.index,
            generation: granted.generation,
            rights: granted.rights,
            expires_at_ms: granted.expires_at_ms,
            writer: granted.writer.0,
            epoch: granted.writer.1,
        });
        Counters::add(&shared.counters.grants_opened, 1);
        reply.handle = self.handles.len() as u64;
        Ok(Answer::Frame(reply, Vec::new()))
    }

    fn message(&mut self, shared: &Shared, header: &Header, payload: Vec<u8>) -> Answer {
        let Stage::Known(peer) = &self.stage else { unreachable!("judge lets only known peers send messages") };
        Counters::add(&shared.counters.messages, 1);
        if header.tag != 0 {
            let ticket = header.flags.has(Flags::ANSWER).then_some(Ticket {
                event_loop: self.event_loop,
                connection: self.connection,
                request: header.request,
            });
            let message = Message {
                sender: peer.name.clone(),
                incarnation: peer.incarnation,
                topic: header.tag,
                payload,
                ticket,
            };
            let own = |sink: &&Arc<dyn MessageSink>| !DESK_TOPICS.contains(&header.tag) && sink.takes(header.tag);
            if let Some(sink) = shared.sink.as_ref().filter(own) {
                return match sink.take(message) {
                    Ok(answer) => {
                        let mut reply = Header::new(Kind::Reply, header.request);
                        let answer = if ticket.is_some() { answer } else { Vec::new() };
                        reply.length = answer.len() as u64;
                        Answer::Frame(reply, answer)
                    }
                    Err(refusal) => Answer::Refuse(refusal),
                };
            }
            if let Err(refusal) = shared.put(message) {
                return Answer::Refuse(refusal);
            }
            if ticket.is_some() {
                return Answer::Later;
            }
        }
        Answer::Frame(Header::new(Kind::Reply, header.request), Vec::new())
    }

    /// The extent behind a handle, and what it may be used for.
    fn handle(&self, shared: &Shared, header: &Header) -> Result<(&Handle, Arc<Extent>), Refusal> {
        let handle = usize::try_from(header.handle)
            .ok()
            .and_then(|number| number.checked_sub(1))
            .and_then(|index| self.handles.get(index))
            .ok_or_else(|| {
                Refusal::new(Code::UnknownHandle, format!("handle {} was not given out here", header.handle))
            })?;
        still_good(shared, handle.expires_at_ms, &handle.region_id)?;
        let extent = handle
            .extent
            .upgrade()
            .filter(|extent| !extent.is_released())
            .ok_or_else(|| lost(shared, &handle.region_id, handle.index.into()))?;
        Ok((handle, extent))
    }

    fn read(&self, shared: &Shared, header: &Header, ranges: Vec<Range>) -> Result<Answer, Refusal> {
        let (handle, extent) = self.handle(shared, header)?;
        let generation = handle.generation;
        drop(extent.gate.enter(generation)?);
        let mut reply = Header::new(Kind::Reply, header.request);
        let mut parts = Vec::with_capacity(ranges.len().max(1));
        if header.flags.has(Flags::SPARSE) {
            sparse(&extent, header, &ranges, &mut reply, &mut parts)?;
        } else {
            let single = [Range { offset: header.offset, length: header.length }];
            let ranges = if header.count == 0 { &single[..] } else { &ranges };
            let mut zero = true;
            for range in ranges {
                if range.length == 0 {
                    return Err(Refusal::new(Code::OutOfRange, "a read of zero bytes asks for nothing"));
                }
                parts.push(extent.part(*range)?);
                zero = zero && extent.is_zero(*range);
            }
            if zero {
                reply.flags = Flags::ZERO;
                parts.clear();
                Counters::add(&shared.counters.zero_pages, header.length.div_ceil(PAGE_BYTES));
            } else {
                reply.length = header.length;
            }
        }
        Counters::add(&shared.counters.reads, 1);
        Counters::add(&shared.counters.read_bytes, reply.length);
        if header.flags.has(Flags::SPARSE) {
            Counters::add(&shared.counters.zero_pages, reply.tag.count_ones().into());
        }
        Ok(Answer::Bytes { header: reply, parts, extent, generation })
    }

    fn write(&self, shared: &Shared, header: &Header, ranges: Vec<Range>) -> Result<Target, Refusal> {
        let (handle, extent) = self.handle(shared, header)?;
        if !handle.rights.can_write() {
            return Err(Refusal::new(
                Code::ReadOnly,
                format!(
                    "this attachment of region {} may only read; attach it as exclusive to write",
                    handle.region_id
                ),
            ));
        }
        drop(extent.gate.enter(handle.generation)?);
        let ranges =
            if header.count == 0 { vec![Range { offset: header.offset, length: header.length }] } else { ranges };
        for range in &ranges {
            if range.length == 0 {
                return Err(Refusal::new(Code::OutOfRange, "a write of zero bytes changes nothing"));
            }
            extent.part(*range)?;
        }
        let writer = (handle.writer, handle.epoch);
        extent.check_writer(writer.0, writer.1)?;
        Ok(Target { extent, generation: handle.generation, ranges, writer })
    }
}

/// Fills in a sparse answer: a map of the pages that are zero, and the memory of the others.
fn sparse(
    extent: &Extent,
    header: &Header,
    ranges: &[Range],
    reply: &mut Header,
    parts: &mut Vec<Span>,
) -> Result<(), Refusal> {
    let pages = header.length / PAGE_BYTES;
    let aligned = header.offset.is_multiple_of(PAGE_BYTES) && header.length.is_multiple_of(PAGE_BYTES);
    if !ranges.is_empty() || !aligned || pages == 0 || pages > SPARSE_PAGES_MAX {
        return Err(Refusal::new(
            Code::OutOfRange,
            format!("a sparse read covers one run of 1 to {SPARSE_PAGES_MAX} whole pages"),
        ));
    }
    let whole = extent.part(Range { offset: header.offset, length: header.length })?;
    let first = header.offset / PAGE_BYTES;
    let mut zero_map = 0u64;
    let mut run_started: Option<u64> = None;
    let mut close_run = |started: Option<u64>, end: u64| {
        if let Some(started) = started {
            let at = usize::try_from(started * PAGE_BYTES).expect("within an extent");
            let len = usize::try_from((end - started) * PAGE_BYTES).expect("within an extent");
            parts.push(whole.part(at, len).expect("within the range"));
        }
    };
    for page in 0..pages {
        match extent.page(first + page) {
            PageState::Present => run_started = run_started.or(Some(page)),
            PageState::Zero => {
                zero_map |= 1 << page;
                close_run(run_started.take(), page);
            }
            PageState::Elsewhere => {
                return Err(Refusal::new(
                    Code::ExtentLost,
                    format!("page {} of this window is held by another node", first + page),
                ));
            }
        }
    }
    close_run(run_started, pages);
    reply.flags =
        if zero_map.count_ones() == u32::try_from(pages).expect("at most 64") { Flags::ZERO } else { Flags::SPARSE };
    reply.tag = zero_map;
    reply.length = (pages - u64::from(zero_map.count_ones())) * PAGE_BYTES;
    Ok(())
}

fn still_good(shared: &Shared, expires_at_ms: u64, region_id: &str) -> Result<(), Refusal> {
    let now_ms = (shared.now_ms)();
    if now_ms < expires_at_ms {
        return Ok(());
    }
    let late_s = (now_ms - expires_at_ms) / 1_000;
    Err(Refusal::new(
        Code::GrantExpired,
        format!(
            "the grant for region {region_id} expired {late_s} s ago by the clock of {}; renew the attachment or attach \
             again, and if it is new, set that clock and the coordinator's by one time server",
            shared.identity.name
        ),
    ))
}

fn lost(shared: &Shared, region_id: &str, index: u64) -> Refusal {
    Refusal::new(
        Code::ExtentLost,
        format!(
            "{} does not hold extent {index} of region {region_id}: it was restarted or released since; what was there is gone",
            shared.identity.name
        ),
    )
}

fn malformed(cause: &WireError) -> Answer {
    Answer::Part(Refusal::new(Code::BadFrame, cause.to_string()))
}
