//! A lane that moves bytes by RDMA where both ends have it, and by TCP wherever that does not work.
//!
//! The TCP connection stays: hellos, opens and messages travel over it, queue pairs are agreed over it, and it is the way
//! back. Reads and writes of an extent whose key was given go over the queue pair; everything else goes over TCP as ever.
//!
//! ```text
//!            connect, beacon read
//!   on TCP ───────────────────────► on RDMA
//!      ▲    a while after            │ a failed request, a lost device, a session that is over
//!      └──── cut, then again over TCP ┘
//! ```
//!
//! What if a request fails over RDMA? Its bytes, and those of everything behind it, may still be on their way. So the peer
//! is first told to cut the session; its answer says that nothing of it lands any more, and then what is outstanding is
//! asked again over TCP, in its order: reads and writes move the same bytes however often they run. The right answer to a
//! key that was taken back comes from there too. What if that answer does not come? Then the lane is broken as any lane,
//! and its writer's next epoch fences what is left.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weft_sys::memory::Span;
use weft_transport::{Lane, PeerIdentity, Reply, Request, TransportError, Upgrade};
use weft_wire::{Code, Flags, Header, Kind, Range};

use crate::VerbsError;
use crate::path::{PIECE_BYTES, Path, gather, scatter};
use crate::rail::Rail;
use crate::record::{EndpointRecord, gid_text};
use crate::table::BEACON;
use crate::words::{self, ANSWER_BYTES_MAX, Connected, Key, KeyRequest};

/// Requests posted and not completed on one lane, as on every lane.
const OUTSTANDING_MAX: usize = 256;
/// Time to agree on queue pairs and to read the beacon; after it the lane starts on TCP.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// After a way back to TCP the next attempt waits this long, and twice as long each time.
const RETRY_FIRST: Duration = Duration::from_secs(5);
/// It never waits longer.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// First pause before a key that was not there yet is asked for again; it doubles.
const KEY_PAUSE_FIRST: Duration = Duration::from_millis(10);
/// Longest such pause.
const KEY_PAUSE_MAX: Duration = Duration::from_secs(1);
/// A key is not used when its grant ends within this time: the request would still be under way.
const KEY_MARGIN: Duration = Duration::from_millis(100);
/// How long a lane that closes tries to say so.
const PARTING_MAX: Duration = Duration::from_millis(100);

/// Which way a lane's bytes go now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Way {
    /// By queue pair.
    Rdma,
    /// By the connection, and why.
    Tcp(String),
}

struct Online {
    path: Path,
    session: u64,
    lease: Duration,
    renewed_at: Instant,
    version: u64,
}

/// What is known of an extent's key.
enum KeyState {
    Wanted { after: Instant, pause: Duration },
    Held { key: Key, until: Instant },
    Never,
}

struct Opening {
    index: u64,
    incarnation: u64,
    bytes: Vec<u8>,
    key: KeyState,
}

/// A request that is outstanding, with what asking again takes.
struct Entry {
    header: Header,
    ranges: Vec<Range>,
    payload: Vec<Span>,
    opening: Option<Vec<u8>>,
    by: By,
}

enum By {
    Tcp,
    /// Not sent: what goes over TCP must not overtake what went by queue pair before it.
    Held,
    Rdma(Moving),
}

/// How far a request by queue pair is.
struct Moving {
    key: Key,
    length: usize,
    /// Bytes whose pieces were posted.
    posted: usize,
    /// The range the next piece is of, and how far into it.
    range: usize,
    within: u64,
    /// Bytes done and taken.
    taken: usize,
}

/// How a begun answer goes on.
enum Begun {
    /// By queue pair, or by TCP where the reply's head came from there.
    Plain,
    /// It began by queue pair and was asked again over TCP: the answer has all its bytes, or is zero.
    Again { bytes: usize },
}

/// A lane with a queue pair, when it can be had.
pub struct RdmaLane {
    tcp: Box<dyn Lane>,
    rail: Arc<Rail>,
    expected: Option<EndpointRecord>,
    spin: Duration,
    online: Option<Online>,
    why_not: String,
    retry_at: Instant,
    retry_pause: Duration,
    openings: HashMap<u64, Opening>,
    outstanding: VecDeque<Entry>,
    begun: Option<Begun>,
    open: bool,
}

