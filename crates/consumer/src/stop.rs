//! The steps of a stop; [`serve`](crate::serve()) has their order.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::consumer::Consumer;
use crate::core_lane::{self, forward::Forwarder};
use crate::inbox::{WaitingJob, take_matching};
use crate::lock::lock;
use crate::settle;

/// The longest part of the grace period that is kept for reporting interrupted jobs.
const REPORTING: Duration = Duration::from_secs(1);

/// The deadlines of a stop.
pub(crate) struct Deadlines {
    began: Instant,
    /// Running jobs are interrupted.
    pub(crate) interrupt: Instant,
    /// The process has to be gone.
    pub(crate) exit: Instant,
}

impl Deadlines {
    /// The deadlines of a stop that begins now.
    pub(crate) fn new(grace: Duration) -> Self {
        let began = Instant::now();
        let exit = began + grace;
        Self {
            began,
            interrupt: exit - REPORTING.min(grace / 5),
            exit,
        }
    }
}

/// Interrupts running jobs when the service gets the second signal to stop.
pub(crate) async fn interrupt_on(hurry: CancellationToken, consumer: Arc<Consumer>) {
    hurry.cancelled().await;
    consumer.hard_stop.cancel();
}

/// Hands back the requests and durable jobs that wait, at once, so that other consumers have time
/// for them. Plain publishes keep their place, because their publishers do not submit them again.
pub(crate) async fn hand_back_waiting(consumer: &Consumer, deadline: Instant) {
    let can_be_handed_back = |job: &WaitingJob| !job.is_plain();
    let mut jobs = consumer.inbox.take_matching(can_be_handed_back);
    for slot in &consumer.slots {
        jobs.extend(take_matching(&mut lock(slot).batch, can_be_handed_back));
    }
    hand_back(consumer, jobs, deadline).await;
}

/// Without a connection the client library takes a bounded number of messages and then waits, so
/// this has a deadline.
async fn hand_back(consumer: &Consumer, jobs: Vec<WaitingJob>, deadline: Instant) {
    let mut left = jobs.len();
    for job in jobs {
        let interrupted = settle::not_started(consumer, job);
        let sent = timeout_at(deadline, core_lane::send(consumer, interrupted)).await;
        if sent.is_err() {
            warn!(
                jobs = left,
                "jobs could not be handed back in time: NATS takes no messages"
            );
            return;
        }
        left -= 1;
    }
}

/// Waits for running and forwarded jobs; interrupts those that do not end in time.
pub(crate) async fn finish_running(
    consumer: &Consumer,
    slots: &mut JoinSet<()>,
    forwarder: &Forwarder,
    deadlines: &Deadlines,
) {
    let mut done = async || {
        while slots.join_next().await.is_some() {}
        forwarder.idle().await;
    };
    if timeout_at(deadlines.interrupt, done()).await.is_ok() {
        return;
    }
    consumer.hard_stop.cancel();
    let halfway = deadlines.interrupt + (deadlines.exit - deadlines.interrupt) / 2;
    if timeout_at(halfway, done()).await.is_ok() {
        return;
    }
    // A job that is left keeps its thread busy and cannot be interrupted, or waits behind such a
    // job.
    let mut waiting = consumer.inbox.take_matching(|_| true);
    for slot in &consumer.slots {
        let (stuck, batch) = {
            let mut slot = lock(slot);
            (slot.running.take(), std::mem::take(&mut slot.batch))
        };
        waiting.extend(batch);
        if let Some(stuck) = stuck {
            let interrupted = settle::interrupted(consumer, stuck);
            let _ = timeout_at(deadlines.exit, core_lane::send(consumer, interrupted)).await;
        }
    }
    hand_back(consumer, waiting, deadlines.exit).await;
}

/// Waits until NATS has the last outcomes, and logs the counts of all jobs.
pub(crate) async fn confirm_and_log(consumer: &Consumer, deadlines: &Deadlines) {
    let up = *consumer.nats.connected().borrow();
    let patience = deadlines
        .exit
        .saturating_duration_since(Instant::now())
        .max(REPORTING / 10);
    if !up {
        warn!("no connection to NATS: outcomes that were not sent are lost");
    } else if let Err(error) = consumer.nats.round_trip(patience).await {
        warn!("the last outcomes may be lost: {error:#}");
    }
    let counts = consumer.counts();
    info!(
        processed = counts.processed,
        succeeded = counts.succeeded,
        failed = counts.failed,
        rejected = counts.rejected,
        expired = counts.expired,
        interrupted = counts.interrupted,
        cancelled = counts.cancelled,
        drained_ms = deadlines.began.elapsed().as_millis(),
        "stopped"
    );
}
