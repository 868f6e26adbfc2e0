//! What machines can see of a service over HTTP: `/metrics`, `/livez` and `/readyz`.
//!
//! Values are read when they are scraped, from what the services count anyway, by collectors that
//! are registered at [`Monitor::register`]. All of it happens on a thread and a runtime of its
//! own, so that a service which is busy still answers.

mod families;
mod links;
mod process;
mod server;
mod waits;

use std::fmt;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::str::FromStr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use anyhow::Context as _;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

pub use self::families::{Families, Labels, Times};
pub(crate) use self::links::{Link, Links};
use self::process::Process;
pub use self::waits::Waits;
use crate::health::Health;
use crate::service::About;

/// Where metrics are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MonitorAddress {
    /// Nowhere.
    Off,
    /// There, and nowhere else.
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

/// What can be scraped of a service; clones are of the same.
#[derive(Clone, Debug)]
pub struct Monitor {
    registry: Arc<Mutex<Registry>>,
    links: Links,
    /// What is said of it once logs go where they should.
    news: Arc<OnceLock<Mutex<Option<News>>>>,
}

/// Where metrics are, or why they are not.
#[derive(Debug)]
enum News {
    Served(SocketAddr),
    Failed(std::io::Error),
}

impl Monitor {
    pub(crate) fn new(about: About, instance: &str) -> Self {
        let monitor = Self {
            registry: Arc::default(),
            links: Links::default(),
            news: Arc::default(),
        };
        monitor.register(Process::new(about, instance.to_owned()));
        monitor.register(monitor.links.clone());
        monitor
    }

    /// Adds metrics. The collector is asked at each scrape, on the thread of the monitor, and has
    /// no other collector's names; [`Families`] writes them.
    ///
    /// It is kept as long as the service, so it should hold no connection.
    pub fn register(&self, collector: impl Collector) {
        self.with_registry(|registry| registry.register_collector(Box::new(collector)));
    }

    /// Adds metrics that count by themselves, such as the library has them.
    pub fn with_registry(&self, add: impl FnOnce(&mut Registry)) {
        add(&mut self.registry.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(crate) fn links(&self) -> Links {
        self.links.clone()
    }

    /// Adds a connection, which is left out when nobody uses it any more.
    pub(crate) fn watch(&self, link: &Arc<Link>) {
        self.links.add(link);
    }

    /// Listens where the options say, and serves until the process ends.
    ///
    /// # Errors
    /// When the address was given and cannot be had; the error names flag and variable.
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
            None => match usual(about.monitor_port) {
                Ok(listener) => listener,
                // Nobody has asked for them.
                Err(error) => {
                    self.tell_later(News::Failed(error));
                    return Ok(());
                }
            },
        };
        let address = listener.local_addr()?;
        server::serve(listener, self.clone(), health, shutdown)?;
        self.tell_later(News::Served(address));
        Ok(())
    }

    fn tell_later(&self, news: News) {
        // There is one start, and so one piece of news.
        let _ = self.news.set(Mutex::new(Some(news)));
    }

    /// Says where metrics are, once: a service may direct its logs elsewhere before it connects.
    pub(crate) fn tell(&self) {
        let news = self.news.get().and_then(|news| {
            let mut news = news.lock().unwrap_or_else(PoisonError::into_inner);
            news.take()
        });
        match news {
            Some(News::Served(address)) => info!("metrics on http://{address}/metrics"),
            Some(News::Failed(error)) => warn!(%error, "metrics are not served"),
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

/// The usual port of the service on the loopback interface; any free one where another instance
/// has that.
fn usual(port: u16) -> std::io::Result<TcpListener> {
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        }
        result => result,
    }
}

#[cfg(test)]
mod tests;
