//! Where the bytes of a region are mapped, and how that changes.
//!
//! A window begins as one piece: `len` bytes at an address. The program that owns the memory may `munmap` parts of it
//! and `mremap` others; the kernel tells, and each telling is an operation here. Addresses and offsets are bytes, and
//! whole pages.

/// A contiguous part of the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// Where it is mapped.
    pub address: u64,
    /// Which bytes of the region it shows.
    pub offset: u64,
    /// How long it is, in bytes.
    pub len: u64,
}

impl Piece {
    fn end(self) -> u64 {
        self.address + self.len
    }

    /// The part of it in `start..end`, if any.
    fn within(self, start: u64, end: u64) -> Option<Self> {
        let first = self.address.max(start);
        let last = self.end().min(end);
        (first < last).then(|| Self { address: first, offset: self.offset + (first - self.address), len: last - first })
    }
}

/// The pieces of a window, ascending by address, never overlapping.
///
/// The vector is as long as the program has torn the window apart, which is once for nearly all of them; the kernel's
/// own limit on mappings (`vm.max_map_count`) bounds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Window {
    pieces: Vec<Piece>,
}

impl Window {
    /// A window of one piece that shows the region from its first byte.
    pub fn new(address: u64, len: u64) -> Self {
        Self { pieces: vec![Piece { address, offset: 0, len }] }
    }

    /// The pieces, ascending by address.
    pub fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Which byte of the region is mapped at `address`.
    pub fn offset_at(&self, address: u64) -> Option<u64> {
        let after = self.pieces.partition_point(|piece| piece.address <= address);
        let piece = self.pieces[..after].last()?;
        (address < piece.end()).then(|| piece.offset + (address - piece.address))
    }

    /// Where the region's byte `offset` is mapped, and how many bytes follow it there without a break. An offset is
    /// mapped at most once.
    pub fn address_of(&self, offset: u64) -> Option<(u64, u64)> {
        self.pieces.iter().find_map(|piece| {
            let into = offset.checked_sub(piece.offset)?;
            (into < piece.len).then(|| (piece.address + into, piece.len - into))
        })
    }

    /// The parts of the region that are mapped in `start..end`, ascending by address.
    pub fn shown_in(&self, start: u64, end: u64) -> impl Iterator<Item = Piece> + '_ {
        self.pieces.iter().filter_map(move |piece| piece.within(start, end))
    }

    /// `start..end` is no longer mapped.
    pub fn unmap(&mut self, start: u64, end: u64) {
        self.cut(start, end);
    }

    /// What was mapped at `from..from + len` is now at `to..to + len`. The two may not overlap (the kernel refuses it);
    /// whatever was mapped at `to` before is gone.
    pub fn remap(&mut self, from: u64, to: u64, len: u64) {
        let moved = self.cut(from, from.saturating_add(len));
        self.cut(to, to.saturating_add(len));
        self.pieces.extend(moved.into_iter().map(|piece| Piece { address: piece.address - from + to, ..piece }));
        self.pieces.sort_unstable_by_key(|piece| piece.address);
        self.join();
    }

    /// Takes `start..end` out and answers what was there.
    fn cut(&mut self, start: u64, end: u64) -> Vec<Piece> {
        let mut taken = Vec::new();
        let mut kept = Vec::with_capacity(self.pieces.len() + 1);
        for piece in self.pieces.drain(..) {
            kept.extend(piece.within(0, start.min(piece.end())));
            taken.extend(piece.within(start, end));
            kept.extend(piece.within(end.max(piece.address), u64::MAX));
        }
        self.pieces = kept;
        taken
    }

    /// Joins neighbours that continue each other, so that moving a part away and back leaves one piece.
    fn join(&mut self) {
        self.pieces.dedup_by(|next, piece| {
            let continues = piece.end() == next.address && piece.offset + piece.len == next.offset;
            if continues {
                piece.len += next.len;
            }
            continues
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PAGE_BYTES;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    const BASE: u64 = 1 << 20;
    const PAGES: u64 = 32;

    #[derive(Clone, Debug)]
    enum Step {
        Unmap { page: u64, pages: u64 },
        Remap { from: u64, to: u64, pages: u64 },
    }

    fn step() -> impl Strategy<Value = Step> {
        // Positions reach beyond the window on both sides, and onto places that earlier moves left.
        prop_oneof![
            (0..PAGES * 3, 1..9u64).prop_map(|(page, pages)| Step::Unmap { page, pages }),
            (0..PAGES * 3, 0..PAGES * 3, 1..9u64)
                .prop_filter("ranges of a move do not overlap", |(from, to, pages)| from.abs_diff(*to) >= *pages)
                .prop_map(|(from, to, pages)| Step::Remap { from, to, pages }),
        ]
    }

    fn at(page: u64) -> u64 {
        BASE - 16 * PAGE_BYTES + page * PAGE_BYTES
    }

    proptest! {
        #[test]
        fn a_window_agrees_with_a_table_of_single_pages(steps in prop::collection::vec(step(), 0..24)) {
            let mut window = Window::new(BASE, PAGES * PAGE_BYTES);
            let mut table: BTreeMap<u64, u64> =
                (0..PAGES).map(|page| (BASE + page * PAGE_BYTES, page * PAGE_BYTES)).collect();
            for step in steps {
                match step {
                    Step::Unmap { page, pages } => {
                        window.unmap(at(page), at(page + pages));
                        table.retain(|address, _| !(at(page)..at(page + pages)).contains(address));
                    }
                    Step::Remap { from, to, pages } => {
                        window.remap(at(from), at(to), pages * PAGE_BYTES);
                        let moved: Vec<_> = (0..pages).map(|each| table.remove(&at(from + each))).collect();
                        for (each, offset) in (0..).zip(moved) {
                            table.remove(&at(to + each));
                            offset.map(|offset| table.insert(at(to + each), offset));
                        }
                    }
                }
                for page in 0..PAGES * 4 {
                    prop_assert_eq!(window.offset_at(at(page)), table.get(&at(page)).copied());
                    prop_assert_eq!(
                        window.offset_at(at(page) + 17),
                        table.get(&at(page)).map(|offset| offset + 17)
                    );
                }
                for (address, offset) in &table {
                    prop_assert_eq!(window.address_of(*offset).map(|found| found.0), Some(*address));
                }
                for pair in window.pieces().windows(2) {
                    prop_assert!(pair[0].address + pair[0].len <= pair[1].address);
                }
            }
        }
    }

    #[test]
    fn a_part_that_moves_away_and_back_leaves_one_piece() {
        let mut window = Window::new(BASE, 8 * PAGE_BYTES);
        let whole = window.clone();
        window.remap(BASE + 2 * PAGE_BYTES, 8 * BASE, 2 * PAGE_BYTES);
        assert_eq!(window.pieces().len(), 3);
        window.remap(8 * BASE, BASE + 2 * PAGE_BYTES, 2 * PAGE_BYTES);
        assert_eq!(window, whole);
    }

    #[test]
    fn what_follows_an_offset_ends_where_its_piece_ends() {
        let mut window = Window::new(BASE, 8 * PAGE_BYTES);
        window.unmap(BASE + 4 * PAGE_BYTES, BASE + 5 * PAGE_BYTES);
        assert_eq!(window.address_of(PAGE_BYTES), Some((BASE + PAGE_BYTES, 3 * PAGE_BYTES)));
        assert_eq!(window.address_of(4 * PAGE_BYTES), None);
    }
}
