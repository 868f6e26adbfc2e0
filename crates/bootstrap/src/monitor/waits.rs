use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use super::Times;

/// Upper bounds of the buckets, in milliseconds.
const BOUNDS: [u64; 16] = [
    1, 2, 5, 10, 25, 50, 100, 250, 500, 1_000, 5_000, 15_000, 60_000, 300_000, 1_800_000, 7_200_000,
];

/// A histogram of how long jobs waited before they started, in milliseconds.
#[derive(Debug, Default)]
pub struct Waits {
    /// The count of each bucket; the last one is for waits above all bounds.
    counts: [AtomicU64; BOUNDS.len() + 1],
    sum_ms: AtomicU64,
}

impl Waits {
    /// Counts a number of jobs that waited for the same time.
    pub fn add(&self, wait: Duration, jobs: u64) {
        let milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let bucket = BOUNDS.partition_point(|bound| *bound < milliseconds);
        self.counts[bucket].fetch_add(jobs, Ordering::Relaxed);
        let sum = milliseconds.saturating_mul(jobs);
        self.sum_ms.fetch_add(sum, Ordering::Relaxed);
    }

    /// The histogram up to now.
    #[must_use]
    pub fn times(&self) -> Times {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let bounds = BOUNDS.map(|bound| Duration::from_millis(bound).as_secs_f64());
        Times {
            sum: Duration::from_millis(read(&self.sum_ms)).as_secs_f64(),
            buckets: bounds
                .into_iter()
                .zip(self.counts.iter().map(read))
                .collect(),
            above: read(&self.counts[BOUNDS.len()]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_counts_at_the_first_bound_that_it_does_not_exceed() {
        let waits = Waits::default();
        for (milliseconds, jobs) in [(0, 1), (1, 2), (3, 1), (7_200_000, 1), (7_200_001, 3)] {
            waits.add(Duration::from_millis(milliseconds), jobs);
        }
        let times = waits.times();
        let counts = times.buckets.iter().map(|(_, count)| *count);
        assert_eq!(
            counts.collect::<Vec<_>>(),
            [3, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
        );
        assert_eq!(times.above, 3);
        assert!((times.sum - 28_800.008).abs() < 1e-6, "{times:?}");
    }
}
