//! Puts jobs off until a later time, and restores waiting jobs whose message was lost.

use std::time::Duration;

use common::{DeadReason, JobId, JobRecord, JobState, RunNow, Timestamp, subjects};
use jetstream::headers::{self, EXPECTED_LAST, SCHEDULE, SCHEDULE_TARGET, fits};
use jetstream::job_messages::{self, Found, Place, find_message};
use jetstream::records::{self, StoredRecord};
use jetstream::{Message, NotStored, StoredMessage, Stream, direct_get};

use super::{JobStore, Marker, RETRY, Written, slot_after};
use crate::lease::Lease;

/// From this length on, a wait is a scheduled message, which the server fires with a precision of
/// about a quarter of a second. A shorter wait is a delayed nak.
pub(crate) const SCHEDULED: Duration = Duration::from_secs(1);

/// The result of restoring a job.
pub(crate) enum Restored {
    /// The job is scheduled again.
    Scheduled,
    /// The job could not be scheduled again, and is a dead letter now.
    Dead,
    /// Nothing had to be done: the record has changed, perhaps because another consumer restored
    /// the job.
    MovedOn,
    /// The lane ended before the server confirmed the write.
    GaveUp,
}

impl JobStore {
    /// Puts a job off until a time: by a scheduled message for its next run, or by a delayed nak if
    /// the wait is short or the schedule does not fit into a message.
    pub(crate) async fn put_off(&self, lease: &Lease, mut record: JobRecord, until: Timestamp) {
        let wait = until.since(record.at);
        let next = next_run(lease, record.run + 1, until);
        let scheduled = wait >= SCHEDULED && fits(&next, self.client.max_payload());
        record.next_at = Some(until);
        if scheduled {
            record.run += 1;
            record.settled_deliveries = 0;
        }
        match self.write_waiting(lease, &record, until).await {
            Written::Yes if scheduled => self.schedule(lease, record.run, next).await,
            Written::Yes => self.nak(lease, wait).await,
            Written::Ended => self.release_and_ack(lease).await,
            Written::Superseded | Written::GaveUp => {}
        }
    }

    /// Finishes what another consumer began: the record says that the job waits for a run, but the
    /// message of that run may be missing.
    pub(crate) async fn finish_put_off(&self, lease: &Lease, run: u32, until: Timestamp) {
        // The job was already put off, so this message is a duplicate.
        let subject = lease.subject(run);
        let found = find_message(&self.client, &subject).await;
        if found.is_ok_and(|found| matches!(found, Found::Waits(_))) {
            return self.ack(lease).await;
        }
        // Older versions put jobs off without markers.
        self.mark(&Marker::of(lease, run), until).await;
        self.schedule(lease, run, next_run(lease, run, until)).await;
    }

    /// Writes the record of a waiting job and its marker in one batch.
    async fn write_waiting(&self, lease: &Lease, record: &JobRecord, until: Timestamp) -> Written {
        let marker = Marker::of(lease, record.run);
        let slot = slot_after(until.max(record.at));
        let written = self.write(lease, record, vec![marker.message(slot)]).await;
        // The write may have taken long, for example because the server was down.
        if written == Written::Yes && self.is_late(slot) {
            self.mark(&marker, until).await;
        }
        written
    }

    /// Restores a waiting job whose due time has passed and whose message was lost. Schedules the
    /// job again if it has its bytes, else makes it a dead letter.
    pub(crate) async fn restore(
        &self,
        lease: &Lease,
        mut record: JobRecord,
        has_bytes: bool,
    ) -> Restored {
        // The run goes up by two. So a message of the previous run, or a message of this run that
        // arrives late, is outdated, and `decide` drops it.
        let run = record.run + 2;
        let until = record.at.after(SCHEDULED);
        let next = next_run(lease, run, until);
        let written = if has_bytes && fits(&next, self.client.max_payload()) {
            record.run = run;
            record.next_at = Some(until);
            record.settled_deliveries = 0;
            match self.write_waiting(lease, &record, until).await {
                Written::Yes if self.store_schedule(lease, run, next).await => {
                    return Restored::Scheduled;
                }
                Written::Yes => Written::GaveUp,
                written => written,
            }
        } else {
            record.next_at = None;
            self.die(lease, record, DeadReason::LostSchedule, None)
                .await
        };
        match written {
            Written::Yes => Restored::Dead,
            Written::Ended | Written::Superseded => Restored::MovedOn,
            Written::GaveUp => Restored::GaveUp,
        }
    }

