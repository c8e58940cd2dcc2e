//! The way to one peer: how it is reached, and the lanes of those who wait.
//!
//! A link belongs to one life of its peer. Its lanes are many: some are driven by callers that wait, each by one at a
//! time, the others by the engine's thread. All of them write under one name and one *epoch*: when a lane breaks with
//! writes unanswered the epoch grows, and from the first open under the new one the peer lets nothing of the old land.
//! So whatever is written later cannot be overtaken by what was given up.

use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weft_transport::{
    ConnectOptions, Driven, Finished, Identity, Outcome, Patience, Payload, PeerIdentity, Spin, Step, Submission,
    TcpDriven, TransportError,
};
use weft_wire::{Advert, Code, Flags, Greeting, Header, Kind, Word, open_request};

use crate::Failure;
use crate::asking::Asking;
use crate::moved::{Moved, reason};
use crate::piece::{Direction, Part, Piece, cut, inquire, no_ranges};

/// Lanes of one link that callers may wait on at once; more of them take turns.
pub(crate) const WAITED_LANES_MAX: usize = 4;
/// Pieces of one waiting call that are outstanding at once: the peer works on the next while this side receives the last.
const WAITED_PIECES_MAX: usize = 4;
/// What one request of a waiting call carries.
const WAITED_PIECE_BYTES: u64 = 64 << 20;
/// Times a call is repeated because what came or arrived was damaged.
const DAMAGED_ATTEMPTS_MAX: u32 = 4;
/// Times a piece is asked again because its lane's right to write was fenced off by a younger lane of the same link.
const FENCED_ATTEMPTS_MAX: u32 = 8;

/// Ways to reach a peer that are faster than TCP; asked for a lane whenever one is needed.
pub trait Shortcut: Send + Sync {
    /// A lane, or why there is none now.
    ///
    /// # Errors
    /// Whatever stands in the way; TCP is used then.
    fn dial(&self, deadline: Instant) -> Result<Box<dyn Driven>, TransportError>;

    /// Which transport it is, as it is shown to people.
    fn transport(&self) -> &'static str;
}

/// A lane, and the adverts opened on it.
pub struct OpenLane {
    /// The lane.
    pub driven: Box<dyn Driven>,
    /// Adverts by number, as they were opened.
    pub handles: HashMap<u64, Known>,
}

/// An advert as a lane knows it.
pub struct Known {
    /// Which; two that open something else are two, whatever their number.
    pub advert: Arc<Advert>,
    /// What the peer calls it on this lane.
    pub handle: u64,
    /// The epoch it was opened under.
    pub epoch: u64,
}

impl OpenLane {
    /// Nothing is open yet.
    pub fn new(driven: Box<dyn Driven>) -> Self {
        Self { driven, handles: HashMap::new() }
    }

    /// The transport that carried a read or write that finished here. Asked once of each.
    pub fn carrier(&mut self, id: u64) -> &'static str {
        let transport = self.driven.transport();
        if transport != "tcp" && self.driven.went_by_tcp(id) { "tcp" } else { transport }
    }

    /// The handle of an advert, if it may be used: reading asks for no epoch.
    pub fn handle(&self, advert: &Arc<Advert>, direction: Direction, epoch: u64) -> Option<u64> {
        let known = self.handles.get(&advert.buffer)?;
        let same = Arc::ptr_eq(&known.advert, advert) || known.advert.opens_the_same(advert);
        (same && (direction == Direction::Read || known.epoch == epoch)).then_some(known.handle)
    }
}

/// The way to one life of one peer.
pub struct Link {
    /// The link's number in its endpoint.
    pub number: u64,
    /// Where the peer listens.
    pub address: SocketAddr,
    /// Who it is.
    pub peer: PeerIdentity,
    /// What it said of itself.
    pub greeting: Greeting,
    /// Names this link's writes at the peer.
    pub writer: u64,
    identity: Arc<Identity>,
    pub(crate) options: ConnectOptions,
    epoch: AtomicU64,
    ways: AtomicU64,
    pub(crate) pool: Mutex<Pool>,
    freed: Condvar,
    /// Lanes for questions.
    pub asking: Asking,
    pub(crate) shortcut: Mutex<Option<Arc<dyn Shortcut>>>,
    closed: AtomicBool,
    last_transport: Mutex<&'static str>,
    pub(crate) trouble: Mutex<Option<String>>,
    /// Bytes that moved, by transport.
    pub moved: Moved,
}

