//! The lender's side: who is connected, and which keys to which memory were given out.
//!
//! A key is a registration of one extent for one generation and one right. Giving one out is deciding as an `open` does,
//! and then pinning the extent; taking it back is ending the registration, and that call returns only when the device
//! answers nobody by it any more. Memory windows, the other way to make keys that end, were not taken: binding one is work
//! on the very queue pair that may have failed, several devices have none, and what they save (pinning again when the
//! generation moves on) happens once an attachment, never on the way of a page. A reader's key is registered for reading
//! only; a key names one extent and no byte beside it.
//!
//! What a key cannot do is tell two holders of one generation apart. So a session also ends as a whole: when its lease or
//! one of its grants runs out, when its writer has a newer connection, or when its holder says so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use weft_sys::memory::Mapping;
use weft_transport::{Bypass, Extent, Granted};
use weft_wire::{Code, Range, Refusal};

use crate::VerbsError;
use crate::ffi::{Access, Bounds, CompletionQueue, MemoryRegion, QueuePair, Remote};
use crate::rail::{Rail, random};
use crate::words::{Connected, Key};

/// Sessions at a time: one for each lane of each borrower.
const SESSIONS_MAX: usize = 1024;
/// Keys at a time, over all sessions.
const KEYS_MAX: usize = 65_536;
/// Grants one session may hold keys for.
const HOLDS_MAX: usize = 16_384;
/// A session whose holder says nothing for this long is over. Its holder renews after a third of it.
pub const LEASE: Duration = Duration::from_secs(30);
/// A key nobody holds is kept this long for whoever asked for it while it was being made.
const UNHELD_MAX: Duration = Duration::from_secs(10);
/// What lies at the beacon.
pub const BEACON: [u8; 8] = *b"WEFTRDMA";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Name {
    region_id: String,
    index: u32,
    generation: u64,
    writable: bool,
}

struct Registered {
    memory: MemoryRegion,
    unheld_since: Option<Instant>,
}

struct Hold {
    name: Name,
    expires_at_ms: u64,
    writer: (u64, u64),
}

struct Session {
    sender: String,
    queue_pair: QueuePair,
    lease_until: Instant,
    holds: Vec<Hold>,
}

#[derive(Default)]
struct State {
    version: u64,
    sessions: HashMap<u64, Session>,
    keys: HashMap<Name, Registered>,
}

/// Sessions and keys.
pub struct Table {
    rail: Arc<Rail>,
    completions: Arc<CompletionQueue>,
    lease: Duration,
    beacon: MemoryRegion,
    state: Mutex<State>,
}

/// Whether a key can be had now.
pub enum Given {
    /// Here it is.
    Key(Key),
    /// The memory must be pinned first, which takes as long as it is large; ask again.
    Later,
}

impl Table {
    /// An empty table, whose sessions last for `lease` after each word of their holders.
    ///
    /// # Errors
    /// When the device gives no memory or queue.
    pub fn new(rail: &Arc<Rail>, lease: Duration) -> Result<Self, VerbsError> {
        let page = Mapping::anonymous(weft_sys::memory::PAGE_BYTES, true)
            .map_err(|cause| VerbsError::Call { doing: "mapping a page", cause })?;
        page.span().copy_from(&BEACON);
        let span = page.span();
        Ok(Self {
            rail: Arc::clone(rail),
            completions: CompletionQueue::new(rail.device(), 16)?,
            lease,
            beacon: MemoryRegion::register(rail.domain(), span, Access::RemoteRead, Arc::new(page))?,
            state: Mutex::new(State { version: 1, ..State::default() }),
        })
    }

    /// A queue pair that answers `side`, under a session of its own.
    ///
    /// # Errors
    /// `TooLarge` for a full table; `NotSupported` with what the device says.
    pub fn connect(&self, sender: &str, side: &Remote, now: Instant) -> Result<Connected, Refusal> {
        let refused = |error: &VerbsError| Refusal::new(Code::NotSupported, error.to_string());
        self.rail.check().map_err(|error| refused(&error))?;
        if self.state().sessions.len() >= SESSIONS_MAX {
            return Err(Refusal::new(Code::TooLarge, format!("{SESSIONS_MAX} queue pairs are connected already")));
        }
        let make = || {
            let session = u64::from_le_bytes(random()?);
            let bounds = Bounds { work: 1, receives: 1, inline_bytes: 0, answers: true };
            let mut queue_pair = QueuePair::new(self.rail.domain(), &self.completions, bounds, self.rail.sequence()?)?;
            let own = self.rail.side(queue_pair.number(), queue_pair.sequence());
            queue_pair.connect(side)?;
            Ok::<_, VerbsError>((session, queue_pair, own))
        };
        let (session, queue_pair, own) = make().map_err(|error| refused(&error))?;
        let made = Session { sender: sender.to_owned(), queue_pair, lease_until: now + self.lease, holds: Vec::new() };
        self.state().sessions.insert(session, made);
        Ok(Connected {
            side: own,
            session,
            lease_ms: u64::try_from(self.lease.as_millis()).expect("short"),
            beacon_address: self.beacon.address(),
            beacon_key: self.beacon.remote_key(),
        })
    }

