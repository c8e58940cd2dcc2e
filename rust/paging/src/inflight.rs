//! Which pages are being fetched, so that equal faults are fetched once.
//!
//! A fetch is a *run* of up to 64 pages in a slot, owned by the thread that asked for it. A fault on a page of a run
//! joins it: the thread that owns the run wakes everybody when the page is there, so whoever read the second fault need
//! not do anything (or, if the owner is waiting for faults itself, has to tell it that the run is wanted).
//!
//! Three races decide the order of the calls.
//! * A joined fault is never forgotten: [`InFlight::finish`] answers which of the finished pages were joined, and the
//!   owner wakes those *after* installing. A page is in its run until then, so a fault that is read while its page is
//!   being installed joins and is woken, at worst to fault again.
//! * Content that the program dropped (`MADV_DONTNEED`) while a copy of it was on its way must not come back:
//!   [`InFlight::drop_range`] marks such pages, and the owner asks [`InFlight::keep`] before it installs.
//! * A run whose owner is stuck is taken from it: [`InFlight::abandon`] marks all of it dropped, so that the owner, if it
//!   ever returns, installs nothing over what was decided meanwhile.

/// Most pages of a run: one bit each in its maps.
pub const RUN_PAGES_MAX: u32 = 64;

/// A place for one run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(usize);

#[derive(Clone, Copy, Debug)]
struct Run {
    first: u64,
    count: u32,
    owner: usize,
    /// Whether it was asked for before anybody touched it, and nobody has since.
    untouched: bool,
    /// Pages that a fault of somebody else waits for.
    wanted: u64,
    /// Pages whose content was dropped since they were asked for.
    dropped: u64,
    /// Pages that are through.
    done: u64,
}

impl Run {
    fn bit_of(&self, page: u64) -> Option<u64> {
        let index = page.checked_sub(self.first)?;
        (index < u64::from(self.count)).then(|| 1 << index)
    }
}

/// A fault has met a run that will bring its page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Joined {
    /// Whose run it is.
    pub owner: usize,
    /// Whether the run was asked for ahead and this is the first touch of it.
    pub is_first: bool,
}

/// The low `count` bits.
pub const fn low_bits(count: u32) -> u64 {
    if count >= 64 { u64::MAX } else { (1 << count) - 1 }
}

/// The runs being fetched. Fixed in size: no slot, no run, and the caller fetches without being joined.
#[derive(Debug)]
pub struct InFlight {
    slots: Box<[Option<Run>]>,
}

impl InFlight {
    /// Room for `slots` runs.
    pub fn new(slots: usize) -> Self {
        Self { slots: vec![None; slots].into_boxed_slice() }
    }

    /// `owner` has asked for `count` pages from `first` on. `None` when every slot is taken.
    pub fn begin(&mut self, first: u64, count: u32, owner: usize) -> Option<Slot> {
        self.take_slot(Run { first, count, owner, untouched: false, wanted: 0, dropped: 0, done: 0 })
    }

    /// As [`begin`](Self::begin), of pages that nobody has touched yet: the first fault that meets the run is told.
    pub fn begin_ahead(&mut self, first: u64, count: u32, owner: usize) -> Option<Slot> {
        self.take_slot(Run { first, count, owner, untouched: true, wanted: 0, dropped: 0, done: 0 })
    }

    /// As [`begin`](Self::begin), but `None` already when `owner` has `most` runs: for owners who can wait.
    pub fn begin_few(&mut self, first: u64, count: u32, owner: usize, most: usize) -> Option<Slot> {
        let runs = self.slots.iter().flatten().filter(|run| run.owner == owner).count();
        if runs < most { self.begin(first, count, owner) } else { None }
    }

    /// A fault on `page`, read by `reader`: answers whose run will bring it, if any. Another's run is joined: its owner
    /// now knows that the page is wanted.
    pub fn join(&mut self, page: u64, reader: usize) -> Option<Joined> {
        self.slots.iter_mut().flatten().find_map(|run| {
            let bit = run.bit_of(page).filter(|bit| bit & (run.done | run.dropped) == 0)?;
            if run.owner != reader {
                run.wanted |= bit;
            }
            let is_first = std::mem::take(&mut run.untouched);
            Some(Joined { owner: run.owner, is_first })
        })
    }

