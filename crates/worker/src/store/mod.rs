//! Stores what becomes of jobs: records, dead letters, schedules. Settling and maintenance both stand
//! on it.

mod dead_letter;
mod kept_job;
mod marker;
mod schedule;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bootstrap::{Client, Nats};
use common::{FailedAttempt, JobId, JobRecord, JobState, OutcomeError};
use jetstream::records::{self, StoredRecord};
use jetstream::{Entry, Message, NotStored, Pace, ServerClock, Unanswered, Writer};
use serde_json::value::RawValue;
use tracing::{debug, warn};

use crate::acknowledged::{Acknowledged, AcknowledgedList};
use crate::counters::Counters;
use crate::lease::Lease;
use crate::options::LaneOptions;
use crate::phases::Phases;

pub(crate) use marker::{Marker, slot_after, slot_of};
pub(crate) use schedule::{Restored, SCHEDULED};

/// The wait before something is stored again that the server did not take or confirm.
const RETRY: Duration = Duration::from_millis(500);

/// What the headers of a record may take, in bytes.
const HEADERS: usize = 512;

/// From this many failures on, the text of each further one is cut.
const MANY_FAILURES: usize = 8;

/// What came of writing a record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Yes,
    /// The job has ended otherwise.
    Ended,
    /// Another consumer has the job now.
    Superseded,
    /// The phases ended before the server took it.
    GaveUp,
}

/// Writes records and what belongs to them, each until the server has it.
pub(crate) struct JobStore {
    pub(crate) client: Client,
    pub(crate) clock: Arc<ServerClock>,
    /// The name of this consumer.
    pub(crate) instance: String,
    /// How long the record of a job that has ended is kept, as the server is told it.
    ttl: String,
    /// The most bytes of a payload that the record of a job that has ended keeps.
    most_payload: usize,
    records: Writer,
    schedules: Writer,
    pub(crate) counters: Arc<Counters>,
    acknowledged: Arc<AcknowledgedList>,
    phases: Phases,
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
            ttl: format!("{}s", keep.as_secs()),
            records: Writer::supervised(nats, "durable records", Pace::Thrifty),
            schedules: Writer::supervised(nats, "durable schedules", Pace::Thrifty),
            counters,
            acknowledged: Arc::default(),
            phases,
            warned: AtomicBool::new(false),
        }
    }

    /// What was acknowledged, for whoever purges it.
    pub(crate) fn acknowledged(&self) -> Arc<AcknowledgedList> {
        Arc::clone(&self.acknowledged)
    }

    /// For how long the server has left writes unanswered.
    pub(crate) fn unanswered(&self) -> Vec<Unanswered> {
        vec![self.records.unanswered(), self.schedules.unanswered()]
    }

    /// A new record of a job, as of now.
    pub(crate) fn record(&self, lease: &Lease) -> JobRecord {
        let kind = Some(lease.kind.clone());
        let mut record = JobRecord::new(lease.id, kind, JobState::Queued, self.clock.now());
        record.run = lease.run;
        record.consumer = Some(self.instance.clone());
        record.attempt = lease.attempt;
        record.failures.clone_from(&lease.failures);
        record.settled_deliveries = lease.delivered.load(Ordering::Relaxed);
        record
    }

    /// What the record of a job that has ended keeps of it; see [`kept_job::kept_job`].
    pub(crate) fn kept_job(&self, message: &[u8], has_run: bool) -> Option<Box<RawValue>> {
        kept_job::kept_job(message, self.most_payload, has_run)
    }

    /// Writes the record of a job that was cancelled though this consumer has no lease of it.
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
        let message = records::message(id, payload, expected, Some(&self.ttl));
        self.records.store(vec![message]).await.map(|_| ())
    }

    /// The last record, and after it the acknowledgement.
    pub(crate) async fn end(&self, lease: &Lease, mut record: JobRecord, with: Entry) -> Written {
        record.settled_deliveries = 0;
        record.job = self.kept_job(&lease.payload, record.state == JobState::Succeeded);
        let written = self.write(lease, &record, with).await;
        match written {
            Written::Yes | Written::Ended => {
                if written == Written::Yes && record.state == JobState::Dead {
                    self.counters.dead_letter();
                }
                self.ack(lease).await;
            }
            // The message is its successor's now; if that one is lost too, it is delivered again.
            Written::Superseded | Written::GaveUp => {}
        }
        written
    }

    /// Writes a record, and messages that belong to it, unless the job has moved on.
    pub(crate) async fn write(&self, lease: &Lease, record: &JobRecord, with: Entry) -> Written {
        let mut expected = lease.record.lock().await;
        // Whoever says that the job runs may have waited until it did not any more: then that would
        // replace the last record, which this lease itself has written.
        if record.state == JobState::Running && lease.settling.load(Ordering::Acquire) {
            return Written::Superseded;
        }
        let limit = self.client.max_payload().saturating_sub(HEADERS);
        let payload = records::encode(record, limit);
        let expires = record.state.is_final() && record.state != JobState::Dead;
        let ttl = expires.then_some(self.ttl.as_str());
        loop {
            let message = records::message(lease.id, payload.clone(), *expected, ttl);
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
                                debug!(job.id = %lease.id, ?written, "the job has moved on");
                                return written;
                            }
                            After::TryAgain(sequence) => *expected = sequence,
                        },
                        Err(error) => debug!("cannot look up a record: {error:#}"),
                    }
                }
                Err(error) => self.warn(
                    "what became of a job cannot be stored, trying again",
                    lease,
                    &error,
                ),
            }
            if self.pause(RETRY).await {
                return Written::GaveUp;
            }
        }
    }

    /// Stores a message that belongs to a job, however often it has to be tried; true when the server
    /// has it.
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

    /// Acknowledges the message of a job. A lost acknowledgement brings the message back, and its record
    /// says then that it is done.
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

    /// Writes a record, and gives the message back: the server delivers it again after the wait.
    pub(crate) async fn give_back(&self, lease: &Lease, record: &JobRecord, wait: Duration) {
        match self.write(lease, record, Vec::new()).await {
            Written::Yes => self.nak(lease, wait).await,
            Written::Ended => self.ack(lease).await,
            Written::Superseded | Written::GaveUp => {}
        }
    }

    /// Gives a message back; the server delivers it again after the wait.
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

    /// Says what stands in the way of storing what became of a job; once until it works again.
    fn warn(&self, what: &str, lease: &Lease, error: &dyn fmt::Display) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            warn!(job.id = %lease.id, job.kind = %lease.kind, "{what} (further ones are not reported until it works): {error}");
        }
    }

    /// Waits before another try; true if there is none, because the phases have ended.
    async fn pause(&self, wait: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(wait) => false,
            () = self.phases.ended() => true,
        }
    }
}

/// Adds the failure of the attempt that a record is about.
pub(crate) fn add_failure(record: &mut JobRecord, mut error: OutcomeError) {
    // The record is written again after each attempt, whatever a handler says again and again.
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

enum After {
    Ours(u64),
    Theirs(Written),
    TryAgain(u64),
}

/// The record is not the one that was expected. If the answer to an earlier try was lost, it may
/// be the very one that was to be written.
fn after_conflict(record: &JobRecord, expected: u64, found: Option<StoredRecord>) -> After {
    match found {
        // It has expired, or somebody deleted it.
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
