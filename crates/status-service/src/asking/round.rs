use std::time::Instant;

use common::ConsumerState;

use super::answer::StatusAnswer;

/// The result of one question.
#[derive(Clone, Debug)]
pub struct Round {
    /// When the question was sent.
    pub asked_at: Instant,
    /// One answer of each consumer that answered in time.
    pub answers: Vec<StatusAnswer>,
    /// Answers to earlier rounds.
    pub late: Vec<StatusAnswer>,
    /// Why the round ended.
    pub end: RoundEnd,
    /// Messages that were ignored.
    pub ignored: Ignored,
}

/// Why a round ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RoundEnd {
    /// All known consumers have answered, and no other one within a short while.
    Complete,
    /// The time was over before all known consumers had answered.
    TimedOut,
    /// The server has no subscriber on `jobs.status`.
    NoResponders,
    /// There were more messages than are read in one round.
    Truncated,
}

/// Messages that were ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ignored {
    /// How many messages were too large, or not the status of a consumer.
    pub garbage: u64,
    /// How many answers were not the first one of their consumer in the round.
    pub duplicates: u64,
    /// What is wrong with the first garbage; `None` without any. It may quote the message.
    pub reason: Option<String>,
}

impl Ignored {
    /// How many messages were ignored.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.garbage + self.duplicates
    }

    pub(super) fn add_garbage(&mut self, error: &anyhow::Error) {
        self.garbage += 1;
        self.reason
            .get_or_insert_with(|| format!("{error:#}").chars().take(200).collect());
    }
}

impl Round {
    pub(super) fn new(asked_at: Instant) -> Self {
        Self {
            asked_at,
            answers: Vec::new(),
            late: Vec::new(),
            end: RoundEnd::TimedOut,
            ignored: Ignored::default(),
        }
    }

    /// Adds another answer of a consumer whose first one is at index `first`. It replaces that one if
    /// it says that the consumer stops; otherwise it is ignored.
    pub(super) fn add_again(&mut self, first: usize, answer: StatusAnswer) {
        let first = &mut self.answers[first];
        if answer.state == ConsumerState::Draining && first.state != ConsumerState::Draining {
            *first = answer;
        } else {
            self.ignored.duplicates += 1;
        }
    }
}
