//! How things end before their time: lanes that broke, deadlines that passed, transfers taken back, links given up.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use weft_transport::{Forgotten, TransportError};
use weft_wire::{Code, Word};

use crate::Failure;
use crate::carrying::{ATTEMPTS_MAX, requeue};
use crate::moved::reason;
use crate::piece::Direction;
use crate::progress::{After, Command, Core};
use crate::track::{Going, Pending, Saying, Slot, WORDS};
use crate::transfer::{Status, Transfer};

impl Core {
    /// A lane is of no use any more: what was on it is asked again, elsewhere or later.
    pub fn lane_broke(&mut self, number: u64, slot: usize, error: &TransportError) {
        let now = Instant::now();
        let Some(track) = self.tracks.get_mut(&number) else { return };
        let Slot::Up(mut up) = std::mem::replace(&mut track.slots[slot], Slot::Idle) else { return };
        if let Some((descriptor, _)) = up.lane.driven.readiness() {
            let _ = self.poller.remove(descriptor);
        }
        if up.lane.driven.transport() != "tcp" {
            track.link.troubled(reason(error));
        }
        up.lane.driven.close();
        let mut going: Vec<(u64, Going)> = Vec::new();
        let mut failures = Vec::new();
        for (id, pending) in up.pending.drain() {
            match pending {
                Pending::Piece(mut piece) => {
                    piece.attempts += 1;
                    if piece.direction == Direction::Write {
                        track.link.fence();
                    }
                    if piece.attempts < ATTEMPTS_MAX {
                        going.push((id, piece));
                    } else {
                        failures.push(piece.job);
                    }
                }
                Pending::Open { .. } => {}
                Pending::Word => track.speaking = None,
            }
        }
        going.sort_by_key(|(id, _)| *id);
        let parked = up.parked.drain().flat_map(|(_, parked)| parked);
        let again: Vec<Going> = going.into_iter().map(|(_, piece)| piece).chain(parked).collect();
        let idle = again.is_empty() && track.words.is_empty();
        requeue(track, again);
        if slot == WORDS && idle && !self.matching.of_link(number).is_empty() {
            // Somebody waits to be sent something: whether the peer still lives is to be found out.
            track.probe = true;
        }
        if track.is_busy() {
            track.rest(now);
            self.busy.insert(number);
        }
        let failure = Failure::of(error);
        for job in failures {
            self.fail(job, Status::Failed(failure.clone()));
        }
    }

    /// Ends a transfer that is under way: its deadline passed while it was `doing` something, or it was cancelled.
    pub fn give_up(&mut self, id: u64, doing: Option<&str>) {
        let status = |peer: &str| match doing {
            Some(doing) => Status::Failed(Failure::timed_out(peer, doing)),
            None => Status::Cancelled,
        };
        if let Some(job) = self.jobs.get(&id) {
            let peer = self.tracks.get(&job.link).map_or("", |track| &track.link.peer.name);
            let status = status(peer);
            self.fail(id, status);
            return;
        }
        if let Some(send) = self.matching.take_waiting(id) {
            let peer = &send.link.peer.name;
            let doing = doing.map(|_| "waiting for a receive to be posted");
            let status = match doing {
                Some(doing) => Status::Failed(Failure::timed_out(peer, doing)),
                None => Status::Cancelled,
            };
            send.transfer.end(status);
            return;
        }
        if let Some(receive) = self.matching.take_receive(id, None) {
            let peer = receive.link.peer.name.clone();
            let link = Arc::clone(&receive.link);
            let status = match doing {
                Some(_) => Status::Failed(Failure::timed_out(&peer, "waiting for something to be sent")),
                None => Status::Cancelled,
            };
            self.unsay(id, doing.is_some());
            self.end_receive(&receive, status);
            let deadline = link.connect_deadline();
            self.say(&link, vec![Word::Withdrawn { receive: id }], None, None, deadline);
            return;
        }
        for said in self.unsay(id, doing.is_some()) {
            said.end(status(""));
        }
        // A word of nobody's that could not be said in time is dropped: nobody waits for it.
        let now = Instant::now();
        for track in self.tracks.values_mut() {
            if track.speaking.is_none() {
                track.words.retain(|saying| saying.transfer.is_some() || saying.deadline > now);
            }
        }
    }

    /// Takes a transfer's words back. The transfers whose words they were.
    fn unsay(&mut self, id: u64, timed_out: bool) -> Vec<Arc<Transfer>> {
        let mut found = Vec::new();
        let mut torn = Vec::new();
        for (number, track) in &mut self.tracks {
            let is_its = |saying: &Saying| saying.transfer.as_ref().is_some_and(|transfer| transfer.id() == id);
            if !track.words.iter().any(is_its) {
                continue;
            }
            if track.words.front().is_some_and(is_its)
                && let Some(speaking) = track.speaking.take()
                && let Some(up) = track.up(WORDS)
            {
                up.pending.remove(&speaking);
                if up.lane.driven.forget(speaking) == Forgotten::Torn || timed_out {
                    torn.push(*number);
                }
            } else if track.speaking.is_some() && timed_out {
                // The one before it was not answered all this time, and may have nobody left who would look.
                torn.push(*number);
            }
            let (its, others): (VecDeque<Saying>, VecDeque<Saying>) = track.words.drain(..).partition(is_its);
            track.words = others;
            found.extend(its.into_iter().filter_map(|saying| saying.transfer).take(1));
        }
        for number in torn {
            let peer = self.tracks.get(&number).map_or_else(String::new, |track| track.link.peer.name.clone());
            self.lane_broke(number, WORDS, &TransportError::TimedOut { peer, doing: "giving up a word" });
        }
        found
    }