pub(crate) struct Pool {
    pub(crate) idle: Vec<Waited>,
    pub(crate) out: usize,
    /// Callers that wait for a lane; telling nobody costs a system call.
    queued: usize,
}

/// A lane a caller waits on.
pub struct Waited {
    /// None until it is needed.
    pub lane: Option<OpenLane>,
    /// Which of the link's ways it was made for.
    pub way: u64,
    /// Its waits so far.
    pub spin: Spin,
}

impl Link {
    /// Connects, greets, and keeps the connection for whoever waits first.
    ///
    /// # Errors
    /// As [`TcpDriven::connect`], and what the peer refuses a greeting with.
    pub fn connect(
        number: u64,
        address: SocketAddr,
        identity: Arc<Identity>,
        options: ConnectOptions,
        greeting: &Greeting,
        deadline: Instant,
    ) -> Result<Self, Failure> {
        let label = address.to_string();
        let mut random = [0u8; 8];
        weft_sys::random::fill(&mut random)
            .map_err(|error| Failure::new("internal", &label, format!("no randomness: {error}")))?;
        let writer = u64::from_le_bytes(random);
        let driven = TcpDriven::connect(address, &label, &identity, &within(&options, deadline, &label)?)
            .map_err(|error| Failure::of(&error))?;
        let peer = driven.peer().clone();
        let mut waited = Waited { lane: Some(OpenLane::new(Box::new(driven))), way: 0, spin: Spin::new(options.spin) };
        let word = Word::Greet(greeting.clone());
        let mut header = Header::new(Kind::Message, 0);
        header.flags = Flags::ANSWER;
        header.tag = word.topic();
        // A greeting is no word of a sequence: it may be said again whenever somebody connects.
        let payload = word.encode(writer, 0);
        header.length = payload.len() as u64;
        let submission =
            Submission { id: 0, header, ranges: no_ranges(), payload: Payload::Owned(payload), into: Vec::new() };
        let answered = waited.ask(submission, deadline).map_err(|error| Failure::of(&error))?;
        let answer = match answered {
            Outcome::Done(_, bytes) => bytes,
            Outcome::Refused(refusal) => return Err(Failure::refused(&peer.name, &refusal)),
        };
        let theirs = match Word::decode(word.topic(), &answer) {
            Ok((Word::Greet(theirs), _, _)) => theirs,
            Ok(_) | Err(_) => {
                let detail = format!("{} answered a greeting with something else; is it an endpoint?", peer.name);
                return Err(Failure::new("bad_frame", &peer.name, detail));
            }
        };
        Ok(Self {
            number,
            address,
            peer,
            greeting: theirs,
            writer,
            identity,
            options,
            epoch: AtomicU64::new(1),
            ways: AtomicU64::new(0),
            pool: Mutex::new(Pool { idle: vec![waited], out: 0, queued: 0 }),
            freed: Condvar::new(),
            asking: Asking::default(),
            shortcut: Mutex::new(None),
            closed: AtomicBool::new(false),
            last_transport: Mutex::new("tcp"),
            trouble: Mutex::default(),
            moved: Moved::default(),
        })
    }

