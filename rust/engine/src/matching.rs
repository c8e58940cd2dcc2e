//! Sends and receives, until each has met the other.
//!
//! A receive that is posted travels to the sender as a *credit*. The n-th send of a tag to a peer takes the n-th credit of
//! that tag from the peer. Nothing is sent without one, so a receiver is never brought more than it made room for. What if
//! a credit arrives twice? Words between endpoints are numbered, and a repetition is dropped before it gets here.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use weft_sys::memory::Span;
use weft_wire::{Advert, Code, Refusal};

use crate::link::Link;
use crate::transfer::Transfer;

/// Receives one peer may have posted here at a time, and sends that may wait here for one.
pub const POSTED_MAX: usize = 1024;

/// One life of one peer.
pub type Key = (String, u64);

/// A send without its receive.
pub struct Send {
    /// How it ends.
    pub transfer: Arc<Transfer>,
    /// Where to.
    pub link: Arc<Link>,
    /// What.
    pub span: Span,
    /// What it is matched by.
    pub tag: u64,
}

/// A receive of the peer's, without its send.
#[derive(Clone)]
pub struct Credit {
    /// As the peer numbers it.
    pub receive: u64,
    /// Where to write.
    pub advert: Arc<Advert>,
}

/// A receive of this side's.
pub struct Receive {
    /// How it ends.
    pub transfer: Arc<Transfer>,
    /// Where from.
    pub link: Arc<Link>,
    /// The advert its bytes come by.
    pub buffer: u64,
    /// How many fit.
    pub length: u64,
}

#[derive(Default)]
struct State {
    sends: HashMap<(Key, u64), VecDeque<Send>>,
    credits: HashMap<(Key, u64), VecDeque<Credit>>,
    credit_counts: HashMap<Key, usize>,
    /// By the number the peer knows them by, which is their transfer's.
    receives: HashMap<u64, Receive>,
}

/// The table of both.
#[derive(Default)]
pub struct Matching {
    state: Mutex<State>,
}

impl Matching {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A send; with its credit when one is there.
    pub fn send(&self, send: Send) -> Option<(Send, Credit)> {
        let place = (key(&send.link), send.tag);
        let mut state = self.lock();
        // Sends that wait come first: a credit is only there when none does.
        match state.take_credit(&place) {
            Some(credit) => Some((send, credit)),
            None => {
                state.sends.entry(place).or_default().push_back(send);
                None
            }
        }
    }

    /// A send whose credit turned out to be worth nothing takes the next one, before those that came after it.
    pub fn send_again(&self, send: Send) -> Option<(Send, Credit)> {
        let place = (key(&send.link), send.tag);
        let mut state = self.lock();
        match state.take_credit(&place) {
            Some(credit) => Some((send, credit)),
            None => {
                state.sends.entry(place).or_default().push_front(send);
                None
            }
        }
    }

    /// A credit that was not used, because its send was too large, is there for the next.
    pub fn put_back(&self, peer: &Key, tag: u64, credit: Credit) -> Option<(Send, Credit)> {
        let mut state = self.lock();
        let place = (peer.clone(), tag);
        match state.take_send(&place) {
            Some(send) => Some((send, credit)),
            None => {
                *state.credit_counts.entry(peer.clone()).or_default() += 1;
                state.credits.entry(place).or_default().push_front(credit);
                None
            }
        }
    }

    /// A credit from a peer; with its send when one waits.
    ///
    /// # Errors
    /// `Busy` when the peer has too many here.
    pub fn credit(&self, peer: &Key, tag: u64, credit: Credit) -> Result<Option<(Send, Credit)>, Refusal> {
        let mut state = self.lock();
        let place = (peer.clone(), tag);
        if let Some(send) = state.take_send(&place) {
            return Ok(Some((send, credit)));
        }
        let count = state.credit_counts.entry(peer.clone()).or_default();
        if *count == POSTED_MAX {
            let detail = format!("{POSTED_MAX} receives are posted here already and nothing is sent to them");
            return Err(Refusal::new(Code::Busy, detail));
        }
        *count += 1;
        state.credits.entry(place).or_default().push_back(credit);
        Ok(None)
    }

