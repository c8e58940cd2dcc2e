//! Where neighbours ask: one thread that answers them, and the gates of what they were given.
//!
//! Whether somebody may have something is the [`Judge`]'s business; how it is handed over, and how it is taken back, is here.
//! What if a neighbour dies inside a buffer? The end of its connection counts it out. What if it asks and takes no answer? It
//! is no neighbour any more.

use std::collections::HashMap;
use std::hash::Hash;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use weft_sys::event::{Interest, Poller, Ready, Waker};
use weft_sys::neighbour::{Conversation, Credentials, Listener, PLACES, RECORD_BYTES_MAX, Slate};
use weft_wire::{Code, Refusal};

use crate::ipc::{GRANTED, GRANTED_BYTES, HELLO_BYTES, MAGIC, REFUSED};

/// Neighbours at a time: each has a slate of sixty-four kilobytes.
const NEIGHBOURS_MAX: usize = 256;
const TOKEN_WAKER: u64 = 0;
const TOKEN_LISTENER: u64 = 1;
const TOKEN_FIRST: u64 = 2;
/// How often a withdrawal looks whether whoever is inside has left; a copy of a large piece takes a millisecond.
const LOOK_EVERY: Duration = Duration::from_micros(50);
/// How long a desk that closes waits for whoever is inside.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Says who may have what.
pub trait Judge: Send + Sync + 'static {
    /// What a right is to, as it is taken back by.
    type Key: Clone + Eq + Hash + Send + 'static;

    /// Whether whoever connected may ask at all.
    fn hears(&self, who: &Credentials) -> bool;

    /// Judges what a neighbour asks for.
    ///
    /// # Errors
    /// The refusal it gets.
    fn examine(&self, record: &[u8]) -> Result<Given<Self::Key>, Refusal>;

    /// Whether what was just given may be had still: it is asked once the gate is there, so that whoever takes the right
    /// back either shuts it or is seen here.
    fn holds(&self, key: &Self::Key) -> bool;
}

/// What a neighbour was given.
pub struct Given<K> {
    /// By what it is taken back.
    pub key: K,
    /// Where it lies in this process.
    pub base: u64,
    /// How much of it there is.
    pub size: u64,
    /// Whether it may be written.
    pub writable: bool,
    /// When the right ends, in milliseconds of the Unix clock.
    pub expires_at_ms: u64,
    /// A descriptor to map it by, and where in that it begins.
    pub lent: Option<(OwnedFd, u64)>,
}

struct Talking<K> {
    conversation: Conversation,
    slate: Arc<Slate>,
    gone: Arc<AtomicBool>,
    /// Places by what they are of, and those that are free.
    places: HashMap<K, Vec<u32>>,
    place_next: u32,
    free: Vec<u32>,
    gate_next: u32,
}

struct Shared<J: Judge> {
    incarnation: u64,
    judge: J,
    neighbours: Mutex<HashMap<u64, Talking<J::Key>>>,
    waker: Waker,
    closing: AtomicBool,
}

