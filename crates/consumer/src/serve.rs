//! The order in which a consumer starts and stops.

use std::collections::BTreeMap;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bootstrap::{About, Context, Misconfigured};
use common::{ConsumerState, JobKind, KindPattern, subjects};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use worker::LaneEnd;

use crate::config::Config;
use crate::consumer::{Consumer, lock};
use crate::declared::LateClient;
use crate::inbox::{Delivery, take_out};
use crate::metrics::Metrics;
use crate::registry::{AnyHandler, Registry};
use crate::{control, declared, durable_lane, forward, intake, job_log, runner, settle};

/// What this service is called; a consumer with handlers of its own shares it.
pub const ABOUT: About = About {
    name: "consumer",
    prefix: "CONSUMER",
    version: env!("CARGO_PKG_VERSION"),
    inbox_prefix: "_INBOX_worker",
    monitor_port: 9472,
};

/// The most of the grace period that is kept for saying what was given up.
const FAREWELL: Duration = Duration::from_secs(1);

/// A consumer's `main`: reads the configuration and runs jobs with these handlers until SIGTERM
/// or SIGINT. Answers with the exit code of the process.
#[must_use]
pub fn run(handlers: Registry) -> ExitCode {
    bootstrap::run(
        ABOUT,
        |config: &Config| &config.options,
        async |context, config| {
            serve(context, config, handlers).await?;
            Ok(ExitCode::SUCCESS)
        },
    )
}

/// Runs jobs with these handlers, and those that the configuration declares, until the context's
/// shutdown is cancelled; then finishes what runs within the context's grace period.
///
/// # Errors
/// When the configuration is wrong ([`Misconfigured`]), or there is no connection to NATS.
pub async fn serve(context: Context, config: Config, handlers: Registry) -> anyhow::Result<()> {
    // All that can be wrong with the configuration is found before NATS has to be there.
    let client = LateClient::default();
    let registry = match &config.handlers {
        Some(path) => declared::load(path, handlers, &client)
            .map_err(|error| Misconfigured(error.to_string()))?,
        None => handlers,
    };
    let handlers = select(registry, &config.kinds)?;
    let nats = context.connect("jobs").await?;
    client.get_or_init(|| nats.client.clone());

    let consumer = Arc::new(Consumer::new(&context, &config, nats, handlers));
    context.monitor.register(Metrics(Arc::downgrade(&consumer)));
    let answering = CancellationToken::new();
    let end_answers = answering.clone().drop_guard();
    let mut last_word = control::start(&context, &consumer, answering).await?;

    let mut slots = JoinSet::new();
    for slot in 0..consumer.slots.len() {
        slots.spawn(runner::work(Arc::clone(&consumer), slot));
    }
    let mut background = JoinSet::new();
    let shared = Arc::clone(&consumer);
    let summing_up = move |life| job_log::sum_up(shared, life);
    background.spawn(context.health.supervise("job log", summing_up));
    let subscriptions = intake::join(&consumer).await?;
    consumer.nats.confirm_subscriptions(subjects::CREATE).await;
    let kinds = consumer
        .served()
        .iter()
        .map(|served| served.kind.as_str())
        .collect::<Vec<_>>()
        .join(",");
    info!(
        version = ABOUT.version,
        concurrency = consumer.slots.len(),
        inbox = config.inbox,
        kinds,
        "taking jobs"
    );

    let mut intake = pin!(intake::take_jobs(
        &consumer,
        subscriptions,
        &context.shutdown
    ));
    // This lane does not wait for the other, whose server may not be ready yet.
    let mut starting = pin!(durable_lane::start(&context, &config, &consumer));
    let mut lane = None;
    let mut started = false;
    let mut ended = loop {
        tokio::select! {
            ended = &mut intake => break Some(ended),
            () = context.shutdown.cancelled() => break None,
            _ = &mut last_word => anyhow::bail!("the thread that answers jobs.status ended"),
            // Each has its place until the inbox is closed.
            Some(_) = slots.join_next() => anyhow::bail!("a slot for jobs has ended"),
            result = &mut starting, if !started => {
                started = true;
                lane = result?;
            }
            Err(error) = lane_ended(lane.as_mut().map(|(_, end)| end)) => {
                return Err(error.context("the durable lane ended"));
            }
        }
    };
    let stop = Stop::new(context.grace);
    consumer.become_state(ConsumerState::Draining);
    let hurry = give_up_on(context.hurry.clone(), Arc::clone(&consumer));
    background.spawn(hurry);
    if let Some((lane, _)) = &lane {
        lane.leave();
        if timeout_at(stop.soft, lane.left()).await.is_err() {
            warn!(
                "NATS is away: durable jobs that were under way to this consumer are delivered again"
            );
        }
    }
    hand_back_waiting(&consumer, stop.soft).await;
    if ended.is_none() {
        ended = timeout_at(stop.soft, intake).await.ok();
    }
    if ended.is_none() {
        warn!("not all jobs under way to this consumer arrived within the grace period");
    }
    consumer.inbox.close();
    finish(&consumer, &mut slots, &stop).await;
    if let Some((lane, end)) = lane {
        let patience = stop.hard.saturating_duration_since(Instant::now());
        if let Err(error) = lane.finish(end, patience).await {
            warn!("{error:#}");
        }
    }
    say_farewell(&consumer, &stop).await;
    drop(end_answers);
    // An error is its thread's end, too.
    let _ = timeout_at(stop.hard, last_word).await;
    ended
        .unwrap_or(Ok(()))
        .context("jobs under way to this consumer may be lost")
}

