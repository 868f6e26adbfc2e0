use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use common::{Fleet, RunCounts, RunTime, Timestamp};

/// The most status services whose counts are kept apart.
const MAX_SERVICES: usize = 16;

/// How many kinds a status service tells at most. If it tells fewer, it tells all.
const ALL_KINDS: usize = 50;

/// Of which time before a moment its run times are.
const WINDOW: Duration = Duration::from_mins(1);

/// The run times of each kind that has run.
pub(crate) type RunTimes = BTreeMap<Arc<str>, RunTime>;

/// Computes run times of the last minute from the counts that each status service sent last. Counts of
/// two status services cannot be compared: each counts since its own start.
#[derive(Default)]
pub(super) struct Runs {
    services: BTreeMap<(String, Timestamp), Last>,
    /// What ran between two rounds, and when the later one was seen, the oldest first.
    rounds: VecDeque<(Duration, BTreeMap<Arc<str>, RunCounts>)>,
}

/// The counts of a round.
struct Last {
    round: Timestamp,
    kinds: BTreeMap<Arc<str>, RunCounts>,
    all: bool,
}

impl Runs {
    /// The run times of the jobs that ended within the minute before `now`, a time since the start of the
    /// history. A kind of which no job has ended is left out. If the consumers of a kind are so old that
    /// they do not tell counts, its run times are those since their start.
    pub(super) fn of_last_minute(&mut self, now: Duration, fleet: &Fleet) -> RunTimes {
        if let Some(round) = fleet.asked_at {
            self.add(now, round, fleet);
        }
        while let Some((seen, _)) = self.rounds.front()
            && now.saturating_sub(*seen) >= WINDOW
        {
            self.rounds.pop_front();
        }
        let mut sums: BTreeMap<&Arc<str>, RunCounts> = BTreeMap::new();
        for (kind, counts) in self.rounds.iter().flat_map(|(_, kinds)| kinds) {
            *sums.entry(kind).or_default() += counts;
        }
        let counted = sums.into_iter().filter_map(|(kind, counts)| {
            let run_time = counts.run_time()?;
            Some((Arc::clone(kind), run_time))
        });
        let untold = fleet.kinds.iter().filter(|kind| kind.run_counts.is_none());
        let untold = untold.filter(|kind| kind.run_ms.max > 0.0);
        let untold = untold.map(|kind| (kind.kind.as_str().into(), kind.run_ms));
        counted.chain(untold).collect()
    }

    /// Notes what has run since the round before.
    fn add(&mut self, now: Duration, round: Timestamp, fleet: &Fleet) {
        let service = (fleet.instance.clone(), fleet.started_at);
        let last = self.services.get(&service);
        if last.is_some_and(|last| last.round == round) {
            return;
        }
        let told = fleet.kinds.iter().take(ALL_KINDS).filter_map(|kind| {
            let counts = kind.run_counts.clone()?;
            Some((Arc::<str>::from(kind.kind.as_str()), counts))
        });
        let kinds: BTreeMap<_, _> = told.collect();
        if let Some(last) = last {
            let ran = kinds.iter().filter_map(|(kind, counts)| {
                let ran = match last.kinds.get(kind) {
                    Some(earlier) => counts.since(earlier),
                    None if last.all => counts.clone(),
                    None => return None,
                };
                (!ran.is_empty()).then(|| (Arc::clone(kind), ran))
            });
            let ran: BTreeMap<_, _> = ran.collect();
            if !ran.is_empty() {
                self.rounds.push_back((now, ran));
            }
        }
        if self.services.len() >= MAX_SERVICES {
            self.services.clear();
        }
        let all = fleet.kinds.len() < ALL_KINDS;
        self.services.insert(service, Last { round, kinds, all });
    }
}

#[cfg(test)]
mod tests {
    use common::{Counts, FleetKind};

    use super::*;

    /// A fleet that has run so many jobs of a kind, each of this length.
    fn fleet(round: u64, kinds: &[(&str, f64, u64)]) -> Fleet {
        let start: Timestamp = "2026-01-31T09:30:00Z".parse().unwrap();
        let mut fleet = Fleet::new("status".to_owned(), start, Duration::from_secs(5));
        fleet.asked_at = Some(start.after(Duration::from_secs(round)));
        let kinds = kinds.iter().map(|(kind, milliseconds, runs)| {
            let mut run_counts = RunCounts::default();
            run_counts.add(*milliseconds, *runs);
            FleetKind {
                kind: (*kind).to_owned(),
                counts: Counts::default(),
                run_ms: RunTime::default(),
                run_counts: Some(run_counts),
            }
        });
        fleet.kinds = kinds.collect();
        fleet
    }

    #[test]
    fn run_times_are_those_of_the_last_minute_and_not_since_the_start() {
        let mut runs = Runs::default();
        let mut at = |second, fleet: &Fleet| {
            let times = runs.of_last_minute(Duration::from_secs(second), fleet);
            let times = times
                .iter()
                .map(|(kind, run)| format!("{kind} {:.0}", run.max));
            times.collect::<Vec<_>>().join(", ")
        };
        // Whatever ran before the first round ran nobody knows when.
        assert_eq!(at(0, &fleet(0, &[("slow", 60_000.0, 9)])), "");
        let both = fleet(5, &[("slow", 60_000.0, 9), ("fast", 0.8, 3)]);
        assert_eq!(at(6, &both), "fast 1");
        // The same round once more is nothing new.
        assert_eq!(at(8, &both), "fast 1");
        let later = fleet(30, &[("slow", 60_000.0, 10), ("fast", 0.8, 3)]);
        assert_eq!(at(31, &later), "fast 1, slow 74146");
        assert_eq!(at(66, &later), "slow 74146");
        assert_eq!(at(91, &later), "");
    }

    #[test]
    fn consumers_that_tell_no_counts_show_the_times_since_their_start() {
        let mut old = fleet(0, &[("echo", 1.0, 1), ("idle", 1.0, 1)]);
        old.kinds[0].run_ms.max = 5.0;
        for kind in &mut old.kinds {
            kind.run_counts = None;
        }
        let times = Runs::default().of_last_minute(Duration::ZERO, &old);
        assert_eq!(times.len(), 1);
        assert!((times["echo"].max - 5.0).abs() < f64::EPSILON);
    }

    #[test]
    fn two_status_services_count_for_themselves() {
        let mut runs = Runs::default();
        let mut other = fleet(1, &[("echo", 1.0, 1_000)]);
        other.instance = "other".to_owned();
        runs.of_last_minute(Duration::ZERO, &fleet(0, &[("echo", 1.0, 5)]));
        let times = runs.of_last_minute(Duration::from_secs(1), &other);
        assert!(times.is_empty(), "its first round");
        for round in 0..100 {
            other.instance = format!("other-{round}");
            runs.of_last_minute(Duration::from_secs(1), &other);
        }
        assert!(runs.services.len() <= MAX_SERVICES && runs.rounds.is_empty());
    }
}