    /// The session's holder is still there. For how long it counts, and the table's version.
    ///
    /// # Errors
    /// `UnknownHandle` for a session that is over: connect again.
    pub fn renew(&self, session: u64, sender: &str, now: Instant) -> Result<(u64, u64), Refusal> {
        let mut state = self.state();
        let version = state.version;
        session_of(&mut state, session, sender)?.lease_until = now + self.lease;
        Ok((u64::try_from(self.lease.as_millis()).expect("short"), version))
    }

    /// Ends a session: once this returns nothing of it lands. One that is over already is ended.
    pub fn cut(&self, session: u64, sender: &str) {
        let mut state = self.state();
        if session_of(&mut state, session, sender).is_ok() {
            end(&mut state, session, Instant::now());
        }
    }

    /// Gives `session` the key to what was granted, if there is one already.
    ///
    /// # Errors
    /// `NotSupported` for memory that cannot be pinned, `UnknownHandle` for a session that is over, and whatever the gate
    /// says meanwhile.
    pub fn give(&self, session: u64, sender: &str, granted: &Granted, now_ms: u64) -> Result<Given, Refusal> {
        let name = name_of(granted)?;
        let mut state = self.state();
        let held = session_of(&mut state, session, sender)?.holds.len();
        still_allowed(granted)?;
        if held >= HOLDS_MAX {
            return Err(Refusal::new(Code::TooLarge, format!("one session holds keys for at most {HOLDS_MAX} grants")));
        }
        let version = state.version;
        let Some(known) = state.keys.get_mut(&name) else { return Ok(Given::Later) };
        known.unheld_since = None;
        let key = Key {
            address: known.memory.address(),
            length: known.memory.span().len() as u64,
            key: known.memory.remote_key(),
            writable: name.writable,
            valid_ms: granted.expires_at_ms.saturating_sub(now_ms),
            version,
        };
        let holds = &mut session_of(&mut state, session, sender)?.holds;
        match holds.iter_mut().find(|hold| hold.name == name && hold.writer.0 == granted.writer.0) {
            Some(hold) => {
                hold.expires_at_ms = hold.expires_at_ms.max(granted.expires_at_ms);
                hold.writer.1 = hold.writer.1.max(granted.writer.1);
            }
            None => holds.push(Hold { name, expires_at_ms: granted.expires_at_ms, writer: granted.writer }),
        }
        if key.writable {
            // Nobody here will see what is written by it: from now on no page of it may be called zero unseen.
            granted.extent.mark_written(Range { offset: 0, length: key.length });
        }
        Ok(Given::Key(key))
    }

    /// Pins what was granted and enters its key. Takes as long as the memory is large.
    ///
    /// # Errors
    /// What the device says, `TooLarge` for a full table, and whatever the gate says meanwhile.
    pub fn pin(&self, granted: &Granted) -> Result<(), Refusal> {
        let name = name_of(granted)?;
        if self.state().keys.contains_key(&name) {
            return Ok(());
        }
        let span = granted.extent.pinnable().ok_or_else(not_pinnable)?;
        let access = if name.writable { Access::RemoteReadWrite } else { Access::RemoteRead };
        let keep: Arc<Extent> = Arc::clone(&granted.extent);
        let memory = MemoryRegion::register(self.rail.domain(), span, access, keep)
            .map_err(|error| Refusal::new(Code::NoMemory, error.to_string()))?;
        let mut state = self.state();
        // Whoever raised the gate or released the extent while it was being pinned asked before it was entered.
        still_allowed(granted)?;
        if state.keys.len() >= KEYS_MAX {
            return Err(Refusal::new(Code::TooLarge, format!("{KEYS_MAX} keys are given out already")));
        }
        state.keys.entry(name).or_insert(Registered { memory, unheld_since: Some(Instant::now()) });
        Ok(())
    }

