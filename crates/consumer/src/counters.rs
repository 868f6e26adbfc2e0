//! Counters of jobs, which can be read at any time without stopping the jobs.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bootstrap::Times;
use common::{Counts, JobKind, KindStatus, LaneStatus, RunTime};
use hdrhistogram::Histogram;

/// Upper bounds of the buckets of run times in a scrape, in seconds.
const BOUNDS: [f64; 17] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 1800.0,
];

/// How jobs of one kind ended in one lane.
#[derive(Debug)]
pub(crate) struct KindCounters {
    succeeded: AtomicU64,
    failed: AtomicU64,
    rejected: AtomicU64,
    expired: AtomicU64,
    retried: AtomicU64,
    busy: AtomicU64,
    interrupted: AtomicU64,
    cancelled: AtomicU64,
    /// Run times in nanoseconds.
    run: Mutex<Histogram<u64>>,
}

/// How the jobs of one lane ended. Only kinds with a handler have their own counters, so that
/// messages cannot add counters.
#[derive(Debug)]
pub(crate) struct LaneCounters {
    kinds: BTreeMap<JobKind, Arc<KindCounters>>,
    /// Jobs of a kind without a handler here, or of a kind that could not be read.
    pub(crate) others: KindCounters,
}

/// How a job ended for this consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Succeeded,
    Failed,
    Rejected,
    Expired,
    Busy,
    Interrupted,
    Cancelled,
}

impl KindCounters {
    pub(crate) fn new() -> Self {
        Self {
            succeeded: AtomicU64::default(),
            failed: AtomicU64::default(),
            rejected: AtomicU64::default(),
            expired: AtomicU64::default(),
            retried: AtomicU64::default(),
            busy: AtomicU64::default(),
            interrupted: AtomicU64::default(),
            cancelled: AtomicU64::default(),
            run: Mutex::new(Histogram::new(2).expect("two significant digits are allowed")),
        }
    }

    /// Counts a job that ended.
    pub(crate) fn ended(&self, ending: Ending) {
        let counter = match ending {
            Ending::Succeeded => &self.succeeded,
            Ending::Failed => &self.failed,
            Ending::Rejected => &self.rejected,
            Ending::Expired => &self.expired,
            Ending::Busy => &self.busy,
            Ending::Interrupted => &self.interrupted,
            Ending::Cancelled => &self.cancelled,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a job whose attempt is not the first.
    pub(crate) fn retried(&self) {
        self.retried.fetch_add(1, Ordering::Relaxed);
    }

    /// Records how long a handler ran.
    pub(crate) fn ran(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if let Ok(mut histogram) = self.run.lock() {
            // The histogram resizes itself; an error would take a value of centuries.
            let _ = histogram.record(nanoseconds);
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let (succeeded, failed) = (read(&self.succeeded), read(&self.failed));
        let (rejected, expired) = (read(&self.rejected), read(&self.expired));
        let cancelled = read(&self.cancelled);
        Counts {
            processed: succeeded + failed + rejected + expired + cancelled,
            succeeded,
            failed,
            rejected,
            expired,
            retried: read(&self.retried),
            busy: read(&self.busy),
            interrupted: read(&self.interrupted),
            cancelled,
        }
    }

    /// Run times in buckets, with the precision of the histogram: about one percent.
    pub(crate) fn run_times(&self) -> Times {
        // A copy, so that no slot waits while it is summed up.
        let histogram = self.run.lock().map(|histogram| histogram.clone());
        let mut times = Times {
            buckets: BOUNDS.map(|bound| (bound, 0)).into(),
            ..Times::default()
        };
        let Ok(histogram) = histogram else {
            return times;
        };
        for recorded in histogram.iter_recorded() {
            let count = recorded.count_at_value();
            let nanoseconds = histogram.median_equivalent(recorded.value_iterated_to());
            let seconds = nanoseconds as f64 / 1e9;
            times.sum += seconds * count as f64;
            match times
                .buckets
                .iter_mut()
                .find(|(bound, _)| seconds <= *bound)
            {
                Some((_, in_bucket)) => *in_bucket += count,
                None => times.above += count,
            }
        }
        times
    }

    fn status(&self) -> KindStatus {
        // A copy, so that no slot waits while it is read.
        let histogram = self.run.lock().map(|histogram| histogram.clone());
        let mut status = KindStatus {
            counts: self.counts(),
            ..KindStatus::default()
        };
        let Ok(histogram) = histogram else {
            return status;
        };
        let ms = |nanoseconds: u64| (nanoseconds as f64 / 1e3).round() / 1e3;
        status.run_ms = RunTime {
            p50: ms(histogram.value_at_quantile(0.5)),
            p90: ms(histogram.value_at_quantile(0.9)),
            p99: ms(histogram.value_at_quantile(0.99)),
            max: ms(histogram.max()),
        };
        for recorded in histogram.iter_recorded() {
            let nanoseconds = histogram.median_equivalent(recorded.value_iterated_to());
            let runs = recorded.count_at_value();
            status.run_counts.add(nanoseconds as f64 / 1e6, runs);
        }
        status
    }
}

impl LaneCounters {
    pub(crate) fn new<'a>(kinds: impl IntoIterator<Item = &'a JobKind>) -> Self {
        let kinds = kinds
            .into_iter()
            .map(|kind| (kind.clone(), KindCounters::new().into()));
        Self {
            kinds: kinds.collect(),
            others: KindCounters::new(),
        }
    }

    /// The counters of a kind; `None` without a handler.
    pub(crate) fn kind(&self, kind: &JobKind) -> Option<Arc<KindCounters>> {
        self.kinds.get(kind).cloned()
    }

    /// The counters of each kind with a handler.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = (&JobKind, &KindCounters)> {
        let kinds = self.kinds.iter();
        kinds.map(|(kind, counters)| (kind, counters.as_ref()))
    }

    /// The sum of all kinds.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = self.others.counts();
        for kind in self.kinds.values() {
            counts += kind.counts();
        }
        counts
    }

