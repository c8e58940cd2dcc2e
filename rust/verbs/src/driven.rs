//! A queue pair driven without waiting, for whoever looks after many lanes.
//!
//! Opens, messages, and whatever has no key go over the TCP connection beside it; reads and writes with a key go by queue
//! pair. Transfers over such a lane are independent of each other, so the two need no order between them. What if the queue
//! pair fails? Then the lane breaks, as a TCP lane does whose connection ends: its driver repeats what was outstanding on
//! another, under a newer epoch, and the open of that epoch cuts this session at the lender. The next lane is on TCP for a
//! while, and both are said.

use std::collections::{HashMap, HashSet, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weft_sys::event::{Interest, Poller};
use weft_transport::{
    ConnectOptions, Driven, Finished, Forgotten, Identity, Outcome, Payload, PeerIdentity, Submission, TcpDriven,
    TcpLane, TransportError,
};
use weft_wire::{Code, Header, Kind, Range};

use crate::VerbsError;
use crate::lane::agreeing::{agree, word};
use crate::lane::{
    CONNECT_MAX, KEY_MARGIN, KEY_PAUSE_FIRST, KEY_PAUSE_MAX, KeyState, Moving, Online, Opening, RETRY_FIRST, RETRY_MAX,
    Trouble, fits,
};
use crate::path::scatter;
use crate::rail::Rail;
use crate::record::EndpointRecord;
use crate::words::{self, Key, KeyRequest};

/// Names of this lane's own requests: its driver counts from zero.
const OWN: u64 = 1 << 62;
/// A key is asked for from this many requests on: a buffer that is sent to once is not worth the pinning.
const USES_MIN: u64 = 2;
/// Most bytes one turn takes in: other lanes of the same driver wait meanwhile.
const TURN_BYTES_MAX: usize = 4 << 20;

/// Brings lanes up to one peer, and remembers for how long it is better not to try.
pub struct RdmaDialer {
    rail: Arc<Rail>,
    address: SocketAddr,
    peer: PeerIdentity,
    identity: Arc<Identity>,
    options: ConnectOptions,
    expected: Option<EndpointRecord>,
    backoff: Arc<Mutex<Backoff>>,
}

struct Backoff {
    not_before: Instant,
    pause: Duration,
    /// What happened last.
    why: String,
}

impl Backoff {
    fn failed(&mut self, why: String) {
        self.why = why;
        self.not_before = Instant::now() + self.pause;
        self.pause = (self.pause * 2).min(RETRY_MAX);
    }
}

impl RdmaDialer {
    /// For the life of `peer` that listens at `address`.
    pub fn new(
        rail: &Arc<Rail>,
        address: SocketAddr,
        peer: PeerIdentity,
        identity: Arc<Identity>,
        options: ConnectOptions,
        expected: Option<EndpointRecord>,
    ) -> Self {
        let backoff =
            Arc::new(Mutex::new(Backoff { not_before: Instant::now(), pause: RETRY_FIRST, why: String::new() }));
        Self { rail: Arc::clone(rail), address, peer, identity, options, expected, backoff }
    }

    /// A lane on which a queue pair carried bytes. Waits.
    ///
    /// # Errors
    /// Whatever stands in the way, said aloud: use TCP.
    pub fn dial(&self, deadline: Instant) -> Result<Box<dyn Driven>, TransportError> {
        let name = self.peer.name.clone();
        let held_back = {
            let backoff = self.backoff.lock().unwrap_or_else(PoisonError::into_inner);
            (Instant::now() < backoff.not_before).then(|| format!("RDMA failed a moment ago: {}", backoff.why))
        };
        if let Some(why) = held_back {
            return Err(unreachable(&name, &why));
        }
        let result = self.dial_now(deadline.min(Instant::now() + CONNECT_MAX));
        let mut backoff = self.backoff.lock().unwrap_or_else(PoisonError::into_inner);
        match &result {
            Ok(_) => {
                backoff.pause = RETRY_FIRST;
                self.rail.counters.upgrades.fetch_add(1, Ordering::Relaxed);
                self.rail.say(format!("{name} is reached over RDMA ({})", self.rail.device().name()));
            }
            Err(error) => {
                backoff.failed(error.to_string());
                self.rail.say(format!("{name} is reached over TCP: {error}"));
            }
        }
        result
    }

    fn dial_now(&self, deadline: Instant) -> Result<Box<dyn Driven>, TransportError> {
        let name = &self.peer.name;
        let left = deadline.saturating_duration_since(Instant::now());
        let options = ConnectOptions { timeout: self.options.timeout.min(left), ..self.options.clone() };
        let mut tcp = TcpLane::connect(self.address, name, &self.identity, &options)?;
        if weft_transport::Lane::peer(&tcp).incarnation != self.peer.incarnation {
            return Err(unreachable(name, "another process answers at its address now"));
        }
        let online =
            agree(&mut tcp, &self.rail, self.expected, options.spin, deadline).map_err(|trouble| match trouble {
                Trouble::Path(error) => unreachable(name, &error.to_string()),
                Trouble::Lane(error) => error,
            })?;
        let tcp = TcpDriven::over(tcp);
        let poller = Poller::new().map_err(|cause| TransportError::Unreachable { peer: name.clone(), cause })?;
        let watched = poller.add(online.path.as_fd(), 0, Interest::READ).and_then(|()| match tcp.readiness() {
            Some((descriptor, interest)) => poller.add(descriptor, 1, interest),
            None => Ok(()),
        });
        watched.map_err(|cause| TransportError::Unreachable { peer: name.clone(), cause })?;
        Ok(Box::new(RdmaDriven {
            online: Some(online),
            tcp,
            rail: Arc::clone(&self.rail),
            peer: self.peer.clone(),
            poller,
            moving: VecDeque::new(),
            openings: HashMap::new(),
            opening: HashMap::new(),
            own: HashMap::new(),
            own_next: OWN,
            detours: HashSet::new(),
            answers: Vec::new(),
            backoff: Arc::clone(&self.backoff),
            open: true,
        }))
    }
}

fn unreachable(peer: &str, why: &str) -> TransportError {
    TransportError::Unreachable { peer: peer.to_owned(), cause: io::Error::other(why.to_owned()) }
}

/// A request by queue pair.
struct Going {
    submission: Submission,
    moving: Moving,
    /// Given up: its memory is not touched any more.
    orphan: bool,
}

/// What this lane asked by itself.
enum Own {
    Key(u64),
    Renew,
}

struct RdmaDriven {
    // The queue pair goes before the connection beside it.
    online: Option<Online>,
    tcp: TcpDriven,
    rail: Arc<Rail>,
    peer: PeerIdentity,
    poller: Poller,
    moving: VecDeque<Going>,
    /// Extents by their handles.
    openings: HashMap<u64, Opening>,
    /// Opens that are not answered, by their names.
    opening: HashMap<u64, Opening>,
    own: HashMap<u64, Own>,
    own_next: u64,
    /// Reads and writes that had no key when they were submitted.
    detours: HashSet<u64>,
    answers: Vec<Finished>,
    backoff: Arc<Mutex<Backoff>>,
    open: bool,
}

impl RdmaDriven {
    fn session(&self) -> u64 {
        self.online.as_ref().expect("an open lane has a queue pair").session
    }

    fn ask(&mut self, topic: u64, body: Vec<u8>, what: Own) {
        let id = self.own_next;
        self.own_next += 1;
        self.own.insert(id, what);
        let ranges: Arc<[Range]> = Arc::new([]);
        let header = word(topic, &body);
        self.tcp.submit(Submission { id, header, ranges, payload: Payload::Owned(body), into: Vec::new() });
    }

    /// Says that this end is still there, and asks for keys whose time has come.
    fn look_after(&mut self) -> Result<(), TransportError> {
        let now = Instant::now();
        let online = self.online.as_ref().expect("an open lane has a queue pair");
        let (session, age, lease) = (online.session, now.duration_since(online.renewed_at), online.lease);
        if age >= lease {
            // Idle for too long, which is no failure: the next lane comes up at once.
            self.close();
            let peer = self.peer.name.clone();
            return Err(TransportError::Disconnected {
                peer,
                doing: "using an RDMA session that ran out",
                cause: None,
            });
        }
        if age >= lease / 3 && !self.own.values().any(|own| matches!(own, Own::Renew)) {
            self.ask(words::TOPIC_RENEW, session.to_le_bytes().to_vec(), Own::Renew);
        }
        let due = |opening: &Opening| {
            opening.uses >= USES_MIN && matches!(opening.key, KeyState::Wanted { after, .. } if after <= now)
        };
        let wanted: Vec<u64> =
            self.openings.iter().filter(|(_, opening)| due(opening)).map(|(handle, _)| *handle).collect();
        for handle in wanted {
            if self.own.values().any(|own| matches!(own, Own::Key(asked) if *asked == handle)) {
                continue;
            }
            let opening = &self.openings[&handle];
            let request =
                KeyRequest { session, index: opening.index, incarnation: opening.incarnation, opening: &opening.bytes };
            self.ask(words::TOPIC_KEY, request.encode(), Own::Key(handle));
        }
        Ok(())
    }

    /// Takes in what came over TCP.
    fn hear(&mut self, finished: &mut Vec<Finished>) -> Result<bool, TransportError> {
        let mut answers = std::mem::take(&mut self.answers);
        let moved = self.tcp.advance(&mut answers)?;
        for answer in answers.drain(..) {
            match self.own.remove(&answer.id) {
                Some(Own::Key(handle)) => self.take_key(handle, &answer.outcome),
                Some(Own::Renew) => self.take_renewal(&answer.outcome)?,
                None => {
                    if let Some(opening) = self.opening.remove(&answer.id)
                        && let Outcome::Done(header, _) = &answer.outcome
                    {
                        self.openings.insert(header.handle, opening);
                    }
                    finished.push(answer);
                }
            }
        }
        self.answers = answers;
        Ok(moved)
    }

    fn take_key(&mut self, handle: u64, outcome: &Outcome) {
        let now = Instant::now();
        let Some(opening) = self.openings.get_mut(&handle) else { return };
        let refused = match outcome {
            Outcome::Done(_, body) => match Key::decode(body) {
                Ok(key) => {
                    let until = now + Duration::from_millis(key.valid_ms.min(1 << 40)).saturating_sub(KEY_MARGIN);
                    opening.key = KeyState::Held { key, until };
                    return;
                }
                Err(error) => error.to_string(),
            },
            Outcome::Refused(refusal) if refusal.code == Code::Busy => {
                if let KeyState::Wanted { after, pause } = &mut opening.key {
                    *after = now + *pause;
                    *pause = (*pause * 2).min(KEY_PAUSE_MAX);
                }
                return;
            }
            Outcome::Refused(refusal) => {
                if refusal.code == Code::NotSupported
                    && let Some(online) = &mut self.online
                {
                    // It cannot lend this memory, or gave RDMA up altogether: the session is asked about at once.
                    online.renewed_at = online.renewed_at.min(now.checked_sub(online.lease / 3).unwrap_or(now));
                }
                refusal.to_string()
            }
        };
        opening.key = KeyState::Never;
        self.rail.say(format!("one extent of {} stays on TCP: {refused}", self.peer.name));
    }

    fn take_renewal(&mut self, outcome: &Outcome) -> Result<(), TransportError> {
        let renewed = match outcome {
            Outcome::Done(_, body) => words::decode_pair(body),
            Outcome::Refused(refusal) => Err(VerbsError::Unavailable(refusal.to_string())),
        };
        match renewed {
            Ok((lease_ms, version)) => {
                let online = self.online.as_mut().expect("an open lane has a queue pair");
                (online.lease, online.renewed_at) = (Duration::from_millis(lease_ms), Instant::now());
                if std::mem::replace(&mut online.version, version) != version {
                    // Keys may have been taken back since: whichever are left are given again for the asking.
                    for opening in self.openings.values_mut() {
                        if matches!(opening.key, KeyState::Held { .. }) {
                            opening.key = KeyState::Wanted { after: Instant::now(), pause: KEY_PAUSE_FIRST };
                        }
                    }
                }
                Ok(())
            }
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// Posts what there is room for, and takes in what is done, a turn's share.
    fn carry(&mut self, finished: &mut Vec<Finished>) -> Result<bool, VerbsError> {
        let path = &mut self.online.as_mut().expect("an open lane has a queue pair").path;
        let (mut moved, mut taken) = (false, 0);
        while taken < TURN_BYTES_MAX {
            for going in &mut self.moving {
                let payload = match &going.submission.payload {
                    Payload::Spans(spans) => spans.clone(),
                    Payload::Owned(bytes) => vec![weft_sys::memory::Span::of_const(bytes)],
                    Payload::Empty => Vec::new(),
                };
                let submission = &going.submission;
                if !going.moving.issue(path, &submission.header, &submission.ranges, &payload)? {
                    break;
                }
            }
            // Orphans of which nothing is under way any more are gone.
            while self.moving.front().is_some_and(|going| going.moving.taken == going.moving.length) {
                let ended = self.moving.pop_front().expect("seen just now");
                if !ended.orphan {
                    let outcome = Outcome::Done(Header::new(Kind::Reply, 0), Vec::new());
                    finished.push(Finished { id: ended.submission.id, outcome });
                }
                moved = true;
            }
            let Some(piece) = path.finished()? else { break };
            let going = self.moving.front_mut().expect("a piece is of a request");
            let counters = &self.rail.counters;
            if going.submission.header.kind == Kind::Read {
                if !going.orphan {
                    scatter(path.bytes(&piece), &going.submission.into, going.moving.taken);
                }
                counters.read_bytes.fetch_add(piece.length as u64, Ordering::Relaxed);
            } else {
                counters.written_bytes.fetch_add(piece.length as u64, Ordering::Relaxed);
            }
            going.moving.taken += piece.length;
            taken += piece.length;
            path.take();
            moved = true;
        }
        Ok(moved)
    }

    /// The queue pair is of no use any more, and this lane with it.
    fn failed(&mut self, error: &VerbsError) -> TransportError {
        let peer = self.peer.name.clone();
        self.rail.counters.fallbacks.fetch_add(1, Ordering::Relaxed);
        self.rail.say(format!("{peer} is reached over TCP: {error}"));
        self.backoff.lock().unwrap_or_else(PoisonError::into_inner).failed(error.to_string());
        self.close();
        let cause = Some(io::Error::other(error.to_string()));
        TransportError::Disconnected { peer, doing: "moving bytes over RDMA", cause }
    }

    fn use_key(&mut self, submission: &Submission) -> Option<Key> {
        let header = &submission.header;
        let room: usize = submission.into.iter().map(|span| span.len()).sum();
        let whole = if header.kind == Kind::Read { room } else { submission.payload.len() };
        let opening = self.openings.get_mut(&header.handle)?;
        opening.uses += 1;
        match &opening.key {
            KeyState::Held { key, until } if Instant::now() < *until && whole as u64 == header.length => {
                fits(key, header, &submission.ranges).then_some(*key)
            }
            _ => None,
        }
    }
}

impl Driven for RdmaDriven {
    fn submit(&mut self, submission: Submission) {
        match submission.header.kind {
            Kind::Open => {
                if let Payload::Owned(bytes) = &submission.payload {
                    let key = KeyState::Wanted { after: Instant::now(), pause: KEY_PAUSE_FIRST };
                    let header = &submission.header;
                    let opening =
                        Opening { index: header.offset, incarnation: header.tag, bytes: bytes.clone(), key, uses: 0 };
                    self.opening.insert(submission.id, opening);
                }
                self.tcp.submit(submission);
            }
            Kind::Read | Kind::Write => match self.use_key(&submission) {
                Some(key) => {
                    let length = usize::try_from(submission.header.length).expect("a frame is at most 64 MiB");
                    self.moving.push_back(Going { submission, moving: Moving::new(key, length), orphan: false });
                }
                None => {
                    self.detours.insert(submission.id);
                    self.tcp.submit(submission);
                }
            },
            _ => self.tcp.submit(submission),
        }
    }

    fn advance(&mut self, finished: &mut Vec<Finished>) -> Result<bool, TransportError> {
        if !self.open {
            return Err(TransportError::Closed { peer: self.peer.name.clone() });
        }
        let mut moved = self.hear(finished)?;
        self.look_after()?;
        let carried = self.carry(finished).and_then(|carried| {
            if carried || self.moving.is_empty() {
                return Ok(carried);
            }
            // About to sleep: armed first, so that what finishes before the second look is told.
            let path = &mut self.online.as_mut().expect("an open lane has a queue pair").path;
            path.arm()?;
            self.rail.check()?;
            self.carry(finished)
        });
        moved |= carried.map_err(|error| self.failed(&error))?;
        Ok(moved)
    }

    fn forget(&mut self, id: u64) -> Forgotten {
        let Some(position) = self.moving.iter().position(|going| going.submission.id == id && !going.orphan) else {
            self.opening.remove(&id);
            self.detours.remove(&id);
            return self.tcp.forget(id);
        };
        let going = &mut self.moving[position];
        if going.moving.posted == 0 {
            self.moving.remove(position);
            return Forgotten::Unsent;
        }
        // What is under way is in this lane's own memory; what is not will not be posted.
        going.orphan = true;
        going.moving.length = going.moving.posted;
        Forgotten::Sent
    }

    fn outstanding(&self) -> usize {
        self.moving.len() + self.tcp.outstanding().saturating_sub(self.own.len())
    }

    fn readiness(&self) -> Option<(BorrowedFd<'_>, Interest)> {
        let (descriptor, interest) = self.tcp.readiness()?;
        self.poller.change(descriptor, 1, interest).ok()?;
        Some((self.poller.as_fd(), Interest::READ))
    }

    fn transport(&self) -> &'static str {
        "rdma"
    }

    fn went_by_tcp(&mut self, id: u64) -> bool {
        self.detours.remove(&id)
    }

    fn peer(&self) -> &PeerIdentity {
        &self.peer
    }

    fn close(&mut self) {
        if !self.open {
            return;
        }
        self.open = false;
        let session = self.session().to_le_bytes().to_vec();
        self.online = None;
        self.moving.clear();
        // Not waited for: without it the next epoch, or the lease, ends the session.
        self.ask(words::TOPIC_CUT, session, Own::Renew);
        let _ = self.tcp.advance(&mut Vec::new());
        self.tcp.close();
    }
}

impl Drop for RdmaDriven {
    fn drop(&mut self) {
        self.close();
    }
}
