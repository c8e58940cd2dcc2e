//! What becomes of pieces and words: given to lanes, finished, or asked again. `ending` is how they fail.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use weft_sys::event::Interest;
use weft_transport::{Driven, Finished, Outcome, Payload, Submission, TransportError};
use weft_wire::{Code, Flags, Header, Kind, Refusal, Word};

use crate::Failure;
use crate::link::{Known, Link, OpenLane};
use crate::matching::{Credit, Send, key};
use crate::piece::{Direction, Inquiry, Part, Piece, cut, no_ranges};
use crate::progress::{After, Command, Core, Job, LANES_PER_TOKEN};
use crate::track::{Going, PIECE_BYTES_MAX, Pending, Saying, Slot, Track, UNREACHABLE_MAX, Up, WORDS};
use crate::transfer::{Status, Transfer};

/// Handshakes in a row that may arrive damaged before a peer counts as somebody else.
const DAMAGED_MAX: u32 = 4;
/// Times a piece is submitted before what stands in its way counts as there to stay.
pub const ATTEMPTS_MAX: u32 = 16;

impl Core {
    /// Takes a transfer on, of pieces that are written once the inquiry is answered, if there is one.
    pub fn begin(
        &mut self,
        transfer: Arc<Transfer>,
        link: &Arc<Link>,
        direction: Direction,
        pieces: Vec<Piece>,
        inquiry: Option<Inquiry>,
    ) {
        let bytes = pieces.iter().map(|piece| piece.length).sum();
        let begins = pieces.first().map(|piece| (Arc::clone(&piece.advert), piece.offset));
        let job = Job {
            transfer,
            link: link.number,
            left: 0,
            held: Vec::new(),
            inquiry: None,
            begins,
            bytes,
            after: After::End,
        };
        match inquiry {
            Some(inquiry) => {
                let asked = inquiry.pieces.clone();
                self.start(Job { held: pieces, inquiry: Some(inquiry), ..job }, link, Direction::Read, asked);
            }
            None => self.start(job, link, direction, pieces),
        }
    }

    /// Takes a job on, of these pieces first.
    fn start(&mut self, mut job: Job, link: &Arc<Link>, direction: Direction, pieces: Vec<Piece>) {
        if job.transfer.has_ended() {
            return;
        }
        self.watch(&job.transfer);
        job.left = pieces.len();
        let id = job.transfer.id();
        self.jobs.insert(id, job);
        self.track(link).queue(id, direction, pieces);
        self.busy.insert(link.number);
    }

    /// Takes words on, after those that are there.
    pub fn say(
        &mut self,
        link: &Arc<Link>,
        words: Vec<Word>,
        transfer: Option<Arc<Transfer>>,
        ends: Option<u64>,
        deadline: Instant,
    ) {
        if let Some(transfer) = &transfer
            && ends.is_some()
        {
            self.watch(transfer);
        }
        let track = self.track(link);
        let count = words.len();
        for (index, word) in words.into_iter().enumerate() {
            let ends = if index + 1 == count { ends } else { None };
            track.words.push_back(Saying { word, sequence: None, transfer: transfer.clone(), ends, deadline });
        }
        self.busy.insert(link.number);
    }

    /// A send and its receive are together.
    pub fn met(&mut self, send: Send, credit: Credit) {
        let length = send.span.len() as u64;
        if send.transfer.has_ended() {
            self.met_again(&send, credit);
            return;
        }
        if length > credit.advert.size_bytes {
            let peer = send.link.peer.name.clone();
            let detail =
                format!("{length} bytes were sent to a receive of {}; post a larger one", credit.advert.size_bytes);
            send.transfer.end(Status::Failed(Failure::new("too_large", &peer, detail)));
            self.met_again(&send, credit);
            return;
        }
        let parts = [Part { advert: Arc::clone(&credit.advert), offset: 0, span: send.span }];
        let pieces = cut(&parts, PIECE_BYTES_MAX);
        let link = Arc::clone(&send.link);
        let job = Job {
            transfer: Arc::clone(&send.transfer),
            link: link.number,
            left: 0,
            held: Vec::new(),
            inquiry: None,
            begins: None,
            bytes: length,
            after: After::Landed { receive: credit.receive, send },
        };
        self.start(job, &link, Direction::Write, pieces);
    }

    /// A credit that was not used goes to the next send.
    fn met_again(&mut self, send: &Send, credit: Credit) {
        if let Some((next, credit)) = self.matching.put_back(&key(&send.link), send.tag, credit) {
            self.mailbox.put(Command::Met(next, credit));
        }
    }

    fn track(&mut self, link: &Arc<Link>) -> &mut Track {
        let data_lanes = self.data_lanes;
        self.tracks.entry(link.number).or_insert_with(|| Track::new(Arc::clone(link), data_lanes))
    }

