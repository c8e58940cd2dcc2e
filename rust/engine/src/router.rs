//! What peers say to an endpoint, taken in where it arrives: on the thread that serves the peer, so nothing here waits.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use weft_transport::{Message, MessageSink};
use weft_wire::{Advert, Code, Greeting, Refusal, Word};

use crate::matching::{Credit, Key, Matching};
use crate::notices::{Notices, Part};
use crate::progress::{Command, Mailbox};

/// Greetings that wait to be accepted; past it the oldest is forgotten, as a listener's backlog would.
const INCOMING_MAX: usize = 1024;
/// Links of peers whose words are told apart from repetitions.
const WRITERS_MAX: usize = 65_536;

/// A peer that connected here and was not accepted yet.
#[derive(Clone, Debug)]
pub struct Incoming {
    /// Who.
    pub peer: Key,
    /// How it is reached.
    pub greeting: Greeting,
}

#[derive(Default)]
struct Heard {
    last: HashMap<u64, u64>,
    order: VecDeque<u64>,
}

/// Takes words in.
pub struct Router {
    own: Mutex<Greeting>,
    mailbox: Arc<Mailbox>,
    matching: Arc<Matching>,
    notices: Arc<Notices>,
    heard: Mutex<Heard>,
    /// Whether what is no word of ours is for the server's inbox; refused otherwise.
    shares: bool,
    incoming: Mutex<VecDeque<Incoming>>,
    arrived: Condvar,
}

impl Router {
    pub fn new(mailbox: Arc<Mailbox>, matching: Arc<Matching>, notices: Arc<Notices>, shares: bool) -> Self {
        Self {
            own: Mutex::default(),
            mailbox,
            matching,
            notices,
            heard: Mutex::default(),
            shares,
            incoming: Mutex::default(),
            arrived: Condvar::new(),
        }
    }

    /// What peers are greeted with.
    pub fn set_greeting(&self, greeting: Greeting) {
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = greeting;
    }

    /// The same.
    pub fn greeting(&self) -> Greeting {
        self.own.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The peer that connected first and was not accepted yet, waiting for one until `until`.
    pub fn next(&self, until: Instant) -> Option<Incoming> {
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(first) = incoming.pop_front() {
                return Some(first);
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            incoming = self.arrived.wait_timeout(incoming, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn greeted(&self, peer: Key, greeting: Greeting) -> Vec<u8> {
        if greeting.port == 0 {
            // It answers a connection of ours.
            return Word::Greet(self.greeting()).encode(0, 0);
        }
        let mut incoming = self.incoming.lock().unwrap_or_else(PoisonError::into_inner);
        if incoming.len() == INCOMING_MAX {
            incoming.pop_front();
        }
        incoming.push_back(Incoming { peer, greeting });
        drop(incoming);
        self.arrived.notify_all();
        Word::Greet(self.greeting()).encode(0, 0)
    }

    /// Carries one word out. Only words that were taken in whole count as heard.
    fn hear(&self, peer: &Key, writer: u64, word: Word) -> Result<(), Refusal> {
        match word {
            Word::Greet(_) => Ok(()),
            Word::Posted { receive, tag, advert } => {
                let advert = Advert::decode(&advert)
                    .map_err(|cause| Refusal::new(Code::BadFrame, format!("a receive without its advert: {cause}")))?;
                let credit = Credit { receive, advert: Arc::new(advert) };
                if let Some((send, credit)) = self.matching.credit(peer, tag, credit)? {
                    self.mailbox.put(Command::Met(send, credit));
                }
                Ok(())
            }
            Word::Landed { receive, length } => {
                self.mailbox.put(Command::Landed { from: peer.clone(), receive, length });
                Ok(())
            }
            Word::Withdrawn { receive } => {
                self.matching.withdrawn(peer, receive);
                Ok(())
            }
            Word::Notice { part, parts, total, name, bytes } => {
                let part = Part { sender: &peer.0, writer, part, parts, total };
                self.notices.put(part, name, bytes)
            }
        }
    }
}

impl MessageSink for Router {
    fn takes(&self, topic: u64) -> bool {
        !self.shares || Word::is_topic(topic)
    }

    fn take(&self, message: Message) -> Result<Vec<u8>, Refusal> {
        let (word, writer, sequence) = Word::decode(message.topic, &message.payload)
            .map_err(|cause| Refusal::new(Code::BadFrame, cause.to_string()))?;
        let peer = (message.sender, message.incarnation);
        if let Word::Greet(greeting) = word {
            return Ok(self.greeted(peer, greeting));
        }
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        if heard.last.get(&writer).is_some_and(|last| *last >= sequence) {
            // It was taken in before; only its answer was lost.
            return Ok(Vec::new());
        }
        // Still locked: a repetition over another connection waits until this one was taken in or refused.
        self.hear(&peer, writer, word)?;
        if heard.last.insert(writer, sequence).is_none() {
            if heard.order.len() == WRITERS_MAX
                && let Some(oldest) = heard.order.pop_front()
            {
                heard.last.remove(&oldest);
            }
            heard.order.push_back(writer);
        }
        Ok(Vec::new())
    }
}