/// Makes RDMA lanes of TCP lanes.
pub struct RdmaUpgrade {
    rail: Arc<Rail>,
    expected: Option<EndpointRecord>,
    spin: Duration,
    /// After an attempt that came to nothing the next connections stay on TCP until then.
    not_before: Mutex<Instant>,
}

impl RdmaUpgrade {
    /// For peers whose endpoint record says RDMA. With `expected`, only the device of that record is connected to.
    pub fn new(rail: &Arc<Rail>, expected: Option<EndpointRecord>, spin: Duration) -> Self {
        Self { rail: Arc::clone(rail), expected, spin, not_before: Mutex::new(Instant::now()) }
    }
}

impl Upgrade for RdmaUpgrade {
    fn upgrade(&self, lane: Box<dyn Lane>, deadline: Instant) -> Result<Box<dyn Lane>, TransportError> {
        let not_before = *self.not_before.lock().unwrap_or_else(PoisonError::into_inner);
        if Instant::now() < not_before {
            return Ok(lane);
        }
        let upgraded = RdmaLane::over(lane, &self.rail, self.expected, self.spin, deadline);
        if !matches!(&upgraded, Ok(lane) if lane.way() == Way::Rdma) {
            *self.not_before.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + RETRY_FIRST;
        }
        upgraded.map(|lane| Box::new(lane) as Box<dyn Lane>)
    }
}

/// Why something over the queue pair did not work out.
enum Trouble {
    /// The queue pair is of no use; TCP may be.
    Path(VerbsError),
    /// The connection is of no use either.
    Lane(TransportError),
}

impl From<TransportError> for Trouble {
    fn from(error: TransportError) -> Self {
        // A refusal leaves the connection whole: only RDMA is not to be had.
        if error.breaks_lane() { Self::Lane(error) } else { Self::Path(VerbsError::Unavailable(error.to_string())) }
    }
}

impl From<VerbsError> for Trouble {
    fn from(error: VerbsError) -> Self {
        Self::Path(error)
    }
}

impl RdmaLane {
    /// Takes `tcp`, on which nothing is outstanding, and a queue pair where the peer has one. What goes wrong with that is
    /// said, and the lane works over TCP.
    ///
    /// # Errors
    /// Only what broke the connection itself.
    pub fn over(
        tcp: Box<dyn Lane>,
        rail: &Arc<Rail>,
        expected: Option<EndpointRecord>,
        spin: Duration,
        deadline: Instant,
    ) -> Result<Self, TransportError> {
        let mut lane = Self {
            tcp,
            rail: Arc::clone(rail),
            expected,
            spin,
            online: None,
            why_not: "it was not tried yet".to_owned(),
            retry_at: Instant::now(),
            retry_pause: RETRY_FIRST,
            openings: HashMap::new(),
            outstanding: VecDeque::new(),
            begun: None,
            open: true,
        };
        lane.go_online(deadline)?;
        Ok(lane)
    }

    /// Which way bytes go now.
    pub fn way(&self) -> Way {
        if self.online.is_some() { Way::Rdma } else { Way::Tcp(self.why_not.clone()) }
    }

    /// Agrees on queue pairs and reads the beacon: only a path that carried bytes is used.
    fn go_online(&mut self, deadline: Instant) -> Result<(), TransportError> {
        let deadline = deadline.min(Instant::now() + CONNECT_MAX);
        match self.try_online(deadline) {
            Ok(online) => {
                let (device, peer) = (self.rail.device().name().to_owned(), self.tcp.peer().name.clone());
                self.rail.say(format!("{peer} is reached over RDMA ({device})"));
                self.rail.counters.upgrades.fetch_add(1, Ordering::Relaxed);
                self.online = Some(online);
                self.retry_pause = RETRY_FIRST;
                Ok(())
            }
            Err(Trouble::Path(error)) => {
                self.stay_offline(&error);
                Ok(())
            }
            Err(Trouble::Lane(error)) => {
                self.close();
                Err(error)
            }
        }
    }