    /// The epoch writes are opened under now.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// A lane broke with writes unanswered: nothing of it may land once something newer was written.
    pub fn fence(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Takes, or gives up, a faster way. Transfers under way end where they are; the next ones take it.
    pub fn set_shortcut(&self, shortcut: Option<Arc<dyn Shortcut>>) {
        *self.shortcut.lock().unwrap_or_else(PoisonError::into_inner) = shortcut;
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        for waited in &mut pool.idle {
            waited.lane = None;
        }
        drop(pool);
        self.ways.fetch_add(1, Ordering::AcqRel);
    }

    /// Gives the faster way up, if there is one, and says which it was.
    pub fn take_shortcut(&self) -> Option<Arc<dyn Shortcut>> {
        let shortcut = self.shortcut.lock().unwrap_or_else(PoisonError::into_inner).take();
        self.set_shortcut(None);
        shortcut
    }

    /// Grows whenever the best way changes: a lane of an earlier number is replaced when it is next idle.
    pub fn ways(&self) -> u64 {
        self.ways.load(Ordering::Acquire)
    }

    /// The transport the last lane for data came up on.
    pub fn transport(&self) -> &'static str {
        *self.last_transport.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says that nothing may be asked of it any more.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).idle.clear();
        self.asking.clear();
        self.freed.notify_all();
    }

    /// Takes a TCP lane out of those that wait for data, if nobody uses any.
    pub fn borrow_tcp(&self) -> Option<Waited> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        let by_tcp = |waited: &Waited| waited.lane.as_ref().is_some_and(|lane| lane.driven.transport() == "tcp");
        let index = pool.idle.iter().position(by_tcp).filter(|_| pool.out == 0)?;
        Some(pool.idle.remove(index))
    }

    /// Puts it back.
    pub fn give_back(&self, waited: Waited) {
        self.pool.lock().unwrap_or_else(PoisonError::into_inner).idle.push(waited);
    }

    /// Longest spin of one wait.
    pub fn spin(&self) -> Duration {
        self.options.spin
    }

    /// Whether it was closed.
    pub fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Until when a connection that is begun now must be up.
    pub fn connect_deadline(&self) -> Instant {
        Instant::now() + self.options.timeout
    }

    /// A lane for data: by the shortcut where that works, else by TCP. Waits.
    ///
    /// # Errors
    /// As [`TcpDriven::connect`]; `Refused` with `ExtentLost` when another life of the peer answers.
    pub fn dial(&self, deadline: Instant) -> Result<Box<dyn Driven>, TransportError> {
        let shortcut = self.shortcut.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(shortcut) = shortcut {
            match shortcut.dial(deadline) {
                Ok(lane) => {
                    self.came_up(shortcut.transport());
                    return Ok(lane);
                }
                Err(error) => self.troubled(reason(&error)),
            }
        }
        let lane = self.dial_tcp(deadline)?;
        self.came_up("tcp");
        Ok(lane)
    }

    pub(crate) fn came_up(&self, transport: &'static str) {
        *self.last_transport.lock().unwrap_or_else(PoisonError::into_inner) = transport;
        if transport != "tcp" {
            *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    /// A TCP lane, for words and where there is nothing better. Waits.
    ///
    /// # Errors
    /// As [`Link::dial`].
    pub fn dial_tcp(&self, deadline: Instant) -> Result<Box<dyn Driven>, TransportError> {
        let name = &self.peer.name;
        if self.is_closed() {
            return Err(TransportError::Closed { peer: name.clone() });
        }
        let options = within(&self.options, deadline, name)
            .map_err(|_| TransportError::TimedOut { peer: name.clone(), doing: "connecting" })?;
        let lane = TcpDriven::connect(self.address, name, &self.identity, &options)?;
        if lane.peer().incarnation != self.peer.incarnation {
            return Err(TransportError::Refused {
                peer: name.clone(),
                code: Code::ExtentLost,
                detail: "another process answers at its address now, which holds nothing of what this one advertised; \
                         connect again"
                    .to_owned(),
            });
        }
        Ok(Box::new(lane))
    }

    /// What opens an advert on a lane of this link, under `epoch`.
    pub fn opening(&self, id: u64, advert: &Advert, epoch: u64) -> Submission {
        let (header, payload) = open_request(advert.index(), advert.incarnation, self.writer, epoch, &advert.grant);
        Submission { id, header, ranges: no_ranges(), payload: Payload::Owned(payload), into: Vec::new() }
    }

    /// Moves `parts` and returns when all of it is done; the calling thread drives the lane.
    ///
    /// # Errors
    /// The first refusal, or the connection's error once repeating did not help within the deadline.
    pub fn move_now(&self, direction: Direction, parts: &[Part], deadline: Instant) -> Result<(), Failure> {
        let mut waited = self.take(deadline)?;
        if let [part] = parts
            && part.span.len() as u64 <= WAITED_PIECE_BYTES
            && waited.way == self.ways()
            && waited.at_once(direction, part, self.epoch())
        {
            self.put_back(waited);
            return Ok(());
        }
        let pieces = cut(parts, WAITED_PIECE_BYTES);
        let inquiry = match inquire(direction, &pieces) {
            Ok(inquiry) => inquiry,
            Err(failure) => {
                self.put_back(waited);
                return Err(failure);
            }
        };
        let asked = inquiry.as_ref().map_or(&[][..], |inquiry| &inquiry.pieces);
        let mut patience = Patience::until(deadline);
        let (mut fenced, mut damages) = (0, 0);
        let result = loop {
            let error = match self.attempt(&mut waited, direction, asked, &pieces, deadline) {
                Ok(()) => break Ok(()),
                Err(error) => error,
            };
            if let Trouble::Refused(failure) = &error
                && failure.is(Code::StaleGeneration)
                && direction == Direction::Write
                && fenced < FENCED_ATTEMPTS_MAX
            {
                // A sibling lane broke meanwhile: this one writes on once it opened under the newer epoch.
                fenced += 1;
                if let Some(lane) = &mut waited.lane {
                    lane.handles.clear();
                }
                continue;
            }
            if let Trouble::Lane { fence: true, .. } = &error {
                self.fence();
            }
            let failure = match error {
                Trouble::Refused(failure) => failure,
                Trouble::Lane { failure, .. } => {
                    if let Some(lane) = waited.lane.take()
                        && lane.driven.transport() != "tcp"
                    {
                        self.troubled(failure.detail.clone());
                    }
                    failure
                }
            };
            // What arrives damaged is asked for again over another connection, a few times.
            let damaged = failure.is(Code::BadFrame) && damages < DAMAGED_ATTEMPTS_MAX;
            damages += u32::from(damaged);
            if !(failure.temporary || damaged) || !patience.wait(failure.code) {
                break Err(failure);
            }
        };
        self.put_back(waited);
        result
    }

    /// Moves the pieces over the lane, connecting and opening what is missing, once what is `asked` was answered.
    fn attempt(
        &self,
        waited: &mut Waited,
        direction: Direction,
        asked: &[Piece],
        pieces: &[Piece],
        deadline: Instant,
    ) -> Result<(), Trouble> {
        let ways = self.ways();
        let extents = pieces.iter().any(|piece| piece.advert.extent.is_some());
        let fits = |lane: &OpenLane| !extents || lane.driven.reaches_extents();
        if waited.way != ways || !waited.lane.as_ref().is_some_and(fits) {
            waited.way = ways;
            let failed = |error: TransportError| Trouble::lane(&error, false);
            let mut lane = OpenLane::new(self.dial(deadline).map_err(failed)?);
            if !fits(&lane) {
                lane = OpenLane::new(self.dial_tcp(deadline).map_err(failed)?);
                self.came_up("tcp");
            }
            waited.lane = Some(lane);
        }
        let epoch = self.epoch();
        for piece in pieces {
            let lane = waited.lane.as_ref().expect("connected above");
            if lane.handle(&piece.advert, direction, epoch).is_none() {
                self.open_now(waited, piece, epoch, deadline)?;
            }
        }
        waited.run(Direction::Read, asked, epoch, deadline, None)?;
        waited.run(direction, pieces, epoch, deadline, Some(&self.moved))
    }

    fn open_now(&self, waited: &mut Waited, piece: &Piece, epoch: u64, deadline: Instant) -> Result<(), Trouble> {
        let advert = &piece.advert;
        let submission = self.opening(u64::MAX, advert, epoch);
        match waited.ask(submission, deadline).map_err(|error| Trouble::lane(&error, false))? {
            Outcome::Done(header, _) => {
                let lane = waited.lane.as_mut().expect("it answered");
                let known = Known { advert: Arc::clone(advert), handle: header.handle, epoch };
                lane.handles.insert(advert.buffer, known);
                Ok(())
            }
            Outcome::Refused(refusal) if refusal.code == Code::TooLarge => {
                // The connection's table of handles is full: a fresh one has room.
                let failure = Failure { temporary: true, ..Failure::refused(&self.peer.name, &refusal) };
                Err(Trouble::Lane { failure, fence: false })
            }
            Outcome::Refused(refusal) => {
                Err(Trouble::Refused(Failure::refused(&self.peer.name, &refusal).at(&advert.region(), piece.offset)))
            }
        }
    }

    /// A lane to wait on; waits for one when all are in use.
    fn take(&self, deadline: Instant) -> Result<Waited, Failure> {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if self.is_closed() {
                return Err(Failure::closed(&self.peer.name));
            }
            if let Some(waited) = pool.idle.pop() {
                pool.out += 1;
                return Ok(waited);
            }
            if pool.out < WAITED_LANES_MAX {
                pool.out += 1;
                return Ok(Waited { lane: None, way: self.ways(), spin: Spin::new(self.options.spin) });
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Failure::timed_out(&self.peer.name, "waiting for a lane that is not in use"));
            }
            pool.queued += 1;
            pool = self.freed.wait_timeout(pool, left).unwrap_or_else(PoisonError::into_inner).0;
            pool.queued -= 1;
        }
    }

    fn put_back(&self, waited: Waited) {
        let mut pool = self.pool.lock().unwrap_or_else(PoisonError::into_inner);
        pool.out -= 1;
        if !self.is_closed() {
            pool.idle.push(waited);
        }
        let queued = pool.queued > 0;
        drop(pool);
        if queued {
            self.freed.notify_one();
        }
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("peer", &self.peer).field("address", &self.address).finish_non_exhaustive()
    }
}

