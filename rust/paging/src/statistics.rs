//! How many faults there were, and how long they took: bounded, readable while faults go on.
//!
//! Service times are kept in whole microseconds. Below 1024 µs every value has a bucket of its own, so the figures are
//! exact there; above, a bucket is at most 1/128 as wide as its values are large and answers with its middle, which is
//! off by less than 0.4 %. The original kept every value in a list that grew for ever; the rules for median and
//! percentile are the same, and the tests at the end are its tests.

use std::sync::atomic::{AtomicU64, Ordering};

/// Values below this are counted exactly; a power of two.
const EXACT_US: u64 = 1 << EXACT_BITS;
const EXACT_BITS: u32 = 10;
/// Buckets that each doubling above [`EXACT_US`] is divided into; a power of two.
const STEPS: u64 = 1 << STEP_BITS;
const STEP_BITS: u32 = 7;
/// Values of this many bits and more share the last bucket: nine hours, far beyond any deadline.
const VALUE_BITS_MAX: u32 = 35;
const BUCKETS: usize = (EXACT_US + (VALUE_BITS_MAX - EXACT_BITS) as u64 * STEPS) as usize;

/// A histogram of microseconds, of fixed size. Recording is one relaxed addition; reading may miss what is being
/// recorded at the same moment.
#[derive(Debug)]
pub struct Histogram {
    buckets: Box<[AtomicU64]>,
}

impl Default for Histogram {
    fn default() -> Self {
        Self { buckets: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect() }
    }
}

impl Histogram {
    /// Counts one value.
    pub fn record(&self, value_us: u64) {
        self.buckets[bucket_of(value_us)].fetch_add(1, Ordering::Relaxed);
    }

    /// How many values were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).sum()
    }
}

fn bucket_of(value_us: u64) -> usize {
    if value_us < EXACT_US {
        return value_us as usize;
    }
    let value = value_us.min((1 << VALUE_BITS_MAX) - 1);
    let doubling = value.ilog2() - EXACT_BITS;
    let step = (value >> (value.ilog2() - STEP_BITS)) - STEPS;
    (EXACT_US + u64::from(doubling) * STEPS + step) as usize
}

/// The value a bucket stands for: itself where exact, else the middle.
fn value_of(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < EXACT_US {
        return bucket;
    }
    let doubling = (bucket - EXACT_US) / STEPS;
    let step = (bucket - EXACT_US) % STEPS;
    let width = (EXACT_US / STEPS) << doubling;
    (EXACT_US << doubling) + step * width + width / 2
}

/// What was counted at one moment, for as many questions as one likes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Distribution {
    /// (value, how often), ascending, none of them zero times.
    counted: Vec<(u64, u64)>,
    count: u64,
}

impl Distribution {
    fn of(histograms: &[&Histogram]) -> Self {
        let mut counted = Vec::new();
        let mut total = 0;
        for bucket in 0..BUCKETS {
            let count = histograms.iter().map(|each| each.buckets[bucket].load(Ordering::Relaxed)).sum();
            if count > 0 {
                counted.push((value_of(bucket), count));
                total += count;
            }
        }
        Self { counted, count: total }
    }

    /// How many values there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// (value, how often) of every value there was, ascending.
    pub fn counted(&self) -> &[(u64, u64)] {
        &self.counted
    }

    /// The value at `index` of the sorted list of all values.
    fn at(&self, index: u64) -> Option<u64> {
        let mut before = 0;
        for &(value, count) in &self.counted {
            before += count;
            if index < before {
                return Some(value);
            }
        }
        None
    }

    /// The middle value; of an even count the mean of the middle two, rounded down. `None` when empty.
    pub fn median_us(&self) -> Option<u64> {
        let upper = self.at(self.count / 2)?;
        if self.count % 2 == 1 {
            return Some(upper);
        }
        let lower = self.at(self.count / 2 - 1)?;
        Some(lower.midpoint(upper))
    }

    /// `sorted[min(⌊0.99 · n⌋, n − 1)]`. `None` when empty.
    pub fn p99_us(&self) -> Option<u64> {
        let last = self.count.checked_sub(1)?;
        self.at((self.count * 99 / 100).min(last))
    }
}

/// The pager's count of faults and their service times: local ones, which a page of zeros answers, and remote ones,
/// which another node answers.
#[derive(Debug, Default)]
pub struct Statistics {
    local: Histogram,
    remote: Histogram,
}

impl Statistics {
    /// Counts a fault that this node resolved by itself.
    pub fn record_local(&self, service_us: u64) {
        self.local.record(service_us);
    }

    /// Counts a fault that another node resolved.
    pub fn record_remote(&self, service_us: u64) {
        self.remote.record(service_us);
    }

    /// All figures as of now.
    pub fn snapshot(&self) -> Snapshot {
        let local = Distribution::of(&[&self.local]);
        let remote = Distribution::of(&[&self.remote]);
        // Summed from the two above would be the same but for values recorded in between; one more pass is simpler than
        // a merge, and nobody reads statistics in a loop.
        let all = Distribution::of(&[&self.local, &self.remote]);
        Snapshot { local_faults: local.count, remote_faults: remote.count, local, remote, all }
    }
}