    fn try_online(&mut self, deadline: Instant) -> Result<Online, Trouble> {
        let mut path = Path::new(&self.rail, self.spin)?;
        let answer = self.ask(words::TOPIC_CONNECT, &words::encode_connect(&path.side()), deadline)?;
        let connected = Connected::decode(&answer)?;
        if let Some(expected) = self.expected
            && (expected.gid, expected.lid) != (connected.side.gid, connected.side.lid)
        {
            return Err(Trouble::Path(VerbsError::Unavailable(format!(
                "its endpoint record says GID {} and LID {}, it answers with {} and {}",
                gid_text(&expected.gid),
                expected.lid,
                gid_text(&connected.side.gid),
                connected.side.lid
            ))));
        }
        path.connect(&connected.side)?;
        path.read(connected.beacon_address, connected.beacon_key, BEACON.len())?;
        let piece = path.wait(deadline)?;
        let mut beacon = [0; BEACON.len()];
        path.bytes(&piece).copy_to(&mut beacon);
        path.take();
        if beacon != BEACON {
            return Err(Trouble::Path(VerbsError::Words("another beacon was read than there is")));
        }
        Ok(Online {
            path,
            session: connected.session,
            lease: Duration::from_millis(connected.lease_ms),
            renewed_at: Instant::now(),
            version: 0,
        })
    }

    fn stay_offline(&mut self, error: &VerbsError) {
        self.why_not = error.to_string();
        self.retry_at = Instant::now() + self.retry_pause;
        self.retry_pause = (self.retry_pause * 2).min(RETRY_MAX);
        self.rail.say(format!("{} is reached over TCP: {error}", self.tcp.peer().name));
    }

    /// A message over TCP and its answer. Nothing may be outstanding there.
    fn ask(&mut self, topic: u64, body: &[u8], deadline: Instant) -> Result<Vec<u8>, TransportError> {
        let mut header = Header::new(Kind::Message, 0);
        header.flags = Flags::ANSWER;
        header.tag = topic;
        header.length = body.len() as u64;
        let mut answer = vec![0u8; ANSWER_BYTES_MAX];
        let into = [Span::of(&mut answer)];
        let tcp = &mut self.tcp;
        tcp.post(Request { header, ranges: &[], payload: &[Span::of_const(body)] }, deadline)?;
        let reply = tcp.begin(&into, deadline)?;
        let bytes = tcp.fill(&into, reply.filled, reply.bytes(), deadline)?;
        answer.truncate(bytes);
        Ok(answer)
    }

    /// Keeps the session alive, or finds that it is over; and comes back to RDMA after a while. Between requests only.
    fn look_after(&mut self, deadline: Instant) -> Result<(), TransportError> {
        let now = Instant::now();
        if self.tcp.outstanding() > 0 {
            return Ok(());
        }
        let Some(online) = &self.online else {
            if now >= self.retry_at && self.outstanding.is_empty() {
                return self.go_online(deadline);
            }
            return Ok(());
        };
        if now < online.renewed_at + online.lease / 3 {
            return Ok(());
        }
        let session = online.session;
        match self.ask(words::TOPIC_RENEW, &session.to_le_bytes(), deadline) {
            Ok(answer) => match words::decode_pair(&answer) {
                Ok((lease_ms, version)) => {
                    let online = self.online.as_mut().expect("seen above");
                    online.lease = Duration::from_millis(lease_ms);
                    online.renewed_at = now;
                    if online.version != version {
                        // Keys were taken back since: whichever are left are given again for the asking.
                        online.version = version;
                        self.forget_keys();
                    }
                    Ok(())
                }
                Err(error) => self.fall_back(&error, deadline),
            },
            Err(error) if error.breaks_lane() => Err(self.broken(error)),
            Err(error) => self.fall_back(&VerbsError::Unavailable(error.to_string()), deadline),
        }
    }

    fn forget_keys(&mut self) {
        for opening in self.openings.values_mut() {
            if !matches!(opening.key, KeyState::Never) {
                opening.key = KeyState::Wanted { after: Instant::now(), pause: KEY_PAUSE_FIRST };
            }
        }
    }

