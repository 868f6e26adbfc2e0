//! The order in which a consumer starts and stops.

use std::collections::BTreeMap;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use bootstrap::{About, Context, Misconfigured};
use common::{ConsumerState, JobKind, KindPattern, subjects};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use worker::LaneEnd;

use crate::any_handler::AnyHandler;
use crate::config::Config;
use crate::consumer::Consumer;
use crate::core_lane::forward::Forwarder;
use crate::core_lane::intake;
use crate::declared::LateClient;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::stop::{self, Deadlines};
use crate::{declared, durable_lane, job_summary, slot, status};

/// The name and the defaults of this service.
pub const ABOUT: About = About {
    name: "consumer",
    prefix: "CONSUMER",
    version: env!("CARGO_PKG_VERSION"),
    inbox_prefix: "_INBOX_worker",
    monitor_port: 9472,
};

/// The `main` of a consumer: reads the configuration and runs jobs with these handlers until
/// SIGTERM or SIGINT. Returns the exit code of the process.
#[must_use]
pub fn run(handlers: Registry) -> ExitCode {
    run_as(ABOUT.name, ABOUT.version, handlers)
}

/// The `main` of a consumer like [`run`], under the name and the version of the program, which appear in
/// `--version`, in its status and in the fleet. The version is three numbers with dots.
///
/// ```no_run
/// use std::process::ExitCode;
///
/// fn main() -> ExitCode {
///     let handlers = consumer::Registry::new();
///     consumer::run_as(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"), handlers)
/// }
/// ```
#[must_use]
pub fn run_as(name: &'static str, version: &'static str, handlers: Registry) -> ExitCode {
    bootstrap::run(
        About {
            name,
            version,
            ..ABOUT
        },
        |config: &Config| &config.options,
        async |context, config| {
            serve(context, config, handlers).await?;
            Ok(ExitCode::SUCCESS)
        },
    )
}

/// Runs jobs with these handlers and those that the configuration declares, until the context's
/// shutdown is cancelled. Then finishes running jobs within the context's grace period.
///
/// # Errors
/// When the configuration is wrong ([`Misconfigured`]), the connection to NATS cannot be made or
/// is closed for good, or a task that the consumer needs has ended.
pub async fn serve(context: Context, config: Config, handlers: Registry) -> anyhow::Result<()> {
    // The whole configuration is checked before the consumer connects to NATS.
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
    let stop_status = CancellationToken::new();
    let stop_status_on_drop = stop_status.clone().drop_guard();
    let mut status_ended = status::start(&context, &consumer, stop_status).await?;

    let forwarder = Forwarder::new();
    let mut slots = JoinSet::new();
    for number in 0..consumer.slots.len() {
        slots.spawn(slot::work(Arc::clone(&consumer), number, forwarder.clone()));
    }
    let mut background = JoinSet::new();
    let shared = Arc::clone(&consumer);
    let summarize = move |heartbeat| job_summary::run(shared, heartbeat);
    background.spawn(context.health.supervise("job log", summarize));
    let subscriptions = intake::join(&consumer).await?;
    consumer.nats.confirm_subscriptions(subjects::CREATE).await;
    let kinds = consumer
        .kinds
        .names()
        .map(JobKind::as_str)
        .collect::<Vec<_>>()
        .join(",");
    info!(
        version = context.about.version,
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
    // Core jobs do not wait for JetStream, which may not be ready yet.
    let mut starting = pin!(durable_lane::start(&context, &config, &consumer));
    let mut durable = None;
    let mut started = false;
    let mut intake_ended = loop {
        tokio::select! {
            ended = &mut intake => break Some(ended),
            () = context.shutdown.cancelled() => break None,
            _ = &mut status_ended => anyhow::bail!("the thread that answers jobs.status ended"),
            // A slot ends only after the inbox is closed.
            Some(_) = slots.join_next() => anyhow::bail!("a slot ended unexpectedly"),
            result = &mut starting, if !started => {
                started = true;
                durable = result?;
            }
            Err(error) = lane_ended(durable.as_mut().map(|(_, end)| end)) => {
                return Err(error.context("the durable lane ended"));
            }
        }
    };

    let deadlines = Deadlines::new(context.grace);
    consumer.state.set(ConsumerState::Draining);
    let hurry = stop::interrupt_on(context.hurry.clone(), Arc::clone(&consumer));
    background.spawn(hurry);
    if let Some((lane, _)) = &durable {
        lane.leave();
        if timeout_at(deadlines.interrupt, lane.left()).await.is_err() {
            warn!(
                "no connection to NATS: durable jobs in transit to this consumer will be redelivered"
            );
        }
    }
    stop::hand_back_waiting(&consumer, deadlines.interrupt).await;
    if intake_ended.is_none() {
        intake_ended = timeout_at(deadlines.interrupt, intake).await.ok();
    }
    if intake_ended.is_none() {
        warn!("not all jobs in transit to this consumer arrived within the grace period");
    }
    consumer.inbox.close();
    stop::finish_running(&consumer, &mut slots, &forwarder, &deadlines).await;
    if let Some((lane, end)) = durable {
        let patience = deadlines.exit.saturating_duration_since(Instant::now());
        if let Err(error) = lane.finish(end, patience).await {
            warn!("{error:#}");
        }
    }
    stop::confirm_and_log(&consumer, &deadlines).await;
    drop(stop_status_on_drop);
    // An error means that the thread has ended, too.
    let _ = timeout_at(deadlines.exit, status_ended).await;
    intake_ended
        .unwrap_or(Ok(()))
        .context("jobs in transit to this consumer may be lost")
}

/// Waits for the end of the durable lane; forever if there is none.
async fn lane_ended(end: Option<&mut LaneEnd>) -> anyhow::Result<()> {
    match end {
        Some(end) => end.wait().await,
        None => std::future::pending().await,
    }
}

/// The handlers of the kinds that match `patterns`; all handlers if there are no patterns.
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