    /// Gives what waits to lanes that have room, and has lanes connected where they lack.
    pub fn feed(&mut self, number: u64, now: Instant) {
        let Some(track) = self.tracks.get_mut(&number) else { return };
        if track.pause_until.is_some_and(|pause| now < pause) {
            return;
        }
        track.pause_until = None;
        let ways = track.link.ways();
        for slot in WORDS + 1..track.slots.len() {
            // There is another way by now: a lane with nothing on it makes room for one that takes it.
            let stale = track.up(slot).is_some_and(|up| up.way != ways && up.lane.driven.outstanding() == 0);
            if stale && let Slot::Up(mut up) = std::mem::replace(&mut track.slots[slot], Slot::Idle) {
                if let Some((descriptor, _)) = up.lane.driven.readiness() {
                    let _ = self.poller.remove(descriptor);
                }
                up.lane.driven.close();
            }
        }
        self.feed_words(number);
        self.feed_pieces(number);
    }

    fn feed_words(&mut self, number: u64) {
        let id = self.submission_next;
        let Some(track) = self.tracks.get_mut(&number) else { return };
        if track.speaking.is_some() || (track.words.is_empty() && !track.probe) {
            return;
        }
        if !matches!(track.slots[WORDS], Slot::Up(_)) {
            self.dial(number, WORDS);
            return;
        }
        track.probe = false;
        let writer = track.link.writer;
        let Some(saying) = track.words.front_mut() else { return };
        let sequence = *saying.sequence.get_or_insert_with(|| {
            track.sequence_next += 1;
            track.sequence_next - 1
        });
        if let Some(transfer) = &saying.transfer {
            transfer.start();
        }
        let payload = saying.word.encode(writer, sequence);
        let mut header = Header::new(Kind::Message, 0);
        header.tag = saying.word.topic();
        header.flags = Flags::NONE;
        header.length = payload.len() as u64;
        let submission =
            Submission { id, header, ranges: no_ranges(), payload: Payload::Owned(payload), into: Vec::new() };
        track.speaking = Some(id);
        let up = track.up(WORDS).expect("looked at above");
        up.pending.insert(id, Pending::Word);
        up.lane.driven.submit(submission);
        self.submission_next += 1;
    }

    fn feed_pieces(&mut self, number: u64) {
        loop {
            let id = self.submission_next;
            let Some(track) = self.tracks.get_mut(&number) else { return };
            let Some(front) = track.queue.front() else { return };
            let Some(job) = self.jobs.get(&front.job) else {
                track.queue.pop_front();
                continue;
            };
            let length = front.piece.length;
            let ways = track.link.ways();
            let lane = (WORDS + 1..track.slots.len())
                .filter_map(|slot| match &track.slots[slot] {
                    Slot::Up(up) if up.way == ways && up.has_room(length) => Some((up.bytes, slot)),
                    _ => None,
                })
                .min();
            let Some((_, slot)) = lane else {
                // All that are up are full, or none is: one more at a time.
                let dialing = track.slots[WORDS + 1..].iter().any(|slot| matches!(slot, Slot::Dialing));
                let idle = (WORDS + 1..track.slots.len()).find(|slot| matches!(track.slots[*slot], Slot::Idle));
                if let (false, Some(idle)) = (dialing, idle) {
                    self.dial(number, idle);
                }
                return;
            };
            job.transfer.start();
            let going = track.queue.pop_front().expect("looked at above");
            let link = Arc::clone(&track.link);
            let up = track.up(slot).expect("chosen above");
            up.pieces += 1;
            up.bytes += length;
            let buffer = going.piece.advert.buffer;
            let epoch = link.epoch();
            if let Some(handle) = up.lane.handle(&going.piece.advert, going.direction, epoch) {
                up.lane.driven.submit(going.piece.submission(id, going.direction, handle));
                up.pending.insert(id, Pending::Piece(going));
                self.submission_next += 1;
            } else if let Some(parked) = up.parked.get_mut(&buffer) {
                parked.push(going);
            } else {
                up.lane.driven.submit(link.opening(id, &going.piece.advert, epoch));
                up.pending.insert(id, Pending::Open { advert: Arc::clone(&going.piece.advert), epoch });
                up.parked.insert(buffer, vec![going]);
                self.submission_next += 1;
            }
        }
    }

