//! Stores the state of jobs: records, dead letters, schedules and markers. Settlement and
//! maintenance both use it.

mod dead_letter;
mod kept_job;
mod marker;
mod schedule;
mod unique;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bootstrap::{Nats, NatsClient};
use bytes::Bytes;
use common::{FailedAttempt, JobId, JobRecord, JobState, OutcomeError, Retention, subjects};
use jetstream::headers::{request_hash, schedule_name};
use jetstream::records::{self, StoredRecord};
use jetstream::{Entry, Message, NotStored, Pace, ServerClock, Unanswered, Writer};
use serde_json::value::RawValue;
use tracing::{debug, warn};

use crate::acknowledged::{Acknowledged, AcknowledgedList};
use crate::counters::Counters;
use crate::lease::Lease;
use crate::options::LaneOptions;
use crate::phases::Phases;
use crate::stalls::Stalls;

pub(crate) use marker::{Marker, slot_after, slot_of};
pub(crate) use schedule::{Restored, SCHEDULED};
pub(crate) use unique::key_of;

/// The wait before a write is repeated because the server refused it or did not confirm it.
const RETRY: Duration = Duration::from_millis(500);

/// For so long after its delivery, no other consumer has the job: the server waits three times as long
/// before it delivers it again.
const SURELY_ALONE: Duration = Duration::from_secs(5);

/// The size of the headers of a record, at most, in bytes.
const HEADERS: usize = 512;

/// From this many failures on, the text of each further one is cut.
const MANY_FAILURES: usize = 8;

/// The result of writing a record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Yes,
    /// The stored record is final: the job has ended already.
    Ended,
    /// The stored record is newer: it is from another consumer, or for another run.
    Superseded,
    /// The lane ended before the server confirmed the write.
    GaveUp,
}

/// Writes records, and other messages for jobs. Repeats each write until the server confirms it.
pub(crate) struct JobStore {
    pub(crate) client: NatsClient,
    pub(crate) clock: Arc<ServerClock>,
    /// The name of this consumer.
    pub(crate) instance: String,
    /// How long the record of a job that has ended is kept: if it is the first record of its job ...
    retention: Retention,
    /// ... and if it is not, as the value of a TTL header.
    ttl: String,
    /// The most bytes of a payload that the record of a job that has ended keeps.
    most_payload: usize,
    records: Writer,
    schedules: Writer,
    pub(crate) counters: Arc<Counters>,
    acknowledged: Arc<AcknowledgedList>,
    phases: Phases,
    pub(crate) stalls: Stalls,
    /// Whether a failure to store was reported since the last success.
    warned: AtomicBool,
}

impl JobStore {
    pub(crate) fn new(
        nats: &Nats,
        LaneOptions {
            instance,
            keep,
            keep_payload,
            ..
        }: &LaneOptions,
        clock: Arc<ServerClock>,
        counters: Arc<Counters>,
        phases: Phases,
    ) -> Self {
        Self {
            client: nats.client.clone(),
            clock,
            instance: instance.clone(),
            most_payload: *keep_payload,
            retention: Retention::at_least(*keep),
            ttl: format!("{}s", keep.as_secs()),
            records: Writer::supervised(nats, "durable records", Pace::Thrifty),
            schedules: Writer::supervised(nats, "durable schedules", Pace::Thrifty),
            counters,
            acknowledged: Arc::default(),
            phases,
            stalls: Stalls::default(),
            warned: AtomicBool::new(false),
        }
    }

    /// The acknowledged messages that are to be purged.
    pub(crate) fn acknowledged(&self) -> Arc<AcknowledgedList> {
        Arc::clone(&self.acknowledged)
    }

    /// The measurements of how long the server has left writes unanswered.
    pub(crate) fn unanswered(&self) -> Vec<Unanswered> {
        vec![self.records.unanswered(), self.schedules.unanswered()]
    }

    /// A new record of a job in the state `queued`, with the current time.
    pub(crate) fn record(&self, lease: &Lease) -> JobRecord {
        let kind = Some(lease.kind.clone());
        let mut record = JobRecord::new(lease.id, kind, JobState::Queued, self.clock.now());
        record.run = lease.run;
        record.consumer = Some(self.instance.clone());
        record.attempt = lease.attempt;
        if let Some(headers) = &lease.headers {
            record.request = request_hash(headers);
            record.schedule = schedule_name(headers);
        }
        record.failures.clone_from(&lease.failures);
        record.settled_deliveries = lease.delivered.load(Ordering::Relaxed);
        record
    }