    pub(crate) fn status(&self) -> LaneStatus {
        // Each counter is read once, so that the sums are consistent even while jobs end.
        let mut counts = self.others.counts();
        let mut kinds = BTreeMap::new();
        for (kind, counters) in &self.kinds {
            let status = counters.status();
            counts += status.counts;
            if status.counts != Counts::default() {
                kinds.insert(kind.to_string(), status);
            }
        }
        LaneStatus { counts, kinds }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_the_sum_of_its_kinds_and_of_jobs_without_one() {
        let echo: JobKind = "echo".parse().unwrap();
        let idle: JobKind = "idle".parse().unwrap();
        let lane = LaneCounters::new([&echo, &idle]);
        let counters = lane.kind(&echo).unwrap();
        counters.ended(Ending::Succeeded);
        counters.ended(Ending::Failed);
        counters.ended(Ending::Busy);
        counters.retried();
        counters.ran(Duration::from_millis(3));
        lane.others.ended(Ending::Rejected);

        let status = lane.status();
        assert_eq!(
            (
                status.counts.processed,
                status.counts.busy,
                status.counts.retried
            ),
            (3, 1, 1)
        );
        assert_eq!(status.counts, lane.counts());
        assert_eq!(status.kinds.keys().collect::<Vec<_>>(), ["echo"]);
        let times = counters.run_times();
        assert_eq!((times.count(), times.above), (1, 0));
        assert_eq!(times.buckets[2], (0.005, 1));
        assert!((0.0029..0.0031).contains(&times.sum), "{times:?}");
        assert_eq!(status.kinds["echo"].run_counts.count(), 1);
        let counted = status.kinds["echo"].run_counts.run_time().unwrap();
        assert!((2.5..3.6).contains(&counted.p50), "{counted:?}");
        let run = status.kinds["echo"].run_ms;
        assert!(
            (2.97..3.03).contains(&run.p50) && (2.97..3.03).contains(&run.max),
            "{run:?}"
        );
    }
}
