use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The bounds of waits, in milliseconds.
const BOUNDS: [u64; 14] = [
    5, 10, 25, 50, 100, 250, 500, 1_000, 5_000, 15_000, 60_000, 300_000, 1_800_000, 7_200_000,
];

/// What is counted of the lane in one consumer, beside how its jobs ended.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    redelivered: AtomicU64,
    dead_letters: AtomicU64,
    /// How many jobs waited no longer than each bound and longer than the one before; the last is
    /// for those above all.
    waits: [AtomicU64; BOUNDS.len() + 1],
    waited_ms: AtomicU64,
}

/// What a consumer has counted of the lane since it started, beside how its jobs ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Messages that were not delivered for the first time.
    pub redelivered: u64,
    /// Dead letters that were stored.
    pub dead_letters: u64,
    /// Bounds of waits, growing, and how many jobs waited no longer than each and longer than the
    /// one before.
    ///
    /// A job waits from when the server had it in its queue until it was first delivered here.
    pub waits: Vec<(Duration, u64)>,
    /// How many waited longer than the last bound.
    pub waited_longer: u64,
    /// All waits together.
    pub waited: Duration,
}

impl Tally {
    /// A job is to be run that was delivered for the first time.
    ///
    /// The thread of the lane counts by itself, so that this costs a few nanoseconds.
    pub(crate) fn waited(&self, wait: Duration) {
        let milliseconds = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX);
        let place = BOUNDS.partition_point(|bound| *bound < milliseconds);
        self.waits[place].fetch_add(1, Ordering::Relaxed);
        self.waited_ms.fetch_add(milliseconds, Ordering::Relaxed);
    }

    pub(crate) fn redelivered(&self) {
        self.redelivered.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn dead_letter(&self) {
        self.dead_letters.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn figures(&self) -> Figures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let bounds = BOUNDS.into_iter().map(Duration::from_millis);
        Figures {
            redelivered: read(&self.redelivered),
            dead_letters: read(&self.dead_letters),
            waits: bounds.zip(self.waits.iter().map(read)).collect(),
            waited_longer: read(&self.waits[BOUNDS.len()]),
            waited: Duration::from_millis(read(&self.waited_ms)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_counts_at_the_first_bound_that_it_does_not_pass() {
        let tally = Tally::default();
        for milliseconds in [0, 5, 6, 7_200_000, 7_200_001] {
            tally.waited(Duration::from_millis(milliseconds));
        }
        let figures = tally.figures();
        let counts = figures.waits.iter().map(|(_, count)| *count);
        assert_eq!(
            counts.collect::<Vec<_>>(),
            [2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]
        );
        assert_eq!(figures.waited_longer, 1);
        assert_eq!(figures.waited, Duration::from_millis(14_400_012));
    }
}