    /// The copy of a job in its record, after the job has ended; see [`kept_job::kept_job`].
    pub(crate) fn kept_job(&self, message: &[u8], has_run: bool) -> Option<Box<RawValue>> {
        kept_job::kept_job(message, self.most_payload, has_run)
    }

    /// Writes the record of a cancelled job for which this consumer has no lease.
    ///
    /// # Errors
    /// See [`NotStored`].
    pub(crate) async fn write_cancelled(
        &self,
        id: JobId,
        record: &JobRecord,
        expected: u64,
    ) -> Result<(), NotStored> {
        let limit = self.client.max_payload().saturating_sub(HEADERS);
        let payload = records::encode(record, limit);
        let message = self.record_message(id, payload, expected, true);
        self.records.store(vec![message]).await.map(|_| ())
    }

    /// Ends a job: writes its final record, releases its key, and then acknowledges its message.
    pub(crate) async fn end(&self, lease: &Lease, mut record: JobRecord, with: Entry) -> Written {
        self.complete(lease, &mut record);
        let written = self.write(lease, &record, with).await;
        match written {
            Written::Yes | Written::Ended => {
                if written == Written::Yes && record.state == JobState::Dead {
                    self.counters.dead_letter();
                }
                self.release_and_ack(lease).await;
            }
            // No acknowledgement: the consumer with the newer record settles the message, or the
            // server redelivers it.
            Written::Superseded | Written::GaveUp => {}
        }
        written
    }

    /// Tries once to end jobs that succeeded, all at the same time, as [`JobStore::end`] does. Returns for each
    /// whether it has ended; the caller has to end the others one by one.
    ///
    /// A job is left out while another task writes its record.
    pub(crate) async fn try_end_each(&self, ends: &mut [(Arc<Lease>, JobRecord)]) -> Vec<bool> {
        let limit = self.client.max_payload().saturating_sub(HEADERS);
        let (mut entries, mut places) = (Vec::new(), Vec::new());
        let mut have_ended = vec![false; ends.len()];
        for (place, (lease, record)) in ends.iter_mut().enumerate() {
            self.complete(lease, record);
            let Ok(expected) = lease.record.try_lock() else {
                continue;
            };
            let payload = records::encode(record, limit);
            let message = self.record_message(lease.id, payload, *expected, true);
            entries.push(vec![message]);
            places.push((place, expected));
        }
        let results = self.records.store_each(entries).await;
        for ((place, mut expected), result) in places.into_iter().zip(results) {
            if let Ok(sequence) = result {
                *expected = sequence;
                have_ended[place] = true;
                self.warned.store(false, Ordering::Relaxed);
            }
        }
        let ended = ends.iter().zip(&have_ended).filter(|(_, ended)| **ended);
        for ((lease, _), _) in ended {
            self.release_and_ack(lease).await;
        }
        have_ended
    }

    /// Adds to the final record of a job what only such a record has.
    fn complete(&self, lease: &Lease, record: &mut JobRecord) {
        record.settled_deliveries = 0;
        record.job = self.kept_job(&lease.payload, record.state == JobState::Succeeded);
    }

    /// Ends a job that has no record, and leaves none: acknowledges its message. False, and nothing is
    /// done, if the job has a record, if another consumer may hold the job meanwhile, or if the job is
    /// unique: without a record, a redelivery after the release of its key would run it again beside the
    /// next holder.
    ///
    /// Whoever waits for the job hears of its end by an event, which would otherwise tell of its record.
    pub(crate) async fn end_without_record(&self, lease: &Lease, record: &JobRecord) -> bool {
        // With the lock, no record is written meanwhile; later ones are refused, see `write`.
        let sequence = lease.record.lock().await;
        let others_may_have_it = lease.age() > SURELY_ALONE
            || self.stalls.recently()
            // An earlier consumer may be paused or cut off, and store another end when it is back.
            || lease.delivered.load(Ordering::Relaxed) > 1;
        if *sequence != 0 || others_may_have_it || unique::key_of(lease).is_some() {
            return false;
        }
        let limit = self.client.max_payload().saturating_sub(HEADERS);
        let event = records::encode(record, limit);
        // If it is lost, whoever waits finds out by looking the job up.
        let _ = self.client.publish(subjects::events(lease.id), event).await;
        self.ack(lease).await;
        true
    }

