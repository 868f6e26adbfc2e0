//! Recurring schedules: stores, changes, pauses and deletes them, and runs one now.
//!
//! Consumers submit the jobs. While no consumer runs, no job is submitted; what happens to the ticks of that
//! time is up to the schedule's `catch_up`.

use std::collections::HashMap;

use anyhow::Context as _;
use common::{JobId, JobState, PendingJob, Tick, Timestamp};
use connection::NatsClient;
use jetstream::records::{self, Records};
use jetstream::{NotStored, ServerClock, Stream, batch, manage, schedules};
use schedule::Timetable;
use tracing::debug;

pub use common::{
    CatchUp, InvalidSchedule, JobTemplate, Overlap, Schedule, ScheduleName, ScheduleRecord,
};
pub use jetstream::schedules::StoredSchedule;

/// How often a change is tried again when others change the schedule at the same time. Consumers do, at
/// each tick.
const TRIES: usize = 10;

/// The most jobs that may wait for a consumer to submit them.
const MOST_PENDING: usize = 500;

/// How many ticks a preview has.
const PREVIEW: usize = 10;

/// Which schedule a change expects to find.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expected {
    /// Any, or none.
    #[default]
    Anything,
    /// None.
    Nothing,
    /// The one with this revision.
    Revision(u64),
}

/// Why a schedule is not changed; found in an error by [`anyhow::Error::downcast_ref`].
///
/// ```no_run
/// use client::schedules::{Refused, pause};
///
/// # async fn example(jobs: client::Client) -> anyhow::Result<()> {
/// let name = "nightly".parse()?;
/// if let Err(error) = pause(jobs.nats(), &name, None).await {
///     match error.downcast_ref::<Refused>() {
///         Some(Refused::Unknown(name)) => println!("nobody has made a schedule {name}"),
///         _ => println!("not paused: {error:#}"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It cannot be used.
    #[error(transparent)]
    Invalid(#[from] InvalidSchedule),
    /// There is no schedule of this name.
    #[error("there is no schedule {0}")]
    Unknown(ScheduleName),
    /// Another one than expected is there.
    #[error("the schedule {name} has the revision {found}, not the expected one")]
    Changed {
        /// Its name.
        name: ScheduleName,
        /// Its revision; 0 if there is none.
        found: u64,
    },
    /// What is stored cannot be read: it has to be replaced or deleted.
    #[error("the stored schedule {0} cannot be read: replace or delete it")]
    Unreadable(ScheduleName),
    /// Too many jobs of it wait for a consumer.
    #[error("{MOST_PENDING} jobs of the schedule {0} wait for a consumer to submit them")]
    Busy(ScheduleName),
}

/// Stores a schedule, new or in place of another one, and returns it. A tick whose time has come before
/// that and that no consumer has taken yet is run as the new schedule says.
///
/// ```no_run
/// use client::schedules::{self, Expected, Schedule};
///
/// # async fn example(jobs: client::Client) -> anyhow::Result<()> {
/// let nightly = br#"{"cron": "30 2 * * *", "time_zone": "Europe/Berlin", "overlap": "skip",
///     "job": {"kind": "report", "payload": {"days": 1}, "timeout": "1h"}}"#;
/// let (name, nightly) = ("nightly".parse()?, Schedule::decode(nightly)?);
/// let stored = schedules::put(jobs.nats(), &name, &nightly, Expected::Anything, None).await?;
/// println!("it runs at {:?}", stored.next);
/// schedules::run_now(jobs.nats(), &name).await?;
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// [`Refused`]; also when the server refuses it or does not answer in time.
pub async fn put(
    client: &NatsClient,
    name: &ScheduleName,
    schedule: &Schedule,
    expected: Expected,
    by: Option<String>,
) -> anyhow::Result<ScheduleRecord> {
    Timetable::of(schedule).map_err(Refused::from)?;
    change(client, name, |found, now| {
        expected.check(name, found.as_ref())?;
        if let Some(record) = found.and_then(|found| found.record) {
            return Ok(edited(record, schedule.clone(), by.clone(), now)?);
        }
        let next = Timetable::of(schedule)?.after(now);
        Ok(ScheduleRecord {
            name: name.clone(),
            revision: 1,
            at: now,
            by: by.clone(),
            changed: true,
            schedule: schedule.clone(),
            next: next.filter(|_| !schedule.paused),
            last: None,
            pending: Vec::new(),
            skipped: 0,
            last_skipped: None,
        })
    })
    .await
}

