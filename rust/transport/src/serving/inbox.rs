//! Messages peers sent, until somebody takes them.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weft_wire::{Code, Refusal};

/// Messages kept; past it a sender is told to come back.
const MESSAGES_MAX: usize = 1024;
/// Bytes kept over all messages: a full inbox of the largest messages would be 8 GiB.
const BYTES_MAX: usize = 64 << 20;

/// Where an answer goes: a connection of one of the server's loops, and the request that waits on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The loop that drives the connection.
    pub event_loop: usize,
    /// The connection, as that loop names it.
    pub connection: u64,
    /// The request, as the sender numbered it.
    pub request: u64,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who sent it, as proved in the handshake.
    pub sender: String,
    /// The sender's life, as it said in the handshake.
    pub incarnation: u64,
    /// What it is about.
    pub topic: u64,
    /// Its content.
    pub payload: Vec<u8>,
    /// Where its answer goes; none when the sender wants none.
    pub ticket: Option<Ticket>,
}

/// Takes messages where they arrive, past the inbox: on the thread that serves the sender, so it never waits.
pub trait MessageSink: Send + Sync {
    /// Whether messages of this topic are its own; the others go where they would without it.
    fn takes(&self, topic: u64) -> bool;

    /// Takes a message in, and says what to answer when the sender waits for one.
    ///
    /// # Errors
    /// The refusal the sender gets; nothing of the message is kept then.
    fn take(&self, message: Message) -> Result<Vec<u8>, Refusal>;
}

#[derive(Default)]
struct State {
    messages: VecDeque<Message>,
    bytes: usize,
}

/// A bounded queue of messages, in order of arrival.
#[derive(Default)]
pub struct Inbox {
    state: Mutex<State>,
    arrived: Condvar,
}

impl Inbox {
    /// Takes a message in.
    ///
    /// # Errors
    /// `Busy` when it is full: back-pressure, nothing is dropped silently.
    pub fn put(&self, message: Message) -> Result<(), Refusal> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.messages.len() == MESSAGES_MAX || state.bytes + message.payload.len() > BYTES_MAX {
            return Err(Refusal::new(Code::Busy, "the inbox is full; send again later"));
        }
        state.bytes += message.payload.len();
        state.messages.push_back(message);
        drop(state);
        self.arrived.notify_one();
        Ok(())
    }

    /// The oldest message, waiting for one at most `timeout`.
    pub fn take(&self, timeout: Duration) -> Option<Message> {
        let deadline = Instant::now() + timeout;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(message) = state.messages.pop_front() {
                state.bytes -= message.payload.len();
                return Some(message);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            state = self.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