    /// Writes a record, in one batch with the messages that belong to it, unless the stored record
    /// is final or newer.
    pub(crate) async fn write(&self, lease: &Lease, record: &JobRecord, with: Entry) -> Written {
        let mut expected = lease.record.lock().await;
        // The task that announces that the job runs may have waited for this lock until the job
        // ended. Its record would replace the final record of the same lease.
        if record.state == JobState::Running && lease.settling.load(Ordering::Acquire) {
            return Written::Superseded;
        }
        let limit = self.client.max_payload().saturating_sub(HEADERS);
        let payload = records::encode(record, limit);
        let expires = record.state.is_final() && record.state != JobState::Dead;
        loop {
            let message = self.record_message(lease.id, payload.clone(), *expected, expires);
            let mut entry = vec![message];
            entry.extend_from_slice(&with);
            match self.records.store(entry).await {
                Ok(sequence) => {
                    *expected = sequence;
                    self.warned.store(false, Ordering::Relaxed);
                    return Written::Yes;
                }
                Err(NotStored::Conflict | NotStored::Exists) => {
                    match records::one(&self.client, lease.id).await {
                        Ok(found) => match after_conflict(record, *expected, found) {
                            After::Ours(sequence) => {
                                *expected = sequence;
                                return Written::Yes;
                            }
                            After::Theirs(written) => {
                                debug!(job.id = %lease.id, ?written, "the record has changed");
                                return written;
                            }
                            After::TryAgain(sequence) => *expected = sequence,
                        },
                        Err(error) => debug!("cannot look up a record: {error:#}"),
                    }
                }
                Err(error) => self.warn(
                    "cannot store the record of a job, trying again",
                    lease,
                    &error,
                ),
            }
            if self.pause(RETRY).await {
                return Written::GaveUp;
            }
        }
    }

    /// The message that stores a record in place of the one with the expected sequence; 0 if there is
    /// none.
    fn record_message(&self, id: JobId, record: Bytes, expected: u64, expires: bool) -> Message {
        if expires && expected == 0 {
            records::first_and_last(id, record, self.retention)
        } else {
            records::message(id, record, expected, expires.then_some(&self.ttl))
        }
    }

    /// Stores a message for a job, and repeats this until the server confirms it; false if the lane
    /// ends first.
    async fn store(&self, lease: &Lease, message: Message, what: &str) -> bool {
        loop {
            match self.records.store(vec![message.clone()]).await {
                Ok(_) => return true,
                Err(error) => self.warn(what, lease, &error),
            }
            if self.pause(RETRY).await {
                return false;
            }
        }
    }

    /// Acknowledges the message of a job. If the acknowledgement is lost, the server redelivers the
    /// message, and the record then shows that the message needs only an acknowledgement.
    pub(crate) async fn ack(&self, lease: &Lease) {
        let Some(delivery) = &lease.delivery else {
            return;
        };
        let connection = self.client.connects();
        let _ = self
            .client
            .publish(delivery.ack.clone(), "+ACK".into())
            .await;
        self.acknowledged.push(Acknowledged {
            queue: Arc::clone(&delivery.queue),
            sequence: delivery.stream_sequence,
            connection,
        });
    }

    /// Writes a record, and then gives the message back: the server redelivers it after `wait`.
    pub(crate) async fn give_back(&self, lease: &Lease, record: &JobRecord, wait: Duration) {
        match self.write(lease, record, Vec::new()).await {
            Written::Yes => {
                self.nak(lease, wait).await;
                if let Some(delivery) = &lease.delivery {
                    delivery.queue.gave_back.store(true, Ordering::Relaxed);
                }
            }
            Written::Ended => self.release_and_ack(lease).await,
            Written::Superseded | Written::GaveUp => {}
        }
    }