    /// Has a job that waits for its time or for its next attempt run now.
    ///
    /// First its record says so, then its schedule is replaced, each only if it has not changed. If this
    /// consumer is lost in between, the watch for overdue jobs replaces the schedule. A consumer that has got
    /// the job meanwhile goes on: see `is_earlier_wait`.
    ///
    /// # Errors
    /// When the server does not answer in time, or the lane ends: then it is not known what was done.
    pub(crate) async fn bring_forward(&self, id: JobId) -> anyhow::Result<RunNow> {
        let schedule = job_messages::read(&self.client, id, Place::Later).await?;
        let Some((schedule, due)) = schedule.and_then(|schedule| {
            let due = headers::scheduled_time(&schedule.headers)?;
            Some((schedule, due))
        }) else {
            return Ok(RunNow::NotWaiting);
        };
        let until = self.clock.now().after(SCHEDULED);
        if due <= until {
            return Ok(RunNow::Due);
        }
        let Some(subject) = job_messages::subject_in_queue(&schedule) else {
            return Ok(RunNow::NotWaiting);
        };
        // Older publishers scheduled jobs themselves, without a record.
        if let Some(found) = records::one(&self.client, id).await? {
            let Some(record) = waits_for(&found, subject.run) else {
                return Ok(RunNow::NotWaiting);
            };
            let mut record = record.clone();
            let (headers, payload) = (schedule.headers.clone(), schedule.payload.clone());
            let mut lease = Lease::without_delivery(subject, Some(headers), payload, Some(&found));
            lease.attempt = record.attempt;
            record.next_at = Some(until);
            match self.write_waiting(&lease, &record, until).await {
                Written::Yes => {}
                Written::Ended | Written::Superseded => return Ok(RunNow::NotWaiting),
                Written::GaveUp => anyhow::bail!("the lane has ended"),
            }
        }
        self.schedule_again(&schedule, until).await?;
        // If it is not replaced, the server has published it meanwhile.
        Ok(RunNow::Done)
    }

    /// Stores a schedule again, for another time, unless it has changed: returns whether it is stored. If that
    /// time is over, the server publishes it at once.
    ///
    /// # Errors
    /// See [`NotStored`].
    pub(crate) async fn schedule_again(
        &self,
        schedule: &StoredMessage,
        until: Timestamp,
    ) -> Result<bool, NotStored> {
        let mut added = headers::submitted(Some(&schedule.headers));
        let target = schedule.headers.get(SCHEDULE_TARGET).cloned();
        let Some(target) = target else {
            return Ok(false);
        };
        added.insert(SCHEDULE_TARGET, target);
        added.insert(SCHEDULE, headers::schedule_at(until));
        added.insert(EXPECTED_LAST, schedule.sequence.to_string());
        let again = Message {
            subject: schedule.subject.clone(),
            headers: added,
            payload: schedule.payload.clone(),
        };
        match self.schedules.store(vec![again]).await {
            Ok(_) => Ok(true),
            // The server has published it meanwhile.
            Err(NotStored::Conflict) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Stores the schedule of the next run, and then acknowledges the message of this run.
    async fn schedule(&self, lease: &Lease, run: u32, next: Message) {
        if self.store_schedule(lease, run, next).await {
            self.ack(lease).await;
        }
    }

    /// Stores a schedule, unless its subject already has a schedule for this run or a later one.
    /// Any other message on the subject is replaced. Repeats this until the server confirms it;
    /// false if the lane ends first.
    async fn store_schedule(&self, lease: &Lease, run: u32, mut next: Message) -> bool {
        let what = "cannot schedule the next run of a job, trying again";
        loop {
            match self.schedules.store(vec![next.clone()]).await {
                Ok(_) => return true,
                Err(NotStored::Conflict) => {
                    match direct_get::last(&self.client, Stream::Later, &next.subject).await {
                        Ok(Some(kept)) if job_messages::schedules_run(&kept, run) => return true,
                        Ok(kept) => {
                            let expected = kept.map_or(0, |kept| kept.sequence);
                            next.headers.insert(EXPECTED_LAST, expected.to_string());
                            continue;
                        }
                        Err(error) => self.warn(what, lease, &error),
                    }
                }
                Err(error) => self.warn(what, lease, &error),
            }
            if self.pause(RETRY).await {
                return false;
            }
        }
    }
}

/// The record of a job, if it says that the job waits for this run.
fn waits_for(found: &StoredRecord, run: u32) -> Option<&JobRecord> {
    let record = found.record.as_ref()?;
    let waits = matches!(record.state, JobState::Scheduled | JobState::Retrying);
    (waits && record.run == run).then_some(record)
}

/// The scheduled message from which the server makes the message of the next run at its due time.
fn next_run(lease: &Lease, run: u32, until: Timestamp) -> Message {
    let mut added = headers::submitted(lease.headers.as_ref());
    added.insert(EXPECTED_LAST, "0");
    added.insert(SCHEDULE, headers::schedule_at(until));
    let target = subjects::due_job(lease.id, lease.priority, run, &lease.kind);
    added.insert(SCHEDULE_TARGET, target);
    Message {
        subject: subjects::later(lease.id),
        headers: added,
        payload: lease.payload.clone(),
    }
}