    /// The key to an extent, if requests for it may go by queue pair now.
    fn key(&mut self, handle: u64, deadline: Instant) -> Result<Option<Key>, TransportError> {
        let Some(online) = &self.online else { return Ok(None) };
        let now = Instant::now();
        let session = online.session;
        let Some(opening) = self.openings.get(&handle) else { return Ok(None) };
        match &opening.key {
            KeyState::Held { key, until } => return Ok((now < *until).then_some(*key)),
            KeyState::Wanted { after, .. } if now >= *after && self.tcp.outstanding() == 0 => {}
            KeyState::Wanted { .. } | KeyState::Never => return Ok(None),
        }
        let request =
            KeyRequest { session, index: opening.index, incarnation: opening.incarnation, opening: &opening.bytes };
        let body = request.encode();
        let asked = self.ask(words::TOPIC_KEY, &body, deadline);
        let opening = self.openings.get_mut(&handle).expect("seen above");
        match asked {
            Ok(answer) => match Key::decode(&answer) {
                Ok(key) => {
                    let until = now + Duration::from_millis(key.valid_ms.min(1 << 40)).saturating_sub(KEY_MARGIN);
                    opening.key = KeyState::Held { key, until };
                    let online = self.online.as_mut().expect("seen above");
                    let known = std::mem::replace(&mut online.version, key.version);
                    if known != 0 && known != key.version {
                        // A key was taken back since the others were given: which one, they say when asked for again.
                        self.forget_keys();
                        self.openings.get_mut(&handle).expect("seen above").key = KeyState::Held { key, until };
                    }
                    Ok((now < until).then_some(key))
                }
                Err(error) => {
                    opening.key = KeyState::Never;
                    self.rail.say(format!("{} gave a key that is none: {error}", self.tcp.peer().name));
                    Ok(None)
                }
            },
            Err(TransportError::Refused { code: Code::UnknownHandle, detail, .. }) => {
                self.fall_back(&VerbsError::Unavailable(detail), deadline)?;
                Ok(None)
            }
            Err(TransportError::Refused { code: Code::Busy, .. }) => {
                if let KeyState::Wanted { after, pause } = &mut opening.key {
                    *after = now + *pause;
                    *pause = (*pause * 2).min(KEY_PAUSE_MAX);
                }
                Ok(None)
            }
            Err(error) if error.breaks_lane() => Err(self.broken(error)),
            Err(error) => {
                // The same request over TCP says it where it belongs; this handle stays there.
                opening.key = KeyState::Never;
                self.rail.say(format!("one extent of {} stays on TCP: {error}", self.tcp.peer().name));
                Ok(None)
            }
        }
    }

    /// Gives the queue pair up: cuts the session, and asks over TCP, in order, for what is outstanding.
    fn fall_back(&mut self, error: &VerbsError, deadline: Instant) -> Result<(), TransportError> {
        let Some(online) = self.online.take() else { return Ok(()) };
        let session = online.session;
        // This side's end goes first: from here on the device touches nothing of it.
        drop(online);
        self.rail.counters.fallbacks.fetch_add(1, Ordering::Relaxed);
        self.stay_offline(error);
        self.forget_keys();
        match self.ask(words::TOPIC_CUT, &session.to_le_bytes(), deadline) {
            // A peer that has no RDMA any more has ended all of it.
            Ok(_) | Err(TransportError::Refused { code: Code::NotSupported, .. }) => {}
            Err(error) => {
                // Nobody said that nothing lands any more. The next connection's epoch will.
                let peer = self.tcp.peer().name.clone();
                let lasting = if error.breaks_lane() {
                    error
                } else {
                    TransportError::Disconnected { peer, doing: "ending an RDMA session", cause: None }
                };
                return Err(self.broken(lasting));
            }
        }
        let mut again = None;
        for (position, entry) in self.outstanding.iter_mut().enumerate() {
            if let By::Rdma(moving) = &entry.by
                && position == 0
                && self.begun.is_some()
            {
                // Its head was given out: what comes now must be its bytes, whole.
                again = Some(moving.length);
                entry.header.flags = Flags::default();
            }
        }
        if let Some(bytes) = again {
            self.begun = Some(Begun::Again { bytes });
        }
        self.send_held(true, deadline)
    }

