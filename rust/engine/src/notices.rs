//! Notifications that arrived, until somebody takes them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weft_wire::{Code, NOTICE_BYTES_MAX, Refusal};

use crate::matching::Key;

/// Notifications kept; past it a sender is told to come back.
const NOTICES_MAX: usize = 1024;
/// Senders with a notification of which some parts are here.
const PARTIAL_MAX: usize = 64;
/// A sender that is silent for so long in the middle of a notification has given it up; a part crosses the slowest link in
/// a second.
const SILENT_MAX: Duration = Duration::from_secs(30);

/// One notification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// Who sent it, as proved in the handshake.
    pub sender: String,
    /// What it is called.
    pub name: Vec<u8>,
    /// Its content.
    pub bytes: Vec<u8>,
}

#[derive(Default)]
struct State {
    whole: VecDeque<Notice>,
    partial: HashMap<Key, Partial>,
    /// Of all that are here, and of all that were begun.
    bytes: u64,
}

struct Partial {
    next: u32,
    total: u64,
    content: Vec<u8>,
    heard_at: Instant,
}

impl State {
    /// Gives up what senders began and fell silent over: nobody else tells of a sender that died.
    fn give_up_silent(&mut self) {
        let silent = |begun: &Partial| begun.heard_at.elapsed() > SILENT_MAX;
        self.bytes -= self.partial.values().filter(|begun| silent(begun)).map(|begun| begun.total).sum::<u64>();
        self.partial.retain(|_, begun| !silent(begun));
    }

    fn give_up(&mut self, sender: &Key) {
        if let Some(begun) = self.partial.remove(sender) {
            self.bytes -= begun.total;
        }
    }
}

/// A bounded queue of them, in order of arrival.
#[derive(Default)]
pub struct Notices {
    state: Mutex<State>,
    arrived: Condvar,
}

impl Notices {
    /// Takes a part in; parts of one sender come in their order.
    ///
    /// # Errors
    /// `Busy` when there is no room, `BadFrame` for a part that does not follow the last.
    pub fn put(
        &self,
        sender: &Key,
        part: u32,
        parts: u32,
        total: u64,
        name: Vec<u8>,
        bytes: Vec<u8>,
    ) -> Result<(), Refusal> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if part == 0 {
            // A sender that begins anew has given up what it began before.
            state.give_up(sender);
            state.give_up_silent();
            let crowded = parts > 1 && state.partial.len() == PARTIAL_MAX;
            if state.whole.len() >= NOTICES_MAX || state.bytes + total > NOTICE_BYTES_MAX || crowded {
                return Err(Refusal::new(Code::Busy, "notifications are not taken here; send again later"));
            }
            // Room is taken for the whole with the first part.
            state.bytes += total;
            state
                .partial
                .insert(sender.clone(), Partial { next: 0, total, content: Vec::new(), heard_at: Instant::now() });
        }
        let begun = state.partial.get_mut(sender).filter(|begun| {
            begun.next == part && begun.total == total && (begun.content.len() + bytes.len()) as u64 <= total
        });
        let Some(begun) = begun else {
            state.give_up(sender);
            return Err(Refusal::new(Code::BadFrame, "a part of a notification does not follow the last"));
        };
        begun.next += 1;
        begun.heard_at = Instant::now();
        if begun.content.is_empty() {
            begun.content = bytes;
        } else {
            begun.content.extend_from_slice(&bytes);
        }
        if part + 1 < parts {
            return Ok(());
        }
        if begun.content.len() as u64 != total {
            state.give_up(sender);
            return Err(Refusal::new(Code::BadFrame, "the parts of a notification do not add up to its size"));
        }
        let content = state.partial.remove(sender).map(|begun| begun.content).unwrap_or_default();
        state.whole.push_back(Notice { sender: sender.0.clone(), name, bytes: content });
        drop(state);
        self.arrived.notify_all();
        Ok(())
    }

    /// All that are here, oldest first; waits for one until `until`.
    pub fn take(&self, until: Instant) -> Vec<Notice> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.whole.is_empty() {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Vec::new();
            }
            state = self.arrived.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        let taken: Vec<Notice> = state.whole.drain(..).collect();
        state.bytes -= taken.iter().map(|notice| notice.bytes.len() as u64).sum::<u64>();
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sender() -> Key {
        ("a".to_owned(), 1)
    }

    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn parts_become_one_notification_and_room_is_given_back() {
        let notices = Notices::default();
        for round in 0..3 {
            notices.put(&sender(), 0, 2, 5, b"n".to_vec(), b"abc".to_vec()).unwrap();
            assert!(notices.take(now()).is_empty(), "round {round}: a part is no notification");
            notices.put(&sender(), 1, 2, 5, b"n".to_vec(), b"de".to_vec()).unwrap();
            let taken = notices.take(now());
            assert_eq!((taken.len(), taken[0].bytes.as_slice()), (1, &b"abcde"[..]));
        }
        assert_eq!(notices.state.lock().unwrap().bytes, 0);
    }

    #[test]
    fn a_part_out_of_order_and_a_sum_that_is_wrong_are_refused() {
        let notices = Notices::default();
        assert_eq!(notices.put(&sender(), 1, 2, 5, vec![], vec![1]).unwrap_err().code, Code::BadFrame);
        notices.put(&sender(), 0, 2, 5, vec![], vec![1]).unwrap();
        assert_eq!(notices.put(&sender(), 1, 2, 5, vec![], vec![2]).unwrap_err().code, Code::BadFrame);
        assert_eq!(notices.state.lock().unwrap().bytes, 0);
    }

    #[test]
    fn a_full_queue_says_busy_and_takes_again_once_it_was_read() {
        let notices = Notices::default();
        let half = NOTICE_BYTES_MAX / 2;
        let bytes = vec![0u8; usize::try_from(half).unwrap()];
        notices.put(&sender(), 0, 1, half, vec![], bytes.clone()).unwrap();
        notices.put(&sender(), 0, 1, half, vec![], bytes.clone()).unwrap();
        assert_eq!(notices.put(&sender(), 0, 1, 1, vec![], vec![1]).unwrap_err().code, Code::Busy);
        assert_eq!(notices.take(now()).len(), 2);
        notices.put(&sender(), 0, 1, half, vec![], bytes).unwrap();
    }
}
