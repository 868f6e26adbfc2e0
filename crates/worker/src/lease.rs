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

use crate::fetch::{Pulled, Queue};

/// A job that a consumer has, from its delivery until it is settled.
///
/// While it lives, the server is told again and again that somebody is at it. One that is dropped
/// without having been settled is delivered again after the ack wait.
#[derive(Debug)]
pub struct Lease {
    /// The job.
    pub id: JobId,
    /// Its kind.
    pub kind: JobKind,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    /// The job as it was submitted.
    pub payload: Bytes,
    /// The headers that it was submitted with, and those of the lane.
    pub headers: Option<HeaderMap>,
    /// Cancelled when the job is: its handler has to stop.
    pub cancelled: CancellationToken,
    /// Its message, which is acknowledged when it is settled; `None` where there is none: what the
    /// server gave up, or has lost.
    pub(crate) delivery: Option<Delivery>,
    pub(crate) priority: Priority,
    pub(crate) run: u32,
    /// How often its message was delivered, also to this consumer while it had the job already.
    pub(crate) delivered: AtomicU64,
    pub(crate) failures: Vec<FailedAttempt>,
    pub(crate) max_attempts: u32,
    pub(crate) backoff: Backoff,
    pub(crate) since: Instant,
    pub(crate) started: AtomicBool,
    /// The sequence of the job's record, 0 for none: whoever writes the record holds it, and
    /// expects it.
    pub(crate) record: tokio::sync::Mutex<u64>,
    /// Whether a record says that it runs.
    pub(crate) announced: AtomicBool,
    /// Whether it is being settled: from then on nothing else may be written of it.
    pub(crate) settling: AtomicBool,
}

impl Lease {
    /// A job as it was delivered, with what its record says of it.
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
            ..Self::without_delivery(subject, headers, payload, found)
        }
    }

    /// A job without a message to acknowledge.
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
            run: subject.run,
            delivered: AtomicU64::new(0),
            failures: failures.unwrap_or_default(),
            max_attempts: MaxAttempts::default().get(),
            backoff: Backoff::default(),
            since: Instant::now(),
            started: AtomicBool::new(false),
            record: tokio::sync::Mutex::new(found.map_or(0, |found| found.sequence)),
            announced: AtomicBool::new(false),
            settling: AtomicBool::new(false),
        }
    }

    /// Its handler is called now.
    pub fn start(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// Whether its handler was called.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    /// Whether there is no attempt after this one.
    #[must_use]
    pub fn is_last_attempt(&self) -> bool {
        self.attempt >= self.max_attempts
    }

    /// When its message was put into the queue, by the clock of the NATS server.
    #[must_use]
    pub fn queued_at(&self) -> Option<SystemTime> {
        let nanoseconds = u64::try_from(self.delivery.as_ref()?.stored?.unix_nanos()).ok()?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanoseconds))
    }

    /// The subject of one of its runs.
    pub(crate) fn subject(&self, run: u32) -> JobSubject {
        JobSubject {
            id: self.id,
            priority: self.priority,
            run,
            kind: self.kind.clone(),
        }
    }

    /// How long this consumer has it.
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
    /// When the message came into its stream.
    pub(crate) stored: Option<Timestamp>,
}

/// All leases of a consumer, at most one for each message.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    held: Mutex<HashMap<Key, Arc<Lease>>>,
}

/// The stream, the sequence of the message, and the job: a stream that was made again counts anew.
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

    /// Whether this consumer has the job of a message that is delivered again: the server was away,
    /// or this consumer was, and what it acknowledges now counts for both deliveries.
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

    /// Those of which this is true.
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
        let queue = Arc::new(Queue {
            stream: Stream::Jobs,
            consumer: "mail".to_owned(),
            of: kind.clone(),
        });
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
