use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use common::{Backoff, FailedAttempt, JobId, JobKind, Priority};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

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
    pub(crate) number: u64,
    pub(crate) queue: usize,
    pub(crate) priority: Priority,
    pub(crate) run: u32,
    pub(crate) delivered: u64,
    pub(crate) stream_sequence: u64,
    pub(crate) subject: Subject,
    pub(crate) ack: Subject,
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
    /// Its handler is called now.
    pub fn start(&self) {
        self.started.store(true, Ordering::Relaxed);
    }

    /// Whether its handler was called.
    #[must_use]
    pub fn is_started(&self) -> bool {
        self.started.load(Ordering::Relaxed)
    }

    /// How long this consumer has it.
    #[must_use]
    pub fn age(&self) -> std::time::Duration {
        self.since.elapsed()
    }
}

/// All leases of a consumer.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    held: Mutex<HashMap<u64, Arc<Lease>>>,
    last: AtomicU64,
}

impl Leases {
    pub(crate) fn next_number(&self) -> u64 {
        self.last.fetch_add(1, Ordering::Relaxed) + 1
    }

    pub(crate) fn hold(&self, lease: &Arc<Lease>) {
        self.lock().insert(lease.number, Arc::clone(lease));
    }

    pub(crate) fn end(&self, lease: &Lease) {
        self.lock().remove(&lease.number);
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

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Lease>>> {
        // Nothing panics while it is locked.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
