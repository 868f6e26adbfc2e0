use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{JobId, JobKind, OutcomeError, ScheduleName, Timestamp, codes};

/// The state of a job in the durable lane. It is stored on `jobs.state.<id>`, or on
/// `jobs-ended-<seconds>.state.<id>` if the job had none before it ended. It is published on
/// `jobs.events.<id>`.
///
/// A new job has no record until a consumer writes the first one. Each change replaces the record. The
/// server refuses a change if its writer has not seen the last record: so an attempt that was given up
/// cannot overwrite what its successor wrote. Readers must ignore fields that they do not know.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct JobRecord {
    /// The job.
    pub id: JobId,
    /// Its kind; absent if it could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<JobKind>,
    /// The state of the job.
    pub state: JobState,
    /// When this state began, by the clock of the NATS server.
    pub at: Timestamp,
    /// Which message holds the job now: the `<run>` in its subject.
    pub run: u32,
    /// The consumer that wrote the record; absent if no consumer wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// The number of the last attempt that began, from 1; 0 before the first.
    pub attempt: u32,
    /// Scheduled or retrying: when it runs, or runs again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_at: Option<Timestamp>,
    /// Succeeded: what the handler returned. Nested no deeper than a payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "serde_json::Value"))]
    pub result: Option<Box<RawValue>>,
    /// Succeeded: how long the last attempt ran, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms: Option<f64>,
    /// Ended: the job as it was submitted, with its options. The payload is left out if it is larger than
    /// the consumer keeps. Absent if the message is not a job, or if the record has no room for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "serde_json::Value"))]
    pub job: Option<Box<RawValue>>,
    /// Dead: why the job was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<DeadReason>,
    /// The attempts that failed, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub failures: Vec<FailedAttempt>,
    /// A hash of the request that submitted the job, if that had an idempotency key: another request with
    /// the same key is recognised by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
    /// The recurring schedule that submitted the job, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<ScheduleName>,
    /// How many deliveries of the run were ended by their consumers, and so were not lost with them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub settled_deliveries: u64,
}

/// The state of a job in the durable lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// It waits for its `run_at`.
    Scheduled,
    /// It waits for a consumer.
    Queued,
    /// It runs. Written for attempts that take longer than about a second.
    Running,
    /// An attempt failed; it waits for the next one.
    Retrying,
    /// The handler returned a result. Final.
    Succeeded,
    /// It was given up, and is among the dead letters. Final, unless it is replayed.
    Dead,
    /// Somebody cancelled it. Final.
    Cancelled,
    /// Its deadline passed before it was started. Final.
    Expired,
    /// Something that is not a record is stored in its place. The next record of the job replaces it.
    /// This state is never stored: it is shown to readers only.
    Unreadable,
}

/// Why a job is among the dead letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum DeadReason {
    /// All its attempts failed.
    AttemptsUsedUp,
    /// It failed permanently: a repetition cannot help.
    Permanent,
    /// The message is not a job, or not the job that its subject names.
    Undecodable,
    /// The headers of the message, or its subject, cannot be read.
    UnreadableHeaders,
    /// The consumer that was to run it has no handler for it.
    NoHandler,
    /// Too many consumers were lost before they had settled it.
    DeliveriesExhausted,
    /// Its message was lost while it waited, and the job was too large to be stored elsewhere.
    LostSchedule,
}

/// An attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct FailedAttempt {
    /// The number of the attempt, from 1. 0 is no attempt: it marks where the job was replayed, after
    /// which attempts count anew, or where its dead letter was discarded. The code of the error tells which.
    pub attempt: u32,
    /// The consumer that made it; absent if it is not known, because the consumer was lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub consumer: Option<String>,
    /// When it ended, by the clock of the NATS server.
    pub at: Timestamp,
    /// Why it failed.
    pub error: OutcomeError,
}

/// ```
/// use common::{FailedAttempt, JobRecord};
///
/// /// The error of the last attempt of a job.
/// fn last_error(record: &JobRecord) -> Option<&str> {
///     let mut failures = record.failures.iter().rev();
///     let last: &FailedAttempt = failures.find(|failed| !failed.is_mark())?;
///     Some(&last.error.message)
/// }
/// # let id = common::JobId::generate();
/// # let now = common::Timestamp::now();
/// # let record = JobRecord::new(id, None, common::JobState::Queued, now);
/// # assert_eq!(last_error(&record), None);
/// ```
impl FailedAttempt {
    /// Whether it is no attempt, but marks where the job was replayed or its dead letter discarded.
    #[must_use]
    pub fn is_mark(&self) -> bool {
        // A job that nobody can read has failed without an attempt, too.
        self.attempt == 0 && [codes::REPLAYED, codes::DISCARDED].contains(&&*self.error.code)
    }
}

