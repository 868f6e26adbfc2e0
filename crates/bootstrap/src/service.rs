//! The order in which a service starts and stops.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Parser;
use connection::ConnectError;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::about::About;
use crate::cli::{self, Options};
use crate::context::Context;
use crate::health;
use crate::misconfigured::{Misconfigured, misconfigured};
use crate::{shutdown, telemetry, trace};

/// How much longer than its grace period a service may take that stops because a task failed.
const LATE: Duration = Duration::from_secs(2);

/// Runs a service: reads its configuration, starts logs, health, metrics and signals, then calls `serve`.
///
/// `serve` returns the exit code. An error is logged with its causes; the process then exits with 2 if
/// it is [`Misconfigured`], else with 1. The exit does not wait for work on other threads that cannot be
/// interrupted.
#[must_use]
pub fn run<C: Parser>(
    about: About,
    options: impl FnOnce(&C) -> &Options,
    serve: impl AsyncFnOnce(Context, C) -> anyhow::Result<ExitCode>,
) -> ExitCode {
    let (config, matches) = cli::parse::<C>(&cli::command::<C>(&about));
    let options = options(&config).clone();
    if matches.subcommand_name() == Some("healthcheck") {
        let variable = format!("{}_HEALTH_SOCKET", about.prefix);
        return health::check(options.health_socket.as_deref(), &variable);
    }
    let context = Context::new(about, options, CancellationToken::new());
    // A subcommand is run at a terminal and ends soon: nothing scrapes it.
    let monitored = matches.subcommand_name().is_none();
    let report = |error: &anyhow::Error| error!("{error:#}");
    run_work(&context, monitored, report, |context| {
        serve(context, config)
    })
}

/// Starts everything around the work, does the work, and stops everything; see [`run`]. `report` gets an
/// error of the work.
pub(crate) fn run_work(
    context: &Context,
    monitored: bool,
    report: impl FnOnce(&anyhow::Error),
    work: impl AsyncFnOnce(Context) -> anyhow::Result<ExitCode>,
) -> ExitCode {
    let (about, options) = (context.about, &context.options);
    if let Err(error) = telemetry::init(&options.filter, options.log_format, &context.instance) {
        eprintln!("error: {error:#}");
        return ExitCode::from(2);
    }
    let exporting = match trace::start(&options.trace, &about, &context.instance) {
        Ok(exporting) => exporting,
        Err(error) => {
            eprintln!("error: {error:#}");
            return ExitCode::from(2);
        }
    };
    let (grace, shutdown) = (context.grace, context.shutdown.clone());
    let health = context.health.clone();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "cannot start the async runtime");
            return ExitCode::FAILURE;
        }
    };
    let stopped_at = Arc::new(OnceLock::new());
    let set = Arc::clone(&stopped_at);
    runtime.spawn(async move {
        shutdown.cancelled().await;
        set.get_or_init(Instant::now);
    });
    let result = runtime.block_on(async {
        if let Some(path) = &context.options.health_socket {
            health::serve(&context.health, path).map_err(|error| misconfigured(&error))?;
        }
        if monitored {
            context
                .monitor
                .start(
                    context.options.monitor,
                    &about,
                    &context.health,
                    context.shutdown.clone(),
                )
                .map_err(|error| misconfigured(&error))?;
        }
        shutdown::on_signal(&health, context.shutdown.clone(), context.hurry.clone())?;
        // A service with a failed task stops like any other, but may wait for that task in vain.
        let overdue = async {
            context.shutdown.cancelled().await;
            match health.failure() {
                Some(_) => tokio::time::sleep(grace + LATE).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            result = work(context.clone()) => result,
            () = overdue => Err(anyhow::anyhow!("the service did not stop within its grace period")),
        }
    });
    let result = match health.failure() {
        Some(why) => match result {
            Ok(_) => Err(anyhow::anyhow!("stopped because {why}")),
            Err(error) => Err(error.context(format!("stopped because {why}"))),
        },
        None => result,
    };
    let used = stopped_at.get().map_or(Duration::ZERO, Instant::elapsed);
    exporting.finish(grace.saturating_sub(used));
    // A handler that computes cannot be interrupted, and dropping the runtime would wait for it beyond
    // the grace period.
    runtime.shutdown_background();
    result.unwrap_or_else(|error| {
        let stopped_early = Some(&ConnectError::StoppedEarly);
        if error.downcast_ref() == stopped_early {
            info!("stopped: {error}");
            return ExitCode::SUCCESS;
        }
        report(&error);
        if error.is::<Misconfigured>() {
            ExitCode::from(2)
        } else {
            ExitCode::FAILURE
        }
    })
}