/// Never, if there is no such lane.
async fn lane_ended(end: Option<&mut LaneEnd>) -> anyhow::Result<()> {
    match end {
        Some(end) => end.wait().await,
        None => std::future::pending().await,
    }
}

/// Gives up running jobs when the service is told a second time to stop.
async fn give_up_on(hurry: CancellationToken, consumer: Arc<Consumer>) {
    hurry.cancelled().await;
    consumer.hard_stop.cancel();
}

/// When a stopping consumer does what.
struct Stop {
    began: Instant,
    /// Running jobs are given up.
    soft: Instant,
    /// The process has to be gone.
    hard: Instant,
}

impl Stop {
    fn new(grace: Duration) -> Self {
        let began = Instant::now();
        let hard = began + grace;
        Self {
            began,
            soft: hard - FAREWELL.min(grace / 5),
            hard,
        }
    }
}

/// The handlers of the kinds that this consumer serves.
fn select(
    registry: Registry,
    patterns: &[KindPattern],
) -> Result<BTreeMap<JobKind, Box<dyn AnyHandler>>, Misconfigured> {
    let mut handlers = registry.into_handlers().map_err(Misconfigured)?;
    for pattern in patterns {
        if !handlers.keys().any(|kind| pattern.matches(kind.as_str())) {
            let known = handlers
                .keys()
                .map(JobKind::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            return Err(Misconfigured(format!(
                "--kinds or CONSUMER_KINDS: no handler matches {pattern}; there are handlers for {known}"
            )));
        }
    }
    if !patterns.is_empty() {
        handlers.retain(|kind, _| {
            patterns
                .iter()
                .any(|pattern| pattern.matches(kind.as_str()))
        });
    }
    Ok(handlers)
}

/// Hands back at once the requests and durable jobs that wait, for others to take them while there
/// is time; plain publishes, which nobody would submit again, stay in line.
async fn hand_back_waiting(consumer: &Consumer, deadline: Instant) {
    let is_request = |delivery: &Delivery| !delivery.is_plain();
    let mut requests = consumer.inbox.take_out(is_request);
    for slot in &consumer.slots {
        requests.extend(take_out(&mut lock(slot).batch, is_request));
    }
    interrupt_unread(consumer, requests, deadline).await;
}

/// Without a connection there is an end to what the client library takes, so this has a deadline.
async fn interrupt_unread(consumer: &Consumer, deliveries: Vec<Delivery>, deadline: Instant) {
    let mut left = deliveries.len();
    for delivery in deliveries {
        let interrupted = settle::not_started(consumer, delivery);
        let sent = timeout_at(deadline, settle::send(consumer, interrupted)).await;
        if sent.is_err() {
            warn!(
                jobs = left,
                "jobs could not be handed back in time: NATS takes no answers"
            );
            return;
        }
        left -= 1;
    }
}

/// Waits for what runs, and gives up what does not end in time.
async fn finish(consumer: &Consumer, slots: &mut JoinSet<()>, stop: &Stop) {
    let mut done = async || {
        while slots.join_next().await.is_some() {}
        // All permits are there when no job is being passed on any more.
        let _ = consumer.forwards.acquire_many(forward::LIMIT).await;
    };
    if timeout_at(stop.soft, done()).await.is_ok() {
        return;
    }
    consumer.hard_stop.cancel();
    if timeout_at(stop.soft + (stop.hard - stop.soft) / 2, done())
        .await
        .is_ok()
    {
        return;
    }
    // What is left keeps its thread busy and cannot be interrupted, or waits behind that.
    let mut waiting = consumer.inbox.take_out(|_| true);
    for slot in &consumer.slots {
        let (stuck, batch) = {
            let mut slot = lock(slot);
            (slot.started.take(), std::mem::take(&mut slot.batch))
        };
        waiting.extend(batch);
        if let Some(stuck) = stuck {
            let interrupted = settle::interrupted(consumer, stuck);
            let _ = timeout_at(stop.hard, settle::send(consumer, interrupted)).await;
        }
    }
    interrupt_unread(consumer, waiting, stop.hard).await;
}

async fn say_farewell(consumer: &Consumer, stop: &Stop) {
    // Without a connection there is nobody to wait for.
    let up = *consumer.nats.connected().borrow();
    let patience = stop
        .hard
        .saturating_duration_since(Instant::now())
        .max(FAREWELL / 10);
    if !up {
        warn!("NATS is away: outcomes that were not sent before are lost");
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
        drained_ms = stop.began.elapsed().as_millis(),
        "stopped"
    );
}
