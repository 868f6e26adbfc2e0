//! Monitoring over HTTP: `/metrics`, `/livez` and `/readyz`.
//!
//! Collectors, registered with [`Monitor::register`], read values when they are scraped, from counters
//! that the services have anyway. The monitor has its own thread and runtime, so that a busy service
//! still answers.

mod connections;
mod families;
mod process;
mod server;
mod waits;

use std::fmt;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::str::FromStr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::Context as _;
use connection::Health;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use self::connections::ConnectionMetrics;
pub use self::families::{Families, Labels, Times};
use self::process::Process;
pub use self::waits::Waits;
use crate::about::About;
use crate::health::HealthMetrics;

/// Where metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MonitorAddress {
    /// Nowhere.
    Off,
    /// At this address only.
    At(SocketAddr),
}

impl FromStr for MonitorAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" {
            return Ok(Self::Off);
        }
        let address = text.parse().map(Self::At);
        address.map_err(|_| "an IP address and a port, such as 127.0.0.1:9470, or `off`".to_owned())
    }
}

/// The metrics of a service; clones share them.
#[derive(Clone, Debug)]
pub struct Monitor {
    registry: Arc<Mutex<Registry>>,
    /// What to log about the address, later: a service may redirect its logs after this starts.
    to_log: Arc<OnceLock<Mutex<Option<Listening>>>>,
}

/// Where metrics are served, or why they are not.
#[derive(Debug)]
enum Listening {
    Served(SocketAddr),
    Failed(std::io::Error),
}

impl Monitor {
    pub(crate) fn new(about: About, instance: &str, health: &Health) -> Self {
        let monitor = Self {
            registry: Arc::default(),
            to_log: Arc::default(),
        };
        monitor.register(Process::new(about, instance.to_owned()));
        monitor.register(ConnectionMetrics(health.clone()));
        monitor.register(HealthMetrics(health.clone()));
        monitor
    }

    /// Adds a collector of metrics. Each scrape asks it, on the thread of the monitor; it writes with
    /// [`Families`]. No two collectors may use the same name.
    ///
    /// It lives as long as the service, so it should hold no connection.
    pub fn register(&self, collector: impl Collector) {
        self.with_registry(|registry| registry.register_collector(Box::new(collector)));
    }

    /// Adds metrics of the type that the metrics library has, which count by themselves.
    pub fn with_registry(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// Serves metrics on the wanted address until the process ends. `None` means the usual port of the
    /// service, or any free one.
    ///
    /// # Errors
    /// When a wanted address cannot be used; the error names the flag and the variable.
    pub(crate) fn start(
        &self,
        wanted: Option<MonitorAddress>,
        about: &About,
        health: &Health,
        shutdown: CancellationToken,
    ) -> anyhow::Result<()> {
        let listener = match wanted {
            Some(MonitorAddress::Off) => return Ok(()),
            Some(MonitorAddress::At(address)) => TcpListener::bind(address).with_context(|| {
                format!(
                    "cannot serve metrics on {address} (--monitor or {}_MONITOR)",
                    about.prefix
                )
            })?,
            None => match listen_on_usual(about.monitor_port) {
                Ok(listener) => listener,
                // No address was asked for, so this is no error.
                Err(error) => {
                    self.log_later(Listening::Failed(error));
                    return Ok(());
                }
            },
        };
        let address = listener.local_addr()?;
        server::serve(listener, self.clone(), health, shutdown)?;
        self.log_later(Listening::Served(address));
        Ok(())
    }

    fn log_later(&self, listening: Listening) {
        // It is set once, because the monitor starts once.
        let _ = self.to_log.set(Mutex::new(Some(listening)));
    }

    /// Logs the address of the metrics, once. Called before the service connects to NATS: by then it has
    /// redirected its logs, if it does.
    pub(crate) fn log_address(&self) {
        let listening = self.to_log.get().and_then(|listening| {
            let mut listening = listening.lock().unwrap_or_else(PoisonError::into_inner);
            listening.take()
        });
        match listening {
            Some(Listening::Served(address)) => info!("metrics on http://{address}/metrics"),
            Some(Listening::Failed(error)) => warn!(%error, "metrics are not served"),
            None => {}
        }
    }

    /// All metrics as text, in the format of `OpenMetrics` 1.0.
    fn scrape(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        let registry = self.registry.lock().unwrap_or_else(PoisonError::into_inner);
        text::encode(&mut page, &registry)?;
        Ok(page)
    }
}

/// Listens on the usual port of the service on the loopback interface, or on any free port if that is
/// taken.
fn listen_on_usual(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        }
        result => result,
    }
}

#[cfg(test)]
mod tests;
