//! Names on NATS that publishers, consumers and observers agree on.

use crate::{JobId, JobKind, KindPattern, Priority, Retention, ScheduleName, UniqueHash};

/// Jobs of every kind; consumers share it as the queue group [`WORKERS`].
pub const CREATE: &str = "jobs.create";

/// Request-reply: every consumer answers with its [`crate::ConsumerStatus`].
pub const STATUS: &str = "jobs.status";

/// Request-reply: a status service answers with the [`crate::Fleet`], as much of it as is asked for.
pub const FLEET: &str = "jobs.fleet";

/// The prefix of [`serves_kind`].
pub const SERVES: &str = "jobs.serves";

/// The queue group in which consumers subscribe to [`CREATE`] and to the subjects below it.
pub const WORKERS: &str = "workers";

/// Header with the number of this submission of a job, from 1; absent means 1.
///
/// A publisher that submits the same id again adds one, and the outcome repeats the number.
pub const ATTEMPT_HEADER: &str = "Jobs-Attempt";

/// Header of a durable job, with any value: the id was made for this job, nobody else knows it, and
/// the job is sent for the first time.
///
/// So no other message can have the id, and consumers need not look up its record.
pub const FRESH_HEADER: &str = "Jobs-Fresh";

/// Header of a durable job: the [`crate::WIRE_VERSION`] that a consumer needs to read it; absent
/// means 1.
pub const REQUIRES_HEADER: &str = "Jobs-Requires";

/// Header of a unique job: the [`UniqueHash`] of its kind and key, and so the subject of its [`unique`]
/// lock. A consumer releases that lock if it names the job.
pub const UNIQUE_HEADER: &str = "Jobs-Unique";

/// Header of a durable job that was submitted with an idempotency key: a hash of the request, of up to
/// [`MAX_REQUEST_HASH`] letters and digits.
pub const REQUEST_HEADER: &str = "Jobs-Request";

/// Header of a job that a recurring schedule has submitted: the name of the schedule.
pub const SCHEDULE_HEADER: &str = "Jobs-Schedule";

/// The longest value of [`REQUEST_HEADER`] that is kept in a record, in bytes.
pub const MAX_REQUEST_HASH: usize = 64;

/// Header of a dead letter: why the job was given up, a [`crate::DeadReason`].
pub const DEAD_REASON_HEADER: &str = "Jobs-Reason";

/// Header of a dead letter: its failed attempts, a JSON array of [`crate::FailedAttempt`].
pub const DEAD_FAILURES_HEADER: &str = "Jobs-Failures";

/// Header of a dead letter: the priority that the job had in its subject.
pub const PRIORITY_HEADER: &str = "Jobs-Priority";

/// Header of a dead letter: the run that the job was in, a number from 1.
pub const RUN_HEADER: &str = "Jobs-Run";

/// The only header of a message whose headers, subject or reply subject cannot be read: its original
/// headers as base64, up to 40 KiB of them.
pub const UNREADABLE_HEADER: &str = "Jobs-Unreadable-Headers";

/// Header of a marker on [`overdue`]: where the job's next run is due, a [`due_job`].
pub const DUE_HEADER: &str = "Jobs-Due";

/// The name of the core lane in a [`crate::ConsumerStatus`].
pub const CORE_LANE: &str = "core";

/// The subject for jobs of one kind: only consumers that serve the kind receive them.
#[must_use]
pub fn create_kind(kind: &JobKind) -> String {
    format!("{CREATE}.{kind}")
}

/// The subject on which a consumer that serves a kind answers, even while it is full. An answer, even
/// an empty one, means that the kind is served; no responders means that nobody serves it.
#[must_use]
pub fn serves_kind(kind: &JobKind) -> String {
    format!("{SERVES}.{kind}")
}

/// The name of the durable lane in a [`crate::ConsumerStatus`].
pub const DURABLE_LANE: &str = "durable";

/// The prefix of [`durable_job`].
pub const DURABLE: &str = "jobs.durable";

/// The prefix of [`due_job`]: jobs of the durable lane whose time has come, for the first time or
/// again. Only the server publishes there.
pub const DUE: &str = "jobs.due";

