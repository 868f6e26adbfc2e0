//! The order in which a service starts and stops.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use clap::Parser;
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::cli::{self, Misconfigured, Options};
use crate::health::{self, Health};
use crate::monitor::Monitor;
use crate::nats::{Endpoint, Registration, StoppedEarly};
use crate::{Nats, shutdown, telemetry, trace};

/// How much longer than its grace period a service may take that stops because a task failed.
const LATE: Duration = Duration::from_secs(2);

/// Names of a service.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Its name as a command, in logs and as a NATS micro service.
    pub name: &'static str,
    /// The prefix of its environment variables, without the underscore.
    pub prefix: &'static str,
    /// Its version, three numbers with dots.
    pub version: &'static str,
    /// The prefix of its inbox subjects, unless `NATS_INBOX_PREFIX` sets another. Its user on NATS may
    /// subscribe to no other inboxes.
    pub inbox_prefix: &'static str,
    /// The port of the loopback interface that serves its metrics, unless that port is taken or
    /// `--monitor` sets another address.
    pub monitor_port: u16,
}

/// What a running service works with.
#[derive(Clone, Debug)]
pub struct Context {
    /// The names of the service.
    pub about: About,
    /// The name of this instance.
    pub instance: String,
    /// How long work that has begun may take once [`Context::shutdown`] is cancelled.
    pub grace: Duration,
    /// Cancelled when the service has to stop.
    pub shutdown: CancellationToken,
    /// Cancelled when the service is told to stop a second time. The process ends one second later.
    pub hurry: CancellationToken,
    /// The metrics of the service.
    pub monitor: Monitor,
    pub(crate) options: Options,
    /// The health of this instance.
    pub health: Health,
}

impl Context {
    /// The context that [`run`] makes, for programs and tests that start a service themselves.
    #[must_use]
    pub fn new(about: About, options: Options, shutdown: CancellationToken) -> Self {
        let instance = options.instance.clone().unwrap_or_else(|| {
            let random = uuid::Uuid::new_v4().simple().to_string();
            format!("{}-{}", about.name, &random[..6])
        });
        let monitor = Monitor::new(about, &instance);
        let health = Health::new(monitor.connections(), shutdown.clone());
        monitor.register(health.clone());
        Self {
            about,
            instance,
            monitor,
            grace: options.grace,
            shutdown,
            hurry: CancellationToken::new(),
            options,
            health,
        }
    }

    /// Connects to NATS, and waits for it as long as it takes. The purpose is part of the connection's
    /// name on the server.
    ///
    /// A connection that is lost later is always made again.
    ///
    /// # Errors
    /// When the configuration is wrong, the server refuses the credentials, or the service is told to
    /// stop before there is a connection.
    pub async fn connect(&self, purpose: &str) -> anyhow::Result<Nats> {
        Nats::connect(self, purpose).await
    }

    /// Registers this instance as a NATS micro service, so that `nats micro ls` and `$SRV.PING`
    /// find it under the service's name; the metadata holds its instance and host name.
    ///
    /// Dropping the returned value ends the registration.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn register(&self, nats: &Nats) -> anyhow::Result<Registration> {
        Registration::new(self, nats).await
    }

    /// Registers it with a subject on which it answers requests, as a member of a queue group.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn register_endpoint(
        &self,
        nats: &Nats,
        name: &'static str,
        queue_group: String,
        subject: &'static str,
    ) -> anyhow::Result<Endpoint> {
        Endpoint::new(self, nats, name, queue_group, subject).await
    }

    /// The host name of this machine or container.
    #[must_use]
    pub fn host(&self) -> String {
        nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_else(|| "unknown".to_owned())
    }
}

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
            context
                .health
                .serve(path)
                .map_err(|error| cli::misconfigured(&error))?;
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
                .map_err(|error| cli::misconfigured(&error))?;
        }
        shutdown::on_signal(&health, context.shutdown.clone(), context.hurry.clone())?;
        // A service with a failed task stops like any other, but may wait for that task in vain.
        let overdue = async {
            context.shutdown.cancelled().await;
            match health.tasks.failure() {
                Some(_) => tokio::time::sleep(grace + LATE).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            result = work(context.clone()) => result,
            () = overdue => Err(anyhow::anyhow!("the service did not stop within its grace period")),
        }
    });
    let result = match health.tasks.failure() {
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
        if error.is::<StoppedEarly>() {
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
