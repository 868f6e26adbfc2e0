use std::time::Duration;

use super::summary::Summary;
use crate::asking::InstanceId;

/// What has changed with a round.
#[derive(Debug)]
pub(crate) struct RoundChanges {
    /// What happened to single consumers.
    pub(crate) events: Vec<ConsumerEvent>,
    /// Whether any consumer answers; `None` if that is as it was reported before.
    pub(crate) answering: Option<Answering>,
    /// The fleet after the round.
    pub(crate) summary: Summary,
    /// Whether a job has ended since the round before, or the fleet is not as it was then.
    pub(crate) news: bool,
}

/// Whether any consumer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answering {
    /// None has answered since the start, which is no wonder: they may start later.
    NotYet,
    /// None does, though some did, or should by now.
    No,
    /// Some do, for the first time.
    Yes,
    /// Some do again.
    Again,
}

/// Something that happened to a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConsumerEvent {
    pub(crate) id: InstanceId,
    pub(crate) host: String,
    pub(crate) change: Change,
}

/// What can happen to a consumer. Numbers of jobs are those of its last answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It answered for the first time.
    Joined { version: String },
    /// It did not answer.
    Missing {
        /// Age of its last answer.
        silent: Duration,
        /// Jobs that it ran.
        in_flight: u32,
        /// Jobs that waited in it.
        waiting: u64,
    },
    /// It is missing, because it answers after the end of the round.
    TooLate,
    /// It was missing or gone, and answers again.
    Back,
    /// Another instance with the same name has started.
    Restarted {
        /// Jobs that the old instance ran.
        in_flight: u32,
        /// Jobs that waited in the old instance.
        waiting: u64,
        /// Whether the old instance had announced that it stops.
        announced: bool,
    },
    /// It had announced that it stops, and does not answer any more.
    Left {
        /// Jobs that it has ended.
        processed: u64,
    },
    /// It was missing for so long that it is not expected to come back.
    Gone {
        /// Age of its last answer.
        silent: Duration,
        /// Jobs that it has ended.
        processed: u64,
    },
    /// Its NATS client had to drop messages.
    Dropped {
        /// How many messages since the last such event.
        messages: u64,
    },
}

impl ConsumerEvent {
    pub(super) fn new(id: &InstanceId, host: &str, change: Change) -> Self {
        Self {
            id: id.clone(),
            host: host.to_owned(),
            change,
        }
    }
}