/// Where a job enters the durable lane: `jobs.durable.<id>.<priority>.<run>.<kind>`.
///
/// Id, priority and kind are those of the job. The run is 1 in a submission; a job that is put
/// back into the queue gets the next number, so that no two messages share a subject.
#[must_use]
pub fn durable_job(id: JobId, priority: Priority, run: u32, kind: &JobKind) -> String {
    format!("{DURABLE}.{id}.{priority}.{run}.{kind}")
}

/// Where a job comes back into the queue at its time: `jobs.due.<id>.<priority>.<run>.<kind>`.
#[must_use]
pub fn due_job(id: JobId, priority: Priority, run: u32, kind: &JobKind) -> String {
    format!("{DUE}.{id}.{priority}.{run}.{kind}")
}

/// The jobs of one kind and priority that have entered the durable lane, with wildcards: see
/// [`durable_job`].
#[must_use]
pub fn durable_of_priority(priority: Priority, kind: &JobKind) -> String {
    format!("{DURABLE}.*.{priority}.*.{kind}")
}

/// Every job as it was submitted, with wildcards: see [`durable_job`].
pub const ALL_DURABLE: &str = "jobs.durable.*.*.*.>";

/// Every job whose time has come, with wildcards: see [`due_job`].
pub const ALL_DUE: &str = "jobs.due.>";

/// Every job that waits for its time, with wildcards: see [`later`].
pub const ALL_LATER: &str = "jobs.later.*";

/// Every record that is stored on a [`state`], with wildcards.
pub const ALL_STATES: &str = "jobs.state.*";

/// Every record, with wildcards: see [`record`].
pub const ALL_RECORDS: &str = "*.state.*";

/// Every new record, with wildcards: see [`events`].
pub const ALL_EVENTS: &str = "jobs.events.*";

/// Every request to cancel a job, with wildcards: see [`cancel`].
pub const ALL_CANCELS: &str = "jobs.cancel.*";

/// Every dead letter, with wildcards: see [`dead`].
pub const ALL_DEAD: &str = "jobs.dead.*.>";

/// Every marker of a job that waits, with wildcards: see [`overdue`].
pub const ALL_OVERDUE: &str = "jobs.overdue.*.*";

/// Every setting of a kind, with wildcards: see [`kind_setting`].
pub const ALL_KIND_SETTINGS: &str = "jobs.kind.*";

/// Where the setting of all kinds is stored. It is not the subject of any kind: see [`kind_setting`].
pub const SETTING_OF_ALL_KINDS: &str = "jobs.kind.=all";

/// Every lock of a unique job, with a wildcard: see [`unique`].
pub const ALL_UNIQUE: &str = "jobs.unique.*";

/// Every request to release a key, with a wildcard: see [`release`].
pub const ALL_RELEASES: &str = "jobs.release.*";

/// Every request to run a job now, with a wildcard: see [`run_now`].
pub const ALL_RUNS_NOW: &str = "jobs.now.*";

/// Every recurring schedule, with a wildcard: see [`schedule`].
pub const ALL_SCHEDULES: &str = "jobs.cron.*";

/// Every tick of a recurring schedule that waits for its time, with a wildcard: see [`next_tick`].
pub const ALL_NEXT_TICKS: &str = "jobs.tick.next.*";

/// Every tick of a recurring schedule whose time has come, with a wildcard: see [`due_tick`].
pub const ALL_DUE_TICKS: &str = "jobs.tick.due.*";

/// Every tick of a recurring schedule, with wildcards.
pub const ALL_TICKS: &str = "jobs.tick.*.*";

/// Where the watch for overdue jobs stores its progress.
pub const OVERDUE_CURSOR: &str = "jobs.overdue.watch.cursor";

/// What the subject of a durable job says: `jobs.durable.<id>.<priority>.<run>.<kind>`, and the same
/// behind `jobs.due` when its time has come.
///
/// ```
/// use common::JobSubject;
///
/// let subject = "jobs.durable.01890a5d-ac96-774b-bcce-b302099a8057.normal.1.mail.send";
/// let subject = JobSubject::parse(subject).expect("a subject of a job");
/// assert_eq!((subject.run, subject.kind.as_str()), (1, "mail.send"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JobSubject {
    /// The job.
    pub id: JobId,
    /// Its priority.
    pub priority: Priority,
    /// The number of the run, from 1: a job that is put back into the queue gets the next number, so
    /// that no two messages share a subject.
    pub run: u32,
    /// Its kind.
    pub kind: JobKind,
}

