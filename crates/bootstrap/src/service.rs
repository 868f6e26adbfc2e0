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

/// What a service that stops because of a failure may take beyond its grace period.
const LATE: Duration = Duration::from_secs(2);

/// Which service this is.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// Its name as a command, in logs and as a NATS micro service.
    pub name: &'static str,
    /// What its variables begin with, without the underscore.
    pub prefix: &'static str,
    /// Its version, three numbers with dots.
    pub version: &'static str,
    /// What its inbox subjects begin with unless `NATS_INBOX_PREFIX` says otherwise: its user on
    /// NATS may subscribe to no others.
    pub inbox_prefix: &'static str,
    /// The port of the loopback interface on which its metrics are, unless that is taken or
    /// `--monitor` says otherwise.
    pub monitor_port: u16,
}

/// What a running service works with.
#[derive(Clone, Debug)]
pub struct Context {
    /// Which service this is.
    pub about: About,
    /// The name of this instance.
    pub instance: String,
    /// How long work that has begun may take once [`Context::shutdown`] is cancelled.
    pub grace: Duration,
    /// Cancelled when the service has to stop.
    pub shutdown: CancellationToken,
    /// Cancelled when the service is told a second time to stop, a moment before the process ends.
    pub hurry: CancellationToken,
    /// What can be scraped of the service.
    pub monitor: Monitor,
    pub(crate) options: Options,
    /// What is known of this instance's health.
    pub health: Health,
}

impl Context {
    /// What [`run`] makes of the options; for programs and tests that start a service themselves.
    #[must_use]
    pub fn new(about: About, options: Options, shutdown: CancellationToken) -> Self {
        let instance = options.instance.clone().unwrap_or_else(|| {
            let random = uuid::Uuid::new_v4().simple().to_string();
            format!("{}-{}", about.name, &random[..6])
        });
        let monitor = Monitor::new(about, &instance);
        let health = Health::new(monitor.links(), shutdown.clone());
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

    /// Connects to NATS, waiting for it as long as it takes; the purpose is part of the
    /// connection's name on the server.
    ///
    /// Once made, the connection is restored without end when it is lost.
    ///
    /// # Errors
    /// When the configuration is wrong, the server refuses the credentials, or the service is
    /// told to stop before there is a connection.
    pub async fn connect(&self, purpose: &str) -> anyhow::Result<Nats> {
        Nats::connect(self, purpose).await
    }

    /// Registers this instance as a NATS micro service, so that `nats micro ls` and `$SRV.PING`
    /// find it under the service's name; the metadata holds its instance and host name.
    ///
    /// It stays registered as long as what is returned is kept.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn register(&self, nats: &Nats) -> anyhow::Result<Registration> {
        Registration::new(self, nats).await
    }

    /// The same with a subject on which the service answers, as a member of a queue group.
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

/// Runs a service: reads its configuration, starts logs, signals, health and metrics, and serves until it
/// is done or told to stop.
///
/// `serve` answers with the exit code. An error is logged with its causes; the process then exits
/// with 2 if it is [`Misconfigured`], else with 1. Work on other threads that cannot be
/// interrupted is not waited for.
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
    // Whoever runs a command at a terminal waits for its end, and scrapes nothing.
    let monitored = matches.subcommand_name().is_none();
    let report = |error: &anyhow::Error| error!("{error:#}");
    live(&context, monitored, report, |context| {
        serve(context, config)
    })
}

/// Starts what surrounds the work, does the work, and ends what surrounds it; see [`run`]. An error
/// of the work is given to `report`.
pub(crate) fn live(
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
    let stopped = Arc::new(OnceLock::new());
    let at = Arc::clone(&stopped);
    runtime.spawn(async move {
        shutdown.cancelled().await;
        at.get_or_init(Instant::now);
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
        // A service that a task has failed stops like any other. What it waits for may not come.
        let overdue = async {
            context.shutdown.cancelled().await;
            match health.tasks.failure() {
                Some(_) => tokio::time::sleep(grace + LATE).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            result = work(context.clone()) => result,
            () = overdue => Err(anyhow::anyhow!("the service did not stop in its grace period")),
        }
    });
    let result = match health.tasks.failure() {
        Some(why) => match result {
            Ok(_) => Err(anyhow::anyhow!("stopped because {why}")),
            Err(error) => Err(error.context(format!("stopped because {why}"))),
        },
        None => result,
    };
    let used = stopped.get().map_or(Duration::ZERO, Instant::elapsed);
    exporting.finish(grace.saturating_sub(used));
    // A handler that computes on a thread of the runtime cannot be stopped; dropping the runtime
    // would wait for it beyond any grace period.
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
