use std::fmt;
use std::time::Duration;

use common::Counts;

/// The fleet after a round.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Summary {
    /// Consumers that answered.
    pub(crate) consumers: usize,
    /// Of these, how many take jobs.
    pub(crate) running: usize,
    /// Of these, how many are full.
    pub(crate) saturated: usize,
    /// Of these, how many are about to stop.
    pub(crate) draining: usize,
    /// Known consumers that did not answer.
    pub(crate) missing: usize,
    /// Jobs that run in the consumers that answered.
    pub(crate) in_flight: u64,
    /// Jobs that wait in the consumers that answered.
    pub(crate) waiting: u64,
    /// How jobs have ended, in all consumers that were ever heard of.
    pub(crate) totals: Counts,
    /// What was done since the round before; `None` after the first round.
    pub(crate) progress: Option<Progress>,
    /// How evenly that is spread; `None` if there is nothing to compare.
    pub(crate) spread: Option<Spread>,
    /// Time from the question to the last answer.
    pub(crate) round_trip: Duration,
}

impl Summary {
    /// Whether a job has ended since the round before, which had this summary, or the fleet is not as it
    /// was then.
    pub(super) fn is_news_after(&self, last: &Self) -> bool {
        let ended = self.progress.is_some_and(|progress| progress.processed > 0);
        // What differs each time: how long it took.
        let lasting = |summary: &Self| Self {
            progress: None,
            spread: None,
            round_trip: Duration::ZERO,
            ..summary.clone()
        };
        ended || lasting(self) != lasting(last)
    }
}

/// What was done between two rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Progress {
    /// Jobs that ended. Those of a newly found consumer count only if it started after the round
    /// before.
    pub(crate) processed: u64,
    /// Time from one round to the next.
    pub(crate) elapsed: Duration,
}

/// The smallest and the largest share of one consumer in the jobs since the round before. Only
/// consumers that answered both rounds are compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Spread {
    /// How many consumers are compared.
    pub(crate) consumers: usize,
    /// The smallest share, from 0 to 1.
    pub(crate) min: f64,
    /// The largest share, from 0 to 1.
    pub(crate) max: f64,
}

impl Spread {
    /// The spread of these numbers of jobs, one for each consumer; `None` if there is only one
    /// consumer, or no job.
    pub(super) fn of(jobs: &[u64]) -> Option<Self> {
        let all = jobs.iter().fold(0, |sum: u64, &it| sum.saturating_add(it));
        if jobs.len() < 2 || all == 0 {
            return None;
        }
        let share = |jobs: u64| jobs as f64 / all as f64;
        Some(Self {
            consumers: jobs.len(),
            min: share(*jobs.iter().min()?),
            max: share(*jobs.iter().max()?),
        })
    }
}

impl fmt::Display for Spread {
    /// In percent, with three significant digits of an even share.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = match self.consumers {
            ..=10 => 1,
            11..=100 => 2,
            101..=1_000 => 3,
            _ => 4,
        };
        let [min, max] = [self.min, self.max].map(|share| share * 100.0);
        write!(f, "{min:.decimals$}%..{max:.decimals$}%")
    }
}