impl JobSubject {
    /// Reads a subject behind `jobs.durable` or `jobs.due`.
    #[must_use]
    pub fn parse(subject: &str) -> Option<Self> {
        let mut tokens = subject.splitn(6, '.').skip(2);
        Some(Self {
            id: tokens.next()?.parse().ok()?,
            priority: tokens.next()?.parse().ok()?,
            run: tokens.next()?.parse().ok().filter(|run| *run > 0)?,
            kind: tokens.next()?.parse().ok()?,
        })
    }

    /// The kind in such a subject, whatever its other tokens are.
    #[must_use]
    pub fn kind_in(subject: &str) -> Option<JobKind> {
        subject.splitn(6, '.').nth(5)?.parse().ok()
    }

    /// Stands for the subject of a message whose own subject cannot be read.
    #[must_use]
    pub fn of_unreadable(stream_sequence: u64, kind: JobKind) -> Self {
        Self {
            id: JobId::of_unreadable(stream_sequence),
            priority: Priority::Normal,
            run: 1,
            kind,
        }
    }

    /// The subject on which the server publishes the job when its time has come: [`due_job`].
    #[must_use]
    pub fn due(&self) -> String {
        due_job(self.id, self.priority, self.run, &self.kind)
    }
}

/// Where a job waits for its time: a message with the header `Nats-Schedule`, whose target is
/// [`due_job`]. Only consumers may publish there: a publisher could remove the jobs of all others.
#[must_use]
pub fn later(id: JobId) -> String {
    format!("jobs.later.{id}")
}

/// Where the [`crate::JobRecord`] of a job is stored, but for the records of [`ended`].
#[must_use]
pub fn state(id: JobId) -> String {
    format!("jobs.state.{id}")
}

/// Where the [`crate::JobRecord`] of a job is stored that had no record before it ended, and has no
/// dead letter: `jobs-ended-<seconds>.state.<id>`. When their time is over, these records are removed
/// together.
#[must_use]
pub fn ended(retention: Retention, id: JobId) -> String {
    format!("{ENDED}-{}.state.{id}", retention.time().as_secs())
}

/// Every record of this retention that is stored on an [`ended`], with a wildcard.
#[must_use]
pub fn all_ended(retention: Retention) -> String {
    format!("{ENDED}-{}.state.*", retention.time().as_secs())
}

/// The [`crate::JobRecord`] of a job, with a wildcard: it is stored on [`state`] or on [`ended`]. If
/// both hold a message, the later one counts.
#[must_use]
pub fn record(id: JobId) -> String {
    format!("*.state.{id}")
}

/// Where each new [`crate::JobRecord`] of a job is published. Nothing is stored there.
#[must_use]
pub fn events(id: JobId) -> String {
    format!("jobs.events.{id}")
}

/// Where the request to cancel a job is stored.
#[must_use]
pub fn cancel(id: JobId) -> String {
    format!("jobs.cancel.{id}")
}

/// Where the [`crate::KindSetting`] of a kind is stored: `jobs.kind.<kind>`. The kind is one token, with
/// `=` in place of its dots.
#[must_use]
pub fn kind_setting(kind: &JobKind) -> String {
    format!("jobs.kind.{}", kind.to_token())
}

/// Reads [`kind_setting`].
#[must_use]
pub fn parse_kind_setting(subject: &str) -> Option<JobKind> {
    JobKind::from_token(subject.strip_prefix("jobs.kind.")?)
}

/// Where the [`crate::UniqueLock`] of a unique job is stored, in the same stream as the job. The stream
/// keeps one message for each subject, so one job at a time holds the key.
#[must_use]
pub fn unique(hash: UniqueHash) -> String {
    format!("jobs.unique.{hash}")
}

