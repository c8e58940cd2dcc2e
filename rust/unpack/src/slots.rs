//! What is held of a bounce buffer, given back in the order in which it was taken.
//!
//! Whoever fills the buffer (a ring of pages here, the kernel's page tokens elsewhere) reuses memory in that order; a slot
//! that came back early would hand out bytes that an older one still needs. So the order is checked, not assumed: a slot
//! given back early, twice or never taken is an error, and nothing changes.

use std::collections::VecDeque;
use std::fmt;

/// Most slots that are held at a time: what NCCL's queue has, and at 4 MiB each more than a fast network fills in a
/// millisecond.
pub const SLOTS_MAX: usize = 16;

/// A slot's number; numbers are never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(u64);

impl Slot {
    /// The slot with this number, as it came back from a caller.
    pub const fn from_number(number: u64) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

/// Why a slot was not taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotError {
    /// An older slot is still held.
    OutOfOrder {
        /// What was given back.
        given: u64,
        /// What has to come first.
        oldest: u64,
    },
    /// It was given back before.
    Twice(u64),
    /// It was never taken.
    Never(u64),
}

impl fmt::Display for SlotError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfOrder { given, oldest } => {
                write!(
                    f,
                    "bounce slot {given} was given back before slot {oldest}; return slots in the order they came"
                )
            }
            Self::Twice(slot) => write!(f, "bounce slot {slot} was given back twice"),
            Self::Never(slot) => write!(f, "bounce slot {slot} was never taken"),
        }
    }
}

impl std::error::Error for SlotError {}

/// The slots that are held, each with what its owner needs to know when it comes back.
#[derive(Debug)]
pub struct Slots<T> {
    held: VecDeque<T>,
    /// The number of the oldest one held, or of the next one when none is.
    oldest: u64,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self { held: VecDeque::with_capacity(SLOTS_MAX), oldest: 0 }
    }
}

impl<T> Slots<T> {
    /// Takes a slot that holds `what`; nothing when all are held, which is not an error but a reason to wait.
    pub fn take(&mut self, what: T) -> Option<Slot> {
        if self.held.len() == SLOTS_MAX {
            return None;
        }
        self.held.push_back(what);
        Some(Slot(self.oldest + self.held.len() as u64 - 1))
    }

    /// Takes a slot back and says what it held.
    ///
    /// # Errors
    /// When it is not the oldest one held.
    pub fn give_back(&mut self, slot: Slot) -> Result<T, SlotError> {
        let (given, oldest) = (slot.0, self.oldest);
        if given < oldest {
            return Err(SlotError::Twice(given));
        }
        if given - oldest >= self.held.len() as u64 {
            return Err(SlotError::Never(given));
        }
        if given > oldest {
            return Err(SlotError::OutOfOrder { given, oldest });
        }
        self.oldest += 1;
        Ok(self.held.pop_front().expect("at least one is held"))
    }

    /// What the youngest slot holds.
    pub fn youngest(&mut self) -> Option<&mut T> {
        self.held.back_mut()
    }

    /// How many are held.
    pub fn held(&self) -> usize {
        self.held.len()
    }
}
