//! Which bytes of a stream lie where in the bounce buffer, and where the next ones go.
//!
//! The buffer is pages. The stream fills them one after the other, in the pool's order, and a page is filled again when
//! every slot that has a byte of it came back. Slots come back in order, so one number says how far: all before
//! `released` is free. A page can belong to two slots (the end of one message, the head of the next), and to a slot and to
//! bytes that nobody took yet; the number covers these too.
//!
//! What if slots do not come back? Then there is no room, the stream is not read, and its sender feels it: exhaustion is
//! back-pressure, never loss.

use crate::block::BOUNCE_BYTES_MAX;
use crate::slots::{Slot, SlotError, Slots};

/// Bytes of a page of the bounce buffer.
pub const PAGE_BYTES: usize = 4096;

/// In which order a pool's pages are filled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they lie: neighbours in the stream are neighbours in memory, and one copy serves many pages.
    InTurn,
    /// Shuffled from this seed, as a card's pages come: no two neighbours need to be neighbours.
    Shuffled(u64),
}

/// A piece of the bounce buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it begins.
    pub offset: u32,
    /// How many bytes it has.
    pub length: u32,
}

/// The book of one bounce buffer.
#[derive(Debug)]
pub struct Pool {
    pages: Vec<u32>,
    /// Stream positions: `released` ≤ `taken` ≤ `received`.
    released: u64,
    taken: u64,
    received: u64,
    /// Each slot's end in the stream.
    slots: Slots<u64>,
}

impl Pool {
    /// A pool of `bytes`, a whole number of pages.
    ///
    /// # Panics
    /// When `bytes` is not a whole number of pages, none, or more than a bounce buffer has.
    pub fn new(bytes: usize, order: Order) -> Self {
        assert!(
            bytes > 0 && bytes.is_multiple_of(PAGE_BYTES) && bytes as u64 <= BOUNCE_BYTES_MAX,
            "a bounce pool is a whole number of pages below 4 GiB"
        );
        let mut pages: Vec<u32> = (0..u32::try_from(bytes / PAGE_BYTES).expect("below 4 GiB")).collect();
        if let Order::Shuffled(seed) = order {
            let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
            for last in (1..pages.len()).rev() {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                pages.swap(last, usize::try_from(state % (last as u64 + 1)).expect("an index"));
            }
        }
        Self { pages, released: 0, taken: 0, received: 0, slots: Slots::default() }
    }

    /// Bytes of the bounce buffer.
    pub fn bytes(&self) -> u64 {
        self.pages.len() as u64 * PAGE_BYTES as u64
    }

    /// Bytes that can be received now. None is back-pressure.
    pub fn room(&self) -> u64 {
        self.bytes() - (self.received - self.released)
    }

    /// Bytes received that no slot holds yet.
    pub fn waiting(&self) -> u64 {
        self.received - self.taken
    }

    /// Slots that are held.
    pub fn held(&self) -> usize {
        self.slots.held()
    }

    /// Where the next `bytes` of the stream go, at most `pieces_max` pieces of it, neighbours joined.
    pub fn vacant(&self, bytes: u64, pieces_max: usize, into: &mut Vec<Piece>) {
        self.pieces(self.received, bytes.min(self.room()), pieces_max, into);
    }

    /// So many bytes were received into what [`Pool::vacant`] named.
    ///
    /// # Panics
    /// When there was no room for them.
    pub fn receive(&mut self, bytes: u64) {
        assert!(bytes <= self.room(), "more was received than there was room for");
        self.received += bytes;
    }

    /// Where the first `bytes` that wait lie, at most `pieces_max` pieces of it, neighbours joined.
    pub fn waiting_pieces(&self, bytes: u64, pieces_max: usize, into: &mut Vec<Piece>) {
        self.pieces(self.taken, bytes.min(self.waiting()), pieces_max, into);
    }

    /// Holds the first `bytes` that wait in a slot; nothing when all slots are held.
    ///
    /// # Panics
    /// When fewer wait.
    pub fn take(&mut self, bytes: u64) -> Option<Slot> {
        assert!(bytes <= self.waiting(), "more was taken than waits");
        let slot = self.slots.take(self.taken + bytes)?;
        self.taken += bytes;
        Some(slot)
    }

    /// Drops the first `bytes` that wait. They are free when everything before them is.
    ///
    /// # Panics
    /// When fewer wait.
    pub fn skip(&mut self, bytes: u64) {
        assert!(bytes <= self.waiting(), "more was skipped than waits");
        self.taken += bytes;
        match self.slots.youngest() {
            Some(end) => *end = self.taken,
            None => self.released = self.taken,
        }
    }

    /// Takes a slot back: its bytes may be overwritten from now on.
    ///
    /// # Errors
    /// When it is not the oldest one held; nothing changed then.
    pub fn give_back(&mut self, slot: Slot) -> Result<(), SlotError> {
        self.released = self.slots.give_back(slot)?;
        Ok(())
    }

    fn pieces(&self, start: u64, bytes: u64, pieces_max: usize, into: &mut Vec<Piece>) {
        let (mut at, end) = (start, start + bytes);
        let first = into.len();
        while at < end {
            let index = usize::try_from(at / PAGE_BYTES as u64 % self.pages.len() as u64).expect("an index");
            let within = u32::try_from(at % PAGE_BYTES as u64).expect("inside a page");
            let offset = self.pages[index] * PAGE_BYTES as u32 + within;
            let length = (PAGE_BYTES as u32 - within).min(u32::try_from(end - at).unwrap_or(u32::MAX));
            at += u64::from(length);
            if let Some(last) = into[first..].last_mut()
                && last.offset + last.length == offset
            {
                last.length += length;
            } else if into.len() - first == pieces_max {
                return;
            } else {
                into.push(Piece { offset, length });
            }
        }
    }
}