    /// Has a thread connect a lane.
    fn dial(&mut self, number: u64, slot: usize) {
        let Some(track) = self.tracks.get_mut(&number) else { return };
        if !matches!(track.slots[slot], Slot::Idle) {
            return;
        }
        track.slots[slot] = Slot::Dialing;
        let (link, mailbox) = (Arc::clone(&track.link), Arc::clone(&self.mailbox));
        let spawned = std::thread::Builder::new().name("weft-connect".to_owned()).spawn(move || {
            let deadline = link.connect_deadline();
            // Read before: what comes up after the best way has changed is of the earlier one.
            let way = link.ways();
            let result = if slot == WORDS { link.dial_tcp(deadline) } else { link.dial(deadline) };
            mailbox.put(Command::Dialed { link: link.number, slot, way, result });
        });
        if let Err(cause) = spawned {
            let peer = track.link.peer.name.clone();
            self.mailbox.put(Command::Dialed {
                link: number,
                slot,
                way: track.link.ways(),
                result: Err(TransportError::Unreachable { peer, cause }),
            });
        }
    }

    /// A lane came up, or did not.
    pub fn dialed(&mut self, number: u64, slot: usize, way: u64, result: Result<Box<dyn Driven>, TransportError>) {
        let now = Instant::now();
        let Some(track) = self.tracks.get_mut(&number) else { return };
        track.slots[slot] = Slot::Idle;
        match result {
            Ok(driven) => {
                let mut interest = Interest::NONE;
                if let Some((descriptor, wanted)) = driven.readiness() {
                    interest = wanted;
                    let token = token(number, slot);
                    if self.poller.add(descriptor, token, wanted).is_err() {
                        // Out of room in the kernel: as if it had not come up.
                        track.rest(now);
                        return;
                    }
                }
                track.worked();
                track.slots[slot] = Slot::Up(Box::new(Up {
                    lane: OpenLane::new(driven),
                    pending: HashMap::new(),
                    parked: HashMap::new(),
                    pieces: 0,
                    bytes: 0,
                    interest,
                    way,
                }));
            }
            Err(error) => {
                let failure = Failure::of(&error);
                let refused = matches!(error, TransportError::Unreachable { .. });
                let since = *track.unreachable_since.get_or_insert(now);
                if !refused {
                    track.unreachable_since = None;
                }
                track.rest(now);
                // A handshake that was damaged is begun anew, a few times.
                let damaged = failure.is(Code::BadFrame) && track.damaged < DAMAGED_MAX;
                track.damaged += u32::from(damaged);
                if !(failure.temporary || damaged) || (refused && now.duration_since(since) >= UNREACHABLE_MAX) {
                    track.unreachable_since = None;
                    track.probe = false;
                    // Whatever link leads there: nobody waits any more for what is sent to its receives.
                    self.matching.forget(&key(&track.link));
                    self.fail_all(number, &failure);
                }
            }
        }
    }

    /// Moves what a track's lanes can move. Whether anything did.
    pub fn advance(&mut self, number: u64) -> bool {
        let slots = self.tracks.get(&number).map_or(0, |track| track.slots.len());
        let mut moved = false;
        for slot in 0..slots {
            let outstanding = match self.tracks.get(&number).map(|track| &track.slots[slot]) {
                Some(Slot::Up(up)) => up.lane.driven.outstanding() > 0,
                _ => false,
            };
            if outstanding {
                moved |= self.advance_slot(number, slot);
            }
        }
        moved
    }

    /// Moves what one lane can move.
    pub fn advance_slot(&mut self, number: u64, slot: usize) -> bool {
        let Some(track) = self.tracks.get_mut(&number) else { return false };
        let Some(up) = track.up(slot) else { return false };
        let mut finished = Vec::new();
        let advanced = up.lane.driven.advance(&mut finished);
        for Finished { id, outcome } in finished {
            self.finished(number, slot, id, outcome);
        }
        match advanced {
            Ok(moved) => {
                self.watch_lane(number, slot);
                moved
            }
            Err(error) => {
                self.lane_broke(number, slot, &error);
                true
            }
        }
    }

    /// Has the kernel report what the lane waits for now.
    fn watch_lane(&mut self, number: u64, slot: usize) {
        let Some(up) = self.tracks.get_mut(&number).and_then(|track| track.up(slot)) else { return };
        if let Some((descriptor, wanted)) = up.lane.driven.readiness()
            && wanted != up.interest
            && self.poller.change(descriptor, token(number, slot), wanted).is_ok()
        {
            up.interest = wanted;
        }
    }

