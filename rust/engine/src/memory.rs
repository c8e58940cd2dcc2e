//! What of this process's memory others may reach: registrations, and the adverts made from them.
//!
//! A registration says that a range may be handed out; an advert is one range handed out, served under a name of its own,
//! so that it can be withdrawn alone. What transports keep for a range (a key of a network card, say) hangs on a
//! *backing*: a registration that lies inside an earlier one shares the smallest backing that contains it, and the last
//! to leave takes it away.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use weft_sys::memory::{Mapping, Span};
use weft_transport::{PageState, Pages, Store};
use weft_wire::{Advert, grant_key};

use crate::Failure;

/// Adverts of one endpoint at a time; the server's table holds as many extents.
pub const ADVERTS_MAX: usize = 65_536;
/// Registrations of one endpoint at a time.
pub const REGISTRATIONS_MAX: usize = 65_536;
/// How long a withdrawal waits for requests that are inside: each is one system call.
const WITHDRAW_MAX: Duration = Duration::from_secs(2);

/// Somebody who must let go of a range before its memory goes: a transport that reaches it without the server.
pub trait Withdraw: Send + Sync {
    /// Refuses everything new on the advert with this number, and returns whether nobody is inside any more.
    fn withdraw(&self, buffer: u64, timeout: Duration) -> bool;
}

struct Registration {
    span: Span,
    backing: u64,
    adverts: Vec<u64>,
}

struct Backing {
    base: usize,
    len: usize,
    users: usize,
}

struct Advertised {
    span: Span,
    writable: bool,
    expires_at_ms: u64,
}

#[derive(Default)]
struct State {
    registration_next: u64,
    backing_next: u64,
    registrations: HashMap<u64, Registration>,
    backings: HashMap<u64, Backing>,
    adverts: HashMap<u64, Advertised>,
    backings_made: u64,
    backings_shared: u64,
}

/// The table of registrations and adverts.
pub struct Memory {
    cluster_id: [u8; 16],
    incarnation: u64,
    name: String,
    key: [u8; 32],
    state: Mutex<State>,
    others: Mutex<Vec<Arc<dyn Withdraw>>>,
    /// Memory that neighbours may map, for as long as somebody holds it.
    lent: Mutex<Vec<Weak<Mapping>>>,
}

/// What the table holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryCounts {
    /// Registrations.
    pub registrations: usize,
    /// Ranges the transports keep something for.
    pub backings: usize,
    /// Adverts.
    pub adverts: usize,
    /// Backings made since the beginning.
    pub backings_made: u64,
    /// Registrations that found one that contained them.
    pub backings_shared: u64,
}

/// A range as a peer on this machine may reach it without the server.
#[derive(Clone, Copy, Debug)]
pub struct Reachable {
    /// The memory.
    pub span: Span,
    /// Whether it may be written.
    pub writable: bool,
    /// When the right ends.
    pub expires_at_ms: u64,
}

struct Buffer(Span);

impl Pages for Buffer {
    fn state(&self, _page: u64) -> PageState {
        PageState::Present
    }

    fn span(&self) -> Span {
        self.0
    }

    fn is_plain(&self) -> bool {
        true
    }
}

impl Memory {
    /// An empty table for this process's life.
    pub fn new(cluster_id: [u8; 16], secret: &[u8], name: &str, incarnation: u64) -> Self {
        Self {
            cluster_id,
            incarnation,
            name: name.to_owned(),
            key: grant_key(secret),
            state: Mutex::default(),
            others: Mutex::default(),
            lent: Mutex::default(),
        }
    }

    /// Lets neighbours map `mapping`, where a right to reach it was given to them and it may be given away.
    pub fn lend(&self, mapping: &Arc<Mapping>) {
        let mut lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        lent.retain(|known| known.strong_count() > 0);
        lent.push(Arc::downgrade(mapping));
    }

    /// The memory that neighbours may map and `span` lies in, and where in it.
    pub fn lent(&self, span: Span) -> Option<(Arc<Mapping>, u64)> {
        let lent = self.lent.lock().unwrap_or_else(PoisonError::into_inner);
        let found = lent
            .iter()
            .filter_map(Weak::upgrade)
            .find(|mapping| mapping.lent().is_some() && contains(mapping.base() as usize, mapping.len(), span))?;
        let offset = span.base() as usize - found.base() as usize;
        Some((found, offset as u64))
    }