    /// Sends over TCP what was held for it; with `all`, what was under way by queue pair as well.
    fn send_held(&mut self, all: bool, deadline: Instant) -> Result<(), TransportError> {
        for entry in &mut self.outstanding {
            if matches!(entry.by, By::Held) || (all && matches!(entry.by, By::Rdma(_))) {
                let request = Request { header: entry.header, ranges: &entry.ranges, payload: &entry.payload };
                if let Err(error) = self.tcp.post(request, deadline) {
                    return Err(self.broken(error));
                }
                entry.by = By::Tcp;
            }
        }
        Ok(())
    }

    fn broken(&mut self, error: TransportError) -> TransportError {
        self.online = None;
        self.close();
        error
    }

    /// Posts as many pieces as there is room for, in the order of the requests.
    fn issue(&mut self) -> Result<(), VerbsError> {
        let Some(online) = &mut self.online else { return Ok(()) };
        for entry in &mut self.outstanding {
            let By::Rdma(moving) = &mut entry.by else { return Ok(()) };
            while moving.posted < moving.length {
                let whole = [Range { offset: entry.header.offset, length: entry.header.length }];
                let ranges = if entry.ranges.is_empty() { &whole[..] } else { &entry.ranges };
                let range = ranges[moving.range];
                let left = usize::try_from(range.length - moving.within).expect("within a frame");
                let length = left.min(PIECE_BYTES);
                let address = moving.key.address + range.offset + moving.within;
                let posted = if entry.header.kind == Kind::Read {
                    online.path.read(address, moving.key.key, length)?
                } else {
                    let (payload, skip) = (&entry.payload, moving.posted);
                    online.path.write(address, moving.key.key, length, |into| gather(payload, skip, into))?
                };
                if !posted {
                    return Ok(());
                }
                moving.posted += length;
                moving.within += length as u64;
                if moving.within == range.length {
                    (moving.range, moving.within) = (moving.range + 1, 0);
                }
            }
        }
        Ok(())
    }

    /// Moves the oldest request, one by queue pair, on until `at_least` of its bytes are taken. Its bytes so far.
    fn advance(&mut self, into: &[Span], at_least: usize, deadline: Instant) -> Result<usize, Trouble> {
        loop {
            self.issue()?;
            let online = self.online.as_mut().expect("requests by queue pair have one");
            let entry = self.outstanding.front_mut().expect("the caller saw it");
            let By::Rdma(moving) = &mut entry.by else { unreachable!("the caller saw how it goes") };
            let piece = match online.path.finished()? {
                Some(piece) => piece,
                None if moving.taken >= at_least => return Ok(moving.taken),
                None => match online.path.wait(deadline) {
                    Err(VerbsError::TimedOut(_)) => {
                        return Err(Trouble::Lane(TransportError::TimedOut {
                            peer: self.tcp.peer().name.clone(),
                            doing: "waiting for an answer",
                        }));
                    }
                    other => other?,
                },
            };
            if moving.taken == moving.length {
                return Ok(moving.taken);
            }
            if entry.header.kind == Kind::Read {
                scatter(online.path.bytes(&piece), into, moving.taken);
                self.rail.counters.read_bytes.fetch_add(piece.length as u64, Ordering::Relaxed);
            } else {
                self.rail.counters.written_bytes.fetch_add(piece.length as u64, Ordering::Relaxed);
            }
            moving.taken += piece.length;
            online.path.take();
        }
    }

    /// As `advance`, and falls back where the queue pair fails. `None` once that happened: look again.
    fn advance_or_fall_back(
        &mut self,
        into: &[Span],
        at_least: usize,
        deadline: Instant,
    ) -> Result<Option<usize>, TransportError> {
        match self.advance(into, at_least, deadline) {
            Ok(taken) => Ok(Some(taken)),
            Err(Trouble::Path(error)) => self.fall_back(&error, deadline).map(|()| None),
            Err(Trouble::Lane(error)) => Err(self.broken(error)),
        }
    }

    /// The oldest request is complete.
    fn finish(&mut self) {
        self.outstanding.pop_front();
        self.begun = None;
    }

