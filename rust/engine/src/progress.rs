//! The engine's one thread: it drives every transfer that is awaited or polled, and sleeps when there is none.
//!
//! Others hand it commands; it never waits for a peer. What has to wait (connecting) is done by a thread of its own that
//! ends with it. This file is the loop; `carrying` is what happens to pieces and words.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weft_sys::event::{Interest, Poller, Ready, Waker};
use weft_transport::{Driven, Server, Spin, TransportError};
use weft_wire::{Advert, Word};

use crate::Failure;
use crate::link::Link;
use crate::matching::{Credit, Key, Matching, Receive, Send};
use crate::memory::Memory;
use crate::piece::{Direction, Inquiry, Piece};
use crate::track::{Slot, Track};
use crate::transfer::{Status, Transfer};

/// Transfers under way in one endpoint.
pub const TRANSFERS_MAX: usize = 4096;
/// How long the loop sleeps at most while anything is under way: deadlines and pauses hold to within it.
const TICK: Duration = Duration::from_millis(250);
/// Deadlines kept before those of ended transfers are swept out.
const SWEEP_MIN: usize = 4096;
const TOKEN_WAKER: u64 = 0;
/// Lanes of one link in a token; more than a link ever has.
pub const LANES_PER_TOKEN: u64 = 64;

/// What happens when the last piece of a transfer is done.
pub enum After {
    /// It ends.
    End,
    /// Its receiver is told, then it ends. `send` comes back where the credit turns out to be worth nothing.
    Landed {
        /// As the receiver numbers it.
        receive: u64,
        /// What to match again.
        send: Send,
    },
}

/// A transfer to be carried out in pieces.
pub struct Job {
    pub transfer: Arc<Transfer>,
    pub link: u64,
    /// Pieces that are to end before anything else happens.
    pub left: usize,
    /// What is written once its owners answered the inquiry.
    pub held: Vec<Piece>,
    /// The inquiry, whose memory is touched until it is answered.
    pub inquiry: Option<Inquiry>,
    /// Where it begins, to be named when it fails; nothing where its caller named no place.
    pub begins: Option<(Arc<Advert>, u64)>,
    pub bytes: u64,
    pub after: After,
}

/// What others ask of the thread.
pub enum Command {
    /// Carry out, once the inquiry is answered if there is one.
    Move {
        transfer: Arc<Transfer>,
        link: Arc<Link>,
        direction: Direction,
        pieces: Vec<Piece>,
        inquiry: Option<Inquiry>,
    },
    /// Say; `ends` says with how many bytes the transfer is done once it was heard.
    Say { link: Arc<Link>, words: Vec<Word>, transfer: Option<Arc<Transfer>>, ends: Option<u64>, deadline: Instant },
    /// A send waits for its receive.
    Watch(Arc<Transfer>),
    /// A receive was made; its word is to be said.
    Receive(Arc<Transfer>, Word),
    /// A send met its receive.
    Met(Send, Credit),
    /// A peer says that a receive's bytes are there.
    Landed { from: Key, receive: u64, length: u64 },
    /// Take a transfer back.
    Cancel(u64),
    /// A lane came up, or did not; `way` is which of the link's ways it was begun for.
    Dialed { link: u64, slot: usize, way: u64, result: Result<Box<dyn Driven>, TransportError> },
    /// A link takes another way: lanes of the earlier one on which nothing is outstanding are closed.
    Turn(u64),
    /// A link is not used any more, and its peer with it where no other link leads there.
    Leave { link: u64, peer: Option<Key> },
}

impl Command {
    /// Ends the transfer it was about: there is no thread any more that could.
    fn refuse(self) {
        let transfer = match self {
            Self::Move { transfer, .. } | Self::Watch(transfer) | Self::Receive(transfer, _) => Some(transfer),
            Self::Say { transfer, .. } => transfer,
            Self::Met(send, _) => Some(send.transfer),
            Self::Landed { .. } | Self::Cancel(_) | Self::Dialed { .. } | Self::Turn(_) | Self::Leave { .. } => None,
        };
        if let Some(transfer) = transfer {
            transfer.end(Status::Failed(Failure::closed("")));
        }
    }
}

/// How others reach the thread.
pub struct Mailbox {
    waker: Waker,
    /// None once the thread has ended.
    commands: Mutex<Option<VecDeque<Command>>>,
    asleep: AtomicBool,
    closing: AtomicBool,
}