    /// A peer took a receive back.
    pub fn withdrawn(&self, peer: &Key, receive: u64) {
        let mut state = self.lock();
        let mut found = None;
        for (place, credits) in state.credits.iter_mut().filter(|((owner, _), _)| owner == peer) {
            if let Some(index) = credits.iter().position(|credit| credit.receive == receive) {
                credits.remove(index);
                found = Some((place.clone(), credits.is_empty()));
                break;
            }
        }
        if let Some((place, empty)) = found {
            state.credit_gone(peer);
            if empty {
                state.credits.remove(&place);
            }
        }
    }

    /// A receive of this side's.
    pub fn receive(&self, receive: Receive) {
        self.lock().receives.insert(receive.transfer.id(), receive);
    }

    /// The link a receive's bytes come by.
    pub fn link_of_receive(&self, number: u64) -> Option<Arc<Link>> {
        self.lock().receives.get(&number).map(|receive| Arc::clone(&receive.link))
    }

    /// Takes a receive out: it ended, one way or the other. Only its own peer may say that it landed.
    pub fn take_receive(&self, number: u64, from: Option<&Key>) -> Option<Receive> {
        let mut state = self.lock();
        if from.is_some_and(|from| state.receives.get(&number).is_some_and(|receive| key(&receive.link) != *from)) {
            return None;
        }
        state.receives.remove(&number)
    }

    /// Takes a waiting send out, by its transfer.
    pub fn take_waiting(&self, transfer: u64) -> Option<Send> {
        let mut state = self.lock();
        let place = state.sends.iter().find_map(|(place, sends)| {
            sends.iter().position(|send| send.transfer.id() == transfer).map(|index| (place.clone(), index))
        });
        let (place, index) = place?;
        let sends = state.sends.get_mut(&place)?;
        let send = sends.remove(index);
        if sends.is_empty() {
            state.sends.remove(&place);
        }
        send
    }

    /// Takes every waiting send out.
    pub fn take_all_waiting(&self) -> Vec<Send> {
        std::mem::take(&mut self.lock().sends).into_values().flatten().collect()
    }

    /// Takes every receive out.
    pub fn take_all_receives(&self) -> Vec<Receive> {
        std::mem::take(&mut self.lock().receives).into_values().collect()
    }

    /// The transfers of one link that wait here, sends and receives.
    pub fn of_link(&self, link: u64) -> Vec<u64> {
        let state = self.lock();
        let sends = state.sends.values().flatten().filter(|send| send.link.number == link);
        let receives = state.receives.values().filter(|receive| receive.link.number == link);
        sends.map(|send| send.transfer.id()).chain(receives.map(|receive| receive.transfer.id())).collect()
    }

    /// Forgets what a peer that is gone had posted.
    pub fn forget(&self, peer: &Key) {
        let mut state = self.lock();
        state.credits.retain(|(owner, _), _| owner != peer);
        state.credit_counts.remove(peer);
    }
}

impl State {
    fn take_credit(&mut self, place: &(Key, u64)) -> Option<Credit> {
        let credits = self.credits.get_mut(place)?;
        let credit = credits.pop_front()?;
        if credits.is_empty() {
            self.credits.remove(place);
        }
        self.credit_gone(&place.0);
        Some(credit)
    }

    fn take_send(&mut self, place: &(Key, u64)) -> Option<Send> {
        let sends = self.sends.get_mut(place)?;
        let send = sends.pop_front();
        if sends.is_empty() {
            self.sends.remove(place);
        }
        send
    }

    fn credit_gone(&mut self, peer: &Key) {
        if let Some(count) = self.credit_counts.get_mut(peer) {
            *count -= 1;
            if *count == 0 {
                self.credit_counts.remove(peer);
            }
        }
    }
}

/// Who is at the other end of a link.
pub fn key(link: &Link) -> Key {
    (link.peer.name.clone(), link.peer.incarnation)
}
