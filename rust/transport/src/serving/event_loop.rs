//! One thread that drives its share of the connections.
//!
//! The loop sleeps in epoll. After serving a request it looks at the connections that were just active directly, for at
//! most the spin allowance: a client in a request-reply rhythm is answered without a wake-up on either side. While recent
//! waits did not end within the allowance, it does not spin; with nothing under way it sleeps without a time-out.

use std::collections::HashMap;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weft_sys::event::{Interest, Poller, Ready, Waker};

use weft_wire::Refusal;

use super::Counters;
use super::connection::{Connection, Turn};
use super::requests::Shared;
use crate::Spin;
use crate::tls::Stream;

/// Tokens of descriptors that are no connections.
const TOKEN_WAKER: u64 = 0;
const TOKEN_FIRST: u64 = 1;
/// Connections looked at while spinning; more active ones keep epoll busy anyway.
const HOT_MAX: usize = 8;
/// Rounds over the hot connections between two looks at epoll.
const ROUNDS_PER_POLL: u32 = 32;
/// Connections of one loop that have not proved the secret; past it the oldest of them goes. Those that have are counted by
/// themselves, so that whoever has no secret cannot keep others out.
const UNPROVED_MAX: usize = 64;
/// How often deadlines are looked at while any is set.
const DEADLINE_TICK: Duration = Duration::from_millis(250);

/// A connection, the request that waits on it, and its answer.
type LateAnswer = (u64, u64, Result<Vec<u8>, Refusal>);

/// How another thread reaches a loop.
pub struct Mailbox {
    waker: Waker,
    accepted: Mutex<Vec<TcpStream>>,
    answers: Mutex<Vec<LateAnswer>>,
    closing: AtomicBool,
    connections: AtomicUsize,
}

impl Mailbox {
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            waker: Waker::new()?,
            accepted: Mutex::new(Vec::new()),
            answers: Mutex::new(Vec::new()),
            closing: AtomicBool::new(false),
            connections: AtomicUsize::new(0),
        })
    }

    /// Connections the loop drives.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Hands a connection over.
    pub fn hand_over(&self, stream: TcpStream) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).push(stream);
        self.waker.wake();
    }

    /// Hands over the answer to a message: for a connection of the loop, and a request that waits on it.
    pub fn answer(&self, connection: u64, request: u64, answer: Result<Vec<u8>, Refusal>) {
        self.answers.lock().unwrap_or_else(PoisonError::into_inner).push((connection, request, answer));
        self.waker.wake();
    }

    /// Asks the loop to finish what it is answering and end.
    pub fn close(&self) {
        self.closing.store(true, Ordering::Release);
        self.waker.wake();
    }
}

/// The loop's own state.
pub struct EventLoop {
    index: usize,
    shared: Arc<Shared>,
    mailbox: Arc<Mailbox>,
    poller: Poller,
    connections: HashMap<u64, Connection>,
    token_next: u64,
    hot: Vec<u64>,
    /// Connections whose last turn ended with their share and not with their work.
    unfinished: Vec<u64>,
    spin: Spin,
    /// When something last moved, or the wait began.
    idle_since: Instant,
    handshake_deadline: Duration,
    drain_deadline: Duration,
}

impl EventLoop {
    pub fn new(
        index: usize,
        shared: Arc<Shared>,
        mailbox: Arc<Mailbox>,
        spin: Duration,
        handshake_deadline: Duration,
        drain_deadline: Duration,
    ) -> std::io::Result<Self> {
        let poller = Poller::new()?;
        poller.add(mailbox.waker.as_fd(), TOKEN_WAKER, Interest::READ)?;
        Ok(Self {
            index,
            shared,
            mailbox,
            poller,
            connections: HashMap::new(),
            token_next: TOKEN_FIRST,
            hot: Vec::with_capacity(HOT_MAX),
            unfinished: Vec::new(),
            spin: Spin::new(spin),
            idle_since: Instant::now(),
            handshake_deadline,
            drain_deadline,
        })
    }

    /// Drives connections until the mailbox says to close, then finishes the answers under way.
    pub fn run(mut self) {
        let mut ready = Ready::with_capacity(256);
        let mut tick_at = Instant::now() + DEADLINE_TICK;
        while !self.mailbox.closing.load(Ordering::Acquire) {
            if !self.unfinished.is_empty() {
                // No socket announces their work, so that there is nothing to sleep for: a look at the others, then on.
                if self.poller.wait(&mut ready, Some(Duration::ZERO)).is_err() {
                    break;
                }
                self.serve_unfinished();
            } else if !self.serve_hot(&mut ready) {
                let timeout = self.has_deadlines().then_some(DEADLINE_TICK);
                if self.poller.wait(&mut ready, timeout).is_err() {
                    break;
                }
                self.spin.waited(self.idle_since.elapsed());
            }
            self.serve(&ready);
            let now = Instant::now();
            if now >= tick_at {
                self.end_stalled(now);
                tick_at = now + DEADLINE_TICK;
            }
        }
        self.drain(&mut ready);
    }