impl Mailbox {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            waker: Waker::new()?,
            commands: Mutex::new(Some(VecDeque::new())),
            asleep: AtomicBool::new(false),
            closing: AtomicBool::new(false),
        })
    }

    /// Hands a command over. Bounded by what callers may have under way.
    pub fn put(&self, command: Command) {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(waiting) = commands.as_mut() else {
            drop(commands);
            command.refuse();
            return;
        };
        waiting.push_back(command);
        drop(commands);
        // The thread says that it will sleep before it looks a last time, so one of both sees the other.
        if self.asleep.load(Ordering::SeqCst) {
            self.waker.wake();
        }
    }

    fn is_empty(&self) -> bool {
        let commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        commands.as_ref().is_none_or(VecDeque::is_empty)
    }

    fn take(&self) -> VecDeque<Command> {
        let mut commands = self.commands.lock().unwrap_or_else(PoisonError::into_inner);
        commands.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Takes nothing any more. What was handed over last.
    fn end(&self) -> VecDeque<Command> {
        self.commands.lock().unwrap_or_else(PoisonError::into_inner).take().unwrap_or_default()
    }

    /// Asks the thread to end what is under way and itself.
    pub fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        self.waker.wake();
    }
}

/// What the thread works with.
pub struct Core {
    pub mailbox: Arc<Mailbox>,
    pub matching: Arc<Matching>,
    pub memory: Arc<Memory>,
    pub server: Arc<Server>,
    pub poller: Poller,
    pub tracks: HashMap<u64, Track>,
    /// Tracks with anything to do.
    pub busy: BTreeSet<u64>,
    pub jobs: HashMap<u64, Job>,
    /// When each transfer ends at the latest. Those that ended sooner are swept out when they are the larger part.
    pub deadlines: BTreeMap<(Instant, u64), Arc<Transfer>>,
    sweep_at: usize,
    pub submission_next: u64,
    pub data_lanes: usize,
    spin: Spin,
}

