//! Sends an in-progress for each job of this consumer every few seconds, so that the server does
//! not redeliver the job.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bootstrap::{Beat, NatsClient};
use common::{JobRecord, JobState};
use jetstream::records::{self, Records};
use tracing::debug;

use crate::lease::{Lease, Leases};
use crate::settle::{Settlement, Settler};
use crate::sink::Sink;
use crate::store::{JobStore, Written};

const BEAT: Duration = Duration::from_secs(1);

/// The number of beats between two in-progress messages for a job: a third of the ack wait.
const IN_PROGRESS: u64 = 5;

/// A job that waits longer than this for a slot is given back, so that another consumer can take
/// it.
const WAITS: Duration = Duration::from_secs(1);

/// Keeps the leases of a consumer alive.
pub(crate) struct Heartbeat {
    pub(crate) client: NatsClient,
    pub(crate) leases: Arc<Leases>,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) store: Arc<JobStore>,
    pub(crate) settler: Settler,
}

impl Heartbeat {
    pub(crate) async fn run(self, life: Beat) {
        let mut beat = tokio::time::interval(BEAT);
        let mut records = None;
        for number in 0_u64.. {
            beat.tick().await;
            life.beat();
            self.store.stalls.tick();
            if number % IN_PROGRESS == 0 {
                self.say_in_progress(&life).await;
                if records.is_none() {
                    records = Records::new(&self.client).await.ok();
                }
                if let Some(records) = &mut records {
                    self.find_ended(records).await;
                }
            }
            for lease in self.sink.give_up_waiting(WAITS) {
                self.settler.begin(lease, Settlement::GivenBack);
            }
            let long = |lease: &Lease| {
                lease.is_started()
                    && lease.age() >= BEAT
                    && !lease.announced.load(Ordering::Relaxed)
            };
            for lease in self.leases.select(long) {
                lease.announced.store(true, Ordering::Relaxed);
                tokio::spawn(announce(Arc::clone(&self.store), lease));
            }
        }
    }

    async fn say_in_progress(&self, life: &Beat) {
        for lease in self.leases.select(|lease| lease.age() >= BEAT) {
            if let Some(delivery) = &lease.delivery {
                let _ = self
                    .client
                    .publish(delivery.ack.clone(), "+WPI".into())
                    .await;
            }
            life.beat();
        }
    }

    /// Stops running jobs whose record is final or that of a later attempt: a job may have been cancelled,
    /// or redelivered to another consumer, while this consumer was disconnected.
    async fn find_ended(&self, records: &mut Records) {
        let leases = self
            .leases
            .select(|lease| lease.is_started() && lease.age() >= BEAT);
        for leases in leases.chunks(records::MOST) {
            let found = records.of(leases.iter().map(|lease| lease.id)).await;
            let found = match found {
                Ok(found) => found,
                Err(error) => return debug!("cannot look up jobs that run: {error:#}"),
            };
            for lease in leases {
                let record = found.get(&lease.id).and_then(|found| found.record.as_ref());
                if record.is_some_and(|record| is_over(lease, record)) {
                    lease.cancelled.cancel();
                }
            }
        }
    }
}

/// Whether the attempt of a lease has no use any more: the job has ended, or a later attempt has begun.
fn is_over(lease: &Lease, record: &JobRecord) -> bool {
    record.state.is_final() || (record.run, record.attempt) > (lease.run, lease.attempt)
}

/// Writes the record that says that the job runs, on which consumer and since when.
async fn announce(store: Arc<JobStore>, lease: Arc<Lease>) {
    let mut record = store.record(&lease);
    let since = i64::try_from(lease.age().as_millis()).unwrap_or(0);
    record.state = JobState::Running;
    record.at = record.at.shifted(-since);
    record.settled_deliveries = record.settled_deliveries.saturating_sub(1);
    if store.write(&lease, &record, Vec::new()).await == Written::Ended {
        lease.cancelled.cancel();
    }
}
