//! What the engine's thread keeps of one link: its lanes, and what waits for them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weft_sys::event::Interest;
use weft_wire::{Advert, Word};

use crate::link::{Link, OpenLane};
use crate::piece::{Direction, Piece};
use crate::transfer::Transfer;

/// Pieces one lane may have outstanding: enough small ones to fill the pipe, bounded by bytes for large ones.
pub const WINDOW_PIECES_MAX: usize = 64;
/// Bytes one lane may have outstanding.
pub const WINDOW_BYTES_MAX: u64 = 8 << 20;
/// What one request of an awaited transfer carries: large enough to hide the turn-round, small enough that lanes share.
pub const PIECE_BYTES_MAX: u64 = 2 << 20;
/// First pause after a lane broke; it doubles.
const PAUSE_FIRST: Duration = Duration::from_millis(10);
/// Longest pause: a path that comes back is noticed within it.
const PAUSE_MAX: Duration = Duration::from_millis(250);
/// How long a peer that refuses connections is tried: its process is gone, and the next one is another life.
pub const UNREACHABLE_MAX: Duration = Duration::from_secs(1);
/// The lane of words. It is always TCP; the others are of the best transport there is.
pub const WORDS: usize = 0;

/// A piece on its way, and whose it is.
pub struct Going {
    /// The transfer's number.
    pub job: u64,
    /// Which way.
    pub direction: Direction,
    /// What.
    pub piece: Piece,
    /// How often it was submitted before.
    pub attempts: u32,
}

/// What a submission on a lane is.
pub enum Pending {
    /// A piece.
    Piece(Going),
    /// An advert being opened, under an epoch.
    Open {
        /// Which.
        advert: Arc<Advert>,
        /// Under which epoch.
        epoch: u64,
    },
    /// The first of the track's words.
    Word,
}

/// A lane that is up.
pub struct Up {
    /// The lane, and what is open on it.
    pub lane: OpenLane,
    /// Submissions by number.
    pub pending: HashMap<u64, Pending>,
    /// Pieces that wait for an advert to be opened, by its number.
    pub parked: HashMap<u64, Vec<Going>>,
    /// Pieces outstanding or parked.
    pub pieces: usize,
    /// Their bytes.
    pub bytes: u64,
    /// What it is watched for.
    pub interest: Interest,
    /// Which of the link's ways it was made for.
    pub way: u64,
}

impl Up {
    /// Whether it may take a piece of this size.
    pub fn has_room(&self, bytes: u64) -> bool {
        self.pieces == 0 || (self.pieces < WINDOW_PIECES_MAX && self.bytes + bytes <= WINDOW_BYTES_MAX)
    }
}

/// A lane as the track knows it.
pub enum Slot {
    /// Nobody has asked for it.
    Idle,
    /// A thread is connecting it.
    Dialing,
    /// It is up.
    Up(Box<Up>),
}

/// Something to be said to the peer.
pub struct Saying {
    /// What.
    pub word: Word,
    /// Its place among what this link says; given when it is first sent.
    pub sequence: Option<u64>,
    /// Whose it is, if somebody's.
    pub transfer: Option<Arc<Transfer>>,
    /// The bytes its transfer is done with, when it ends with this.
    pub ends: Option<u64>,
    /// Until when it is said.
    pub deadline: Instant,
}

/// One link's share of the thread's work.
pub struct Track {
    /// The link.
    pub link: Arc<Link>,
    /// The lanes: words first, then data.
    pub slots: Vec<Slot>,
    /// Pieces without a lane.
    pub queue: VecDeque<Going>,
    /// What is to be said; the first may be on its way.
    pub words: VecDeque<Saying>,
    /// The submission of the first.
    pub speaking: Option<u64>,
    /// The number of the next word.
    pub sequence_next: u64,
    /// Nothing is tried before.
    pub pause_until: Option<Instant>,
    /// Whether somebody waits for the peer without asking anything: whether it lives is to be found out.
    pub probe: bool,
    pause: Duration,
    /// Handshakes in a row that arrived damaged.
    pub damaged: u32,
    /// Since when it refuses connections.
    pub unreachable_since: Option<Instant>,
}

impl Track {
    /// Nothing is under way; `data_lanes` may come up.
    pub fn new(link: Arc<Link>, data_lanes: usize) -> Self {
        Self {
            link,
            slots: (0..=data_lanes).map(|_| Slot::Idle).collect(),
            queue: VecDeque::new(),
            words: VecDeque::new(),
            speaking: None,
            sequence_next: 1,
            pause_until: None,
            probe: false,
            pause: PAUSE_FIRST,
            damaged: 0,
            unreachable_since: None,
        }
    }

    /// Puts pieces of a job behind what waits.
    pub fn queue(&mut self, job: u64, direction: Direction, pieces: Vec<Piece>) {
        self.queue.extend(pieces.into_iter().map(|piece| Going { job, direction, piece, attempts: 0 }));
    }

    /// Whether anything waits or is outstanding.
    pub fn is_busy(&self) -> bool {
        !self.queue.is_empty()
            || !self.words.is_empty()
            || self.probe
            || self.slots.iter().any(|slot| matches!(slot, Slot::Up(up) if up.lane.driven.outstanding() > 0))
    }

    /// A lane that is up.
    pub fn up(&mut self, index: usize) -> Option<&mut Up> {
        match self.slots.get_mut(index) {
            Some(Slot::Up(up)) => Some(up),
            _ => None,
        }
    }

    /// Nothing is tried for a while, longer each time.
    pub fn rest(&mut self, now: Instant) {
        self.pause_until = Some(now + self.pause);
        self.pause = (self.pause * 2).min(PAUSE_MAX);
    }

    /// Something worked: the next pause is short again.
    pub fn worked(&mut self) {
        self.pause = PAUSE_FIRST;
        self.unreachable_since = None;
        self.damaged = 0;
    }
}