    /// Spins over the connections that were just active. Whether to skip the sleep: something moved, or epoll has news.
    fn serve_hot(&mut self, ready: &mut Ready) -> bool {
        let started = Instant::now();
        self.idle_since = started;
        let allowance = self.spin.allowance(started);
        if allowance.is_zero() || self.hot.is_empty() {
            self.hot.clear();
            return false;
        }
        let mut round = 0u32;
        loop {
            let mut moved = false;
            let mut index = 0;
            while index < self.hot.len() {
                let token = self.hot[index];
                match self.turn(token) {
                    Turn::Moved | Turn::Unfinished => moved = true,
                    Turn::Idle => {}
                    Turn::Gone => {
                        self.hot.swap_remove(index);
                        continue;
                    }
                }
                index += 1;
            }
            round += 1;
            if moved {
                let now = Instant::now();
                self.spin.waited(now - self.idle_since);
                self.idle_since = now;
            }
            if !self.unfinished.is_empty() {
                ready.clear();
                return true;
            }
            if round.is_multiple_of(ROUNDS_PER_POLL) {
                if self.poller.wait(ready, Some(Duration::ZERO)).is_err() || ready.tokens().next().is_some() {
                    return true;
                }
                if self.hot.is_empty() || self.idle_since.elapsed() > allowance {
                    self.hot.clear();
                    return false;
                }
            }
        }
    }

    fn serve(&mut self, ready: &Ready) {
        let tokens: Vec<(u64, bool)> = ready.endings().collect();
        for (token, ended) in tokens {
            if token == TOKEN_WAKER {
                self.mailbox.waker.clear();
                self.take_accepted();
                self.take_answers();
            } else if self.connections.get(&token).is_some_and(Connection::is_waiting) {
                // What was reported may be from before it waited: bytes that were served since. Only an end is news.
                if ended {
                    self.end(token);
                }
            } else if matches!(self.turn(token), Turn::Moved | Turn::Unfinished)
                && !self.hot.contains(&token)
                && self.hot.len() < HOT_MAX
            {
                self.hot.push(token);
            }
        }
    }

    /// Another turn for each connection that had more to do than its last one allowed.
    fn serve_unfinished(&mut self) {
        for token in std::mem::take(&mut self.unfinished) {
            self.turn(token);
        }
    }

    fn turn(&mut self, token: u64) -> Turn {
        let Some(connection) = self.connections.get_mut(&token) else { return Turn::Gone };
        let interest = connection.interest();
        let turn = connection.turn(&self.shared);
        if turn == Turn::Gone {
            self.end(token);
            return Turn::Gone;
        }
        if turn == Turn::Unfinished && !self.unfinished.contains(&token) {
            self.unfinished.push(token);
        }
        let wanted = connection.interest();
        if wanted != interest && self.poller.change(connection.socket(), token, wanted).is_err() {
            self.end(token);
            return Turn::Gone;
        }
        turn
    }

    fn take_accepted(&mut self) {
        let accepted = std::mem::take(&mut *self.mailbox.accepted.lock().unwrap_or_else(PoisonError::into_inner));
        for stream in accepted {
            self.make_room_for_unproved();
            let token = self.token_next;
            self.token_next += 1;
            let stream = match Stream::accept(stream, self.shared.identity.tls.as_deref()) {
                Ok(stream) if self.poller.add(&stream, token, Interest::READ).is_ok() => stream,
                _ => {
                    self.mailbox.connections.fetch_sub(1, Ordering::Relaxed);
                    continue;
                }
            };
            self.connections
                .insert(token, Connection::new(stream, self.index, token, Instant::now() + self.handshake_deadline));
        }
    }

    fn take_answers(&mut self) {
        let answers = std::mem::take(&mut *self.mailbox.answers.lock().unwrap_or_else(PoisonError::into_inner));
        for (token, request, answer) in answers {
            let Some(connection) = self.connections.get_mut(&token) else { continue };
            connection.answered(&self.shared, request, answer);
            // The interest was none while it waited; it is whatever is left after this turn.
            self.turn(token);
            if let Some(connection) = self.connections.get(&token)
                && self.poller.change(connection.socket(), token, connection.interest()).is_err()
            {
                self.end(token);
            }
        }
    }

    fn make_room_for_unproved(&mut self) {
        let unproved = self.connections.iter().filter(|(_, connection)| !connection.is_proved());
        let (count, oldest) = (unproved.clone().count(), unproved.map(|(token, _)| *token).min());
        if count >= UNPROVED_MAX
            && let Some(oldest) = oldest
        {
            Counters::add(&self.shared.counters.connections_turned_away, 1);
            self.end(oldest);
        }
    }

    fn end(&mut self, token: u64) {
        if let Some(connection) = self.connections.remove(&token) {
            let _ = self.poller.remove(connection.socket());
            self.mailbox.connections.fetch_sub(1, Ordering::Relaxed);
            Counters::add(&self.shared.counters.connections_closed, 1);
        }
    }

    fn has_deadlines(&self) -> bool {
        self.connections.values().any(|connection| connection.deadline().is_some())
    }

    fn end_stalled(&mut self, now: Instant) {
        let stalled: Vec<u64> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.deadline().is_some_and(|deadline| now >= deadline))
            .map(|(token, _)| *token)
            .collect();
        for token in stalled {
            Counters::add(&self.shared.counters.connections_stalled, 1);
            self.end(token);
        }
    }

    /// Finishes the frames and answers under way, within the drain deadline, and ends the rest.
    fn drain(&mut self, ready: &mut Ready) {
        let deadline = Instant::now() + self.drain_deadline;
        let mut tokens: Vec<u64> = self.connections.keys().copied().collect();
        loop {
            tokens.retain(|token| match self.connections.get(token) {
                Some(connection) if connection.is_busy() => true,
                _ => {
                    self.end(*token);
                    false
                }
            });
            let left = deadline.saturating_duration_since(Instant::now());
            let wait = if self.unfinished.is_empty() { left.min(DEADLINE_TICK) } else { Duration::ZERO };
            if tokens.is_empty() || left.is_zero() || self.poller.wait(ready, Some(wait)).is_err() {
                return;
            }
            self.mailbox.waker.clear();
            self.serve(ready);
            self.serve_unfinished();
        }
    }
}
