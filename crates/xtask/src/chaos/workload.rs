//! Which jobs are submitted, and how: decided by the seed, up to their times.

use std::time::Duration;

use common::Timestamp;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use super::history::Way;
use super::ledger::Kind;

/// A job that is to be submitted.
pub(super) struct Spec {
    pub(super) kind: Kind,
    pub(super) way: Way,
    /// The job as JSON, without an id.
    pub(super) job: Value,
    pub(super) run_at: Option<Timestamp>,
    pub(super) deadline: Option<Timestamp>,
    pub(super) key: Option<String>,
    /// How long after its acknowledgement its cancellation is requested.
    pub(super) cancel_after: Option<Duration>,
}

impl Spec {
    /// A job without options, submitted by the crate `client`.
    pub(super) fn plain(kind: Kind) -> Self {
        Self {
            kind,
            way: Way::Client,
            job: json!({"kind": kind.name()}),
            run_at: None,
            deadline: None,
            key: None,
            cancel_after: None,
        }
    }
}

/// Makes jobs without end.
pub(super) struct Workload(StdRng);

impl Workload {
    pub(super) fn new(seed: u64) -> Self {
        // Not the numbers that the plan of the faults is made of.
        Self(StdRng::seed_from_u64(!seed))
    }

    pub(super) fn next(&mut self, now: Timestamp) -> Spec {
        let rng = &mut self.0;
        let kind = match rng.random_range(0..100) {
            0..60 => Kind::Quick,
            60..72 => Kind::Slow,
            72..74 => Kind::Long,
            74..84 => Kind::Flaky,
            84..92 => Kind::Fail,
            _ => Kind::Panic,
        };
        let way = match rng.random_range(0..4) {
            0 => Way::Publisher,
            1 => Way::Http,
            _ => Way::Client,
        };
        let mut ahead = |share: f64, milliseconds: std::ops::Range<u64>| {
            let wait = Duration::from_millis(rng.random_range(milliseconds));
            rng.random_bool(share).then_some(wait)
        };
        let run_at = ahead(0.1, 300..8000).map(|wait| now.after(wait));
        let deadline = ahead(0.05, 100..10_000).map(|wait| now.after(wait));
        let cancel_after = ahead(0.06, 0..3000);
        let key = (way == Way::Client && rng.random_bool(0.1))
            .then(|| format!("key-{}", rng.random_range(0..2)));
        let priority = ["high", "normal", "normal", "normal", "low"][rng.random_range(0..5)];
        let padding = "x".repeat(if rng.random_bool(0.1) { 20_000 } else { 100 });
        let backoff = json!({"initial": "1500ms", "factor": 1, "max": "1500ms"});
        let mut job = json!({
            "kind": kind.name(),
            "payload": {"padding": padding},
            "priority": priority,
            // A job that succeeds in the end is not given up because its consumers are lost.
            "max_attempts": if kind == Kind::Fail { 2 } else { 50 },
            "backoff": backoff,
        });
        if let Some(time) = run_at {
            job["run_at"] = json!(time);
        }
        if let Some(time) = deadline {
            job["deadline"] = json!(time);
        }
        if let Some(key) = &key {
            job["unique"] = json!({"key": key});
        }
        Spec {
            kind,
            way,
            job,
            run_at,
            deadline,
            key,
            cancel_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use client::NewJob;

    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_jobs_of_every_sort_and_all_can_be_submitted() {
        let now = Timestamp::now();
        let jobs = |seed| {
            let mut workload = Workload::new(seed);
            let jobs = std::iter::repeat_with(|| workload.next(now)).take(1000);
            jobs.collect::<Vec<_>>()
        };
        let first = jobs(7);
        let text = |jobs: &[Spec]| {
            jobs.iter()
                .map(|spec| spec.job.to_string())
                .collect::<Vec<_>>()
        };
        assert_eq!(text(&first), text(&jobs(7)));
        assert_ne!(text(&first), text(&jobs(8)));
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Tick) {
            assert!(first.iter().any(|spec| spec.kind == kind), "{kind:?}");
        }
        for way in [Way::Client, Way::Publisher, Way::Http] {
            assert!(first.iter().any(|spec| spec.way == way), "{way:?}");
        }
        assert!(first.iter().any(|spec| spec.key.is_some()));
        assert!(first.iter().any(|spec| spec.cancel_after.is_some()));
        for spec in first {
            let job = NewJob::decode(spec.job.to_string().into()).unwrap();
            assert_eq!(job.run_at, spec.run_at);
            assert_eq!(job.unique.is_some(), spec.key.is_some());
        }
    }
}