    /// Whether a request may go by queue pair: all of it within the key, and allowed by it. What is not is refused by the
    /// server, over TCP, in its own words.
    fn fits(key: &Key, request: &Request<'_>) -> bool {
        let inside = |range: &Range| range.length > 0 && range.end().is_some_and(|end| end <= key.length);
        let header = &request.header;
        let ranges = if request.ranges.is_empty() {
            inside(&Range { offset: header.offset, length: header.length })
        } else {
            request.ranges.iter().all(inside)
        };
        ranges && (header.kind == Kind::Read || key.writable)
    }

    fn begin_over_tcp(&mut self, into: &[Span], deadline: Instant) -> Result<Reply, TransportError> {
        match self.tcp.begin(into, deadline) {
            Ok(reply) => {
                let entry = self.outstanding.front_mut().expect("the caller saw it");
                if let Some(bytes) = entry.opening.take() {
                    let (index, incarnation) = (entry.header.offset, entry.header.tag);
                    let key = KeyState::Wanted { after: Instant::now(), pause: KEY_PAUSE_FIRST };
                    self.openings.insert(reply.header.handle, Opening { index, incarnation, bytes, key });
                }
                Ok(reply)
            }
            Err(error) if error.breaks_lane() => Err(self.broken(error)),
            Err(error) => {
                self.finish();
                Err(error)
            }
        }
    }
}

impl Lane for RdmaLane {
    fn post(&mut self, request: Request<'_>, deadline: Instant) -> Result<(), TransportError> {
        if !self.open {
            return Err(TransportError::Closed { peer: self.tcp.peer().name.clone() });
        }
        if self.outstanding.len() == OUTSTANDING_MAX {
            return Err(TransportError::BadArgument(format!(
                "{OUTSTANDING_MAX} requests are outstanding on this lane; complete some before posting more"
            )));
        }
        let header = request.header;
        let mut key = None;
        if matches!(header.kind, Kind::Read | Kind::Write) {
            self.look_after(deadline)?;
            key = self.key(header.handle, deadline)?.filter(|key| Self::fits(key, &request));
        }
        let by_rdma = self.outstanding.iter().any(|entry| matches!(entry.by, By::Rdma(_)));
        let mut entry = Entry {
            header,
            ranges: request.ranges.to_vec(),
            payload: request.payload.to_vec(),
            opening: None,
            by: By::Held,
        };
        if header.kind == Kind::Open {
            let mut bytes = vec![0; request.payload.iter().map(|span| span.len()).sum()];
            gather(request.payload, 0, Span::of(&mut bytes));
            entry.opening = Some(bytes);
        }
        // One way at a time, so that nothing overtakes what was posted before it.
        let all_rdma = self.outstanding.iter().all(|entry| matches!(entry.by, By::Rdma(_)));
        if let Some(key) = key.filter(|_| all_rdma) {
            let length = usize::try_from(header.length).expect("a frame is at most 64 MiB");
            entry.by = By::Rdma(Moving { key, length, posted: 0, range: 0, within: 0, taken: 0 });
            self.outstanding.push_back(entry);
            return match self.issue() {
                Ok(()) => Ok(()),
                Err(error) => self.fall_back(&error, deadline),
            };
        }
        if by_rdma {
            self.outstanding.push_back(entry);
            return Ok(());
        }
        entry.by = By::Tcp;
        match self.tcp.post(request, deadline) {
            Ok(()) => {
                self.outstanding.push_back(entry);
                Ok(())
            }
            Err(error) if error.breaks_lane() => Err(self.broken(error)),
            Err(error) => Err(error),
        }
    }