    /// Whether some run will bring `page`.
    pub fn covers(&self, page: u64) -> bool {
        self.slots.iter().flatten().any(|run| run.bit_of(page).is_some_and(|bit| bit & (run.done | run.dropped) == 0))
    }

    /// Which of the `count` pages from `index` on may be installed, as bits from bit 0 up.
    pub fn keep(&self, slot: Slot, index: u32, count: u32) -> u64 {
        !(self.run(slot).dropped >> index) & low_bits(count)
    }

    /// The `count` pages from `index` on are through, installed or not. Answers which of them somebody waits for, as
    /// bits from bit 0 up.
    pub fn finish(&mut self, slot: Slot, index: u32, count: u32) -> u64 {
        let run = self.slots[slot.0].as_mut().expect("a slot is used until it is ended");
        let pages = low_bits(count) << index;
        run.done |= pages;
        (run.wanted & pages) >> index
    }

    /// The run is over. Answers which pages somebody waits for that never got through, as bits from the run's first page.
    pub fn end(&mut self, slot: Slot) -> u64 {
        let run = self.slots[slot.0].take().expect("a slot is ended once");
        run.wanted & !run.done
    }

    /// The content of pages `first..end` was dropped: what is on its way for them is stale.
    pub fn drop_range(&mut self, first: u64, end: u64) {
        for run in self.slots.iter_mut().flatten() {
            let from = first.clamp(run.first, run.first + u64::from(run.count)) - run.first;
            let to = end.clamp(run.first, run.first + u64::from(run.count)) - run.first;
            run.dropped |= low_bits(to as u32) & !low_bits(from as u32);
        }
    }

    /// Takes the run that brings `page` from `owner`: nothing of it will be installed. Calls `waiting(page)` for each
    /// page that somebody else waits for.
    pub fn abandon(&mut self, owner: usize, page: u64, mut waiting: impl FnMut(u64)) {
        let taken = |run: &&mut Run| run.owner == owner && run.bit_of(page).is_some();
        for run in self.slots.iter_mut().flatten().filter(taken) {
            let mut pages = run.wanted & !run.done;
            run.wanted &= run.done;
            run.dropped = u64::MAX;
            while pages != 0 {
                waiting(run.first + u64::from(pages.trailing_zeros()));
                pages &= pages - 1;
            }
        }
    }

    fn take_slot(&mut self, run: Run) -> Option<Slot> {
        let count = run.count;
        assert!((1..=RUN_PAGES_MAX).contains(&count), "a run has 1 to {RUN_PAGES_MAX} pages, not {count}");
        let free = self.slots.iter().position(Option::is_none)?;
        self.slots[free] = Some(run);
        Some(Slot(free))
    }