/// [`Statistics`] at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Faults that this node resolved by itself.
    pub local_faults: u64,
    /// Faults that another node resolved.
    pub remote_faults: u64,
    /// Service times of the local faults.
    pub local: Distribution,
    /// Service times of the remote faults.
    pub remote: Distribution,
    /// Service times of both, as the original reported them.
    pub all: Distribution,
}

impl Snapshot {
    /// Median service time of all faults, in µs.
    pub fn median_us(&self) -> Option<u64> {
        self.all.median_us()
    }

    /// 99th percentile of the service time of all faults, in µs.
    pub fn p99_us(&self) -> Option<u64> {
        self.all.p99_us()
    }

    /// Which part of the faults was remote; 0.0 with none.
    pub fn remote_miss_ratio(&self) -> f64 {
        let faults = self.local_faults + self.remote_faults;
        if faults == 0 { 0.0 } else { self.remote_faults as f64 / faults as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn recorded(values: &[u64]) -> Snapshot {
        let statistics = Statistics::default();
        for &value in values {
            statistics.record_remote(value);
        }
        statistics.snapshot()
    }

    #[test]
    fn nothing_recorded_is_no_faults_and_no_ratio() {
        let snapshot = recorded(&[]);
        assert_eq!((snapshot.local_faults, snapshot.remote_faults), (0, 0));
        assert!(snapshot.remote_miss_ratio().abs() < f64::EPSILON);
    }

    #[test]
    fn nothing_recorded_has_neither_median_nor_p99() {
        assert_eq!((recorded(&[]).median_us(), recorded(&[]).p99_us()), (None, None));
    }

    #[test]
    fn the_median_of_an_odd_count_is_the_middle_value() {
        assert_eq!(recorded(&[500, 100, 300, 200, 400]).median_us(), Some(300));
    }

    #[test]
    fn the_median_of_an_even_count_averages_the_middle_two_in_whole_microseconds() {
        assert_eq!(recorded(&[100, 200, 300, 400]).median_us(), Some(250));
        assert_eq!(recorded(&[1, 2]).median_us(), Some(1));
    }

    #[test]
    fn the_p99_of_one_to_a_hundred_is_a_hundred() {
        let values: Vec<u64> = (1..=100).collect();
        assert_eq!(recorded(&values).p99_us(), Some(100));
    }

    #[test]
    fn the_p99_of_a_small_sample_is_its_largest_value() {
        assert_eq!(recorded(&[100, 200, 300]).p99_us(), Some(300));
        assert_eq!(recorded(&[7]).p99_us(), Some(7));
    }

    #[test]
    fn the_miss_ratio_is_remote_over_all() {
        let statistics = Statistics::default();
        (0..80).for_each(|_| statistics.record_local(5));
        (0..20).for_each(|_| statistics.record_remote(100));
        assert!((statistics.snapshot().remote_miss_ratio() - 0.2).abs() < 1e-9);
    }

    #[test]
    fn the_miss_ratio_of_remote_faults_alone_is_one() {
        assert!((recorded(&[1, 2, 3]).remote_miss_ratio() - 1.0).abs() < f64::EPSILON);
    }

    #[test]
    fn the_miss_ratio_of_local_faults_alone_is_zero() {
        let statistics = Statistics::default();
        statistics.record_local(3);
        assert!(statistics.snapshot().remote_miss_ratio().abs() < f64::EPSILON);
    }

    #[test]
    fn a_snapshot_does_not_change_with_what_is_recorded_later() {
        let statistics = Statistics::default();
        statistics.record_local(10);
        let before = statistics.snapshot();
        statistics.record_local(20);
        assert_eq!((before.local_faults, statistics.snapshot().local_faults), (1, 2));
    }

    #[test]
    fn local_and_remote_times_are_kept_apart_and_reported_together() {
        let statistics = Statistics::default();
        statistics.record_local(2);
        statistics.record_remote(100);
        let snapshot = statistics.snapshot();
        assert_eq!((snapshot.local.median_us(), snapshot.remote.median_us()), (Some(2), Some(100)));
        assert_eq!(snapshot.median_us(), Some(51));
    }

    #[test]
    fn a_value_beyond_the_last_bucket_counts_in_it() {
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn below_1024_us_the_figures_are_those_of_the_sorted_list(mut values in prop::collection::vec(0u64..1024, 1..300)) {
            let snapshot = recorded(&values);
            values.sort_unstable();
            let n = values.len();
            let median = if n % 2 == 1 { values[n / 2] } else { (values[n / 2 - 1] + values[n / 2]) / 2 };
            prop_assert_eq!(snapshot.median_us(), Some(median));
            prop_assert_eq!(snapshot.p99_us(), Some(values[((0.99 * n as f64) as usize).min(n - 1)]));
        }

        #[test]
        fn above_a_value_is_reported_within_one_percent(value in 1024u64..1 << 34) {
            let reported = recorded(&[value]).median_us().expect("one value");
            prop_assert!(reported.abs_diff(value) * 100 <= value, "{} reported as {}", value, reported);
        }

        #[test]
        fn larger_values_never_fall_into_lower_buckets(a in 0u64..1 << 36, b in 0u64..1 << 36) {
            prop_assert_eq!(a.min(b) == a, bucket_of(a.min(b)) <= bucket_of(a.max(b)) && a <= b);
        }
    }
}