    fn begin(&mut self, into: &[Span], deadline: Instant) -> Result<Reply, TransportError> {
        if !self.open || self.outstanding.is_empty() || self.begun.is_some() {
            let peer = self.tcp.peer().name.clone();
            self.close();
            return Err(TransportError::Closed { peer });
        }
        loop {
            let entry = self.outstanding.front().expect("seen above");
            let kind = entry.header.kind;
            match &entry.by {
                By::Held => self.send_held(false, deadline)?,
                By::Tcp => {
                    let reply = self.begin_over_tcp(into, deadline)?;
                    if reply.filled == reply.bytes() {
                        self.finish();
                    } else {
                        self.begun = Some(Begun::Plain);
                    }
                    return Ok(reply);
                }
                By::Rdma(moving) => {
                    let length = moving.length;
                    let room: usize = into.iter().map(|span| span.len()).sum();
                    if kind == Kind::Read && room < length {
                        let peer = self.tcp.peer().name.clone();
                        self.close();
                        return Err(TransportError::Garbage {
                            peer,
                            cause: weft_wire::WireError::Payload("the answer does not fit the request"),
                        });
                    }
                    let at_least = if kind == Kind::Read { 1 } else { length };
                    let Some(taken) = self.advance_or_fall_back(into, at_least, deadline)? else { continue };
                    let mut header = Header::new(Kind::Reply, 0);
                    if kind == Kind::Write {
                        self.finish();
                        return Ok(Reply { header, filled: 0 });
                    }
                    header.length = length as u64;
                    if taken == length {
                        self.finish();
                    } else {
                        self.begun = Some(Begun::Plain);
                    }
                    return Ok(Reply { header, filled: taken });
                }
            }
        }
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
        if !self.open || self.begun.is_none() {
            return Err(TransportError::Closed { peer: self.tcp.peer().name.clone() });
        }
        let length = match self.outstanding.front().map(|entry| &entry.by) {
            Some(By::Rdma(moving)) => Some(moving.length),
            _ => None,
        };
        if let Some(length) = length
            && let Some(taken) = self.advance_or_fall_back(into, at_least, deadline)?
        {
            if taken == length {
                self.finish();
            }
            return Ok(taken);
        }
        if let Some(Begun::Again { bytes }) = self.begun {
            // Asked again over TCP: the answer comes from its start, over the same bytes.
            self.begun = None;
            let reply = self.begin_over_tcp(into, deadline)?;
            if reply.bytes() == 0 && reply.header.flags.has(Flags::ZERO) {
                for span in into {
                    zero(*span);
                }
            } else if reply.bytes() != bytes {
                let peer = self.tcp.peer().name.clone();
                self.close();
                return Err(TransportError::Garbage {
                    peer,
                    cause: weft_wire::WireError::Payload("the answer that came again has another size"),
                });
            } else {
                match self.tcp.fill(into, reply.filled, bytes, deadline) {
                    Ok(_) => {}
                    Err(error) => return Err(self.broken(error)),
                }
            }
            self.finish();
            return Ok(bytes);
        }
        match self.tcp.fill(into, filled, at_least, deadline) {
            Ok(now) => {
                if self.tcp.outstanding() < self.outstanding.len() {
                    self.finish();
                }
                Ok(now)
            }
            Err(error) => Err(self.broken(error)),
        }
    }

    fn outstanding(&self) -> usize {
        self.outstanding.len()
    }

    fn peer(&self) -> &PeerIdentity {
        self.tcp.peer()
    }

    fn close(&mut self) {
        if !self.open {
            return;
        }
        self.open = false;
        self.begun = None;
        self.outstanding.clear();
        if let Some(online) = self.online.take() {
            let session = online.session.to_le_bytes();
            drop(online);
            if self.tcp.outstanding() == 0 {
                // Not waited for: without it the lease ends the session.
                let mut header = Header::new(Kind::Message, 0);
                header.tag = words::TOPIC_CUT;
                header.flags = Flags::ANSWER;
                header.length = session.len() as u64;
                let request = Request { header, ranges: &[], payload: &[Span::of_const(&session)] };
                let _ = self.tcp.post(request, Instant::now() + PARTING_MAX);
            }
        }
        self.tcp.close();
    }
}

impl Drop for RdmaLane {
    fn drop(&mut self) {
        self.close();
    }
}

fn zero(span: Span) {
    const ZEROS: [u8; 4096] = [0; 4096];
    let mut done = 0;
    while done < span.len() {
        let length = (span.len() - done).min(ZEROS.len());
        span.part(done, length).expect("within the span").copy_from(&ZEROS[..length]);
        done += length;
    }
}
