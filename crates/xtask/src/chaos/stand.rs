//! All processes of a run: servers, consumers, a publisher and a gateway, and the connections of the suite.

use std::fs;
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use client::{Client, Options};
use tempfile::TempDir;
use test_support::{NatsCluster, NatsServer, Service, Signal};
use tokio::sync::Mutex;

use super::fault::PROXIED;
use super::ledger::{Ledger, declarations};
use super::proxy::Proxy;

/// The real servers.
pub(super) enum Servers {
    One(Box<NatsServer>),
    Three(NatsCluster),
}

impl Servers {
    pub(super) async fn start(cluster: bool) -> Self {
        if cluster {
            Self::Three(NatsCluster::start().await)
        } else {
            Self::One(Box::new(NatsServer::start().await))
        }
    }

    pub(super) fn count(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Three(_) => 3,
        }
    }

    pub(super) fn get(&self, number: usize) -> &NatsServer {
        match self {
            Self::One(server) => server,
            Self::Three(cluster) => cluster.server(number),
        }
    }

    pub(super) fn get_mut(&mut self, number: usize) -> &mut NatsServer {
        match self {
            Self::One(server) => server,
            Self::Three(cluster) => cluster.server_mut(number),
        }
    }

    fn env_for(&self, user: &str) -> Vec<(String, String)> {
        match self {
            Self::One(server) => server.env_for(user),
            Self::Three(cluster) => cluster.env_for(user),
        }
    }

    /// Waits until the servers are whole again: with one of three lost, another one must not be broken.
    pub(super) async fn are_whole(&self, admin: &async_nats::Client) {
        if let Self::Three(cluster) = self {
            cluster.is_healthy().await;
            for stream in ["JOBS", "JOBS_LATER", "JOBS_STATE"] {
                cluster.is_replicated(admin, stream, 3).await;
            }
        }
    }
}

/// A service that is started again after it was killed.
pub(super) struct Restarted {
    pub(super) name: String,
    start: Box<dyn Fn() -> Service + Send + Sync>,
    /// Whoever breaks it holds it until it is whole again.
    pub(super) service: Mutex<Service>,
}

impl Restarted {
    fn new(name: String, start: impl Fn() -> Service + Send + Sync + 'static) -> Self {
        let service = Mutex::new(start());
        Self {
            name,
            start: Box::new(start),
            service,
        }
    }

    /// In place of one that has ended.
    pub(super) fn start_again(&self, service: &mut Service) {
        *service = (self.start)();
    }
}

pub(super) struct Stand {
    pub(super) servers: Mutex<Servers>,
    /// Whoever breaks it holds it until it is whole again.
    pub(super) proxy: Mutex<Proxy>,
    pub(super) consumers: Vec<Restarted>,
    pub(super) gateway: Restarted,
    /// The port of the gateway on this machine.
    pub(super) gateway_port: u16,
    /// The publisher that runs, if one does.
    pub(super) publisher: Mutex<Option<Service>>,
    publisher_env: Vec<(String, String)>,
    pub(super) ledger: Ledger,
    folder: TempDir,
    /// Services that ended by themselves, and how.
    failed: Mutex<Vec<(String, String)>>,
    /// A program that submits jobs.
    pub(super) application: Client,
    /// Somebody who looks jobs up, cancels them, and stores schedules.
    pub(super) operator: Client,
    /// May do everything.
    pub(super) admin: async_nats::Client,
}

/// How many consumers there are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Fleet {
    /// Four, half of them programs with handlers in Rust, half of them behind the proxy.
    Whole,
    One,
}

impl Stand {
    pub(super) async fn start(cluster: bool, fleet: Fleet) -> anyhow::Result<Self> {
        let servers = Servers::start(cluster).await;
        let proxy = Proxy::to(servers.get(0).port()).await?;
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let ledger = folder.path().join("ledger");
        let handlers = folder.path().join("handlers.toml");
        fs::write(&handlers, declarations(&ledger)).context("cannot write the handlers")?;
        let env = |user: &str| servers.env_for(user);
        let proxied = |user: &str| {
            let mut env = env(user);
            env.retain(|(name, _)| name != "NATS_URL");
            env.push(("NATS_URL".to_owned(), proxy.url()));
            env
        };
        let mut consumers = vec![consumer("consumer-1", env("worker"), handlers.clone())];
        if fleet == Fleet::Whole {
            let name = format!("consumer-2{PROXIED}");
            consumers.push(consumer(&name, proxied("worker"), handlers));
            consumers.push(application("application-1", env("worker"), ledger.clone())?);
            let name = format!("application-2{PROXIED}");
            consumers.push(application(&name, proxied("worker"), ledger.clone())?);
        }
        let mut first = consumers[0].service.lock().await;
        let ready = |line: &str| line.contains("taking durable jobs");
        first.wait_for_line(ready).await;
        drop(first);
        let gateway_port = free_port()?;
        let gateway = gateway(gateway_port, env("gateway"));
        let admin = match &servers {
            Servers::One(server) => server.connect_as("admin").await,
            Servers::Three(cluster) => cluster.connect_as("admin").await,
        };
        Ok(Self {
            application: connect(&env("application")).await?,
            operator: connect(&env("operator")).await?,
            admin,
            publisher_env: proxied("publisher"),
            proxy: Mutex::new(proxy),
            consumers,
            gateway,
            gateway_port,
            publisher: Mutex::new(None),
            ledger: Ledger::at(ledger),
            folder,
            failed: Mutex::default(),
            servers: Mutex::new(servers),
        })
    }

