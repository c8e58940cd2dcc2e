//! The owner's side: one thread that answers neighbours, and the withdrawal of what they attached.

use std::collections::HashMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weft_sys::event::{Interest, Poller, Ready, Waker};
use weft_sys::memory::Mapping;
use weft_sys::neighbour::{Conversation, Listener, PLACES, RECORD_BYTES_MAX, Slate, user};
use weft_transport::Server;
use weft_wire::{Code, Grant, Refusal, decode_opening, grant_key};

use crate::ipc::{GRANTED, GRANTED_BYTES, HELLO_BYTES, MAGIC, REFUSED};
use crate::memory::{Memory, Withdraw};

/// Neighbours at a time: each has a slate of sixty-four kilobytes.
const NEIGHBOURS_MAX: usize = 256;
const TOKEN_WAKER: u64 = 0;
const TOKEN_LISTENER: u64 = 1;
const TOKEN_FIRST: u64 = 2;
/// How often a withdrawal looks whether whoever is inside has left; a copy of a large piece takes a millisecond.
const LOOK_EVERY: Duration = Duration::from_micros(50);

struct Talking {
    conversation: Conversation,
    slate: Arc<Slate>,
    gone: Arc<AtomicBool>,
    /// Places by advert, and those that are free.
    places: HashMap<u64, Vec<u32>>,
    place_next: u32,
    free: Vec<u32>,
    gate_next: u32,
}

#[derive(Default)]
struct State {
    neighbours: HashMap<u64, Talking>,
}

struct Shared {
    cluster_id: [u8; 16],
    incarnation: u64,
    key: [u8; 32],
    now_ms: fn() -> u64,
    memory: Arc<Memory>,
    server: Arc<Server>,
    state: Mutex<State>,
    waker: Waker,
    closing: AtomicBool,
}

