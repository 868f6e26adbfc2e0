//! Lets jobs wait in the server, and brings those back whose message was lost.

use std::time::Duration;

use common::{DeadReason, JobRecord, Timestamp, subjects};
use jetstream::headers::{self, EXPECTED_LAST, SCHEDULE, SCHEDULE_TARGET, fits};
use jetstream::job_messages::{self, Found, find_message};
use jetstream::{Message, NotStored, Stream, direct_get};

use super::{JobStore, Marker, RETRY, Written, slot_after};
use crate::lease::Lease;

/// Waits from this length on are the server's, as a scheduled message: it is precise to about a
/// quarter of a second. Shorter ones are a delayed nak.
pub(crate) const SCHEDULED: Duration = Duration::from_secs(1);

/// What came of bringing a job back.
pub(crate) enum Restored {
    /// It is scheduled again.
    Scheduled,
    /// That was not possible: it is a dead letter.
    Dead,
    /// There is no need: the job has moved on, or somebody else did it.
    MovedOn,
    /// The lane ended before the server took it.
    GaveUp,
}

impl JobStore {
    /// Lets a job wait in the server: as its next run, or, where that is not worth it or does not fit
    /// into a message, as a message that is delivered again later.
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
            Written::Ended => self.ack(lease).await,
            Written::Superseded | Written::GaveUp => {}
        }
    }

    /// Finishes what another consumer began: the record says that the job waits for a run, and the
    /// message of that run may be missing.
    pub(crate) async fn finish_put_off(&self, lease: &Lease, run: u32, until: Timestamp) {
        // Where it was put off already, this message is the same job, submitted again.
        let subject = lease.subject(run);
        let found = find_message(&self.client, &subject).await;
        if found.is_ok_and(|found| matches!(found, Found::Waits)) {
            return self.ack(lease).await;
        }
        // An older version put jobs off without markers.
        self.mark(&Marker::of(lease, run), until).await;
        self.schedule(lease, run, next_run(lease, run, until)).await;
    }

    /// Writes the record of a job that waits, and with it what finds the job if its message is lost.
    async fn write_waiting(&self, lease: &Lease, record: &JobRecord, until: Timestamp) -> Written {
        let marker = Marker::of(lease, record.run);
        let slot = slot_after(until.max(record.at));
        let written = self.write(lease, record, vec![marker.message(slot)]).await;
        // That may have taken long, where the server was away.
        if written == Written::Yes && self.is_late(slot) {
            self.mark(&marker, until).await;
        }
        written
    }

    /// Schedules a job once more that waits for a time that has passed, and has lost its message; or
    /// gives it up, if its bytes are lost as well.
    pub(crate) async fn restore(
        &self,
        lease: &Lease,
        mut record: JobRecord,
        has_bytes: bool,
    ) -> Restored {
        // By two: a message of the run before, or one of this run that somebody stores late, does not
        // stand for the job any more then, and is dropped (see `decide`).
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

    /// Stores the next run of a job, which ends this one.
    async fn schedule(&self, lease: &Lease, run: u32, next: Message) {
        if self.store_schedule(lease, run, next).await {
            self.ack(lease).await;
        }
    }

    /// Stores a schedule, unless there is one already for this run or a later one; true when the server
    /// has it. Whatever else is in its place is replaced.
    async fn store_schedule(&self, lease: &Lease, run: u32, mut next: Message) -> bool {
        let what = "a job cannot be put off, trying again";
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

/// What the server makes a run of a job of when its time has come.
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
