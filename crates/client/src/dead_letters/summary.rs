use common::{DeadReason, JobId, JobKind, OutcomeError, Timestamp};

use super::DeadLetter;

/// What lists tell of a dead letter: it may be large, and they hold many.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The job.
    pub id: JobId,
    /// Its kind.
    pub kind: JobKind,
    /// Why it was given up.
    pub reason: Option<DeadReason>,
    /// When, by the clock of the NATS server.
    pub at: Timestamp,
    /// How many attempts have failed.
    pub attempts: usize,
    /// What went wrong last; also before there was an attempt, as with a job that cannot be read.
    pub error: Option<OutcomeError>,
    /// The size of the job in bytes.
    pub size: usize,
    position: u64,
}

impl Summary {
    /// Where it stands among all dead letters: see [`list`](super::list).
    #[must_use]
    pub fn position(&self) -> u64 {
        self.position
    }
}

impl DeadLetter {
    /// What lists tell of it.
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
