//! Questions to a peer: one message, one answer, asked by whoever waits for it.
//!
//! What a question means is between the two who talk; the engine carries it and its answer, and says who asked. Questions
//! go over TCP, whatever way bytes take: a faster lane moves bytes and nothing else. Each has a lane to itself while it
//! waits, because its answer may take as long as a disk does. What if the connection ends? Nobody can tell whether the
//! question arrived, so it is never asked twice, and fails.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use weft_transport::{Outcome, Payload, Spin, Submission};
use weft_wire::{Flags, Header, Kind, MESSAGE_BYTES_MAX};

use crate::Failure;
use crate::link::{Link, OpenLane, Waited};
use crate::piece::no_ranges;

/// Lanes for questions that are kept while nobody asks. More who ask at once connect their own, and close it again.
const KEPT_MAX: usize = 2;
/// Questions whose quickest answer is taken for the round trip.
const PINGS: usize = 5;
/// The topic of a message that only wants to be answered.
const TOPIC_PING: u64 = 0;

/// TCP lanes nobody asks over just now.
#[derive(Default)]
pub struct Asking(Mutex<Vec<Waited>>);

impl Asking {
    /// Keeps a lane for whoever asks next.
    pub fn keep(&self, waited: Waited) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < KEPT_MAX {
            kept.push(waited);
        }
    }

    /// Lets go of all of them.
    pub fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn take(&self) -> Option<Waited> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

impl Link {
    /// Asks the peer something and returns its answer. Asked once: after an error nobody can tell whether it was heard,
    /// except that a refusal is an answer.
    ///
    /// # Errors
    /// `too_large`, the peer's refusal, or the connection's error.
    pub fn ask(&self, topic: u64, question: &[u8], deadline: Instant) -> Result<Vec<u8>, Failure> {
        if question.len() as u64 > MESSAGE_BYTES_MAX {
            let detail = format!("a message has at most {MESSAGE_BYTES_MAX} bytes, this one {}", question.len());
            return Err(Failure::new("too_large", &self.peer.name, detail));
        }
        let mut header = Header::new(Kind::Message, 0);
        header.flags = Flags::ANSWER;
        header.tag = topic;
        header.length = question.len() as u64;
        let payload = Payload::Owned(question.to_vec());
        let (mut waited, borrowed) = self.lane_to_ask(deadline)?;
        match self.say(&mut waited, header, payload, deadline)? {
            Outcome::Done(_, answer) => {
                self.asked(waited, borrowed);
                Ok(answer)
            }
            Outcome::Refused(refusal) => {
                self.asked(waited, borrowed);
                Err(Failure::refused(&self.peer.name, &refusal))
            }
        }
    }

    /// The quickest of a few round trips.
    ///
    /// # Errors
    /// The connection's error.
    pub fn ping(&self, deadline: Instant) -> Result<Duration, Failure> {
        let (mut waited, borrowed) = self.lane_to_ask(deadline)?;
        let mut header = Header::new(Kind::Message, 0);
        header.tag = TOPIC_PING;
        let mut best = Duration::MAX;
        for _ in 0..PINGS {
            let started = Instant::now();
            self.say(&mut waited, header, Payload::Empty, deadline)?;
            best = best.min(started.elapsed());
        }
        self.asked(waited, borrowed);
        Ok(best)
    }

    /// One that is kept, or the lane data goes over where that is TCP and nobody uses it, or a new one. Whether it was
    /// borrowed from those for data.
    fn lane_to_ask(&self, deadline: Instant) -> Result<(Waited, bool), Failure> {
        if self.is_closed() {
            return Err(Failure::closed(&self.peer.name));
        }
        if let Some(waited) = self.asking.take() {
            return Ok((waited, false));
        }
        if let Some(waited) = self.borrow_tcp() {
            return Ok((waited, true));
        }
        let lane = self.dial_tcp(deadline).map_err(|error| Failure::of(&error))?;
        Ok((Waited { lane: Some(OpenLane::new(lane)), way: self.ways(), spin: Spin::new(self.spin()) }, false))
    }

    fn asked(&self, waited: Waited, borrowed: bool) {
        if self.is_closed() {
            return;
        }
        if borrowed { self.give_back(waited) } else { self.asking.keep(waited) }
    }

    fn say(
        &self,
        waited: &mut Waited,
        header: Header,
        payload: Payload,
        deadline: Instant,
    ) -> Result<Outcome, Failure> {
        let submission = Submission { id: 0, header, ranges: no_ranges(), payload, into: Vec::new() };
        waited.ask(submission, deadline).map_err(|error| Failure::of(&error))
    }
}
