//! Stores what became of a job, and then acknowledges its message: never the other way round.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::{DeadReason, JobRecord, JobState, OutcomeError, Timestamp, codes};
use serde_json::value::RawValue;
use tokio::sync::Notify;

use crate::lease::{Lease, Leases};
use crate::store::{JobStore, add_failure};

/// What a record and the headers of a message may take beside the result, in bytes.
const MARGIN: usize = 4096;

/// What became of an attempt.
#[derive(Debug)]
pub enum Settlement {
    /// The handler returned.
    Succeeded {
        /// What it returned.
        result: Option<Box<RawValue>>,
        /// How long it ran.
        duration: Duration,
    },
    /// The handler failed, and may succeed when it is called again.
    Failed {
        /// Why.
        error: OutcomeError,
        /// When a repetition has a chance, if that is known.
        retry_after: Option<Duration>,
    },
    /// The job is given up.
    Dead {
        /// Why.
        reason: DeadReason,
        /// What went wrong in this attempt, if there was one.
        error: Option<OutcomeError>,
    },
    /// It was cancelled.
    Cancelled,
    /// Its deadline has passed.
    Expired,
    /// It was not done, and that is not its fault.
    GivenBack,
    /// It was delivered although it has ended.
    OnlyAck,
    /// It was delivered although it waits for a later run.
    PutOff {
        /// The number of that run.
        run: u32,
        /// When it is due.
        until: Timestamp,
    },
    /// It was delivered although it waits for this very run.
    Waits {
        /// Its record.
        record: Box<JobRecord>,
        /// When it is due.
        until: Timestamp,
    },
    /// It is not to be started before then.
    Early {
        /// When it is due.
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
    /// One more is settled from now on; [`Settler::settle_counted`] counts it down.
    pub(crate) fn add(&self) {
        self.count.fetch_add(1, Ordering::AcqRel);
    }

    /// One that was counted is not settled after all, or is.
    pub(crate) fn remove(&self) {
        self.count.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// Waits until the number has fallen.
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

/// Settles jobs in the background; clones settle for the same consumer.
#[derive(Clone)]
pub(crate) struct Settler {
    store: Arc<JobStore>,
    leases: Arc<Leases>,
    settling: Arc<Settling>,
}

/// A settlement that is under way. Should it panic, nobody gives signs of life for the job any more,
/// and the server delivers it again.
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

    /// The same for a job that [`Settling::add`] has counted.
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

    async fn settle(&self, lease: &Lease, settlement: Settlement) {
        let store = &self.store;
        lease.settling.store(true, Ordering::Release);
        let mut record = store.record(lease);
        let now = record.at;
        match settlement {
            Settlement::OnlyAck => store.ack(lease).await,
            Settlement::Succeeded { result, duration } => {
                let limit = store.client.max_payload().saturating_sub(MARGIN);
                let size = result.as_ref().map_or(0, |result| result.get().len());
                if size > limit {
                    let text = format!(
                        "the job ran, but its result of {size} bytes is over the limit of {limit} bytes for a message"
                    );
                    let error = OutcomeError::new(codes::RESULT_TOO_LARGE, text);
                    let reason = DeadReason::Permanent;
                    store.die(lease, record, reason, Some(error)).await;
                    return;
                }
                record.state = JobState::Succeeded;
                record.result = result;
                record.duration_ms = Some((duration.as_secs_f64() * 1e6).round() / 1e3);
                store.end(lease, record, Vec::new()).await;
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
                // This delivery was not lost with its consumer.
                there.settled_deliveries = record.settled_deliveries;
                store.give_back(lease, &there, until.since(now)).await;
            }
            Settlement::GivenBack => store.give_back(lease, &record, Duration::ZERO).await,
        }
    }
}
