//! The steps of a tick.
//!
//! 1. Decide which ticks have a job, and store that in the schedule, with the next tick.
//! 2. Submit these jobs.
//! 3. Store in the schedule that they are submitted.
//! 4. Set the timer for the next tick.
//!
//! The schedule is replaced only by a writer that has seen the last one, so one consumer decides, and the
//! others see its decision. All other steps may be repeated, by anybody: the ids of the jobs are in the
//! schedule, and the timer follows from it. So [`Keeper::advance`] begins with what it finds, and it does
//! not matter where another consumer was stopped, or what made this one look.

use std::sync::Arc;

use async_nats::HeaderMap;
use bytes::Bytes;
use common::{JobId, Overlap, ScheduleName, ScheduleRecord, Tick, Timestamp, subjects};
use jetstream::headers::TTL;
use jetstream::schedules::{self, StoredSchedule};
use jetstream::{Message, NotStored, batch};
use schedule::{Due, Timetable};
use tracing::{debug, warn};

use super::last_job;
use super::timer::{self, Timer};
use crate::store::JobStore;

/// How often a schedule is read again because somebody else has changed it meanwhile.
const TRIES: usize = 10;

/// How long a request to cancel is kept: far longer than a consumer needs to carry it out.
const KEPT: &str = "24h";

#[derive(Clone)]
pub(super) struct Keeper {
    pub(super) store: Arc<JobStore>,
}

/// What became of a write.
enum Stored {
    Yes(u64),
    /// Somebody else has written meanwhile.
    Conflict,
}

impl Keeper {
    /// Does what is due for a schedule, and sets its timer.
    ///
    /// # Errors
    /// When the server does not answer in time, or does not store something.
    pub(super) async fn advance(&self, name: &ScheduleName, now: Timestamp) -> anyhow::Result<()> {
        for _ in 0..TRIES {
            // In this order: whoever stores a schedule stores it before its timer. So a timer that is
            // replaced here belongs to this schedule or an earlier one.
            let timer = timer::read(&self.store.client, name).await?;
            let Some(StoredSchedule { record, sequence }) =
                schedules::read(&self.store.client, name).await?
            else {
                return Ok(());
            };
            let readable = record.and_then(|record| {
                let timetable = Timetable::of(&record.schedule).ok()?;
                Some((record, timetable))
            });
            let Some((record, timetable)) = readable else {
                warn!(schedule = %name, "a stored schedule cannot be read: it has no ticks until it is replaced");
                return Ok(());
            };
            if self
                .bring_up_to_date(timer, record, &timetable, sequence, now)
                .await?
            {
                return Ok(());
            }
        }
        anyhow::bail!("the schedule {name} changes again and again")
    }

    /// False if somebody else has changed the schedule or its timer meanwhile.
    async fn bring_up_to_date(
        &self,
        timer: Timer,
        mut record: ScheduleRecord,
        timetable: &Timetable,
        mut sequence: u64,
        now: Timestamp,
    ) -> anyhow::Result<bool> {
        loop {
            if record.pending.is_empty() {
                let Some(next) = record.next else {
                    return Ok(true);
                };
                if next > now {
                    return self.set(timer, &record.name, next).await;
                }
                self.decide(&mut record, timetable, next, now).await?;
            } else {
                self.submit(&record).await?;
                record.pending.clear();
            }
            record.changed = false;
            match self.write(schedules::message(&record, sequence)).await? {
                Stored::Yes(stored) => sequence = stored,
                Stored::Conflict => return Ok(false),
            }
        }
    }

    /// Decides which of the ticks from `next` until now have a job.
    async fn decide(
        &self,
        record: &mut ScheduleRecord,
        timetable: &Timetable,
        next: Timestamp,
        now: Timestamp,
    ) -> anyhow::Result<()> {
        let schedule = &record.schedule;
        let Due {
            mut ticks,
            next,
            mut skipped,
            mut last_skipped,
        } = Due::of(schedule, timetable, next, now);
        let mut replaces = None;
        if let (Some(last), Some(tick)) = (record.last, ticks.last())
            && schedule.overlap != Overlap::Allow
            && !last_job::has_ended(&self.store.client, last.id).await?
        {
            if schedule.overlap == Overlap::Replace {
                replaces = Some(last.id);
            } else {
                debug!(schedule = %record.name, %tick, job.id = %last.id, "a tick has no job, because the last job has not ended");
                skipped += ticks.len() as u64;
                last_skipped = Some(*tick);
                ticks.clear();
            }
        }
        let jobs = ticks.into_iter().map(|tick| {
            let mut job = schedule::pending_job(&record.name, schedule, tick);
            job.replaces = replaces;
            job
        });
        record.pending = jobs.collect();
        if let Some(job) = record.pending.last() {
            let (tick, id) = (job.tick, job.id);
            record.last = Some(Tick { tick, id });
        }
        record.skipped = record.skipped.saturating_add(skipped);
        record.last_skipped = last_skipped.or(record.last_skipped);
        record.next = next;
        Ok(())
    }

    async fn submit(&self, record: &ScheduleRecord) -> anyhow::Result<()> {
        for pending in &record.pending {
            if let Some(last) = pending.replaces {
                self.write(cancellation(last)).await?;
            }
            let job = schedules::job_message(record, pending, self.store.clock.now());
            self.write(job).await?;
            debug!(schedule = %record.name, tick = %pending.tick, job.id = %pending.id, "submitted the job of a tick");
        }
        Ok(())
    }

    /// Sets the timer, unless it is set already. False if somebody else has set it meanwhile.
    async fn set(
        &self,
        timer: Timer,
        name: &ScheduleName,
        next: Timestamp,
    ) -> anyhow::Result<bool> {
        if timer.tick == Some(next) {
            return Ok(true);
        }
        let stored = self.write(timer.message(name, next)).await?;
        Ok(matches!(stored, Stored::Yes(_)))
    }

    async fn write(&self, message: Message) -> anyhow::Result<Stored> {
        match batch::store(&self.store.client, vec![message]).await {
            Ok(sequence) => Ok(Stored::Yes(sequence)),
            Err(NotStored::Conflict | NotStored::Exists | NotStored::Repeated) => {
                Ok(Stored::Conflict)
            }
            Err(error) => Err(error.into()),
        }
    }
}

fn cancellation(id: JobId) -> Message {
    let mut headers = HeaderMap::new();
    headers.insert(TTL, KEPT);
    Message {
        subject: subjects::cancel(id),
        headers,
        payload: Bytes::new(),
    }
}