    fn run(&self, slot: Slot) -> &Run {
        self.slots[slot.0].as_ref().expect("a slot is used until it is ended")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A thread that owns none of the runs.
    const READER: usize = 9;

    /// A run of this owner, which was touched before.
    fn again(owner: usize) -> Option<Joined> {
        Some(Joined { owner, is_first: false })
    }

    #[test]
    fn a_fault_on_a_page_of_a_run_joins_it_and_is_woken_with_it() {
        let mut in_flight = InFlight::new(2);
        let slot = in_flight.begin(10, 8, 1).expect("room");
        assert_eq!(in_flight.join(13, READER), again(1));
        assert_eq!(in_flight.join(18, READER), None);
        assert_eq!(in_flight.finish(slot, 0, 2), 0);
        assert_eq!(in_flight.finish(slot, 2, 4), 0b10);
        assert_eq!(in_flight.end(slot), 0);
    }

    #[test]
    fn a_thread_that_meets_its_own_run_does_not_join_it() {
        let mut in_flight = InFlight::new(2);
        let slot = in_flight.begin(10, 8, 1).expect("room");
        assert_eq!(in_flight.join(10, 1), again(1));
        assert_eq!(in_flight.finish(slot, 0, 8), 0);
    }

    #[test]
    fn the_first_touch_of_a_run_asked_for_ahead_is_told_once() {
        let mut in_flight = InFlight::new(2);
        in_flight.begin_ahead(10, 8, 1).expect("room");
        assert_eq!(in_flight.join(12, READER), Some(Joined { owner: 1, is_first: true }));
        assert_eq!(in_flight.join(10, READER), again(1));
    }

    #[test]
    fn a_page_that_is_through_is_not_joined_any_more() {
        let mut in_flight = InFlight::new(2);
        let slot = in_flight.begin(10, 8, 1).expect("room");
        in_flight.finish(slot, 0, 1);
        assert_eq!(in_flight.join(10, READER), None);
        assert_eq!(in_flight.join(11, READER), again(1));
    }

    #[test]
    fn a_run_that_ends_early_says_who_still_waits() {
        let mut in_flight = InFlight::new(2);
        let slot = in_flight.begin(10, 64, 0).expect("room");
        in_flight.join(10, READER);
        in_flight.join(73, READER);
        in_flight.finish(slot, 0, 1);
        assert_eq!(in_flight.end(slot), 1 << 63);
    }

    #[test]
    fn dropped_pages_are_neither_kept_nor_joined() {
        let mut in_flight = InFlight::new(2);
        let slot = in_flight.begin(10, 8, 0).expect("room");
        in_flight.drop_range(8, 12);
        in_flight.drop_range(16, 99);
        assert_eq!(in_flight.keep(slot, 0, 8), 0b0011_1100);
        assert_eq!(in_flight.keep(slot, 1, 4), 0b1110);
        assert_eq!(in_flight.join(11, READER), None);
        assert_eq!(in_flight.join(12, READER), again(0));
    }

    #[test]
    fn an_abandoned_run_installs_nothing_and_names_its_waiters() {
        let mut in_flight = InFlight::new(2);
        let slot = in_flight.begin(10, 8, 3).expect("room");
        in_flight.join(12, READER);
        let mut waiting = Vec::new();
        in_flight.abandon(3, 10, |page| waiting.push(page));
        assert_eq!(waiting, [12]);
        assert_eq!(in_flight.keep(slot, 0, 8), 0);
        assert_eq!(in_flight.join(12, READER), None);
        assert_eq!(in_flight.end(slot), 0);
    }

    #[test]
    fn without_a_free_slot_there_is_no_run_and_a_slot_that_ended_is_free() {
        let mut in_flight = InFlight::new(1);
        let slot = in_flight.begin(0, 1, 0).expect("room");
        assert_eq!(in_flight.begin(1, 1, 0), None);
        in_flight.end(slot);
        assert!(in_flight.begin(1, 1, 0).is_some());
    }

    proptest! {
        #[test]
        fn every_joined_page_is_answered_exactly_once(
            count in 1u32..=64,
            joins in prop::collection::vec(0u64..64, 0..20),
            chunk in 1u32..20,
            stop in 0u32..64,
        ) {
            let mut in_flight = InFlight::new(1);
            let slot = in_flight.begin(100, count, 0).expect("room");
            let mut joined: Vec<u64> =
                joins.into_iter().filter(|page| in_flight.join(100 + page, READER).is_some()).collect();
            joined.sort_unstable();
            joined.dedup();
            let mut answered = Vec::new();
            let mut answer = |base: u32, bits: u64| answered.extend((0..64u64).filter(|bit| bits >> bit & 1 == 1).map(|bit| bit + u64::from(base)));
            let mut index = 0;
            while index < stop.min(count) {
                let part = chunk.min(count - index);
                answer(index, in_flight.finish(slot, index, part));
                index += part;
            }
            answer(0, in_flight.end(slot));
            answered.sort_unstable();
            prop_assert_eq!(answered, joined);
        }
    }
}