/// Pauses a schedule, also one that is paused already: it has no ticks until it is resumed, and those of
/// that time are not caught up. Returns it.
///
/// # Errors
/// [`Refused`]; also when the server refuses it or does not answer in time.
pub async fn pause(
    client: &NatsClient,
    name: &ScheduleName,
    by: Option<String>,
) -> anyhow::Result<ScheduleRecord> {
    set_paused(client, name, true, by).await
}

/// Resumes a schedule, also one that is not paused. Returns it.
///
/// # Errors
/// [`Refused`]; also when the server refuses it or does not answer in time.
pub async fn resume(
    client: &NatsClient,
    name: &ScheduleName,
    by: Option<String>,
) -> anyhow::Result<ScheduleRecord> {
    set_paused(client, name, false, by).await
}

async fn set_paused(
    client: &NatsClient,
    name: &ScheduleName,
    paused: bool,
    by: Option<String>,
) -> anyhow::Result<ScheduleRecord> {
    change(client, name, |found, now| {
        let record = existing(found, name)?;
        let mut schedule = record.schedule.clone();
        schedule.paused = paused;
        Ok(edited(record, schedule, by.clone(), now)?)
    })
    .await
}

/// Submits a job of a schedule now, also of one that is paused, whatever its last job does. Returns the id of
/// the job. The ticks stay as they are.
///
/// # Errors
/// [`Refused`]; also when the server refuses it or does not answer in time.
pub async fn run_now(client: &NatsClient, name: &ScheduleName) -> anyhow::Result<JobId> {
    let id = JobId::generate();
    let mut job = None;
    change(client, name, |found, now| {
        let mut record = existing(found, name)?;
        if record.pending.len() >= MOST_PENDING {
            return Err(Refused::Busy(name.clone()));
        }
        let pending = PendingJob {
            id,
            tick: now,
            run_at: None,
            replaces: None,
        };
        job = Some(schedules::job_message(&record, &pending, now));
        record.pending.push(pending);
        record.last = Some(Tick { tick: now, id });
        record.changed = true;
        Ok(record)
    })
    .await?;
    // A consumer would submit it, too, and sees to it if this fails.
    if let Some(job) = job {
        match batch::store(client, vec![job]).await {
            Ok(_) | Err(NotStored::Conflict | NotStored::Exists | NotStored::Repeated) => {}
            Err(error) => {
                debug!(schedule = %name, job.id = %id, %error, "a consumer will submit the job of a schedule");
            }
        }
    }
    Ok(id)
}

/// Deletes a schedule. Its jobs stay. False if there is none.
///
/// # Errors
/// [`Refused`]; also when the server refuses it or does not answer in time.
pub async fn delete(
    client: &NatsClient,
    name: &ScheduleName,
    expected: Expected,
) -> anyhow::Result<bool> {
    for _ in 0..TRIES {
        let stored = schedules::read(client, name).await?;
        expected.check(name, stored.as_ref())?;
        let Some(StoredSchedule { sequence, .. }) = stored else {
            return Ok(false);
        };
        // If a consumer stores it meanwhile, this deletes nothing, and the next look finds it.
        manage::delete_message(client, Stream::State, sequence).await?;
        let left = schedules::read(client, name).await?;
        if left.is_none_or(|left| left.sequence < sequence) {
            return Ok(true);
        }
    }
    anyhow::bail!("the schedule {name} is not deleted: others change it at the same time")
}

/// A schedule; `None` if there is none.
///
/// # Errors
/// [`Refused::Unreadable`]; also when the server does not answer in time.
pub async fn get(
    client: &NatsClient,
    name: &ScheduleName,
) -> anyhow::Result<Option<ScheduleRecord>> {
    match schedules::read(client, name).await? {
        None => Ok(None),
        found => Ok(Some(existing(found, name)?)),
    }
}

/// All schedules, in the order of their names.
///
/// # Errors
/// When the server does not answer in time.
pub async fn list(client: &NatsClient) -> anyhow::Result<Vec<(ScheduleName, StoredSchedule)>> {
    Ok(schedules::all(client).await?.into_iter().collect())
}

