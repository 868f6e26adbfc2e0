use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use common::{
    Backoff, FailedAttempt, JobId, JobKind, JobSubject, MaxAttempts, Priority, Timestamp,
};
use jetstream::Stream;
use jetstream::records::StoredRecord;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::fetch::Pulled;
use crate::queues::Queue;

/// A job that this consumer holds, from the delivery of its message until its settlement.
///
/// While the lease is held, the heartbeat sends an in-progress for the message, so that the server
/// does not redeliver it. A lease does not lock the job: if no in-progress reaches the server
/// within the ack wait, the server redelivers the message, and another consumer can hold a lease of
/// the same job at the same time. A write of the record fails if another consumer has changed the
/// record, so the job has only one outcome.
///
/// If a lease ends without a settlement, the server redelivers the message after the ack wait.
#[derive(Debug)]
pub struct Lease {
    /// The job.
    pub id: JobId,
    /// Its kind.
    pub kind: JobKind,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// The body of the message: the job as it was submitted.
    pub payload: Bytes,
    /// The headers of the submission, and those that the lane has added.
    pub headers: Option<HeaderMap>,
    /// Cancelled when the job is cancelled: its handler has to stop.
    pub cancelled: CancellationToken,
    /// The message to acknowledge when the job is settled. `None` if there is none, because the
    /// server has given up delivering the message or has lost it.
    pub(crate) delivery: Option<Delivery>,
    pub(crate) priority: Priority,
    /// Whether the priorities of its kind are heeded.
    is_ranked: bool,
    pub(crate) run: u32,
    /// How often the message was delivered, including redeliveries to this consumer while it holds
    /// the job.
    pub(crate) delivered: AtomicU64,
    pub(crate) failures: Vec<FailedAttempt>,
    pub(crate) max_attempts: u32,
    pub(crate) backoff: Backoff,
    /// Whether the job is unique and holds its key only until its first attempt starts.
    pub unique_until_start: bool,
    pub(crate) since: Instant,
    pub(crate) started: AtomicBool,
    /// The stream sequence of the job's record, 0 if it has none. Each write of the record locks
    /// this number, and succeeds only if the stored record has this sequence.
    pub(crate) record: tokio::sync::Mutex<u64>,
    /// Whether the heartbeat has begun to write the record that says that the job runs.
    pub(crate) announced: AtomicBool,
    /// Whether the settlement has begun. After that, no record may say that the job runs.
    pub(crate) settling: AtomicBool,
}

impl Lease {
    /// A lease of a delivered job. The failures come from its record.
    pub(crate) fn of_delivery(
        subject: JobSubject,
        pulled: Pulled<JobKind>,
        found: Option<&StoredRecord>,
    ) -> Self {
        let Pulled {
            queue,
            headers,
            payload,
            ack,
            delivered,
            stream_sequence,
            stored,
            is_ranked,
            ..
        } = pulled;
        let delivery = Delivery {
            queue,
            stream_sequence,
            ack,
            stored,
        };
        Self {
            delivery: Some(delivery),
            delivered: AtomicU64::new(delivered),
            is_ranked,
            ..Self::without_delivery(subject, headers, payload, found)
        }
    }

    /// A lease of a job without a message to acknowledge.
    pub(crate) fn without_delivery(
        subject: JobSubject,
        headers: Option<HeaderMap>,
        payload: Bytes,
        found: Option<&StoredRecord>,
    ) -> Self {
        let failures = found
            .and_then(|found| found.record.as_ref())
            .map(|record| record.failures.clone());
        Self {
            id: subject.id,
            kind: subject.kind,
            attempt: 0,
            payload,
            headers,
            cancelled: CancellationToken::new(),
            delivery: None,
            priority: subject.priority,
            is_ranked: false,
            run: subject.run,
            delivered: AtomicU64::new(0),
            failures: failures.unwrap_or_default(),
            max_attempts: MaxAttempts::default().get(),
            backoff: Backoff::default(),
            unique_until_start: false,
            since: Instant::now(),
            started: AtomicBool::new(false),
            record: tokio::sync::Mutex::new(found.map_or(0, |found| found.sequence)),
            announced: AtomicBool::new(false),
            settling: AtomicBool::new(false),
        }
    }

