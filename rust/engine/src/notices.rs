//! Notifications that arrived, until somebody takes them.

use std::collections::{HashMap, VecDeque};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use weft_wire::{Code, NOTICE_BYTES_MAX, Refusal};

/// Notifications kept; past it a sender is told to come back.
const NOTICES_MAX: usize = 1024;
/// Links with a notification of which some parts are here.
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
    /// By the link that sends it: a process may have several to here, and each sends its parts in their order.
    partial: HashMap<u64, Partial>,
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

    fn give_up(&mut self, writer: u64) {
        if let Some(begun) = self.partial.remove(&writer) {
            self.bytes -= begun.total;
        }
    }
}

/// Which part of which notification, from whom.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Who sends it, as proved in the handshake.
    pub sender: &'a str,
    /// Over which of its links.
    pub writer: u64,
    /// Which part, from zero.
    pub part: u32,
    /// How many there are.
    pub parts: u32,
    /// Bytes over all parts.
    pub total: u64,
}

/// A bounded queue of them, in order of arrival.
#[derive(Default)]
pub struct Notices {
    state: Mutex<State>,
    arrived: Condvar,
}

impl Notices {
    /// Takes a part in; parts of one link come in their order.
    ///
    /// # Errors
    /// `Busy` when there is no room, `BadFrame` for a part that does not follow the last.
    pub fn put(&self, arrived: Part<'_>, name: Vec<u8>, bytes: Vec<u8>) -> Result<(), Refusal> {
        let Part { sender, writer, part, parts, total } = arrived;
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if part == 0 {
            // A sender that begins anew has given up what it began before.
            state.give_up(writer);
            state.give_up_silent();
            let crowded = parts > 1 && state.partial.len() == PARTIAL_MAX;
            if state.whole.len() >= NOTICES_MAX || state.bytes + total > NOTICE_BYTES_MAX || crowded {
                return Err(Refusal::new(Code::Busy, "notifications are not taken here; send again later"));
            }
            // Room is taken for the whole with the first part.
            state.bytes += total;
            state.partial.insert(writer, Partial { next: 0, total, content: Vec::new(), heard_at: Instant::now() });
        }
        let begun = state.partial.get_mut(&writer).filter(|begun| {
            begun.next == part && begun.total == total && (begun.content.len() + bytes.len()) as u64 <= total
        });
        let Some(begun) = begun else {
            state.give_up(writer);
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
            state.give_up(writer);
            return Err(Refusal::new(Code::BadFrame, "the parts of a notification do not add up to its size"));
        }
        let content = state.partial.remove(&writer).map(|begun| begun.content).unwrap_or_default();
        state.whole.push_back(Notice { sender: sender.to_owned(), name, bytes: content });
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

    fn part(part: u32, parts: u32, total: u64) -> Part<'static> {
        Part { sender: "a", writer: 1, part, parts, total }
    }

    fn now() -> Instant {
        Instant::now()
    }

    #[test]
    fn parts_become_one_notification_and_room_is_given_back() {
        let notices = Notices::default();
        for round in 0..3 {
            notices.put(part(0, 2, 5), b"n".to_vec(), b"abc".to_vec()).unwrap();
            assert!(notices.take(now()).is_empty(), "round {round}: a part is no notification");
            notices.put(part(1, 2, 5), b"n".to_vec(), b"de".to_vec()).unwrap();
            let taken = notices.take(now());
            assert_eq!((taken.len(), taken[0].bytes.as_slice()), (1, &b"abcde"[..]));
        }
        assert_eq!(notices.state.lock().unwrap().bytes, 0);
    }

    #[test]
    fn parts_of_two_links_of_one_sender_are_two_notifications() {
        let notices = Notices::default();
        let other = |part, parts, total| Part { writer: 2, ..self::part(part, parts, total) };
        notices.put(part(0, 2, 4), b"one".to_vec(), b"ab".to_vec()).unwrap();
        notices.put(other(0, 2, 4), b"two".to_vec(), b"yz".to_vec()).unwrap();
        notices.put(part(1, 2, 4), b"one".to_vec(), b"cd".to_vec()).unwrap();
        notices.put(other(1, 2, 4), b"two".to_vec(), b"xw".to_vec()).unwrap();
        let taken: Vec<_> = notices.take(now()).into_iter().map(|notice| (notice.name, notice.bytes)).collect();
        assert_eq!(taken, [(b"one".to_vec(), b"abcd".to_vec()), (b"two".to_vec(), b"yzxw".to_vec())]);
        assert_eq!(notices.state.lock().unwrap().bytes, 0);
    }

    #[test]
    fn a_part_out_of_order_and_a_sum_that_is_wrong_are_refused() {
        let notices = Notices::default();
        assert_eq!(notices.put(part(1, 2, 5), vec![], vec![1]).unwrap_err().code, Code::BadFrame);
        notices.put(part(0, 2, 5), vec![], vec![1]).unwrap();
        assert_eq!(notices.put(part(1, 2, 5), vec![], vec![2]).unwrap_err().code, Code::BadFrame);
        assert_eq!(notices.state.lock().unwrap().bytes, 0);
    }

    #[test]
    fn a_full_queue_says_busy_and_takes_again_once_it_was_read() {
        let notices = Notices::default();
        let half = NOTICE_BYTES_MAX / 2;
        let bytes = vec![0u8; usize::try_from(half).unwrap()];
        notices.put(part(0, 1, half), vec![], bytes.clone()).unwrap();
        notices.put(part(0, 1, half), vec![], bytes.clone()).unwrap();
        assert_eq!(notices.put(part(0, 1, 1), vec![], vec![1]).unwrap_err().code, Code::Busy);
        assert_eq!(notices.take(now()).len(), 2);
        notices.put(part(0, 1, half), vec![], bytes).unwrap();
    }
}
