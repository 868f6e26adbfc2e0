//! What crosses the wire, and nothing else: the job, its outcome, the status of a consumer and
//! the subjects they travel on.
//!
//! Everything here is plain JSON, so that a client in any language can take part. The crate
//! knows neither NATS nor an async runtime, and turns any bytes into a value or an error: it
//! never panics on input.

mod backoff;
mod duration;
mod fleet;
mod job;
mod job_id;
mod job_message;
mod kind;
mod kind_setting;
mod outcome;
mod portable;
mod record;
mod retention;
mod run_now;
mod run_time;
mod schedule;
mod schedule_name;
mod schedule_record;
mod status;
pub mod subjects;
mod timestamp;
mod unique;

pub use backoff::{Backoff, InvalidBackoff};
pub use duration::{InvalidDuration, WireDuration};
pub use fleet::{Fleet, FleetKind, FleetMember, FleetRequest, Presence};
pub use job::Job;
pub use job_id::JobId;
pub use job_message::{DecodeError, JobMessage, MaxAttempts, Priority, WIRE_VERSION};
pub use kind::{InvalidKind, JobKind, KindPattern};
pub use kind_setting::KindSetting;
pub use outcome::{Outcome, OutcomeError, Status, codes};
pub use portable::{MAX_DEPTH, NotPortable, check_portable, is_deeper_than};
pub use record::{DeadReason, FailedAttempt, JobRecord, JobState};
pub use retention::Retention;
pub use run_now::{RunNow, RunNowAnswer};
pub use run_time::{RunCounts, RunTime};
pub use schedule::{CatchUp, InvalidSchedule, JobTemplate, Overlap, Schedule};
pub use schedule_name::{InvalidScheduleName, ScheduleName};
pub use schedule_record::{PendingJob, ScheduleRecord, Tick};
pub use status::{ConsumerState, ConsumerStatus, Counts, KindStatus, LaneStatus};
pub use subjects::JobSubject;
pub use timestamp::{InvalidTimestamp, Timestamp};
pub use unique::{KeyHolder, OnConflict, Unique, UniqueHash, UniqueKey, UniqueLock, Until};
