//! Background work on streams and on jobs that do not run. It takes no part in running jobs.

mod answers;
mod cancel;
mod expiry;
mod failures;
mod kinds_without_consumer;
mod max_deliveries;
mod overdue;
mod pauses;
mod priorities;
mod purge;
mod queue_limit;
mod run_now;
mod schedules;
mod shared_queue;
mod stale_locks;
mod starved_pulls;

use bootstrap::NatsClient;
use jetstream::Topology;

pub(crate) use cancel::Cancel;
pub(crate) use expiry::Expiry;
pub(crate) use kinds_without_consumer::{KindsFound, KindsWithoutConsumer};
pub(crate) use max_deliveries::MaxDeliveries;
pub(crate) use overdue::OverdueWatch;
pub(crate) use pauses::Pauses;
pub(crate) use priorities::Priorities;
pub(crate) use purge::Purge;
pub(crate) use queue_limit::LimitOfQueue;
pub(crate) use run_now::RunsNow;
pub(crate) use schedules::{OverdueTicks, ScheduleChanges, Ticks};
pub(crate) use shared_queue::SharedQueue;
pub(crate) use stale_locks::StaleLocks;
pub(crate) use starved_pulls::StarvedPulls;

/// Creates the durable consumers of the small queues that all consumers share.
pub(crate) async fn ensure_queues(topology: Topology, client: &NatsClient) -> anyhow::Result<()> {
    cancel::QUEUE.ensure(topology, client).await?;
    max_deliveries::QUEUE.ensure(topology, client).await?;
    schedules::ensure(topology, client).await
}
