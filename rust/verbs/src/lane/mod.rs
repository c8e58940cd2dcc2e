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

pub(crate) mod agreeing;
mod moving;

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weft_sys::memory::Span;
use weft_transport::{Lane, PeerIdentity, Reply, Request, TransportError, Upgrade};
use weft_wire::{Flags, Header, Kind, Range};

use crate::VerbsError;
use crate::path::{Path, gather};
use crate::rail::Rail;
use crate::record::EndpointRecord;
use crate::words::{self, Key};

/// Requests posted and not completed on one lane, as on every lane.
const OUTSTANDING_MAX: usize = 256;
/// Time to agree on queue pairs and to read the beacon; after it the lane starts on TCP.
pub(crate) const CONNECT_MAX: Duration = Duration::from_secs(2);
/// After a way back to TCP the next attempt waits this long, and twice as long each time.
pub(crate) const RETRY_FIRST: Duration = Duration::from_secs(5);
/// It never waits longer.
pub(crate) const RETRY_MAX: Duration = Duration::from_secs(60);
/// First pause before a key that was not there yet is asked for again; it doubles.
pub(crate) const KEY_PAUSE_FIRST: Duration = Duration::from_millis(10);
/// Longest such pause.
pub(crate) const KEY_PAUSE_MAX: Duration = Duration::from_secs(1);
/// A key is not used when its grant ends within this time: the request would still be under way.
pub(crate) const KEY_MARGIN: Duration = Duration::from_millis(100);
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

pub(crate) struct Online {
    pub(crate) path: Path,
    pub(crate) session: u64,
    pub(crate) lease: Duration,
    pub(crate) renewed_at: Instant,
    pub(crate) version: u64,
}

/// What is known of an extent's key.
pub(crate) enum KeyState {
    Wanted { after: Instant, pause: Duration },
    Held { key: Key, until: Instant },
    Never,
}

pub(crate) struct Opening {
    pub(crate) index: u64,
    pub(crate) incarnation: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) key: KeyState,
    /// Reads and writes asked of it so far.
    pub(crate) uses: u64,
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
pub(crate) struct Moving {
    pub(crate) key: Key,
    pub(crate) length: usize,
    /// Bytes whose pieces were posted.
    pub(crate) posted: usize,
    /// The range the next piece is of, and how far into it.
    pub(crate) range: usize,
    pub(crate) within: u64,
    /// Bytes done and taken.
    pub(crate) taken: usize,
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
pub(crate) enum Trouble {
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

    /// The oldest request is complete.
    fn finish(&mut self) {
        self.outstanding.pop_front();
        self.begun = None;
    }

    fn begin_over_tcp(&mut self, into: &[Span], deadline: Instant) -> Result<Reply, TransportError> {
        match self.tcp.begin(into, deadline) {
            Ok(reply) => {
                let entry = self.outstanding.front_mut().expect("the caller saw it");
                if let Some(bytes) = entry.opening.take() {
                    let (index, incarnation) = (entry.header.offset, entry.header.tag);
                    let key = KeyState::Wanted { after: Instant::now(), pause: KEY_PAUSE_FIRST };
                    self.openings.insert(reply.header.handle, Opening { index, incarnation, bytes, key, uses: 0 });
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
            key = self.key(header.handle, deadline)?.filter(|key| fits(key, &header, request.ranges));
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
            entry.by = By::Rdma(Moving::new(key, length));
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

/// Whether a request may go by queue pair: all of it within the key, and allowed by it. What is not is refused by the server,
/// over TCP, in its own words.
pub(crate) fn fits(key: &Key, header: &Header, ranges: &[Range]) -> bool {
    let inside = |range: &Range| range.length > 0 && range.end().is_some_and(|end| end <= key.length);
    let whole = [Range { offset: header.offset, length: header.length }];
    (if ranges.is_empty() { &whole[..] } else { ranges }).iter().all(inside)
        && (header.kind == Kind::Read || key.writable)
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
