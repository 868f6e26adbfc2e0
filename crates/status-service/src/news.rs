use std::fmt;
use std::time::Duration;

use common::Counts;

use crate::InstanceId;

/// What a round told.
#[derive(Debug)]
pub struct News {
    /// What became of single consumers.
    pub events: Vec<Event>,
    /// Whether anybody answers, when that has changed.
    pub answering: Option<bool>,
    /// The fleet as a whole.
    pub summary: Summary,
}

/// Something that happened to one consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Which.
    pub id: InstanceId,
    /// On which host.
    pub host: String,
    /// What happened.
    pub change: Change,
}

/// What can happen to a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It answered for the first time.
    Joined {
        /// Its version.
        version: String,
    },
    /// It no longer answers.
    Missing {
        /// How old its last answer was when it was asked in vain.
        silent: Duration,
        /// Jobs that ran in it then.
        in_flight: u32,
        /// Jobs that waited in it then.
        waiting: u64,
    },
    /// It is missing because its answers come after the round.
    TooLate,
    /// It was missing or gone, and answers again.
    Back,
    /// It has begun a new life under the same name.
    Restarted {
        /// Jobs that ran in the old life when it was last heard.
        in_flight: u32,
        /// Jobs that waited in it then.
        waiting: u64,
        /// Whether it had said before that it would stop.
        announced: bool,
    },
    /// It had said that it would stop, and has.
    Left {
        /// Jobs that came to an end in it.
        processed: u64,
    },
    /// It has been missing for so long that it is no longer waited for.
    Gone {
        /// How long it has not been heard.
        silent: Duration,
        /// Jobs that came to an end in it, as far as is known.
        processed: u64,
    },
    /// Its NATS client had to drop messages.
    Dropped {
        /// How many more than were known.
        messages: u64,
    },
}

/// The fleet as a whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Summary {
    /// Consumers that answered.
    pub consumers: usize,
    /// Those of them that take jobs.
    pub running: usize,
    /// Those of them that are full.
    pub saturated: usize,
    /// Those of them that will stop.
    pub draining: usize,
    /// Consumers that are known and did not answer.
    pub missing: usize,
    /// Jobs that run, in those that answered.
    pub in_flight: u64,
    /// Jobs that wait in consumers, in those that answered.
    pub waiting: u64,
    /// How jobs have ended, in all consumers that were ever heard of.
    pub totals: Counts,
    /// What was done since the last round; nothing after the first.
    pub since: Option<Since>,
    /// How evenly that is spread, if it can be said.
    pub spread: Option<Spread>,
    /// Time from the question to the last answer.
    pub round_trip: Duration,
}

/// What was done between two rounds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Since {
    /// Jobs that came to an end. What a consumer did long before it was found is not among them.
    pub processed: u64,
    /// Time between the two.
    pub elapsed: Duration,
}

/// The smallest and the largest share in the jobs since the last round, of consumers that have
/// answered both times.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// How many consumers are compared.
    pub consumers: usize,
    /// The smallest share, from 0 to 1.
    pub min: f64,
    /// The largest share, from 0 to 1.
    pub max: f64,
}

impl Event {
    pub(crate) fn new(id: &InstanceId, host: &str, change: Change) -> Self {
        Self {
            id: id.clone(),
            host: host.to_owned(),
            change,
        }
    }
}

impl Spread {
    /// Of the jobs that each of them did.
    pub(crate) fn of(jobs: &[u64]) -> Option<Self> {
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
    /// In percent, with three figures of an even share.
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