/// Answers neighbours until it is closed.
pub struct Desk<J: Judge> {
    shared: Arc<Shared<J>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl<J: Judge> Desk<J> {
    /// Listens under `name`, for this life of the process.
    ///
    /// # Errors
    /// No UNIX sockets, a name that is taken, or out of descriptors or threads.
    pub fn start(name: &str, incarnation: u64, judge: J) -> io::Result<Self> {
        let listener = Listener::bind(name)?;
        let shared = Arc::new(Shared {
            incarnation,
            judge,
            neighbours: Mutex::new(HashMap::new()),
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
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Neighbours there are now.
    pub fn neighbours(&self) -> usize {
        self.shared.lock().len()
    }

    /// Shuts the gates of what `ends` says. Who copies out of a mapping sees that by itself.
    pub fn shut(&self, ends: impl Fn(&J::Key) -> bool) {
        for talking in self.shared.lock().values_mut() {
            for (_, places) in talking.places.extract_if(|key, _| ends(key)) {
                for place in &places {
                    talking.slate.place(*place as usize).0.store(0, Ordering::SeqCst);
                }
                talking.free.extend(places);
            }
        }
    }

    /// Shuts the gates of one thing and waits for whoever is inside. Whether nobody is any more.
    pub fn clear(&self, key: &J::Key, timeout: Duration) -> bool {
        let until = Instant::now() + timeout;
        let mut shut: Vec<Shut> = Vec::new();
        for (token, talking) in self.shared.lock().iter_mut() {
            if let Some(places) = talking.places.get(key) {
                for place in places {
                    talking.slate.place(*place as usize).0.store(0, Ordering::SeqCst);
                }
                shut.push((Arc::clone(&talking.slate), Arc::clone(&talking.gone), places.clone(), *token));
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
            let mut neighbours = self.shared.lock();
            if let Some(talking) = neighbours.get_mut(&token)
                && let Some(places) = talking.places.remove(key)
            {
                talking.free.extend(places);
            }
        }
        true
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

/// Places whose gates were shut: on whose slate, whether that neighbour is gone, which, and its token.
type Shut = (Arc<Slate>, Arc<AtomicBool>, Vec<u32>, u64);

impl<J: Judge> Shared<J> {
    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Talking<J::Key>>> {
        self.neighbours.lock().unwrap_or_else(PoisonError::into_inner)
    }

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
        let mut neighbours = self.lock();
        for talking in neighbours.values() {
            talking.shut_all();
        }
        let neighbours: Vec<Talking<J::Key>> = neighbours.drain().map(|(_, talking)| talking).collect();
        // The memory may go when this returns: whoever is inside is waited for, a moment.
        let until = Instant::now() + CLOSE_MAX;
        for talking in &neighbours {
            talking.wait_out(until);
        }
    }

    fn accept(&self, poller: &Poller, listener: &Listener, token_next: &mut u64) {
        while let Ok(conversation) = listener.accept() {
            let heard = conversation.credentials().is_ok_and(|who| self.judge.hears(&who));
            let mut neighbours = self.lock();
            if !heard {
                continue;
            }
            if neighbours.len() == NEIGHBOURS_MAX {
                // Anybody of this machine may connect, and be given nothing: such a one makes room for the next.
                let idle = neighbours.iter().find(|(_, talking)| talking.places.is_empty()).map(|(token, _)| *token);
                let Some(idle) = idle.and_then(|token| neighbours.remove(&token)) else { continue };
                let _ = poller.remove(&idle.conversation);
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
            neighbours.insert(*token_next, talking);
            *token_next += 1;
        }
    }

    /// Answers what a neighbour asks, one record a turn; its end ends what it attached.
    fn answer(&self, poller: &Poller, token: u64, ended: bool) {
        let mut record = [0u8; RECORD_BYTES_MAX];
        let received = match self.lock().get(&token) {
            Some(talking) => talking.conversation.receive(&mut record),
            None => return,
        };
        let over = match received {
            Ok((0, _)) => true,
            // Judged outside the lock: a newer right may take older ones back, here too.
            Ok((length, _)) => !self.answer_with(token, self.judge.examine(&record[..length])),
            Err(error) => error.kind() != io::ErrorKind::WouldBlock || ended,
        };
        if over && let Some(talking) = self.lock().remove(&token) {
            talking.gone.store(true, Ordering::SeqCst);
            let _ = poller.remove(&talking.conversation);
        }
    }

    /// Sends the answer to what was judged. Whether it was taken.
    fn answer_with(&self, token: u64, judged: Result<Given<J::Key>, Refusal>) -> bool {
        let mut neighbours = self.lock();
        let Some(talking) = neighbours.get_mut(&token) else { return false };
        let (answer, lent) = match judged.and_then(|given| self.attach(talking, given)) {
            Ok(granted) => granted,
            Err(refusal) => {
                let mut answer = vec![REFUSED];
                answer.extend_from_slice(&(refusal.code as u16).to_le_bytes());
                answer.extend_from_slice(refusal.detail.as_bytes());
                (answer, None)
            }
        };
        // A descriptor that cannot go now, for too many are on their way, is not missed: there is another way to every
        // memory. But a neighbour that does not take its answers is no neighbour.
        let handed = lent.is_some_and(|lent| talking.conversation.send(&answer, Some(lent.as_fd())).is_ok());
        handed || talking.conversation.send(&answer, None).is_ok()
    }

    /// Gives it a place. The answer, and the descriptor that goes with it.
    fn attach(
        &self,
        talking: &mut Talking<J::Key>,
        given: Given<J::Key>,
    ) -> Result<(Vec<u8>, Option<OwnedFd>), Refusal> {
        let place = talking.take_place()?;
        let (gate, _) = talking.slate.place(place as usize);
        // A place is used again, a number of its gate is not: an old handle does not fit a new buffer.
        talking.gate_next = talking.gate_next.wrapping_add(1).max(1);
        let number = talking.gate_next;
        gate.store(number, Ordering::SeqCst);
        talking.places.entry(given.key.clone()).or_default().push(place);
        // Whoever takes it back after it was judged finds this place, or is seen here.
        if !self.judge.holds(&given.key) {
            gate.store(0, Ordering::SeqCst);
            return Err(lost());
        }
        let mut answer = Vec::with_capacity(GRANTED_BYTES);
        answer.push(GRANTED);
        answer.extend_from_slice(&place.to_le_bytes());
        answer.extend_from_slice(&number.to_le_bytes());
        answer.extend_from_slice(&given.base.to_le_bytes());
        answer.extend_from_slice(&given.size.to_le_bytes());
        answer.push(u8::from(given.writable));
        answer.extend_from_slice(&given.expires_at_ms.to_le_bytes());
        let (lent, offset) = given.lent.map_or((None, 0), |(lent, offset)| (Some(lent), offset));
        answer.extend_from_slice(&offset.to_le_bytes());
        Ok((answer, lent))
    }
}

/// What a buffer that is not there, or no more, is refused with.
pub fn lost() -> Refusal {
    Refusal::new(Code::ExtentLost, "this buffer is not lent here, or no more")
}

impl<K> Talking<K> {
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