impl Core {
    pub fn new(
        mailbox: Arc<Mailbox>,
        matching: Arc<Matching>,
        memory: Arc<Memory>,
        server: Arc<Server>,
        spin: Duration,
    ) -> std::io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(mailbox.waker.as_fd(), TOKEN_WAKER, Interest::READ)?;
        // Two lanes fill what two CPUs can move; a machine with more has more to give each peer.
        let data_lanes = if weft_sys::cpu::allowed_count() < 8 { 2 } else { 4 };
        Ok(Self {
            mailbox,
            matching,
            memory,
            server,
            poller,
            tracks: HashMap::new(),
            busy: BTreeSet::new(),
            jobs: HashMap::new(),
            deadlines: BTreeMap::new(),
            sweep_at: SWEEP_MIN,
            submission_next: 1,
            data_lanes,
            spin: Spin::new(spin),
        })
    }

    /// Works until the mailbox says to close; what is under way then ends as `closed`.
    pub fn run(mut self) {
        let mut ready = Ready::with_capacity(64);
        let mut waited_since: Option<Instant> = None;
        while !self.mailbox.closing.load(Ordering::SeqCst) {
            let now = Instant::now();
            let mut moved = self.take_commands();
            self.expire(now);
            let busy: Vec<u64> = self.busy.iter().copied().collect();
            for number in busy {
                self.feed(number, now);
                moved |= self.advance(number);
                if self.tracks.get(&number).is_none_or(|track| !track.is_busy()) {
                    self.busy.remove(&number);
                }
            }
            if moved {
                if let Some(since) = waited_since.take() {
                    self.spin.waited(since.elapsed());
                }
                continue;
            }
            let since = *waited_since.get_or_insert(now);
            if self.is_outstanding() && now.duration_since(since) < self.spin.allowance(now) {
                continue;
            }
            self.sleep(&mut ready, now);
        }
        self.end_all();
    }

    /// Whether an answer is waited for, so that spinning may pay.
    fn is_outstanding(&self) -> bool {
        self.busy.iter().any(|number| {
            self.tracks.get(number).is_some_and(|track| {
                track.slots.iter().any(|slot| matches!(slot, Slot::Up(up) if up.lane.driven.outstanding() > 0))
            })
        })
    }

    fn sleep(&mut self, ready: &mut Ready, now: Instant) {
        let timeout = self.timeout(now);
        self.mailbox.asleep.store(true, Ordering::SeqCst);
        let empty = self.mailbox.is_empty();
        let closing = self.mailbox.closing.load(Ordering::SeqCst);
        if empty && !closing && self.poller.wait(ready, timeout).is_err() {
            self.mailbox.closing.store(true, Ordering::SeqCst);
        }
        self.mailbox.asleep.store(false, Ordering::SeqCst);
        if !empty || closing {
            return;
        }
        for token in ready.tokens().collect::<Vec<_>>() {
            if token == TOKEN_WAKER {
                self.mailbox.waker.clear();
            } else {
                // Whatever it is, also the end of an idle lane, advancing it finds out.
                let (number, slot) = ((token - 1) / LANES_PER_TOKEN, (token - 1) % LANES_PER_TOKEN);
                self.advance_slot(number, usize::try_from(slot).expect("below sixty-four"));
            }
        }
    }

    /// Until when nothing needs to be looked at, unless something is ready.
    fn timeout(&self, now: Instant) -> Option<Duration> {
        let mut until = self.deadlines.first_key_value().map(|((deadline, _), _)| *deadline);
        for number in &self.busy {
            if let Some(track) = self.tracks.get(number) {
                let pause = track.pause_until.filter(|pause| *pause > now);
                until = match (until, pause) {
                    (Some(until), Some(pause)) => Some(until.min(pause)),
                    (until, pause) => until.or(pause),
                };
            }
        }
        // A lane without a descriptor makes progress only when it is asked to.
        let polled = self.busy.iter().filter_map(|number| self.tracks.get(number)).any(|track| {
            track.slots.iter().any(|slot| {
                matches!(slot, Slot::Up(up) if up.lane.driven.outstanding() > 0 && up.lane.driven.readiness().is_none())
            })
        });
        if polled {
            return Some(Duration::ZERO);
        }
        until.map(|until| until.saturating_duration_since(now).clamp(Duration::from_millis(1), TICK))
    }

    fn take_commands(&mut self) -> bool {
        let commands = self.mailbox.take();
        let any = !commands.is_empty();
        for command in commands {
            self.obey(command);
        }
        any
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Move { transfer, link, direction, pieces, inquiry } => {
                self.begin(transfer, &link, direction, pieces, inquiry);
            }
            Command::Say { link, words, transfer, ends, deadline } => self.say(&link, words, transfer, ends, deadline),
            Command::Watch(transfer) => self.watch(&transfer),
            Command::Receive(transfer, word) => {
                self.watch(&transfer);
                if let Some(link) = self.matching.link_of_receive(transfer.id()) {
                    let deadline = transfer.deadline();
                    self.say(&link, vec![word], Some(transfer), None, deadline);
                }
            }
            Command::Met(send, credit) => self.met(send, credit),
            Command::Landed { from, receive, length } => {
                if let Some(receive) = self.matching.take_receive(receive, Some(&from)) {
                    self.landed(&receive, length);
                }
            }
            Command::Cancel(id) => self.give_up(id, None),
            Command::Dialed { link, slot, way, result } => self.dialed(link, slot, way, result),
            Command::Turn(number) => self.feed(number, Instant::now()),
            Command::Leave { link, peer } => {
                if let Some(name) = self.tracks.get(&link).map(|track| track.link.peer.name.clone()) {
                    self.fail_all(link, &Failure::closed(&name));
                }
                self.forget_track(link);
                if let Some(peer) = peer {
                    self.matching.forget(&peer);
                }
            }
        }
    }

    /// Remembers when a transfer ends at the latest.
    pub fn watch(&mut self, transfer: &Arc<Transfer>) {
        self.deadlines.insert((transfer.deadline(), transfer.id()), Arc::clone(transfer));
        if self.deadlines.len() >= self.sweep_at {
            self.deadlines.retain(|_, transfer| !transfer.has_ended());
            self.sweep_at = (self.deadlines.len() * 2).max(SWEEP_MIN);
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(first) = self.deadlines.first_entry() {
            if first.key().0 > now {
                return;
            }
            let transfer = first.remove();
            if !transfer.has_ended() {
                self.give_up(transfer.id(), Some("moving its bytes"));
            }
        }
    }

    /// The bytes of a receive are there: nobody else may write to its buffer from here on.
    fn landed(&mut self, receive: &Receive, length: u64) {
        let status = if length > receive.length {
            let peer = &receive.link.peer.name;
            Status::Failed(Failure::new("bad_frame", peer, format!("{peer} says it sent more than there was room for")))
        } else {
            Status::Done(length)
        };
        self.end_receive(receive, status);
    }

    /// Takes a receive's buffer back from its peer and ends it.
    pub fn end_receive(&self, receive: &Receive, status: Status) {
        let status = match self.memory.withdraw(self.server.store(), receive.buffer) {
            Ok(()) => status,
            Err(failure) => Status::Failed(failure),
        };
        receive.transfer.end(status);
    }

    fn end_all(&mut self) {
        for command in self.mailbox.end() {
            self.obey(command);
        }
        let numbers: Vec<u64> = self.tracks.keys().copied().collect();
        for number in numbers {
            let name = self.tracks.get(&number).map_or_else(String::new, |track| track.link.peer.name.clone());
            self.fail_all(number, &Failure::closed(&name));
            self.forget_track(number);
        }
        // Sends that never met a receive have no track.
        for send in self.matching.take_all_waiting() {
            send.transfer.end(Status::Failed(Failure::closed(&send.link.peer.name)));
        }
        for receive in self.matching.take_all_receives() {
            self.end_receive(&receive, Status::Failed(Failure::closed(&receive.link.peer.name)));
        }
    }
}
