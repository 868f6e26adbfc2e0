use std::time::Duration;

use common::Outcome;

use crate::submission::Submission;

/// A job that has ended, and its outcome.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The job.
    pub submission: Submission,
    /// The outcome. Its consumer is empty if the publisher itself made it.
    pub outcome: Outcome,
    /// Time from the submission to the outcome, with all attempts and the waits between them.
    pub elapsed: Duration,
    /// How many times the job was sent.
    pub sent: u32,
}
