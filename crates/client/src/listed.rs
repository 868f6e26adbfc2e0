//! A job in a list, as its record, its dead letter or its message shows it.

use common::{
    DeadReason, JobId, JobKind, JobRecord, JobState, JobSubject, OutcomeError, Timestamp, subjects,
};
use jetstream::job_messages::{future_run_at, subject_in_queue};
use jetstream::{StoredMessage, headers};

use crate::dead_letters::DeadLetter;
use crate::lookup::as_of_now;

/// A job in a list.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The job.
    pub id: JobId,
    /// Its kind; absent if it could not be read.
    pub kind: Option<JobKind>,
    /// Its state.
    pub state: JobState,
    /// Since when it is in this state, by the clock of the NATS server.
    pub at: Timestamp,
    /// The number of the last attempt that started, from 1; 0 before the first.
    pub attempt: u32,
    /// The consumer that had it last.
    pub consumer: Option<String>,
    /// Scheduled or retrying: when it runs.
    pub next_at: Option<Timestamp>,
    /// Dead: why.
    pub reason: Option<DeadReason>,
    /// The error of its last failed attempt.
    pub error: Option<OutcomeError>,
    /// Succeeded: how long the last attempt ran, in milliseconds.
    pub duration_ms: Option<f64>,
    /// The sequence of its record; 0 without one.
    pub(crate) record_sequence: u64,
}

/// The id of the job of a message.
pub(crate) fn id(subject: &str) -> Option<JobId> {
    subject.split('.').nth(2)?.parse().ok()
}

impl Listed {
    pub(crate) fn of(record: JobRecord, record_sequence: u64) -> Self {
        let record = as_of_now(record);
        Self {
            id: record.id,
            kind: record.kind,
            state: record.state,
            at: record.at,
            attempt: record.attempt,
            consumer: record.consumer,
            next_at: record.next_at,
            reason: record.reason,
            error: record
                .failures
                .into_iter()
                .rfind(|failure| !failure.is_mark())
                .map(|failure| failure.error),
            duration_ms: record.duration_ms,
            record_sequence,
        }
    }

    pub(crate) fn of_letter(letter: DeadLetter) -> Self {
        let mut failures = letter.failures.into_iter();
        let last = failures.rfind(|failure| !failure.is_mark());
        Self {
            attempt: last.as_ref().map_or(0, |failure| failure.attempt),
            consumer: last.as_ref().and_then(|failure| failure.consumer.clone()),
            reason: letter.reason,
            error: last.map(|failure| failure.error),
            ..Self::fresh(letter.id, Some(letter.kind), JobState::Dead, letter.at)
        }
    }

    pub(crate) fn of_message(kept: &StoredMessage) -> Option<Self> {
        if !kept.subject.starts_with("jobs.later.") {
            let place = JobSubject::parse(&kept.subject)?;
            let in_queue = kept.subject.starts_with(subjects::DURABLE);
            let next_at = future_run_at(kept, place.run).filter(|_| in_queue);
            let state = if next_at.is_some() {
                JobState::Scheduled
            } else {
                JobState::Queued
            };
            return Some(Self {
                next_at,
                ..Self::fresh(place.id, Some(place.kind), state, kept.at)
            });
        }
        let kind = subject_in_queue(kept).map(|subject| subject.kind);
        Some(Self {
            next_at: headers::scheduled_time(&kept.headers),
            ..Self::fresh(id(&kept.subject)?, kind, JobState::Scheduled, kept.at)
        })
    }

    fn fresh(id: JobId, kind: Option<JobKind>, state: JobState, at: Timestamp) -> Self {
        Self {
            id,
            kind,
            state,
            at,
            attempt: 0,
            consumer: None,
            next_at: None,
            reason: None,
            error: None,
            duration_ms: None,
            record_sequence: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use common::{FailedAttempt, codes};

    use super::*;

    #[test]
    fn a_list_shows_the_last_error_of_a_job_also_of_an_unreadable_one_and_no_marks() {
        let shown = |failures: &[(u32, &'static str)]| {
            let at = Timestamp::now();
            let failures = failures.iter().map(|(attempt, code)| FailedAttempt {
                attempt: *attempt,
                consumer: None,
                at,
                error: OutcomeError::new(code, ""),
            });
            let mut record = JobRecord::new(JobId::generate(), None, JobState::Dead, at);
            record.failures = failures.collect();
            Listed::of(record, 1)
                .error
                .map(|error| error.code.into_owned())
        };
        let (replayed, discarded) = ((0, codes::REPLAYED), (0, codes::DISCARDED));
        let last = shown(&[(1, codes::TIMEOUT), replayed, (1, codes::PANIC), discarded]);
        assert_eq!(last.as_deref(), Some(codes::PANIC));
        let unreadable = shown(&[(0, codes::INVALID_JOB), discarded]);
        assert_eq!(unreadable.as_deref(), Some(codes::INVALID_JOB));
        assert_eq!(shown(&[replayed]), None);
    }
}