    /// Notes that the handler is called now.
    pub fn start(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// Whether its handler was called.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    /// Whether it is to be started before another waiting job, because it is of the same kind and of a
    /// higher priority.
    #[must_use]
    pub fn goes_before(&self, other: &Self) -> bool {
        self.is_ranked && self.priority.goes_before(other.priority) && self.kind == other.kind
    }

    /// Whether the priorities of its kind are heeded.
    #[must_use]
    pub fn is_ranked(&self) -> bool {
        self.is_ranked
    }

    /// Whether this is the last attempt.
    #[must_use]
    pub fn is_last_attempt(&self) -> bool {
        self.attempt >= self.max_attempts
    }

    /// When the server stored the message in the queue, by the server's clock.
    #[must_use]
    pub fn queued_at(&self) -> Option<SystemTime> {
        let nanoseconds = u64::try_from(self.delivery.as_ref()?.stored?.unix_nanos()).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanoseconds))
    }

    /// The subject of a run of this job.
    pub(crate) fn subject(&self, run: u32) -> JobSubject {
        JobSubject {
            id: self.id,
            priority: self.priority,
            run,
            kind: self.kind.clone(),
        }
    }

    /// How long this consumer has held the job.
    #[must_use]
    pub fn age(&self) -> Duration {
        self.since.elapsed()
    }
}

/// The message in which a job was delivered.
#[derive(Debug)]
pub(crate) struct Delivery {
    /// The durable consumer that delivered it.
    pub(crate) queue: Arc<Queue<JobKind>>,
    pub(crate) stream_sequence: u64,
    /// The subject for its acknowledgement.
    pub(crate) ack: Subject,
    /// When the stream stored the message.
    pub(crate) stored: Option<Timestamp>,
}

/// All leases of a consumer, at most one for each message.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    held: Mutex<HashMap<Key, Arc<Lease>>>,
}

/// The stream, the sequence of the message, and the id of the job. A stream that was created again
/// uses the same sequences again, so these do not suffice.
pub(crate) type Key = (Stream, u64, JobId);

impl Leases {
    pub(crate) fn hold(&self, lease: &Arc<Lease>) {
        if let Some(key) = key(lease) {
            self.lock().insert(key, Arc::clone(lease));
        }
    }

    pub(crate) fn end(&self, lease: &Lease) {
        if let Some(key) = key(lease) {
            self.lock().remove(&key);
        }
    }

    /// Whether this consumer holds the job of a redelivered message. This happens when the server
    /// or this consumer was disconnected. The lease keeps the higher number of deliveries, and its
    /// acknowledgement counts for both deliveries.
    pub(crate) fn has(&self, key: Key, delivered: u64) -> bool {
        let held = self.lock();
        let Some(lease) = held.get(&key) else {
            return false;
        };
        lease.delivered.fetch_max(delivered, Ordering::Relaxed);
        true
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// The leases that match.
    pub(crate) fn select(&self, wanted: impl Fn(&Lease) -> bool) -> Vec<Arc<Lease>> {
        let held = self.lock();
        held.values()
            .filter(|lease| wanted(lease))
            .cloned()
            .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<Key, Arc<Lease>>> {
        // Nothing panics while it is locked.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn key(lease: &Lease) -> Option<Key> {
    let delivery = lease.delivery.as_ref()?;
    Some((delivery.queue.stream, delivery.stream_sequence, lease.id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lease_knows_to_the_nanosecond_since_when_its_job_was_queued() {
        let kind: JobKind = "mail".parse().unwrap();
        let queue = Arc::new(Queue::of_kind(Stream::Jobs, &kind, "mail".to_owned()));
        let subject = JobSubject::of_unreadable(17, kind);
        let lease = |stored| {
            let pulled = Pulled {
                queue: Arc::clone(&queue),
                subject: Subject::from_static("jobs.durable"),
                headers: None,
                payload: Bytes::new(),
                ack: Subject::from_static("$JS.ACK"),
                delivered: 1,
                stream_sequence: 17,
                stored,
                begins_anew: false,
                is_ranked: false,
            };
            Lease::of_delivery(subject.clone(), pulled, None)
        };
        let stored = Timestamp::from_unix_nanos(1_700_000_000_123_456_789);
        let since_epoch = Duration::from_nanos(1_700_000_000_123_456_789);
        let expected = SystemTime::UNIX_EPOCH + since_epoch;
        assert_eq!(lease(stored).queued_at(), Some(expected));
        assert_eq!(lease(None).queued_at(), None);
    }
}
