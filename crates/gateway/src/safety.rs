//! Whether the server keeps what it confirms: no durable job is taken where it does not.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bootstrap::{Client, Nats};
use client::{Finding, Topology};
use tokio::time::Instant;
use tracing::{info, warn};

use crate::problem::Problem;

/// How long an unsafe server is taken for one without another look: somebody may put it right
/// without a new connection, as by changing a stream.
const AGAIN: Duration = Duration::from_secs(2);

/// What is known of the server of each connection.
pub(crate) struct Safety {
    /// Whether durable jobs are taken on any server.
    accept: bool,
    seen: Mutex<Option<Seen>>,
    /// Held by whoever looks: all others wait for what it finds.
    looking: tokio::sync::Mutex<()>,
}

struct Seen {
    /// The number of the connection.
    connection: u64,
    at: Instant,
    findings: Vec<Finding>,
}

impl Safety {
    pub(crate) const fn new(accept: bool) -> Self {
        Self {
            accept,
            seen: Mutex::new(None),
            looking: tokio::sync::Mutex::const_new(()),
        }
    }

    /// Refuses durable jobs on a server that may lose what it has confirmed. The server is looked at
    /// once for each connection: a new one may lead to another server, or to one that was changed.
    ///
    /// # Errors
    /// When the server does not answer in time, or is not to be trusted with jobs.
    pub(crate) async fn check(&self, client: &Client) -> Result<(), Problem> {
        if self.accept {
            return Ok(());
        }
        let verdict = match self.known(client) {
            Some(verdict) => verdict,
            None => self.look(client).await?,
        };
        verdict.map_err(Problem::away)
    }

    /// Why durable jobs are refused, if they are: as it was found last.
    pub(crate) fn refusal(&self) -> Option<String> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        self.verdict(seen.as_ref()?).err()
    }

    /// Looks at each server that is connected to, so that the log and the pages tell of it also
    /// where nobody submits.
    pub(crate) async fn watch(&self, nats: &Nats) {
        let mut connected = nats.connected();
        loop {
            if *connected.borrow_and_update() && self.known(&nats.client).is_none() {
                // What does not answer now is looked at again for the next job.
                let _ = self.look(&nats.client).await;
            }
            if connected.changed().await.is_err() {
                return;
            }
        }
    }

    fn known(&self, client: &Client) -> Option<Result<(), String>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = seen.as_ref()?;
        let verdict = self.verdict(seen);
        let same = seen.connection == client.connects();
        (same && (verdict.is_ok() || seen.at.elapsed() < AGAIN)).then_some(verdict)
    }

    fn verdict(&self, seen: &Seen) -> Result<(), String> {
        match seen.findings.iter().find(|finding| finding.breaks) {
            Some(finding) if !self.accept => Err(format!(
                "this gateway takes no durable jobs: {finding}; or tell the gateway to go on all the \
                 same by --accept-unsafe-server"
            )),
            _ => Ok(()),
        }
    }

    async fn look(&self, client: &Client) -> anyhow::Result<Result<(), String>> {
        let _alone = self.looking.lock().await;
        if let Some(verdict) = self.known(client) {
            return Ok(verdict);
        }
        let connection = client.connects();
        let findings = client::examine(client, Topology::default()).await?;
        let now = Seen {
            connection,
            at: Instant::now(),
            findings,
        };
        let verdict = self.verdict(&now);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let before = seen.as_ref();
        if before.is_none_or(|before| before.findings != now.findings) {
            for finding in &now.findings {
                warn!("{finding}");
            }
            let refused = before.is_some_and(|before| self.verdict(before).is_err());
            match &verdict {
                Err(_) => warn!("durable jobs are refused, unless --accept-unsafe-server is given"),
                Ok(()) if refused => info!("durable jobs are taken again"),
                Ok(()) => {}
            }
        }
        *seen = Some(now);
        Ok(verdict)
    }
}
