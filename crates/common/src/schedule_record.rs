use serde::{Deserialize, Serialize};

use crate::{JobId, Schedule, ScheduleName, Timestamp};

/// A schedule and how far it has come, as it is stored on `jobs.cron.<name>`.
///
/// It is replaced only by a writer that has seen the last one. Fields that a reader does not know are
/// ignored.
///
/// ```
/// use common::{PendingJob, ScheduleRecord, Tick};
///
/// let stored = br#"{"name": "nightly", "revision": 1, "at": "2026-01-31T09:30:00Z", "changed": false,
///     "schedule": {"cron": "30 2 * * *", "job": {"kind": "report"}}, "next": "2026-02-02T02:30:00Z",
///     "last": {"tick": "2026-02-01T02:30:00Z", "id": "01890a5d-ac96-874b-8cce-b302099a8057"},
///     "pending": [{"tick": "2026-02-01T02:30:00Z", "id": "01890a5d-ac96-874b-8cce-b302099a8057"}]}"#;
/// let record: ScheduleRecord = serde_json::from_slice(stored)?;
/// let Tick { tick, id } = record.last.expect("a tick has come");
/// let not_submitted = PendingJob { tick, id, run_at: None, replaces: None };
/// assert_eq!(record.pending, [not_submitted]);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct ScheduleRecord {
    /// The name of the schedule.
    pub name: ScheduleName,
    /// How often the schedule was changed: 1 for a new one. Ticks do not count.
    pub revision: u64,
    /// When it was changed, by the clock of the NATS server.
    pub at: Timestamp,
    /// Who changed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// Whether it was changed since a consumer last wrote this record.
    pub changed: bool,
    /// What is wanted.
    pub schedule: Schedule,
    /// The next tick; absent while the schedule is paused, and after its last tick.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next: Option<Timestamp>,
    /// The last tick, or run by hand, that has a job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Tick>,
    /// Jobs that have to be submitted: whoever reads this may do it, and removes them then.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending: Vec<PendingJob>,
    /// How many ticks had no job, because the last job had not ended or because they were missed.
    #[serde(default)]
    pub skipped: u64,
    /// The last tick that had no job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_skipped: Option<Timestamp>,
}

/// A tick that has a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Tick {
    /// Its time.
    pub tick: Timestamp,
    /// The id of its job.
    pub id: JobId,
}

/// A job of a schedule that has to be submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct PendingJob {
    /// The id of the job.
    pub id: JobId,
    /// The time of its tick.
    pub tick: Timestamp,
    /// The job does not run before this time; absent if it runs at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<Timestamp>,
    /// The job that has to be cancelled first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaces: Option<JobId>,
}