    /// Naks the message of a job: the server redelivers it after `wait`.
    async fn nak(&self, lease: &Lease, wait: Duration) {
        let Some(delivery) = &lease.delivery else {
            return;
        };
        let body = if wait.is_zero() {
            "-NAK".to_owned()
        } else {
            format!("-NAK {{\"delay\": {}}}", wait.as_nanos())
        };
        let _ = self.client.publish(delivery.ack.clone(), body.into()).await;
    }

    /// Logs that a write for a job has failed; only once until a record is stored again.
    fn warn(&self, what: &str, lease: &Lease, error: &dyn fmt::Display) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            warn!(job.id = %lease.id, job.kind = %lease.kind, "{what} (further failures are not logged until a record is stored): {error}");
        }
    }

    /// Waits before the next try; true if there is none, because the lane has ended.
    async fn pause(&self, wait: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(wait) => false,
            () = self.phases.ended() => true,
        }
    }
}

/// Adds the failure of the attempt to its record.
pub(crate) fn add_failure(record: &mut JobRecord, mut error: OutcomeError) {
    // Each attempt writes all failures again, so their texts are bounded.
    if record.failures.len() >= MANY_FAILURES {
        records::shorten(&mut error, records::SHORT);
    }
    record.failures.push(FailedAttempt {
        attempt: record.attempt,
        consumer: record.consumer.clone(),
        at: record.at,
        error,
    });
}

/// What follows when the stored record is not the expected one.
enum After {
    /// The stored record, with this sequence, is the one that was to be written.
    Ours(u64),
    /// The stored record is from another writer and stays.
    Theirs(Written),
    /// The record is to be written again, in place of the one with this sequence.
    TryAgain(u64),
}

/// Whether a stored record only says that the job waits for the run of this one, before this attempt: the job
/// was brought forward after this consumer had read its record.
fn is_earlier_wait(there: &JobRecord, record: &JobRecord) -> bool {
    matches!(there.state, JobState::Scheduled | JobState::Retrying)
        && there.run == record.run
        && there.attempt < record.attempt
}

/// Decides what follows when the stored record is not the expected one. It may be the record that
/// was to be written, if the answer to an earlier try was lost.
fn after_conflict(record: &JobRecord, expected: u64, found: Option<StoredRecord>) -> After {
    match found {
        // The record has expired or was deleted.
        None => After::TryAgain(0),
        Some(StoredRecord {
            record: Some(there),
            sequence,
        }) => {
            let same = there.state == record.state
                && there.consumer == record.consumer
                && there.at == record.at
                && there.run == record.run
                && there.attempt == record.attempt;
            if same {
                After::Ours(sequence)
            } else if is_earlier_wait(&there, record) {
                After::TryAgain(sequence)
            } else if there.state.is_final() {
                After::Theirs(Written::Ended)
            } else if sequence == expected {
                After::TryAgain(sequence)
            } else {
                After::Theirs(Written::Superseded)
            }
        }
        Some(StoredRecord { sequence, .. }) => After::TryAgain(sequence),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_that_was_brought_forward_meanwhile_still_has_its_outcome_and_a_newer_attempt_wins() {
        let at = "2026-01-31T09:30:00Z".parse().unwrap();
        let record = |state, run, attempt| {
            let mut record = JobRecord::new(JobId::generate(), None, state, at);
            (record.run, record.attempt) = (run, attempt);
            record
        };
        let after = |there: JobRecord| {
            let mine = record(JobState::Succeeded, 2, 2);
            let found = StoredRecord {
                record: Some(there),
                sequence: 9,
            };
            match after_conflict(&mine, 7, Some(found)) {
                After::Ours(_) => "ours",
                After::Theirs(_) => "theirs",
                After::TryAgain(sequence) => {
                    assert_eq!(sequence, 9);
                    "again"
                }
            }
        };
        for state in [JobState::Scheduled, JobState::Retrying] {
            assert_eq!(after(record(state, 2, 1)), "again");
            // Another consumer has made this attempt as well, or the job has moved on.
            assert_eq!(after(record(state, 2, 2)), "theirs");
            assert_eq!(after(record(state, 3, 1)), "theirs");
        }
        for state in [JobState::Running, JobState::Cancelled, JobState::Queued] {
            assert_eq!(after(record(state, 2, 1)), "theirs");
        }
    }
}