    /// Ends what is over: leases, grants, and keys nobody holds.
    pub fn sweep(&self, now: Instant, now_ms: u64) {
        let mut state = self.state();
        let over: Vec<u64> =
            state.sessions.iter().filter(|(_, known)| known.lease_until <= now).map(|(session, _)| *session).collect();
        for session in over {
            end(&mut state, session, now);
        }
        let run_out: Vec<(u64, Name)> = state
            .sessions
            .iter()
            .flat_map(|(session, known)| {
                let out = known.holds.iter().filter(|hold| hold.expires_at_ms <= now_ms);
                out.map(|hold| (*session, hold.name.clone()))
            })
            .collect();
        for (session, name) in run_out {
            let shared = state.sessions.iter().any(|(other, known)| {
                *other != session && known.holds.iter().any(|hold| hold.name == name && hold.expires_at_ms > now_ms)
            });
            if shared {
                // The key goes on for the others: this holder goes.
                end(&mut state, session, now);
            } else if state.keys.remove(&name).is_some() {
                state.version += 1;
            }
            if let Some(known) = state.sessions.get_mut(&session) {
                known.holds.retain(|hold| hold.name != name);
            }
        }
        state.keys.retain(|_, key| key.unheld_since.is_none_or(|since| now < since + UNHELD_MAX));
        if self.rail.check().is_err() {
            forget_all(&mut state);
        }
    }

    /// Ends everything.
    pub fn close(&self) {
        forget_all(&mut self.state());
    }

    /// Sessions and keys there are now.
    pub fn counts(&self) -> (usize, usize) {
        let state = self.state();
        (state.sessions.len(), state.keys.len())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes keys back. The registrations end before this returns.
    fn take_back(&self, which: impl Fn(&Name) -> bool) {
        let mut state = self.state();
        let before = state.keys.len();
        state.keys.retain(|name, _| !which(name));
        if state.keys.len() < before {
            state.version += 1;
            for session in state.sessions.values_mut() {
                session.holds.retain(|hold| !which(&hold.name));
            }
        }
    }
}

impl Bypass for Table {
    fn raise(&self, region_id: &str, lowest: u64) -> bool {
        self.take_back(|name| name.region_id == region_id && name.generation < lowest);
        true
    }

    fn release(&self, region_id: &str, index: u32) {
        self.take_back(|name| name.region_id == region_id && name.index == index);
    }

    fn fence(&self, writer: u64, epoch: u64) -> bool {
        let mut state = self.state();
        let older = |session: &Session| {
            session.holds.iter().any(|hold| hold.name.writable && hold.writer.0 == writer && hold.writer.1 < epoch)
        };
        let over: Vec<u64> =
            state.sessions.iter().filter(|(_, session)| older(session)).map(|(session, _)| *session).collect();
        for session in over {
            end(&mut state, session, Instant::now());
        }
        true
    }
}

fn name_of(granted: &Granted) -> Result<Name, Refusal> {
    if granted.extent.pinnable().is_none() {
        return Err(not_pinnable());
    }
    Ok(Name {
        region_id: granted.extent.region_id.clone(),
        index: granted.extent.index,
        generation: granted.generation,
        writable: granted.rights.can_write(),
    })
}

fn not_pinnable() -> Refusal {
    Refusal::new(Code::NotSupported, "this memory's pages come and go: it is reached over TCP only")
}

/// Asked under the table's lock: whoever ends a right takes that lock afterwards.
fn still_allowed(granted: &Granted) -> Result<(), Refusal> {
    if granted.extent.is_released() {
        return Err(Refusal::new(Code::ExtentLost, "the extent was released meanwhile"));
    }
    granted.extent.gate.enter(granted.generation).map(drop)
}

fn session_of<'a>(state: &'a mut State, session: u64, sender: &str) -> Result<&'a mut Session, Refusal> {
    state
        .sessions
        .get_mut(&session)
        .filter(|known| known.sender == sender)
        .ok_or_else(|| Refusal::new(Code::UnknownHandle, "this session is over; connect again"))
}

fn end(state: &mut State, session: u64, now: Instant) {
    let Some(mut ended) = state.sessions.remove(&session) else { return };
    ended.queue_pair.fail();
    drop(ended.queue_pair);
    for hold in ended.holds {
        let still_held = state.sessions.values().any(|other| other.holds.iter().any(|held| held.name == hold.name));
        if !still_held && let Some(key) = state.keys.get_mut(&hold.name) {
            key.unheld_since = Some(now);
        }
    }
}

fn forget_all(state: &mut State) {
    // Queue pairs first: what they were reading is then nobody's.
    state.sessions.clear();
    if !state.keys.is_empty() {
        state.keys.clear();
        state.version += 1;
    }
}
