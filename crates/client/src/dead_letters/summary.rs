use common::{DeadReason, JobId, JobKind, OutcomeError, Timestamp};

use super::DeadLetter;

/// A dead letter in a list: without the payload, because lists hold many dead letters.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The job.
    pub id: JobId,
    /// Its kind.
    pub kind: JobKind,
    /// Why it was given up.
    pub reason: Option<DeadReason>,
    /// When it was given up, by the clock of the NATS server.
    pub at: Timestamp,
    /// How many attempts have failed.
    pub attempts: usize,
    /// The last error. If the job could not be read, there is an error although there was no attempt.
    pub error: Option<OutcomeError>,
    /// The size of the job in bytes.
    pub size: usize,
    position: u64,
}

impl Summary {
    /// Its position among all dead letters: see [`list`](super::list).
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }
}

impl DeadLetter {
    /// The dead letter as lists hold it.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let failures = self.failures.iter();
        Summary {
            id: self.id,
            kind: self.kind.clone(),
            reason: self.reason,
            at: self.at,
            attempts: failures.filter(|failure| failure.attempt > 0).count(),
            error: self.last_failure().map(|failure| failure.error.clone()),
            size: self.size,
            position: self.sequence,
        }
    }
}
