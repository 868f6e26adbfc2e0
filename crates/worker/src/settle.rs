//! Settles jobs: always stores the outcome first, and then acknowledges the message.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{DeadReason, JobRecord, JobState, OutcomeError, Timestamp, codes};
use serde_json::value::RawValue;
use tokio::sync::Notify;

use crate::lease::{Lease, Leases};
use crate::store::{JobStore, add_failure, key_of};

/// The size that a message needs beside the result, for its headers and the rest of the record, in
/// bytes.
const MARGIN: usize = 4096;

/// How a delivered job is settled.
#[derive(Debug)]
pub enum Settlement {
    /// The handler returned.
    Succeeded {
        /// What it returned.
        result: Option<Box<RawValue>>,
        /// How long it ran.
        duration: Duration,
        /// Whether the job leaves a record. If it has one already, it always does.
        leaves_record: bool,
    },
    /// The handler failed, and may succeed when it is called again.
    Failed {
        /// Why.
        error: OutcomeError,
        /// The wait before the next attempt; `None` leaves it to the backoff.
        retry_after: Option<Duration>,
    },
    /// The job becomes a dead letter.
    Dead {
        /// Why.
        reason: DeadReason,
        /// What went wrong in this attempt, if there was one.
        error: Option<OutcomeError>,
    },
    /// The job was cancelled.
    Cancelled,
    /// The deadline of the job has passed.
    Expired,
    /// The job was not run to its end, for a reason outside of the job. The server redelivers its
    /// message, and no attempt is used.
    GivenBack,
    /// The job has ended before: acknowledge its message. If the consumer that ended the job was lost
    /// before it released the key of the job, release it.
    Ended,
    /// Only acknowledge the message: a message of another run has replaced this one.
    OnlyAck,
    /// The job waits for a later run than that of the message.
    PutOff {
        /// The number of that run.
        run: u32,
        /// When that run is due.
        until: Timestamp,
    },
    /// The job waits for the run of the message, which is not due yet.
    Waits {
        /// The record of the job.
        record: Box<JobRecord>,
        /// When that run is due.
        until: Timestamp,
    },
    /// The job must not start yet. It is scheduled.
    Early {
        /// When that run is due.
        until: Timestamp,
    },
}

/// How many jobs are being settled.
#[derive(Debug, Default)]
pub(crate) struct Settling {
    count: AtomicUsize,
    changed: Notify,
}

impl Settling {
    /// Counts one more job. [`Settler::settle_counted`] takes it off the count when its settlement
    /// ends.
    pub(crate) fn add(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// Counts one job less, because its settlement has ended or cannot begin.
    pub(crate) fn remove(&self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Waits until the count falls.
    pub(crate) async fn fallen(&self) {
        self.changed.notified().await;
    }

    /// Waits until nothing is being settled.
    pub(crate) async fn none(&self) {
        loop {
            let changed = self.changed.notified();
            if self.count() == 0 {
                return;
            }
            changed.await;
        }
    }
}

/// Settles jobs in the background; clones share their state.
#[derive(Clone)]
pub(crate) struct Settler {
    store: Arc<JobStore>,
    leases: Arc<Leases>,
    settling: Arc<Settling>,
}

/// A settlement under way. Its drop ends the lease, even after a panic: then the heartbeat for the
/// job stops, and the server redelivers the job after the ack wait.
struct UnderWay {
    settler: Settler,
    lease: Arc<Lease>,
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.settler.leases.end(&self.lease);
        self.settler.settling.remove();
    }
}

impl Settler {
    pub(crate) fn new(store: Arc<JobStore>, leases: Arc<Leases>, settling: Arc<Settling>) -> Self {
        Self {
            store,
            leases,
            settling,
        }
    }

    /// Settles a job in the background.
    pub(crate) fn begin(&self, lease: Arc<Lease>, settlement: Settlement) {
        self.settling.add();
        self.settle_counted(lease, settlement);
    }

    /// Settles a job in the background that [`Settling::add`] has already counted.
    pub(crate) fn settle_counted(&self, lease: Arc<Lease>, settlement: Settlement) {
        let under_way = UnderWay {
            settler: self.clone(),
            lease,
        };
        tokio::spawn(async move {
            let UnderWay { settler, lease } = &under_way;
            settler.settle(lease, settlement).await;
        });
    }

