//! When which fault is done: decided by the seed alone.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use super::fault::Fault;

/// The load runs so long before the first fault, and after the last one has begun.
const CALM: Duration = Duration::from_secs(2);

/// A fault that is to be done.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Planned {
    /// How long after the start.
    pub(super) after: Duration,
    pub(super) fault: Fault,
    /// Chooses among the possible targets.
    pub(super) pick: usize,
    pub(super) lasts: Duration,
}

/// The faults of a run, in the order of their times: mostly one at a time, sometimes two or three together.
pub(super) fn plan(seed: u64, span: Duration, faults: &[Fault]) -> Vec<Planned> {
    let mut rng = StdRng::seed_from_u64(seed);
    let mut planned = Vec::new();
    let mut after = CALM;
    while after + CALM <= span {
        let together = match rng.random_range(0..10) {
            0..6 => 1,
            6..9 => 2,
            _ => 3,
        };
        for _ in 0..together {
            let Some(&fault) = faults.choose(&mut rng) else {
                return planned;
            };
            let lasts = fault.longest().mul_f64(rng.random_range(0.1..=1.0));
            planned.push(Planned {
                after,
                fault,
                pick: rng.random_range(0..usize::from(u16::MAX)),
                // The load goes on until all is mended.
                lasts: lasts.min(span.saturating_sub(after)),
            });
        }
        after += Duration::from_millis(rng.random_range(500..4000));
    }
    planned
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_faults_and_another_seed_gives_others() {
        let all = Fault::all(true);
        let span = Duration::from_mins(10);
        let faults = plan(7, span, &all);
        assert_eq!(faults, plan(7, span, &all));
        assert_ne!(faults, plan(8, span, &all));
        assert!(faults.is_sorted_by_key(|planned| planned.after));
        for fault in all {
            assert!(
                faults.iter().any(|planned| planned.fault == fault),
                "{fault}"
            );
        }
    }

    #[test]
    fn only_the_faults_that_were_asked_for_are_planned_and_none_outlasts_the_load() {
        let span = Duration::from_secs(30);
        let faults = plan(1, span, &[Fault::PauseConsumer]);
        assert!(!faults.is_empty());
        for planned in faults {
            assert_eq!(planned.fault, Fault::PauseConsumer);
            assert!(planned.after >= CALM && planned.after + planned.lasts <= span);
        }
        assert_eq!(plan(1, span, &[]), []);
    }
}