    fn finished(&mut self, number: u64, slot: usize, id: u64, outcome: Outcome) {
        let Some(track) = self.tracks.get_mut(&number) else { return };
        let Some(up) = track.up(slot) else { return };
        match up.pending.remove(&id) {
            None => {}
            Some(Pending::Piece(going)) => {
                up.pieces -= 1;
                up.bytes -= going.piece.length;
                match outcome {
                    Outcome::Done(..) => {
                        let transport = up.lane.carrier(id);
                        track.link.moved.add(transport, going.piece.length);
                        self.piece_done(going.job);
                    }
                    Outcome::Refused(refusal) => self.piece_refused(number, going, &refusal),
                }
            }
            Some(Pending::Open { advert, epoch }) => {
                let buffer = advert.buffer;
                let parked = up.parked.remove(&buffer).unwrap_or_default();
                up.pieces -= parked.len();
                up.bytes -= parked.iter().map(|going| going.piece.length).sum::<u64>();
                match outcome {
                    Outcome::Done(header, _) => {
                        up.lane.handles.insert(buffer, Known { advert, handle: header.handle, epoch });
                        requeue(track, parked);
                    }
                    Outcome::Refused(refusal) if refusal.code == Code::TooLarge => {
                        // The connection's table of handles is full: a fresh one has room.
                        requeue(track, parked);
                        let peer = track.link.peer.name.clone();
                        self.lane_broke(number, slot, &TransportError::Closed { peer });
                    }
                    Outcome::Refused(refusal) => {
                        for going in parked {
                            self.piece_refused(number, going, &refusal);
                        }
                    }
                }
                self.busy.insert(number);
            }
            Some(Pending::Word) => self.word_heard(number, outcome),
        }
    }

    fn piece_done(&mut self, id: u64) {
        let Some(job) = self.jobs.get_mut(&id) else { return };
        job.left -= 1;
        if job.left > 0 {
            return;
        }
        if !job.held.is_empty() {
            // Every owner said that it would take its part.
            let pieces = std::mem::take(&mut job.held);
            job.left = pieces.len();
            job.inquiry = None;
            let number = job.link;
            if let Some(track) = self.tracks.get_mut(&number) {
                track.queue(id, Direction::Write, pieces);
                self.busy.insert(number);
            }
            return;
        }
        let job = self.jobs.remove(&id).expect("looked at above");
        match job.after {
            After::End => {
                job.transfer.end(Status::Done(job.bytes));
            }
            After::Landed { receive, send } => {
                let word = Word::Landed { receive, length: job.bytes };
                let deadline = job.transfer.deadline();
                self.say(&send.link, vec![word], Some(job.transfer), Some(job.bytes), deadline);
            }
        }
    }

    fn piece_refused(&mut self, number: u64, mut going: Going, refusal: &Refusal) {
        let Some(track) = self.tracks.get_mut(&number) else { return };
        let fenced = refusal.code == Code::StaleGeneration && going.direction == Direction::Write;
        going.attempts += 1;
        // A frame that arrived damaged is sent again, over another connection: its peer ends this one.
        let again = refusal.code.temporary() || fenced || refusal.code == Code::BadFrame;
        if again && going.attempts < ATTEMPTS_MAX {
            if fenced {
                // A sibling lane broke: what was opened under an older epoch is opened again.
                for slot in &mut track.slots {
                    if let Slot::Up(up) = slot {
                        up.lane.handles.remove(&going.piece.advert.buffer);
                    }
                }
            } else {
                track.rest(Instant::now());
            }
            track.queue.push_front(going);
            self.busy.insert(number);
            return;
        }
        let failure =
            Failure::refused(&track.link.peer.name, refusal).at(&going.piece.advert.region(), going.piece.offset);
        self.fail(going.job, Status::Failed(failure));
    }

    fn word_heard(&mut self, number: u64, outcome: Outcome) {
        let Some(track) = self.tracks.get_mut(&number) else { return };
        track.speaking = None;
        match outcome {
            Outcome::Done(..) => {
                track.worked();
                if let Some(said) = track.words.pop_front()
                    && let (Some(transfer), Some(bytes)) = (said.transfer, said.ends)
                {
                    transfer.end(Status::Done(bytes));
                }
            }
            // Its receiver has no room: it is said again, until its deadline.
            Outcome::Refused(refusal) if refusal.code.temporary() || refusal.code == Code::BadFrame => {
                track.rest(Instant::now());
            }
            Outcome::Refused(refusal) => {
                let failure = Failure::refused(&track.link.peer.name, &refusal);
                if let Some(transfer) = track.words.pop_front().and_then(|said| said.transfer) {
                    self.fail(transfer.id(), Status::Failed(failure.clone()));
                    transfer.end(Status::Failed(failure));
                }
            }
        }
        self.busy.insert(number);
    }
}

/// Puts pieces back where they came from, before what came after them.
pub fn requeue(track: &mut Track, pieces: Vec<Going>) {
    for piece in pieces.into_iter().rev() {
        track.queue.push_front(piece);
    }
}

/// What the poller knows a lane by.
fn token(number: u64, slot: usize) -> u64 {
    1 + number * LANES_PER_TOKEN + slot as u64
}
