//! What is counted, so that `jobs.status` can be answered at any time without stopping anything.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bootstrap::Times;
use common::{Counts, JobKind, KindStatus, LaneStatus, RunTime};
use hdrhistogram::Histogram;

/// The bounds between which run times are counted for a scrape, in seconds.
const BOUNDS: [f64; 17] = [
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 1800.0,
];

/// How one kind of jobs ended in one lane.
#[derive(Debug)]
pub(crate) struct KindReport {
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

/// How the jobs of one lane ended; the kinds are those that have a handler, so that no message
/// can make it grow.
#[derive(Debug)]
pub(crate) struct LaneReport {
    kinds: BTreeMap<JobKind, std::sync::Arc<KindReport>>,
    /// Jobs whose kind has no handler here, or could not be read.
    pub(crate) others: KindReport,
}

/// In which way a job ended.
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

impl KindReport {
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

    /// A job ended.
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

    /// A job is started that was started before.
    pub(crate) fn retried(&self) {
        self.retried.fetch_add(1, Ordering::Relaxed);
    }

    /// A handler returned after this time.
    pub(crate) fn ran(&self, time: Duration) {
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        if let Ok(mut histogram) = self.run.lock() {
            // It grows with what it is given; only a value of centuries has no place in it.
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

    /// Run times by bounds, to the precision of the histogram: about one percent.
    pub(crate) fn run_times(&self) -> Times {
        // A copy, so that no slot waits while it is added up.
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
                Some((_, of_bucket)) => *of_bucket += count,
                None => times.above += count,
            }
        }
        times
    }

    fn status(&self) -> KindStatus {
        let run_ms = self.run.lock().map_or_else(
            |_| RunTime::default(),
            |histogram| {
                let ms = |nanoseconds: u64| (nanoseconds as f64 / 1e3).round() / 1e3;
                RunTime {
                    p50: ms(histogram.value_at_quantile(0.5)),
                    p90: ms(histogram.value_at_quantile(0.9)),
                    p99: ms(histogram.value_at_quantile(0.99)),
                    max: ms(histogram.max()),
                }
            },
        );
        KindStatus {
            counts: self.counts(),
            run_ms,
        }
    }
}

impl LaneReport {
    pub(crate) fn new<'a>(kinds: impl IntoIterator<Item = &'a JobKind>) -> Self {
        let kinds = kinds
            .into_iter()
            .map(|kind| (kind.clone(), KindReport::new().into()));
        Self {
            kinds: kinds.collect(),
            others: KindReport::new(),
        }
    }

    pub(crate) fn kind(&self, kind: &JobKind) -> Option<std::sync::Arc<KindReport>> {
        self.kinds.get(kind).cloned()
    }

    /// Each kind.
    pub(crate) fn kinds(&self) -> impl Iterator<Item = (&JobKind, &KindReport)> {
        let kinds = self.kinds.iter();
        kinds.map(|(kind, report)| (kind, report.as_ref()))
    }

    /// All kinds together.
    pub(crate) fn counts(&self) -> Counts {
        let mut counts = self.others.counts();
        for kind in self.kinds.values() {
            counts += kind.counts();
        }
        counts
    }

    pub(crate) fn status(&self) -> LaneStatus {
        // Each counter is read once, so that the lane is the sum of its kinds also while jobs end.
        let mut counts = self.others.counts();
        let mut kinds = BTreeMap::new();
        for (kind, report) in &self.kinds {
            let status = report.status();
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
    fn a_lane_is_the_sum_of_its_kinds_and_of_what_had_none() {
        let echo: JobKind = "echo".parse().unwrap();
        let idle: JobKind = "idle".parse().unwrap();
        let lane = LaneReport::new([&echo, &idle]);
        let report = lane.kind(&echo).unwrap();
        report.ended(Ending::Succeeded);
        report.ended(Ending::Failed);
        report.ended(Ending::Busy);
        report.retried();
        report.ran(Duration::from_millis(3));
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
        let times = report.run_times();
        assert_eq!((times.count(), times.above), (1, 0));
        assert_eq!(times.buckets[2], (0.005, 1));
        assert!((0.0029..0.0031).contains(&times.sum), "{times:?}");
        let run = status.kinds["echo"].run_ms;
        assert!(
            (2.97..3.03).contains(&run.p50) && (2.97..3.03).contains(&run.max),
            "{run:?}"
        );
    }
}