/// Why an attempt came to nothing.
enum Trouble {
    /// The peer said no; the lane is whole.
    Refused(Failure),
    /// The lane is of no use any more.
    Lane {
        failure: Failure,
        /// Whether bytes of a write may still be on their way.
        fence: bool,
    },
}

impl Trouble {
    fn lane(error: &TransportError, fence: bool) -> Self {
        Self::Lane { failure: Failure::of(error), fence }
    }
}

impl Waited {
    /// One request, and how it ended.
    pub fn ask(&mut self, submission: Submission, deadline: Instant) -> Result<Outcome, TransportError> {
        let lane = self.lane.as_mut().expect("the caller made sure of a lane");
        lane.driven.submit(submission);
        let mut finished = Vec::with_capacity(1);
        while finished.is_empty() {
            drive(lane.driven.as_mut(), &mut self.spin, &mut finished, deadline)?;
        }
        Ok(finished.remove(0).outcome)
    }

    /// Moves one part without a request, if the lane can and the advert is open.
    fn at_once(&mut self, direction: Direction, part: &Part, epoch: u64) -> bool {
        let Some(lane) = &mut self.lane else { return false };
        let Some(handle) = lane.handle(&part.advert, direction, epoch) else { return false };
        let kind = if direction == Direction::Read { Kind::Read } else { Kind::Write };
        lane.driven.at_once(kind, handle, part.offset, part.span)
    }

