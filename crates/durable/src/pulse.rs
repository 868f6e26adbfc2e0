//! Tells the server again and again that somebody is at the jobs that this consumer has.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bootstrap::Beat;
use common::{JobRecord, JobState};
use tracing::debug;

use crate::lane::Shared;
use crate::lease::Lease;
use crate::records::{self, Records};
use crate::settle::{self, Settlement, Written};

const BEAT: Duration = Duration::from_secs(1);

/// How many beats lie between two signs of life for a job: a third of the ack wait.
const SIGN_OF_LIFE: u64 = 5;

/// A job that waits here for longer is given back, for another consumer to take.
const WAITS: Duration = Duration::from_secs(1);

pub(crate) async fn beat(shared: Arc<Shared>, life: Beat) {
    let mut beat = tokio::time::interval(BEAT);
    let mut records = None;
    for number in 0_u64.. {
        beat.tick().await;
        life.beat();
        if number % SIGN_OF_LIFE == 0 {
            for lease in shared.leases.select(|lease| lease.age() >= BEAT) {
                let _ = shared
                    .client
                    .publish(lease.ack.clone(), "+WPI".into())
                    .await;
                life.beat();
            }
            if records.is_none() {
                records = Records::new(&shared.client).await.ok();
            }
            if let Some(records) = &mut records {
                find_ended(&shared, records).await;
            }
        }
        for lease in shared.sink.give_up_waiting(WAITS) {
            settle::begin(&shared, lease, Settlement::GivenBack);
        }
        let long = |lease: &Lease| {
            lease.is_started() && lease.age() >= BEAT && !lease.announced.load(Ordering::Relaxed)
        };
        for lease in shared.leases.select(long) {
            lease.announced.store(true, Ordering::Relaxed);
            tokio::spawn(announce(Arc::clone(&shared), lease));
        }
    }
}

/// Lets everybody see that a job runs, where and since when.
async fn announce(shared: Arc<Shared>, lease: Arc<Lease>) {
    let at = shared.clock.now();
    let since = i64::try_from(lease.age().as_millis()).unwrap_or(0);
    let mut record = JobRecord::new(
        lease.id,
        Some(lease.kind.clone()),
        JobState::Running,
        at.shifted(-since),
    );
    record.run = lease.run;
    record.consumer = Some(shared.options.instance.clone());
    record.attempt = lease.attempt;
    record.failures.clone_from(&lease.failures);
    record.settled_deliveries = lease.delivered.load(Ordering::Relaxed).saturating_sub(1);
    if settle::write(&shared, &lease, &record, Vec::new()).await == Written::Ended {
        lease.cancelled.cancel();
    }
}

/// A job may have been cancelled while this consumer was cut off, and so did not hear of it.
async fn find_ended(shared: &Shared, records: &mut Records) {
    let leases = shared
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
            if record.is_some_and(|record| record.state.is_final()) {
                lease.cancelled.cancel();
            }
        }
    }
}
