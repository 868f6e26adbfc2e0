//! The fleet as it is told on `jobs.fleet`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use common::{FleetKind, FleetMember, JobKind, Presence, RunTime, Timestamp};

use super::{Fleet, Member};
use crate::{Answer, InstanceId, Spread};

/// The most kinds that are told.
const MOST_KINDS: usize = 50;

/// What the rounds so far say of the fleet as a whole.
#[derive(Debug, Default)]
pub(super) struct LastRound {
    asked_at: Option<Instant>,
    spread: Option<Spread>,
    kinds: Vec<FleetKind>,
    unserved: Vec<JobKind>,
}

impl LastRound {
    pub(super) fn new(asked_at: Instant, answers: &[Answer], spread: Option<Spread>) -> Self {
        let mut kinds: BTreeMap<&str, FleetKind> = BTreeMap::new();
        let mut unserved = BTreeSet::new();
        for answer in answers {
            unserved.extend(&answer.unserved_kinds);
            for runs in &answer.kinds {
                let kind = kinds.entry(&runs.kind).or_insert_with(|| FleetKind {
                    kind: runs.kind.clone(),
                    counts: common::Counts::default(),
                    run_ms: RunTime::default(),
                });
                kind.counts += runs.counts;
                kind.run_ms = worse(kind.run_ms, runs.run_ms);
            }
        }
        let mut kinds: Vec<_> = kinds.into_values().collect();
        kinds.sort_by_key(|kind| std::cmp::Reverse(kind.counts.processed));
        kinds.truncate(MOST_KINDS);
        Self {
            asked_at: Some(asked_at),
            spread,
            kinds,
            unserved: unserved.into_iter().take(MOST_KINDS).cloned().collect(),
        }
    }
}

/// The longer of each two.
pub(super) fn worse(one: RunTime, other: RunTime) -> RunTime {
    RunTime {
        p50: one.p50.max(other.p50),
        p90: one.p90.max(other.p90),
        p99: one.p99.max(other.p99),
        max: one.max.max(other.max),
    }
}

impl Fleet {
    /// Everything that is known, with all consumers, at a moment by two clocks.
    pub(crate) fn told(&self, about: &common::Fleet, now: (Instant, Timestamp)) -> common::Fleet {
        let last = &self.told;
        let mut told = common::Fleet {
            asked_at: last.asked_at.map(|asked_at| on_the_clock(asked_at, now)),
            totals: self.totals(),
            spread_percent: last
                .spread
                .map(|spread| [spread.min * 100.0, spread.max * 100.0]),
            unserved_kinds: last.unserved.clone(),
            kinds: last.kinds.clone(),
            consumers: Vec::with_capacity(self.members.len()),
            ..about.clone()
        };
        for (id, member) in &self.members {
            let member = member.told(id, now);
            if member.presence == Presence::Present {
                told.answering += 1;
                told.concurrency += u64::from(member.concurrency);
                told.in_flight += u64::from(member.in_flight);
                told.waiting = told.waiting.saturating_add(member.waiting);
            } else {
                told.missing += 1;
            }
            told.consumers.push(member);
        }
        told
    }
}

impl Member {
    fn told(&self, id: &InstanceId, now: (Instant, Timestamp)) -> FleetMember {
        FleetMember {
            consumer: id.consumer.clone(),
            host: self.host.clone(),
            version: self.version.clone(),
            started_at: id.started_at,
            // As /metrics counts them: by what the last round heard, not by what was said of it.
            presence: if self.answered {
                Presence::Present
            } else {
                Presence::Missing
            },
            state: self.state,
            concurrency: self.concurrency,
            in_flight: self.in_flight,
            waiting: self.waiting,
            counts: self.counts,
            run_ms: self.run_ms,
            answered_at: on_the_clock(self.heard, now),
            took_ms: self.took.as_secs_f64() * 1000.0,
        }
    }
}

/// When something was, by the clock on the wall.
fn on_the_clock(then: Instant, (now, clock): (Instant, Timestamp)) -> Timestamp {
    let ago = now.saturating_duration_since(then).as_millis();
    clock.shifted(-i64::try_from(ago).unwrap_or(i64::MAX))
}