    /// Settles jobs in the background that [`Settling::add`] has already counted. Those that succeeded share a
    /// task: one for each would cost more than all the rest of its settlement.
    pub(crate) fn settle_all_counted(
        &self,
        settlements: impl Iterator<Item = (Arc<Lease>, Settlement)>,
    ) {
        let mut successes = Vec::new();
        for (lease, settlement) in settlements {
            match settlement {
                // The key of a unique job is released by a request, for which the others should not wait.
                Settlement::Succeeded {
                    result,
                    duration,
                    leaves_record: true,
                } if key_of(&lease).is_none() && self.too_large(result.as_deref()).is_none() => {
                    let settler = self.clone();
                    successes.push((UnderWay { settler, lease }, result, duration));
                }
                settlement => self.settle_counted(lease, settlement),
            }
        }
        if successes.is_empty() {
            return;
        }
        let store = Arc::clone(&self.store);
        tokio::spawn(async move {
            let begun = successes.into_iter().map(|(one, result, duration)| {
                let lease = Arc::clone(&one.lease);
                lease.settling.store(true, Ordering::Release);
                let mut record = store.record(&lease);
                succeed(&mut record, result, duration);
                (one, (lease, record))
            });
            let (under_way, mut ends): (Vec<_>, Vec<_>) = begun.unzip();
            let have_ended = store.try_end_each(&mut ends).await;
            for ((one, (_, record)), has_ended) in under_way.into_iter().zip(ends).zip(have_ended) {
                if !has_ended {
                    tokio::spawn(async move {
                        let UnderWay { settler, lease } = &one;
                        settler.store.end(lease, record, Vec::new()).await;
                    });
                }
            }
        });
    }

    /// Why a result cannot be stored; `None` if it can.
    fn too_large(&self, result: Option<&RawValue>) -> Option<OutcomeError> {
        let limit = self.store.client.max_payload().saturating_sub(MARGIN);
        let size = result.map_or(0, |result| result.get().len());
        (size > limit).then(|| {
            let text = format!(
                "the job ran, but its result of {size} bytes is over the limit of {limit} bytes for a message"
            );
            OutcomeError::new(codes::RESULT_TOO_LARGE, text)
        })
    }

    async fn settle(&self, lease: &Lease, settlement: Settlement) {
        let store = &self.store;
        lease.settling.store(true, Ordering::Release);
        let mut record = store.record(lease);
        let now = record.at;
        match settlement {
            Settlement::Ended => store.release_and_ack(lease).await,
            Settlement::OnlyAck => store.ack(lease).await,
            Settlement::Succeeded {
                result,
                duration,
                leaves_record,
            } => {
                if let Some(error) = self.too_large(result.as_deref()) {
                    let reason = DeadReason::Permanent;
                    store.die(lease, record, reason, Some(error)).await;
                    return;
                }
                succeed(&mut record, result, duration);
                if leaves_record || !store.end_without_record(lease, &record).await {
                    store.end(lease, record, Vec::new()).await;
                }
            }
            Settlement::Cancelled => {
                record.state = JobState::Cancelled;
                store.end(lease, record, Vec::new()).await;
            }
            Settlement::Expired => {
                record.state = JobState::Expired;
                store.end(lease, record, Vec::new()).await;
            }
            Settlement::Dead { reason, error } => {
                store.die(lease, record, reason, error).await;
            }
            Settlement::Failed { error, retry_after } => {
                if lease.is_last_attempt() {
                    let reason = DeadReason::AttemptsUsedUp;
                    store.die(lease, record, reason, Some(error)).await;
                    return;
                }
                let wait = retry_after
                    .unwrap_or_else(|| lease.backoff.delay(lease.attempt, rand::random()));
                add_failure(&mut record, error);
                record.state = JobState::Retrying;
                store.put_off(lease, record, now.after(wait)).await;
            }
            Settlement::Early { until } => {
                record.state = JobState::Scheduled;
                store.put_off(lease, record, until).await;
            }
            Settlement::PutOff { run, until } => {
                store.finish_put_off(lease, run, until).await;
            }
            Settlement::Waits {
                record: mut there,
                until,
            } => {
                // Otherwise this delivery would count as an attempt whose consumer was lost.
                there.settled_deliveries = record.settled_deliveries;
                store.give_back(lease, &there, until.since(now)).await;
            }
            Settlement::GivenBack => store.give_back(lease, &record, Duration::ZERO).await,
        }
    }
}

/// Has a record say that its job succeeded.
fn succeed(record: &mut JobRecord, result: Option<Box<RawValue>>, duration: Duration) {
    record.state = JobState::Succeeded;
    record.result = result;
    record.duration_ms = Some((duration.as_secs_f64() * 1e6).round() / 1e3);
}