/// The states of the last jobs of schedules, as far as they have a record: jobs that wait or have just
/// begun have none, and records expire.
///
/// # Errors
/// When the server does not answer in time.
pub async fn last_states(
    client: &NatsClient,
    schedules: impl IntoIterator<Item = &ScheduleRecord>,
) -> anyhow::Result<HashMap<JobId, JobState>> {
    let records = schedules.into_iter();
    let ids: Vec<_> = records.filter_map(|record| Some(record.last?.id)).collect();
    let mut states = HashMap::new();
    if ids.is_empty() {
        return Ok(states);
    }
    let mut records = Records::new(client).await?;
    for ids in ids.chunks(records::MOST) {
        for (id, stored) in records.of(ids.iter().copied()).await? {
            let state = stored.record.map(|record| record.state);
            states.insert(id, state.unwrap_or(JobState::Unreadable));
        }
    }
    Ok(states)
}

/// The next ten ticks of a schedule after a time, whether it is paused or not. Nothing is stored.
///
/// ```
/// use client::schedules::{Schedule, preview};
///
/// let hourly = Schedule::decode(br#"{"cron": "@hourly", "job": {"kind": "report"}}"#)?;
/// let ticks = preview(&hourly, "2026-01-31T09:30:00Z".parse()?)?;
/// assert_eq!((ticks.len(), ticks[0].to_string()), (10, "2026-01-31T10:00:00Z".to_owned()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
/// When the schedule cannot be used.
pub fn preview(schedule: &Schedule, after: Timestamp) -> Result<Vec<Timestamp>, InvalidSchedule> {
    Ok(Timetable::of(schedule)?.upcoming(after, PREVIEW))
}

/// The schedule that was found under a name.
fn existing(found: Option<StoredSchedule>, name: &ScheduleName) -> Result<ScheduleRecord, Refused> {
    let found = found.ok_or_else(|| Refused::Unknown(name.clone()))?;
    let unreadable = || Refused::Unreadable(name.clone());
    found.record.ok_or_else(unreadable)
}

impl Expected {
    fn check(self, name: &ScheduleName, found: Option<&StoredSchedule>) -> Result<(), Refused> {
        let record = found.and_then(|found| found.record.as_ref());
        let revision = record.map_or(0, |record| record.revision);
        let as_expected = match self {
            Self::Anything => true,
            Self::Nothing => found.is_none(),
            Self::Revision(expected) => revision == expected,
        };
        if as_expected {
            return Ok(());
        }
        Err(Refused::Changed {
            name: name.clone(),
            found: revision,
        })
    }
}

/// A schedule that is changed now.
fn edited(
    mut record: ScheduleRecord,
    schedule: Schedule,
    by: Option<String>,
    now: Timestamp,
) -> Result<ScheduleRecord, InvalidSchedule> {
    let due = record.next.filter(|next| *next <= now);
    // A tick has one job, also if this clock is a little behind that of the consumer that took it.
    let seen = record.last.map_or(now, |last| last.tick.max(now));
    record.next = match due {
        _ if schedule.paused => None,
        // No consumer has taken it yet.
        Some(due) => Some(due),
        None => Timetable::of(&schedule)?.after(seen),
    };
    record.schedule = schedule;
    record.revision += 1;
    record.at = now;
    record.by = by;
    record.changed = true;
    Ok(record)
}

/// Stores the changed schedule, unless somebody else changes it at the same time: then the change is made
/// again.
async fn change(
    client: &NatsClient,
    name: &ScheduleName,
    mut change: impl FnMut(Option<StoredSchedule>, Timestamp) -> Result<ScheduleRecord, Refused>,
) -> anyhow::Result<ScheduleRecord> {
    let clock = ServerClock::default();
    clock.read(client).await.with_context(|| {
        format!("the schedule {name} is not changed: a consumer creates the streams when it starts")
    })?;
    for _ in 0..TRIES {
        let stored = schedules::read(client, name).await?;
        let sequence = stored.as_ref().map_or(0, |stored| stored.sequence);
        let record = change(stored, clock.now())?;
        match batch::store(client, vec![schedules::message(&record, sequence)]).await {
            Ok(_) => return Ok(record),
            Err(NotStored::Conflict) => {}
            Err(error) => {
                return Err(error).with_context(|| format!("the schedule {name} is not changed"));
            }
        }
    }
    anyhow::bail!("the schedule {name} is not changed: others change it at the same time")
}