/// Request-reply: a consumer removes the lock of a key if the job that it names has ended or does not
/// exist, and answers with a [`crate::KeyHolder`].
#[must_use]
pub fn release(hash: UniqueHash) -> String {
    format!("jobs.release.{hash}")
}

/// Reads [`release`].
#[must_use]
pub fn parse_release(subject: &str) -> Option<UniqueHash> {
    subject.strip_prefix("jobs.release.")?.parse().ok()
}

/// Request-reply: a consumer has a job run now that waits for its time or for its next attempt, and answers with
/// a [`crate::RunNowAnswer`].
#[must_use]
pub fn run_now(id: JobId) -> String {
    format!("jobs.now.{id}")
}

/// Reads [`run_now`].
#[must_use]
pub fn parse_run_now(subject: &str) -> Option<JobId> {
    subject.strip_prefix("jobs.now.")?.parse().ok()
}

/// Where a recurring schedule is stored: a [`crate::ScheduleRecord`].
#[must_use]
pub fn schedule(name: &ScheduleName) -> String {
    format!("jobs.cron.{name}")
}

/// Reads [`schedule`].
#[must_use]
pub fn parse_schedule(subject: &str) -> Option<ScheduleName> {
    subject.strip_prefix("jobs.cron.")?.parse().ok()
}

/// Where the next tick of a recurring schedule waits for its time: a message with the header
/// `Nats-Schedule`, whose target is [`due_tick`]. Only consumers may publish there, as on [`later`].
#[must_use]
pub fn next_tick(name: &ScheduleName) -> String {
    format!("jobs.tick.next.{name}")
}

/// Where the server says that the time of a tick has come. The message is empty: what is to be done depends
/// on the stored schedule and the time only.
#[must_use]
pub fn due_tick(name: &ScheduleName) -> String {
    format!("jobs.tick.due.{name}")
}

/// Reads [`due_tick`].
#[must_use]
pub fn parse_due_tick(subject: &str) -> Option<ScheduleName> {
    subject.strip_prefix("jobs.tick.due.")?.parse().ok()
}

/// The first token of [`ended`], without the time.
const ENDED: &str = "jobs-ended";

/// The prefix of [`overdue`].
pub const OVERDUE: &str = "jobs.overdue";

/// Where the marker of a waiting job is stored: `jobs.overdue.<slot>.<id>`. The slot is a number of
/// quarters of a minute since 1970. After that time, the watch for overdue jobs reads the marker.
#[must_use]
pub fn overdue(slot: i64, id: JobId) -> String {
    format!("{OVERDUE}.{slot}.{id}")
}

/// Where the dead letter of a job is stored: `jobs.dead.<id>.<kind>`.
#[must_use]
pub fn dead(id: JobId, kind: &JobKind) -> String {
    format!("jobs.dead.{id}.{kind}")
}

/// Every dead letter of a kind, with wildcards: see [`dead`].
#[must_use]
pub fn dead_of_kind(kind: &JobKind) -> String {
    format!("jobs.dead.*.{kind}")
}

/// Every dead letter of the kinds that match, with wildcards: see [`dead`].
#[must_use]
pub fn dead_of_kinds(kinds: &KindPattern) -> String {
    format!("jobs.dead.*.{kinds}")
}

/// The dead letter of a job, whatever its kind, with wildcards: see [`dead`].
#[must_use]
pub fn dead_of_job(id: JobId) -> String {
    format!("jobs.dead.{id}.>")
}

/// Reads [`dead`].
#[must_use]
pub fn parse_dead(subject: &str) -> Option<(JobId, JobKind)> {
    let (id, kind) = subject.strip_prefix("jobs.dead.")?.split_once('.')?;
    Some((id.parse().ok()?, kind.parse().ok()?))
}

/// Reads the subject of a record: [`state`] or [`ended`].
#[must_use]
pub fn parse_record(subject: &str) -> Option<JobId> {
    let (first, id) = subject.split_once(".state.")?;
    let seconds = first
        .strip_prefix(ENDED)
        .and_then(|rest| rest.strip_prefix('-'));
    let is_ended = seconds.is_some_and(|seconds| seconds.parse::<u64>().is_ok());
    (first == "jobs" || is_ended)
        .then(|| id.parse().ok())
        .flatten()
}