    /// Moves pieces whose adverts are open.
    fn run(
        &mut self,
        direction: Direction,
        pieces: &[Piece],
        epoch: u64,
        deadline: Instant,
        moved: Option<&Moved>,
    ) -> Result<(), Trouble> {
        let lane = self.lane.as_mut().expect("the caller made sure of a lane");
        let fence = direction == Direction::Write;
        let (mut next, mut ended) = (0, 0);
        let mut refused: Option<Failure> = None;
        let mut finished = Vec::with_capacity(WAITED_PIECES_MAX);
        while ended < pieces.len() {
            while refused.is_none() && next < pieces.len() && next - ended < WAITED_PIECES_MAX {
                let piece = &pieces[next];
                let handle = lane.handle(&piece.advert, direction, epoch).expect("the caller opened it");
                lane.driven.submit(piece.submission(next as u64, direction, handle));
                next += 1;
            }
            if refused.is_some() && ended == next {
                break;
            }
            drive(lane.driven.as_mut(), &mut self.spin, &mut finished, deadline)
                .map_err(|error| Trouble::lane(&error, fence))?;
            for Finished { id, outcome } in finished.drain(..) {
                ended += 1;
                let piece = &pieces[usize::try_from(id).expect("an index of ours")];
                let Outcome::Refused(refusal) = outcome else {
                    let carrier = lane.carrier(id);
                    if let Some(moved) = moved {
                        moved.add(carrier, piece.length);
                    }
                    continue;
                };
                let region = piece.advert.region();
                let failure = Failure::refused(&lane.driven.peer().name, &refusal).at(&region, piece.offset);
                if refusal.code == Code::BadFrame {
                    // The peer could not read it, and ends the connection.
                    return Err(Trouble::Lane { failure, fence });
                }
                refused.get_or_insert(failure);
            }
        }
        refused.map_or(Ok(()), |failure| Err(Trouble::Refused(failure)))
    }
}

/// Moves what can be moved, or waits until something can: spins for the allowance, then sleeps in slices.
fn drive(
    driven: &mut dyn Driven,
    spin: &mut Spin,
    finished: &mut Vec<Finished>,
    deadline: Instant,
) -> Result<(), TransportError> {
    let moved = spin.wait(deadline, |step| match step {
        Step::Look => driven.advance(finished),
        Step::Sleep(slice) => driven.advance_sleeping(finished, slice),
    })?;
    if moved {
        return Ok(());
    }
    let peer = driven.peer().name.clone();
    driven.close();
    Err(TransportError::TimedOut { peer, doing: "waiting for an answer" })
}

/// The options for a connection that must be up by `deadline`.
fn within(options: &ConnectOptions, deadline: Instant, peer: &str) -> Result<ConnectOptions, Failure> {
    let mut options = options.clone();
    options.timeout = options.timeout.min(deadline.saturating_duration_since(Instant::now()));
    if options.timeout.is_zero() {
        return Err(Failure::timed_out(peer, "connecting"));
    }
    Ok(options)
}