    /// Ends a job before its time. Its memory is the caller's again once its transfer has ended.
    pub fn fail(&mut self, id: u64, status: Status) {
        let Some(job) = self.jobs.remove(&id) else { return };
        let status = match (status, &job.begins) {
            (Status::Failed(failure), Some((advert, offset))) => Status::Failed(failure.within(advert, *offset)),
            (status, _) => status,
        };
        let timed_out = matches!(&status, Status::Failed(failure) if failure.code == "timed_out");
        let mut torn = Vec::new();
        if let Some(track) = self.tracks.get_mut(&job.link) {
            track.queue.retain(|going| going.job != id);
            for (index, slot) in track.slots.iter_mut().enumerate() {
                let Slot::Up(up) = slot else { continue };
                let mut waits = false;
                for parked in up.parked.values_mut() {
                    let before = parked.len();
                    parked.retain(|going| {
                        if going.job == id {
                            up.bytes -= going.piece.length;
                        }
                        going.job != id
                    });
                    up.pieces -= before - parked.len();
                    waits |= before > parked.len();
                }
                let its: Vec<u64> = up
                    .pending
                    .iter()
                    .filter(|(_, pending)| matches!(pending, Pending::Piece(going) if going.job == id))
                    .map(|(submission, _)| *submission)
                    .collect();
                for submission in its {
                    if let Some(Pending::Piece(going)) = up.pending.remove(&submission) {
                        up.pieces -= 1;
                        up.bytes -= going.piece.length;
                        let forgotten = up.lane.driven.forget(submission);
                        if going.direction == Direction::Write && forgotten != Forgotten::Unsent {
                            // What is on its way may still land, and must not after anything newer.
                            track.link.fence();
                        }
                        waits |= forgotten == Forgotten::Sent;
                        if forgotten == Forgotten::Torn {
                            torn.push(index);
                        }
                    }
                }
                if waits && timed_out {
                    // What was not answered in time may never be, and everything behind it waits for it.
                    torn.push(index);
                }
            }
            self.busy.insert(job.link);
        }
        for slot in torn {
            let peer = self.tracks.get(&job.link).map_or_else(String::new, |track| track.link.peer.name.clone());
            self.lane_broke(job.link, slot, &TransportError::TimedOut { peer, doing: "giving up a transfer" });
        }
        if let (After::Landed { send, .. }, Status::Failed(failure)) = (&job.after, &status)
            && failure.is(Code::ExtentLost)
            && Instant::now() < send.transfer.deadline()
            && let After::Landed { send, .. } = job.after
        {
            // The receive was taken back: the send waits for the next one.
            if let Some((send, credit)) = self.matching.send_again(send) {
                self.mailbox.put(Command::Met(send, credit));
            }
            return;
        }
        job.transfer.end(status);
    }

    /// Ends everything of one link.
    pub fn fail_all(&mut self, number: u64, failure: &Failure) {
        let jobs: Vec<u64> = self.jobs.iter().filter(|(_, job)| job.link == number).map(|(id, _)| *id).collect();
        for id in jobs {
            // A send is not matched again: there is nobody any more who could post.
            if let Some(job) = self.jobs.get_mut(&id) {
                job.after = After::End;
            }
            self.fail(id, Status::Failed(failure.clone()));
        }
        for id in self.matching.of_link(number) {
            if let Some(send) = self.matching.take_waiting(id) {
                send.transfer.end(Status::Failed(failure.clone()));
            } else if let Some(receive) = self.matching.take_receive(id, None) {
                self.end_receive(&receive, Status::Failed(failure.clone()));
            }
        }
        if let Some(track) = self.tracks.get_mut(&number) {
            track.speaking = None;
            for said in track.words.drain(..).filter_map(|saying| saying.transfer) {
                said.end(Status::Failed(failure.clone()));
            }
            if let Some(up) = track.up(WORDS) {
                up.pending.retain(|_, pending| !matches!(pending, Pending::Word));
            }
        }
    }

    /// Ends a link's lanes.
    pub fn forget_track(&mut self, number: u64) {
        if let Some(mut track) = self.tracks.remove(&number) {
            for slot in &mut track.slots {
                if let Slot::Up(up) = slot {
                    if let Some((descriptor, _)) = up.lane.driven.readiness() {
                        let _ = self.poller.remove(descriptor);
                    }
                    up.lane.driven.close();
                }
            }
        }
        self.busy.remove(&number);
    }
}