/// For how many seconds a record on this subject is kept: those of [`ended`], `None` for other subjects.
#[must_use]
pub fn kept_for(subject: &str) -> Option<u64> {
    let seconds = subject.strip_prefix(ENDED)?.strip_prefix('-')?;
    seconds.split_once('.')?.0.parse().ok()
}

/// Reads [`cancel`].
#[must_use]
pub fn parse_cancel(subject: &str) -> Option<JobId> {
    subject.strip_prefix("jobs.cancel.")?.parse().ok()
}

/// Reads [`later`].
#[must_use]
pub fn parse_later(subject: &str) -> Option<JobId> {
    subject.strip_prefix("jobs.later.")?.parse().ok()
}

/// The markers of one slot, with a wildcard: see [`overdue`].
#[must_use]
pub fn overdue_in(slot: i64) -> String {
    format!("{OVERDUE}.{slot}.*")
}

/// Reads [`overdue`].
#[must_use]
pub fn parse_overdue(subject: &str) -> Option<(i64, JobId)> {
    let (slot, id) = subject.strip_prefix("jobs.overdue.")?.split_once('.')?;
    Some((slot.parse().ok()?, id.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_formatted_is_read_back() {
        let (id, kind): (JobId, JobKind) = (JobId::generate(), "mail.send".parse().unwrap());
        let subject = JobSubject {
            id,
            priority: Priority::High,
            run: 3,
            kind: kind.clone(),
        };
        let queued = durable_job(id, Priority::High, 3, &kind);
        for text in [&queued, &subject.due()] {
            assert_eq!(JobSubject::parse(text), Some(subject.clone()));
            assert_eq!(JobSubject::kind_in(text), Some(kind.clone()));
        }
        assert_eq!(parse_dead(&dead(id, &kind)), Some((id, kind.clone())));
        assert_eq!(parse_record(&state(id)), Some(id));
        for retention in Retention::all() {
            assert_eq!(parse_record(&ended(retention, id)), Some(id));
        }
        assert_eq!(parse_cancel(&cancel(id)), Some(id));
        assert_eq!(parse_later(&later(id)), Some(id));
        assert_eq!(parse_overdue(&overdue(17, id)), Some((17, id)));
        assert_eq!(kind_setting(&kind), "jobs.kind.mail=send");
        assert_eq!(parse_kind_setting(&kind_setting(&kind)), Some(kind));
        assert_eq!(parse_kind_setting("jobs.kind.mail.send"), None);
        assert_eq!(parse_kind_setting(SETTING_OF_ALL_KINDS), None);
        let hash = UniqueHash::from([7; 16]);
        assert_eq!(parse_release(&release(hash)), Some(hash));
        let id = JobId::generate();
        assert_eq!(parse_run_now(&run_now(id)), Some(id));
        let name: ScheduleName = "nightly".parse().unwrap();
        assert_eq!(parse_schedule(&schedule(&name)), Some(name.clone()));
        assert_eq!(parse_due_tick(&due_tick(&name)), Some(name));
        assert_eq!(parse_due_tick("jobs.tick.due.a.b"), None);
    }

    #[test]
    fn what_is_no_subject_of_a_job_is_not_read_as_one() {
        let id = JobId::generate();
        for subject in [
            String::new(),
            format!("jobs.durable.{id}.normal.0.echo"),
            format!("jobs.durable.{id}.urgent.1.echo"),
            format!("jobs.durable.{id}.normal.1"),
            "jobs.durable.x.normal.1.echo".to_owned(),
            OVERDUE_CURSOR.to_owned(),
        ] {
            assert_eq!(JobSubject::parse(&subject), None, "{subject}");
            assert_eq!(parse_overdue(&subject), None, "{subject}");
        }
    }

    #[test]
    fn only_a_record_that_is_kept_for_a_time_has_seconds() {
        let id = JobId::generate();
        let retention = Retention::at_least(std::time::Duration::from_hours(1));
        assert_eq!(kept_for(&ended(retention, id)), Some(4096));
        assert_eq!(kept_for(&state(id)), None);
    }
}