/// ```
/// use common::{JobRecord, JobState};
///
/// let text = r#"{"id": "01890a5d-ac96-774b-bcce-b302099a8057", "kind": "mail.send",
///     "state": "succeeded", "at": "2026-01-31T09:30:00Z", "run": 1, "attempt": 1, "result": 7}"#;
/// let record: JobRecord = serde_json::from_str(text)?;
/// assert_eq!(record.state, JobState::Succeeded);
/// assert_eq!(record.result.as_ref().map(|result| result.get()), Some("7"));
/// # Ok::<(), serde_json::Error>(())
/// ```
impl JobRecord {
    /// Whether the job is dead and somebody has discarded its dead letter.
    #[must_use]
    pub fn is_discarded(&self) -> bool {
        let last = self.failures.last();
        self.state == JobState::Dead
            && last.is_some_and(|last| last.is_mark() && last.error.code == codes::DISCARDED)
    }

    /// A record with only these fields set.
    #[must_use]
    pub fn new(id: JobId, kind: Option<JobKind>, state: JobState, at: Timestamp) -> Self {
        Self {
            id,
            kind,
            state,
            at,
            run: 1,
            consumer: None,
            attempt: 0,
            next_at: None,
            result: None,
            duration_ms: None,
            job: None,
            reason: None,
            failures: Vec::new(),
            request: None,
            schedule: None,
            settled_deliveries: 0,
        }
    }
}

/// ```
/// use common::JobState;
///
/// assert!(JobState::Dead.is_final() && !JobState::Retrying.is_final());
/// ```
impl JobState {
    /// All states, in the order in which a job passes them.
    pub const ALL: [Self; 9] = [
        Self::Scheduled,
        Self::Queued,
        Self::Running,
        Self::Retrying,
        Self::Succeeded,
        Self::Dead,
        Self::Cancelled,
        Self::Expired,
        Self::Unreadable,
    ];

    /// The states that are stored: all but [`JobState::Unreadable`].
    pub fn stored() -> impl Iterator<Item = Self> {
        let all = Self::ALL.into_iter();
        all.filter(|state| *state != Self::Unreadable)
    }

    /// Whether nothing more happens to the job by itself.
    #[must_use]
    pub const fn is_final(self) -> bool {
        matches!(
            self,
            Self::Succeeded | Self::Dead | Self::Cancelled | Self::Expired
        )
    }

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
            Self::Unreadable => "unreadable",
        }
    }
}

impl std::fmt::Display for JobState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// ```
/// use common::DeadReason;
///
/// assert_eq!(DeadReason::AttemptsUsedUp.as_str(), "attempts_used_up");
/// ```
impl DeadReason {
    /// All reasons, the most frequent first.
    pub const ALL: [Self; 7] = [
        Self::AttemptsUsedUp,
        Self::Permanent,
        Self::Undecodable,
        Self::UnreadableHeaders,
        Self::NoHandler,
        Self::DeliveriesExhausted,
        Self::LostSchedule,
    ];

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::AttemptsUsedUp => "attempts_used_up",
            Self::Permanent => "permanent",
            Self::Undecodable => "undecodable",
            Self::UnreadableHeaders => "unreadable_headers",
            Self::NoHandler => "no_handler",
            Self::DeliveriesExhausted => "deliveries_exhausted",
            Self::LostSchedule => "lost_schedule",
        }
    }
}

impl std::fmt::Display for DeadReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_on_the_wire_reads_as_documented_and_survives_the_round_trip() {
        let at: Timestamp = "2026-01-31T09:30:00Z".parse().unwrap();
        let id = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let mut record = JobRecord::new(id, "mail.send".parse().ok(), JobState::Succeeded, at);
        let queued = serde_json::to_string(&record).unwrap();
        record.consumer = Some("consumer-3f9a1c".to_owned());
        record.attempt = 2;
        record.result = serde_json::value::to_raw_value(&serde_json::json!({"n": 1})).ok();
        record.duration_ms = Some(1.5);
        record.job =
            serde_json::value::to_raw_value(&serde_json::json!({"kind": "mail.send"})).ok();
        record.failures = vec![FailedAttempt {
            attempt: 1,
            consumer: Some("consumer-aaaaaa".to_owned()),
            at,
            error: OutcomeError::new(crate::codes::TRANSIENT, "the smtp server is away"),
        }];
        let full = serde_json::to_string(&record).unwrap();
        let back: JobRecord = serde_json::from_str(&full).unwrap();
        assert_eq!(serde_json::to_string(&back).unwrap(), full);
        insta::assert_snapshot!(format!("{queued}\n{full}"));
    }

    #[test]
    fn words_are_those_on_the_wire() {
        for state in [JobState::Scheduled, JobState::Unreadable, JobState::Dead] {
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        for reason in DeadReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
