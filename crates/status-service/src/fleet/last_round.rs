use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use common::{Counts, FleetKind, JobKind, RunTime};

use super::runs::FleetRuns;
use super::summary::Spread;
use crate::asking::StatusAnswer;

/// The most kinds, and the most kinds without a consumer.
const MAX_KINDS: usize = 50;

/// What the last round found out about the fleet as a whole.
#[derive(Debug, Default)]
pub(super) struct LastRound {
    /// `None` before the first round.
    pub(super) asked_at: Option<Instant>,
    pub(super) spread: Option<Spread>,
    /// The kinds with the most jobs.
    pub(super) kinds: Vec<FleetKind>,
    /// Kinds of waiting durable jobs without a consumer.
    pub(super) unserved_kinds: Vec<JobKind>,
}

impl LastRound {
    pub(super) fn new(
        asked_at: Instant,
        answers: &[StatusAnswer],
        spread: Option<Spread>,
        runs: &mut FleetRuns,
    ) -> Self {
        let mut kinds: BTreeMap<&str, FleetKind> = BTreeMap::new();
        let mut unserved = BTreeSet::new();
        for answer in answers {
            unserved.extend(&answer.unserved_kinds);
            for runs in &answer.kinds {
                let kind = kinds.entry(&runs.kind).or_insert_with(|| FleetKind {
                    kind: runs.kind.clone(),
                    counts: Counts::default(),
                    run_ms: RunTime::default(),
                    run_counts: None,
                });
                kind.counts += runs.counts;
                kind.run_ms = longer(kind.run_ms, runs.run_ms);
            }
        }
        let mut kinds: Vec<_> = kinds.into_values().collect();
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.counts.processed));
        kinds.truncate(MAX_KINDS);
        runs.tell(&mut kinds);
        Self {
            asked_at: Some(asked_at),
            spread,
            kinds,
            unserved_kinds: unserved.into_iter().take(MAX_KINDS).cloned().collect(),
        }
    }
}

/// The longer time of each field.
pub(super) fn longer(one: RunTime, other: RunTime) -> RunTime {
    RunTime {
        p50: one.p50.max(other.p50),
        p90: one.p90.max(other.p90),
        p99: one.p99.max(other.p99),
        max: one.max.max(other.max),
    }
}