/// Answers neighbours until it is closed.
pub struct Owner {
    shared: Arc<Shared>,
    name: String,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Owner {
    /// Listens under a name of its own.
    ///
    /// # Errors
    /// No UNIX sockets, or out of descriptors or threads.
    pub fn start(
        cluster_id: [u8; 16],
        secret: &[u8],
        incarnation: u64,
        memory: Arc<Memory>,
        server: Arc<Server>,
        now_ms: fn() -> u64,
    ) -> io::Result<Self> {
        let mut random = [0u8; 16];
        weft_sys::random::fill(&mut random)?;
        let name = format!("weft-{:032x}", u128::from_le_bytes(random));
        let listener = Listener::bind(&name)?;
        let shared = Arc::new(Shared {
            cluster_id,
            incarnation,
            key: grant_key(secret),
            now_ms,
            memory,
            server,
            state: Mutex::default(),
            waker: Waker::new()?,
            closing: AtomicBool::new(false),
        });
        let poller = Poller::new()?;
        poller.add(shared.waker.as_fd(), TOKEN_WAKER, Interest::READ)?;
        poller.add(&listener, TOKEN_LISTENER, Interest::READ)?;
        let thread = {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new().name("weft-ipc".to_owned()).spawn(move || shared.run(&poller, &listener))?
        };
        Ok(Self { shared, name, thread: Mutex::new(Some(thread)) })
    }

    /// The name of its socket.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whom to ask before memory goes.
    pub fn withdrawing(&self) -> Arc<dyn Withdraw> {
        Arc::clone(&self.shared) as _
    }

    /// Ends every conversation: what was attached is out of reach. Twice is once.
    pub fn close(&self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        self.shared.waker.wake();
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn run(&self, poller: &Poller, listener: &Listener) {
        let mut ready = Ready::with_capacity(64);
        let mut token_next = TOKEN_FIRST;
        while !self.closing.load(Ordering::SeqCst) {
            if poller.wait(&mut ready, None).is_err() {
                break;
            }
            for (token, ended) in ready.endings().collect::<Vec<_>>() {
                match token {
                    TOKEN_WAKER => self.waker.clear(),
                    TOKEN_LISTENER => self.accept(poller, listener, &mut token_next),
                    _ => self.answer(poller, token, ended),
                }
            }
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for talking in state.neighbours.values() {
            talking.shut_all();
        }
        let neighbours: Vec<Talking> = state.neighbours.drain().map(|(_, talking)| talking).collect();
        drop(state);
        // The memory may go when this returns: whoever is inside is waited for, a moment.
        let until = Instant::now() + Duration::from_secs(2);
        for talking in &neighbours {
            talking.wait_out(until);
        }
    }

    fn accept(&self, poller: &Poller, listener: &Listener, token_next: &mut u64) {
        while let Ok(conversation) = listener.accept() {
            let ours = conversation.credentials().is_ok_and(|who| who.user == user());
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if !ours || state.neighbours.len() == NEIGHBOURS_MAX {
                continue;
            }
            let Ok(slate) = Slate::make() else { continue };
            let mut random = [0u8; 8];
            if weft_sys::random::fill(&mut random).is_err() {
                continue;
            }
            let word = u64::from_le_bytes(random);
            slate.word().store(word, Ordering::SeqCst);
            let mut hello = Vec::with_capacity(HELLO_BYTES);
            hello.extend_from_slice(&MAGIC);
            for number in [self.incarnation, word, slate.address()] {
                hello.extend_from_slice(&number.to_le_bytes());
            }
            if conversation.send(&hello, Some(slate.descriptor())).is_err()
                || poller.add(&conversation, *token_next, Interest::READ).is_err()
            {
                continue;
            }
            let talking = Talking {
                conversation,
                slate: Arc::new(slate),
                gone: Arc::new(AtomicBool::new(false)),
                places: HashMap::new(),
                place_next: 0,
                free: Vec::new(),
                gate_next: 0,
            };
            state.neighbours.insert(*token_next, talking);
            *token_next += 1;
        }
    }

    /// Answers what a neighbour asks, one record a turn; its end ends what it attached.
    fn answer(&self, poller: &Poller, token: u64, ended: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(talking) = state.neighbours.get_mut(&token) else { return };
        let mut record = [0u8; RECORD_BYTES_MAX];
        let over = match talking.conversation.receive(&mut record) {
            Ok((0, _)) => true,
            Ok((length, _)) => {
                let (answer, lent) = match self.attach(talking, &record[..length]) {
                    Ok(granted) => granted,
                    Err(refusal) => {
                        let mut answer = vec![REFUSED];
                        answer.extend_from_slice(&(refusal.code as u16).to_le_bytes());
                        answer.extend_from_slice(refusal.detail.as_bytes());
                        (answer, None)
                    }
                };
                let descriptor = lent.as_ref().and_then(|mapping| mapping.lent());
                // A descriptor that cannot go now, for too many are on their way, is not missed: the kernel copies. But a
                // neighbour that does not take its answers is no neighbour.
                let handed = descriptor.is_some() && talking.conversation.send(&answer, descriptor).is_ok();
                !handed && talking.conversation.send(&answer, None).is_err()
            }
            Err(error) => error.kind() != io::ErrorKind::WouldBlock || ended,
        };
        if over && let Some(talking) = state.neighbours.remove(&token) {
            talking.gone.store(true, Ordering::SeqCst);
            let _ = poller.remove(&talking.conversation);
        }
    }

    /// Checks an opening and its grant as a server would, and gives it a place. The answer, and the memory to hand over.
    fn attach(&self, talking: &mut Talking, payload: &[u8]) -> Result<(Vec<u8>, Option<Arc<Mapping>>), Refusal> {
        let (incarnation, opening) =
            payload.split_at_checked(8).ok_or_else(|| Refusal::new(Code::BadFrame, "an attach begins with a life"))?;
        let (writer, epoch, grant) =
            decode_opening(opening).map_err(|cause| Refusal::new(Code::GrantForged, cause.to_string()))?;
        let grant = Grant::verify(grant, &self.key)
            .map_err(|_| Refusal::new(Code::GrantForged, "the grant was not minted with this cluster's secret"))?;
        if grant.cluster_id != self.cluster_id {
            return Err(Refusal::new(Code::WrongCluster, "the grant is another cluster's"));
        }
        if (self.now_ms)() >= grant.expires_at_ms {
            return Err(Refusal::new(Code::GrantExpired, "the advert's time is over; ask its owner for another"));
        }
        let lost = || Refusal::new(Code::ExtentLost, "this buffer is not lent here, or no more");
        if u64::from_le_bytes(incarnation.try_into().expect("eight bytes")) != self.incarnation {
            return Err(lost());
        }
        let extent = self.server.store().find(&grant.region_id, 0).ok_or_else(lost)?;
        drop(extent.gate.enter(grant.generation)?);
        if grant.rights.can_write() {
            extent.take_writer(writer, epoch)?;
        }
        let buffer = grant.region_id.strip_prefix("buffer-").and_then(|number| u64::from_str_radix(number, 16).ok());
        let buffer = buffer.ok_or_else(|| Refusal::new(Code::NotSupported, "only buffers are reached this way"))?;
        let reachable = self.memory.reachable(buffer).ok_or_else(lost)?;
        let place = talking.take_place()?;
        let (gate, _) = talking.slate.place(place as usize);
        // A place is used again, a number of its gate is not: an old handle does not fit a new buffer.
        talking.gate_next = talking.gate_next.wrapping_add(1).max(1);
        let number = talking.gate_next;
        gate.store(number, Ordering::SeqCst);
        talking.places.entry(buffer).or_default().push(place);
        // A withdrawal that began after the buffer was found sees this place, or the buffer is gone by now.
        if self.memory.reachable(buffer).is_none() || extent.gate.enter(grant.generation).is_err() {
            gate.store(0, Ordering::SeqCst);
            return Err(lost());
        }
        let mut answer = Vec::with_capacity(GRANTED_BYTES);
        answer.push(GRANTED);
        answer.extend_from_slice(&place.to_le_bytes());
        answer.extend_from_slice(&number.to_le_bytes());
        answer.extend_from_slice(&(reachable.span.base() as u64).to_le_bytes());
        answer.extend_from_slice(&(reachable.span.len() as u64).to_le_bytes());
        answer.push(u8::from(grant.rights.can_write() && reachable.writable));
        answer.extend_from_slice(&grant.expires_at_ms.to_le_bytes());
        let (lent, offset) = self.memory.lent(reachable.span).map_or((None, 0), |(lent, offset)| (Some(lent), offset));
        answer.extend_from_slice(&offset.to_le_bytes());
        Ok((answer, lent))
    }
}

impl Talking {
    fn take_place(&mut self) -> Result<u32, Refusal> {
        if let Some(place) = self.free.pop() {
            return Ok(place);
        }
        if self.place_next as usize == PLACES {
            return Err(Refusal::new(Code::TooLarge, format!("{PLACES} buffers are attached on this connection")));
        }
        self.place_next += 1;
        Ok(self.place_next - 1)
    }

    fn shut_all(&self) {
        for place in self.places.values().flatten() {
            self.slate.place(*place as usize).0.store(0, Ordering::SeqCst);
        }
    }

    /// Waits until nobody is inside any place.
    fn wait_out(&self, until: Instant) {
        let inside = || {
            self.places.values().flatten().any(|place| self.slate.place(*place as usize).1.load(Ordering::SeqCst) > 0)
        };
        while inside() && !self.conversation.is_over() && Instant::now() < until {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Places whose gates were shut: on whose slate, whether that neighbour is gone, which, and its token.
type Shut = (Arc<Slate>, Arc<AtomicBool>, Vec<u32>, u64);

impl Withdraw for Shared {
    fn withdraw(&self, buffer: u64, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let mut shut: Vec<Shut> = Vec::new();
        {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            for (token, talking) in &mut state.neighbours {
                if let Some(places) = talking.places.get(&buffer) {
                    for place in places {
                        talking.slate.place(*place as usize).0.store(0, Ordering::SeqCst);
                    }
                    shut.push((Arc::clone(&talking.slate), Arc::clone(&talking.gone), places.clone(), *token));
                }
            }
        }
        for (slate, gone, places, token) in shut {
            // Whoever entered before the gate was shut is inside until its copy is done, or its process.
            while places.iter().any(|place| slate.place(*place as usize).1.load(Ordering::SeqCst) > 0) {
                if gone.load(Ordering::SeqCst) {
                    break;
                }
                if Instant::now() >= until {
                    return false;
                }
                std::thread::sleep(LOOK_EVERY);
            }
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(talking) = state.neighbours.get_mut(&token)
                && let Some(places) = talking.places.remove(&buffer)
            {
                talking.free.extend(places);
            }
        }
        true
    }
}