    /// A file of this run.
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a publisher that stores the jobs of a file.
    pub(super) fn start_publisher(&self, input: &str, output: &str) -> Service {
        Service::named("publisher")
            .envs(self.publisher_env.iter().cloned())
            .env("PUBLISHER_MONITOR", "off")
            .args(["--delivery", "durable", "--confirm-timeout", "10s"])
            .arg("--input")
            .arg(self.file(input))
            .arg("--output")
            .arg(self.file(output))
            .start()
    }

    /// The user and the password of a program that submits jobs, and the port of a server.
    pub(super) async fn login(&self) -> (u16, String, String) {
        let servers = self.servers.lock().await;
        let server = servers.get(0);
        let env = server.env_for("application");
        let value = |wanted: &str| {
            let found = env.iter().find(|(name, _)| name == wanted);
            found.map(|(_, value)| value.clone()).unwrap_or_default()
        };
        (server.port(), value("NATS_USER"), value("NATS_PASSWORD"))
    }

    /// All services that live as long as the run.
    pub(super) fn services(&self) -> impl Iterator<Item = &Restarted> {
        self.consumers.iter().chain([&self.gateway])
    }

    /// Whether a service runs. If it does not, nobody has ended it: that is kept in mind, and it is started again.
    pub(super) async fn runs(&self, restarted: &Restarted, service: &mut Service) -> bool {
        let Some(status) = service.exited() else {
            return true;
        };
        let last = service.lines().pop().map(|line| line.text);
        let why = format!(
            "it ended by itself ({status}): {}",
            last.unwrap_or_default()
        );
        self.failed.lock().await.push((restarted.name.clone(), why));
        restarted.start_again(service);
        false
    }

    /// Ends all services, and returns those that had ended by themselves or did not end well, and why.
    pub(super) async fn stop(&self) -> Vec<(String, String)> {
        for restarted in self.services() {
            let mut service = restarted.service.lock().await;
            if self.runs(restarted, &mut service).await {
                service.signal(Signal::SIGTERM);
                let status = service.wait().await;
                if !status.success() {
                    let why = format!("at SIGTERM: {status}");
                    self.failed.lock().await.push((restarted.name.clone(), why));
                }
            }
        }
        std::mem::take(&mut *self.failed.lock().await)
    }

    /// What all services have logged since they were last started.
    pub(super) async fn logs(&self) -> String {
        let mut all = String::new();
        for restarted in self.services() {
            let service = restarted.service.lock().await;
            let lines = service.lines().into_iter();
            all.extend(lines.map(|line| format!("{}: {}\n", restarted.name, line.text)));
        }
        all
    }
}

/// How long a service may take for running jobs when it is told to stop: shorter than a long job.
const GRACE: &str = "2s";

/// The real consumer, with programs for handlers.
fn consumer(name: &str, env: Vec<(String, String)>, handlers: PathBuf) -> Restarted {
    let instance = name.to_owned();
    Restarted::new(name.to_owned(), move || {
        Service::named("consumer")
            .envs(env.iter().cloned())
            .env("CONSUMER_INSTANCE", &instance)
            .env("CONSUMER_MONITOR", "off")
            .env("CONSUMER_KEEP_OUTCOMES", "7d")
            .args(["--concurrency", "8", "--grace", GRACE, "--handlers"])
            .arg(&handlers)
            .start()
    })
}

/// A program of somebody else's, with handlers in Rust: this program in another role.
fn application(
    name: &str,
    env: Vec<(String, String)>,
    ledger: PathBuf,
) -> anyhow::Result<Restarted> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let instance = name.to_owned();
    Ok(Restarted::new(name.to_owned(), move || {
        Service::program(&program)
            .envs(env.iter().cloned())
            .args(["chaos-role", "application", "--grace", GRACE])
            .args(["--instance", &instance, "--ledger"])
            .arg(&ledger)
            .start()
    }))
}

fn gateway(port: u16, env: Vec<(String, String)>) -> Restarted {
    Restarted::new("gateway".to_owned(), move || {
        Service::named("gateway")
            .envs(env.iter().cloned())
            .env("GATEWAY_MONITOR", "off")
            .args(["--grace", GRACE, "--listen"])
            .arg(format!("127.0.0.1:{port}"))
            .start()
    })
}

/// A port that is free now, and that the gateway listens on each time that it is started. It is none that the system
/// gives to connections, so it stays free while the gateway is away.
fn free_port() -> anyhow::Result<u16> {
    const PORTS: std::ops::Range<u16> = 20_000..30_000;
    let count = usize::from(PORTS.end - PORTS.start);
    let first = usize::try_from(std::process::id())? % count;
    let mut ports = PORTS.cycle().skip(first).take(count);
    let free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.find(free).context("no port is free for the gateway")
}

async fn connect(env: &[(String, String)]) -> anyhow::Result<Client> {
    let variable = |name: &str| {
        let found = env.iter().find(|(variable, _)| variable == name);
        found.map(|(_, value)| value.clone())
    };
    let connecting = Client::connect(Options::from_variables(variable)?);
    let connected = tokio::time::timeout(Duration::from_mins(1), connecting).await;
    connected
        .context("cannot connect to NATS in time")?
        .context("cannot connect to NATS")
}
