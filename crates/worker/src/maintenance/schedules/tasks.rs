//! What makes a consumer look at a schedule: a tick, a change, and now and then.

use std::sync::Arc;
use std::time::Duration;

use bootstrap::{Beat, NatsClient};
use common::{ScheduleRecord, Timestamp, subjects};
use jetstream::{ServerClock, Stream, TICKS, Topology, schedules};

use super::keeper::Keeper;
use crate::fetch::Pulled;
use crate::maintenance::failures::Failures;
use crate::maintenance::shared_queue::{Declared, Requests, SharedQueue};
use crate::store::JobStore;

/// Ticks whose time has come.
const DUE_TICKS: Declared = Declared {
    stream: Stream::Later,
    consumer: TICKS,
    filter: subjects::ALL_DUE_TICKS,
};

/// Schedules that were created or changed.
const CHANGES: Declared = Declared {
    stream: Stream::State,
    consumer: "schedules",
    filter: subjects::ALL_SCHEDULES,
};

/// The average time between two looks for overdue ticks.
const PERIOD: Duration = Duration::from_secs(30);

/// A tick that is this late is overdue: the server fires within a quarter of a second, and delivers a tick to
/// another consumer within the ack wait if the first one is lost.
const OVERDUE: Duration = Duration::from_secs(20);

/// How long a look may take.
const LOOK: Duration = Duration::from_mins(1);

/// Creates the durable consumers.
pub(in crate::maintenance) async fn ensure(
    topology: Topology,
    client: &NatsClient,
) -> anyhow::Result<()> {
    DUE_TICKS.ensure(topology, client).await?;
    CHANGES.ensure(topology, client).await
}

/// Takes ticks whose time has come.
pub(crate) struct Ticks {
    keeper: Keeper,
    clock: Arc<ServerClock>,
}

impl Ticks {
    pub(crate) fn new(store: &Arc<JobStore>) -> Self {
        Self {
            keeper: Keeper {
                store: Arc::clone(store),
            },
            clock: Arc::clone(&store.clock),
        }
    }

    pub(crate) async fn run(self, queue: SharedQueue, life: Beat) {
        queue.run(DUE_TICKS, &self, life).await;
    }
}

impl Requests for Ticks {
    /// Whatever is stored on the subject of a tick, and by whom, only makes this consumer look.
    async fn carry_out(&self, request: &Pulled<()>) -> anyhow::Result<()> {
        let Some(name) = subjects::parse_due_tick(&request.subject) else {
            return Ok(());
        };
        // The server has stored the message at the time of the tick or later.
        let now = latest(self.clock.now(), request.stored);
        self.keeper.advance(&name, now).await
    }
}

/// Sees to schedules that somebody has changed.
pub(crate) struct ScheduleChanges(Ticks);

impl ScheduleChanges {
    pub(crate) fn new(store: &Arc<JobStore>) -> Self {
        Self(Ticks::new(store))
    }

    pub(crate) async fn run(self, queue: SharedQueue, life: Beat) {
        queue.run(CHANGES, &self, life).await;
    }
}

impl Requests for ScheduleChanges {
    async fn carry_out(&self, request: &Pulled<()>) -> anyhow::Result<()> {
        let record = serde_json::from_slice::<ScheduleRecord>(&request.payload);
        // The consumer that has stored what is not marked as changed sees to it. What cannot be read is
        // shown to whoever lists the schedules.
        let changed = record.is_ok_and(|record| record.changed);
        match subjects::parse_schedule(&request.subject) {
            Some(name) if changed => {
                let now = latest(self.0.clock.now(), request.stored);
                self.0.keeper.advance(&name, now).await
            }
            _ => Ok(()),
        }
    }
}

fn latest(now: Timestamp, stored: Option<Timestamp>) -> Timestamp {
    stored.map_or(now, |stored| stored.max(now))
}

/// Looks now and then for schedules whose timer was lost, or whose jobs were not submitted.
pub(crate) struct OverdueTicks {
    keeper: Keeper,
}

impl OverdueTicks {
    pub(crate) fn new(store: &Arc<JobStore>) -> Self {
        let store = Arc::clone(store);
        Self {
            keeper: Keeper { store },
        }
    }

    pub(crate) async fn run(self, mut life: Beat) {
        let mut failures = Failures::default();
        loop {
            // Jitter, so that consumers that were started together do not look at the same time.
            let wait = PERIOD.mul_f64(rand::random::<f64>() + 0.5);
            life.during(wait, tokio::time::sleep(wait)).await;
            let looked = life.during(LOOK, self.look()).await;
            failures.note("cannot look for overdue schedules", looked);
        }
    }

    async fn look(&self) -> anyhow::Result<()> {
        let JobStore { client, clock, .. } = &*self.keeper.store;
        let mut looked = Ok(());
        for (name, stored) in schedules::all(client).await? {
            let Some(record) = stored.record else {
                continue;
            };
            let now = clock.now();
            let overdue = record.next.is_some_and(|next| now.since(next) >= OVERDUE);
            // Another consumer may be about to submit the jobs, which does no harm.
            if overdue || !record.pending.is_empty() {
                looked = self.keeper.advance(&name, now).await.and(looked);
            }
        }
        looked
    }
}
