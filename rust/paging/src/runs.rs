//! A set of byte ranges, kept as few runs as it can be: what was written and has not come home.
//!
//! The set is bounded. Beyond [`RUNS_MAX`] runs the two closest neighbours are joined, gap included: the set may then
//! hold more than was put in, never less. For pages to be sent home that is right, since sending a page that was not
//! written changes nothing.

use std::collections::BTreeMap;

/// Most runs; past that the set would cost more memory than the pages it saves sending.
pub const RUNS_MAX: usize = 65_536;

/// Ranges of bytes, disjoint and not touching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunSet {
    /// Start → end.
    runs: BTreeMap<u64, u64>,
}

impl RunSet {
    /// Adds `start..end`.
    pub fn insert(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let (mut first, mut last) = (start, end);
        // The run that begins before may reach into or touch the new one; all that begin inside it are swallowed.
        if let Some((&before, &before_end)) = self.runs.range(..start).next_back()
            && before_end >= start
        {
            first = before;
            last = last.max(before_end);
        }
        while let Some((&inside, &inside_end)) = self.runs.range(first..=last).next() {
            last = last.max(inside_end);
            self.runs.remove(&inside);
        }
        self.runs.insert(first, last);
        if self.runs.len() > RUNS_MAX {
            self.join_closest();
        }
    }

    /// Takes `start..end` out.
    pub fn remove(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        if let Some((&before, &before_end)) = self.runs.range(..start).next_back()
            && before_end > start
        {
            self.runs.insert(before, start);
            if before_end > end {
                self.runs.insert(end, before_end);
                return;
            }
        }
        while let Some((&inside, &inside_end)) = self.runs.range(start..end).next() {
            self.runs.remove(&inside);
            if inside_end > end {
                self.runs.insert(end, inside_end);
            }
        }
    }

    /// The runs, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        self.runs.iter().map(|(&start, &end)| (start, end))
    }

    /// How many runs there are.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// Bytes in all runs together.
    pub fn bytes(&self) -> u64 {
        self.iter().map(|(start, end)| end - start).sum()
    }

    fn join_closest(&mut self) {
        let pairs = self.iter().zip(self.iter().skip(1));
        if let Some(((start, _), (next, end))) = pairs.min_by_key(|((_, end), (next, _))| next - end) {
            self.runs.remove(&next);
            self.runs.insert(start, end);
        }
    }
}

impl FromIterator<(u64, u64)> for RunSet {
    fn from_iter<I: IntoIterator<Item = (u64, u64)>>(ranges: I) -> Self {
        let mut set = Self::default();
        ranges.into_iter().for_each(|(start, end)| set.insert(start, end));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_set_agrees_with_one_flag_a_byte(steps in prop::collection::vec((any::<bool>(), 0u64..64, 0u64..24), 0..40)) {
            let mut set = RunSet::default();
            let mut flags = [false; 128];
            for (add, start, len) in steps {
                if add { set.insert(start, start + len) } else { set.remove(start, start + len) }
                (start..start + len).for_each(|at| flags[at as usize] = add);
                let mut seen = [false; 128];
                let mut end_before = None;
                for (start, end) in set.iter() {
                    prop_assert!(start < end && end_before.is_none_or(|before| before < start), "runs never touch");
                    (start..end).for_each(|at| seen[at as usize] = true);
                    end_before = Some(end);
                }
                prop_assert_eq!(seen, flags);
                prop_assert_eq!(set.bytes(), flags.iter().filter(|flag| **flag).count() as u64);
            }
        }
    }

    #[test]
    fn beyond_the_bound_the_closest_runs_are_joined_and_nothing_is_lost() {
        let mut set: RunSet = (0..RUNS_MAX as u64).map(|run| (run * 100, run * 100 + 10)).collect();
        set.insert(15, 20);
        assert_eq!(set.len(), RUNS_MAX);
        assert_eq!(set.iter().next(), Some((0, 20)));
    }
}