    /// Whom to ask before memory goes, besides the server.
    pub fn also_ask(&self, other: Arc<dyn Withdraw>) {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).push(other);
    }

    /// Asks nobody else any more: whoever was asked has ended.
    pub fn ask_nobody(&self) {
        self.others.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Registers `span`, which stays mapped until [`Memory::release`]. Its number is never given out twice.
    ///
    /// # Errors
    /// `bad_argument` for no bytes, `too_large` when the table is full.
    pub fn register(&self, span: Span) -> Result<u64, Failure> {
        if span.is_empty() {
            return Err(Failure::argument("a registration needs at least one byte"));
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.registrations.len() == REGISTRATIONS_MAX {
            return Err(Failure::new(
                "too_large",
                "",
                format!("{REGISTRATIONS_MAX} buffers are registered already; release some"),
            ));
        }
        let backing = state.back(span);
        state.registration_next += 1;
        let number = state.registration_next;
        state.registrations.insert(number, Registration { span, backing, adverts: Vec::new() });
        Ok(number)
    }

    /// The memory of a registration.
    ///
    /// # Errors
    /// `unknown_handle` when it was released, or never was.
    pub fn span(&self, registration: u64) -> Result<Span, Failure> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.registrations.get(&registration).map(|found| found.span).ok_or_else(|| unknown(registration))
    }

    /// Lets others reach `length` bytes at `offset` of a registration, from now to `expires_at_ms`.
    ///
    /// # Errors
    /// `unknown_handle`, `out_of_range`, or `too_large` when the table is full.
    pub fn advertise(
        &self,
        store: &Store,
        registration: u64,
        offset: u64,
        length: u64,
        writable: bool,
        expires_at_ms: u64,
    ) -> Result<Advert, Failure> {
        let part = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let found = state.registrations.get(&registration).ok_or_else(|| unknown(registration))?;
            let part = usize::try_from(offset)
                .ok()
                .zip(usize::try_from(length).ok())
                .filter(|(_, length)| *length > 0)
                .and_then(|(offset, length)| found.span.part(offset, length));
            part.ok_or_else(|| {
                let end = offset.saturating_add(length);
                let size = found.span.len();
                Failure::new(
                    "out_of_range",
                    "",
                    format!("bytes {offset}..{end} are not inside registration {registration}, which has {size} bytes"),
                )
            })?
        };
        let advert = self.serve(store, part, writable, expires_at_ms)?;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = state.registrations.get_mut(&registration) {
            found.adverts.push(advert.buffer);
            return Ok(advert);
        }
        drop(state);
        // Released in between: what was just served goes with it.
        self.withdraw(store, advert.buffer)?;
        Err(unknown(registration))
    }

    /// Lets others reach `span`, without a registration: for buffers that are lent for one transfer.
    ///
    /// # Errors
    /// `too_large` when the table is full.
    pub fn serve(&self, store: &Store, span: Span, writable: bool, expires_at_ms: u64) -> Result<Advert, Failure> {
        let mut random = [0u8; 8];
        weft_sys::random::fill(&mut random)
            .map_err(|error| Failure::new("internal", "", format!("no randomness: {error}")))?;
        let buffer = u64::from_le_bytes(random);
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if state.adverts.len() == ADVERTS_MAX || state.adverts.contains_key(&buffer) {
                return Err(Failure::new(
                    "too_large",
                    "",
                    format!("{ADVERTS_MAX} adverts are out already; withdraw some, or advertise larger ranges"),
                ));
            }
            state.adverts.insert(buffer, Advertised { span, writable, expires_at_ms });
        }
        if let Err(refusal) = store.serve(&Advert::region_id(buffer), 0, Arc::new(Buffer(span))) {
            self.state.lock().unwrap_or_else(PoisonError::into_inner).adverts.remove(&buffer);
            return Err(Failure::refused(&self.name, &refusal));
        }
        let grant = Advert::grant_for(self.cluster_id, buffer, writable, expires_at_ms).mint(&self.key);
        Ok(Advert {
            buffer,
            incarnation: self.incarnation,
            size_bytes: span.len() as u64,
            writable,
            owner: self.name.clone(),
            grant: grant.into(),
            extent: None,
        })
    }

    /// What an advert lets others reach; nothing when it was withdrawn.
    pub fn reachable(&self, buffer: u64) -> Option<Reachable> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.adverts.get(&buffer).map(|found| Reachable {
            span: found.span,
            writable: found.writable,
            expires_at_ms: found.expires_at_ms,
        })
    }

    /// Takes an advert back. Nobody reaches its range when this returns; what was not there is withdrawn already.
    ///
    /// # Errors
    /// `busy` when somebody was still inside after two seconds: the memory must not go.
    pub fn withdraw(&self, store: &Store, buffer: u64) -> Result<(), Failure> {
        let region = Advert::region_id(buffer);
        // The gate is raised above every grant first: what passed before is waited for, nothing passes after.
        let mut out = store.raise_generation(&region, u64::MAX, WITHDRAW_MAX);
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for other in others {
            out &= other.withdraw(buffer, WITHDRAW_MAX);
        }
        if !out {
            return Err(Failure {
                temporary: true,
                ..Failure::new(
                    "busy",
                    &self.name,
                    "a peer is still inside this buffer; its memory must stay: release it again later",
                )
            });
        }
        store.release(&region, 0);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.adverts.remove(&buffer);
        for registration in state.registrations.values_mut() {
            registration.adverts.retain(|advert| *advert != buffer);
        }
        Ok(())
    }

    /// Releases a registration: its adverts are withdrawn, and its memory is the caller's again when this returns.
    ///
    /// # Errors
    /// `unknown_handle`, or `busy` as [`Memory::withdraw`]; the registration stays then.
    pub fn release(&self, store: &Store, registration: u64) -> Result<(), Failure> {
        let adverts = {
            let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            state.registrations.get(&registration).ok_or_else(|| unknown(registration))?.adverts.clone()
        };
        for advert in adverts {
            self.withdraw(store, advert)?;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(found) = state.registrations.remove(&registration) else { return Err(unknown(registration)) };
        if let Some(backing) = state.backings.get_mut(&found.backing) {
            backing.users -= 1;
            if backing.users == 0 {
                state.backings.remove(&found.backing);
            }
        }
        Ok(())
    }

    /// The registration whose memory contains `span`, the smallest if there are several.
    pub fn containing(&self, span: Span) -> Option<u64> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state
            .registrations
            .iter()
            .filter(|(_, found)| contains(found.span.base() as usize, found.span.len(), span))
            .min_by_key(|(_, found)| found.span.len())
            .map(|(number, _)| *number)
    }

    /// What is in the table.
    pub fn counts(&self) -> MemoryCounts {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        MemoryCounts {
            registrations: state.registrations.len(),
            backings: state.backings.len(),
            adverts: state.adverts.len(),
            backings_made: state.backings_made,
            backings_shared: state.backings_shared,
        }
    }
}

impl State {
    /// The backing for `span`: the smallest that contains it, or a new one.
    fn back(&mut self, span: Span) -> u64 {
        let found = self
            .backings
            .iter()
            .filter(|(_, backing)| contains(backing.base, backing.len, span))
            .min_by_key(|(_, backing)| backing.len)
            .map(|(number, _)| *number);
        if let Some(number) = found {
            self.backings.get_mut(&number).expect("found just now").users += 1;
            self.backings_shared += 1;
            return number;
        }
        self.backing_next += 1;
        self.backings_made += 1;
        self.backings.insert(self.backing_next, Backing { base: span.base() as usize, len: span.len(), users: 1 });
        self.backing_next
    }
}

fn contains(base: usize, len: usize, span: Span) -> bool {
    let start = span.base() as usize;
    start >= base && start - base <= len && span.len() <= len - (start - base)
}

fn unknown(registration: u64) -> Failure {
    Failure::new("unknown_handle", "", format!("registration {registration} was released, or never was"))
}
