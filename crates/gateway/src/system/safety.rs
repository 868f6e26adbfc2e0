//! Whether the server keeps what it confirms. Durable jobs are refused where it does not.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bootstrap::{Nats, NatsClient};
use client::{Finding, Topology};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::http::Problem;

/// For how long an unsafe server counts as unsafe without another examination: somebody may correct
/// it without a new connection, by changing a stream for example.
const EXAMINE_AGAIN: Duration = Duration::from_secs(2);

/// The examination of the server that the gateway is connected to.
pub(crate) struct Safety {
    /// Whether durable jobs are accepted on an unsafe server too.
    accept_unsafe: bool,
    last: Mutex<Option<Examined>>,
    /// Held during an examination: all others wait for its result.
    examining: tokio::sync::Mutex<()>,
}

struct Examined {
    /// The number of the connection.
    connection: u64,
    at: Instant,
    findings: Vec<Finding>,
}

impl Safety {
    pub(crate) const fn new(accept_unsafe: bool) -> Self {
        Self {
            accept_unsafe,
            last: Mutex::new(None),
            examining: tokio::sync::Mutex::const_new(()),
        }
    }

    /// Refuses durable jobs on a server that may lose what it has confirmed. The server is examined
    /// once for each connection: a new connection may lead to another server, or to a changed one.
    ///
    /// # Errors
    /// When the server does not answer in time, or may lose jobs.
    pub(crate) async fn check(&self, client: &NatsClient) -> Result<(), Problem> {
        if self.accept_unsafe {
            return Ok(());
        }
        let verdict = match self.known(client) {
            Some(verdict) => verdict,
            None => self.examine(client).await?,
        };
        verdict.map_err(Problem::away)
    }

    /// Why durable jobs are refused, by the last examination; `None` if they are accepted, or the
    /// server was not examined yet.
    pub(crate) fn refusal(&self) -> Option<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        self.verdict(last.as_ref()?).err()
    }

    /// Examines the server after each connection, so that the log and the pages show the findings even
    /// if nobody submits jobs.
    pub(crate) async fn watch(&self, nats: &Nats) {
        let mut connected = nats.connected();
        loop {
            if *connected.borrow_and_update() && self.known(&nats.client).is_none() {
                // If it fails, the next job causes another examination.
                let _ = self.examine(&nats.client).await;
            }
            if connected.changed().await.is_err() {
                return;
            }
        }
    }

    fn known(&self, client: &NatsClient) -> Option<Result<(), String>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let last = last.as_ref()?;
        let verdict = self.verdict(last);
        let same = last.connection == client.connects();
        (same && (verdict.is_ok() || last.at.elapsed() < EXAMINE_AGAIN)).then_some(verdict)
    }

    fn verdict(&self, examined: &Examined) -> Result<(), String> {
        match examined.findings.iter().find(|finding| finding.breaks) {
            Some(finding) if !self.accept_unsafe => Err(format!(
                "this gateway takes no durable jobs: {finding}; or let the gateway accept them \
                 anyway with --accept-unsafe-server"
            )),
            _ => Ok(()),
        }
    }

    async fn examine(&self, client: &NatsClient) -> anyhow::Result<Result<(), String>> {
        let _alone = self.examining.lock().await;
        if let Some(verdict) = self.known(client) {
            return Ok(verdict);
        }
        let connection = client.connects();
        let findings = client::examine(client, Topology::default()).await?;
        let now = Examined {
            connection,
            at: Instant::now(),
            findings,
        };
        let verdict = self.verdict(&now);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let before = last.as_ref();
        if before.is_none_or(|before| before.findings != now.findings) {
            for finding in &now.findings {
                warn!("{finding}");
            }
            let refused = before.is_some_and(|before| self.verdict(before).is_err());
            match &verdict {
                Err(_) => warn!("durable jobs are refused, unless --accept-unsafe-server is given"),
                Ok(()) if refused => info!("durable jobs are accepted again"),
                Ok(()) => {}
            }
        }
        *last = Some(now);
        Ok(verdict)
    }
}
