//! What a lane says to its peer beside the work: agreeing on queue pairs, asking for keys, staying alive, and going back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use weft_sys::memory::Span;
use weft_transport::{Lane, Request, TransportError};
use weft_wire::{Code, Flags, Header, Kind};

use super::{
    Begun, By, CONNECT_MAX, KEY_MARGIN, KEY_PAUSE_FIRST, KEY_PAUSE_MAX, KeyState, Online, RETRY_FIRST, RETRY_MAX,
    RdmaLane, Trouble,
};
use crate::VerbsError;
use crate::path::Path;
use crate::rail::Rail;
use crate::record::{EndpointRecord, gid_text};
use crate::table::BEACON;
use crate::words::{self, ANSWER_BYTES_MAX, Connected, Key, KeyRequest};

/// Agrees on queue pairs over `tcp`, on which nothing is outstanding, and reads the beacon: only a path that carried bytes
/// is used.
pub fn agree(
    tcp: &mut dyn Lane,
    rail: &Arc<Rail>,
    expected: Option<EndpointRecord>,
    spin: Duration,
    deadline: Instant,
) -> Result<Online, Trouble> {
    let mut path = Path::new(rail, spin)?;
    let answer = ask(tcp, words::TOPIC_CONNECT, &words::encode_connect(&path.side()), deadline)?;
    let connected = Connected::decode(&answer)?;
    if let Some(expected) = expected
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

/// A message that wants an answer.
pub fn word(topic: u64, body: &[u8]) -> Header {
    let mut header = Header::new(Kind::Message, 0);
    header.flags = Flags::ANSWER;
    header.tag = topic;
    header.length = body.len() as u64;
    header
}

fn ask(tcp: &mut dyn Lane, topic: u64, body: &[u8], deadline: Instant) -> Result<Vec<u8>, TransportError> {
    let mut answer = vec![0u8; ANSWER_BYTES_MAX];
    let into = [Span::of(&mut answer)];
    let request = Request { header: word(topic, body), ranges: &[], payload: &[Span::of_const(body)] };
    tcp.post(request, deadline)?;
    let reply = tcp.begin(&into, deadline)?;
    let bytes = tcp.fill(&into, reply.filled, reply.bytes(), deadline)?;
    answer.truncate(bytes);
    Ok(answer)
}

impl RdmaLane {
    /// Agrees on queue pairs and reads the beacon: only a path that carried bytes is used.
    pub(super) fn go_online(&mut self, deadline: Instant) -> Result<(), TransportError> {
        let deadline = deadline.min(Instant::now() + CONNECT_MAX);
        match agree(self.tcp.as_mut(), &self.rail, self.expected, self.spin, deadline) {
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

    pub(super) fn stay_offline(&mut self, error: &VerbsError) {
        self.why_not = error.to_string();
        self.retry_at = Instant::now() + self.retry_pause;
        self.retry_pause = (self.retry_pause * 2).min(RETRY_MAX);
        self.rail.say(format!("{} is reached over TCP: {error}", self.tcp.peer().name));
    }

    /// A message over TCP and its answer. Nothing may be outstanding there.
    pub(super) fn ask(&mut self, topic: u64, body: &[u8], deadline: Instant) -> Result<Vec<u8>, TransportError> {
        ask(self.tcp.as_mut(), topic, body, deadline)
    }

    /// Keeps the session alive, or finds that it is over; and comes back to RDMA after a while. Between requests only.
    pub(super) fn look_after(&mut self, deadline: Instant) -> Result<(), TransportError> {
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
        if now >= online.renewed_at + online.lease && self.outstanding.is_empty() {
            // Nothing was asked for so long that the session is over: that is no failure, and a new one is had at once.
            self.online = None;
            self.forget_keys();
            return self.go_online(deadline);
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

    pub(super) fn forget_keys(&mut self) {
        for opening in self.openings.values_mut() {
            if !matches!(opening.key, KeyState::Never) {
                opening.key = KeyState::Wanted { after: Instant::now(), pause: KEY_PAUSE_FIRST };
            }
        }
    }

    /// The key to an extent, if requests for it may go by queue pair now.
    pub(super) fn key(&mut self, handle: u64, deadline: Instant) -> Result<Option<Key>, TransportError> {
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
    pub(super) fn fall_back(&mut self, error: &VerbsError, deadline: Instant) -> Result<(), TransportError> {
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
    pub(super) fn send_held(&mut self, all: bool, deadline: Instant) -> Result<(), TransportError> {
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

    pub(super) fn broken(&mut self, error: TransportError) -> TransportError {
        self.online = None;
        self.close();
        error
    }
}
