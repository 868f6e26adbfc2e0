use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::ConnectErrorKind;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::client::Client;
use super::connector::{ConnectFailure, Connector, NewClient};
use super::round_trip::round_trip;
use super::supervise::supervise;
use crate::context::Context;
use crate::health::Health;
use crate::misconfigured::{Misconfigured, misconfigured};
use crate::monitor::ConnectionState;

/// The wait between two rounds over the servers at the start.
const RETRY: Duration = Duration::from_secs(1);

/// How long the server may take to confirm subscriptions before that is logged.
const CONFIRMATION: Duration = Duration::from_secs(2);

/// How long after a loss callers wait for the connection to come back.
const SHORT_LOSS: Duration = Duration::from_secs(1);

/// The service was told to stop while it still waited for NATS.
#[derive(Debug, thiserror::Error)]
#[error("told to stop before NATS was reached")]
pub(crate) struct StoppedEarly;

/// A connection to NATS.
#[derive(Clone, Debug)]
pub struct Nats {
    /// The client.
    pub client: Client,
    /// The health of the service.
    pub health: Health,
    connected: watch::Receiver<bool>,
    state: Arc<ConnectionState>,
}

impl Context {
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
}

impl Nats {
    pub(crate) async fn connect(context: &Context, purpose: &str) -> anyhow::Result<Self> {
        let (up, connected) = watch::channel(false);
        let state = Arc::new(ConnectionState::new(purpose, connected.clone()));
        context.monitor.watch(&state);
        context.monitor.log_address();
        let connector = Connector::new(context, purpose, up, &state)?;
        let new = connect_first(context, &connector).await?;
        let (client, replacement) = Client::supervised(new.client, new.end, connected.clone());
        state.client.get_or_init(|| replacement.clone());
        new.gate.set_installed(true);
        let name = format!("connection {purpose}");
        let work = |heartbeat| supervise(connector, replacement, new.gate, heartbeat);
        tokio::spawn(context.health.supervise(name, work));
        Ok(Self {
            client,
            health: context.health.clone(),
            connected,
            state,
        })
    }

    /// Whether there is a connection now. Wait for a change to see when it is lost or back.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    /// If the connection is lost, waits for it to come back, up to one second after the loss.
    pub async fn bridge_short_loss(&self) {
        let mut connected = self.connected();
        if *connected.borrow() {
            return;
        }
        if let Some(lost_at) = self.state.lost_at() {
            // The caller finds out by itself whether the connection is back.
            let back = connected.wait_for(|up| *up);
            let _ = tokio::time::timeout_at(lost_at + SHORT_LOSS, back).await;
        }
    }

    /// How often the client library reported that it dropped messages of a subscription.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.state.dropped.load(Ordering::Relaxed)
    }

    /// Waits until the server has handled the subscriptions that were made before. If that takes more
    /// than two seconds, logs a warning that names `subjects`, and returns.
    pub async fn confirm_subscriptions(&self, subjects: &str) {
        if let Err(error) = self.round_trip(CONFIRMATION).await {
            warn!("the server has not confirmed the subscription to {subjects} yet: {error:#}");
        }
    }

    /// Makes a round trip to the server. When it returns, the server has handled everything that was
    /// published, subscribed and unsubscribed on this connection before, and the messages that it sent
    /// until then have arrived.
    ///
    /// The library's flush only writes to the socket, and its drain gives subscriptions up while
    /// messages are still in transit.
    ///
    /// # Errors
    /// When the server does not answer within `patience`.
    pub async fn round_trip(&self, patience: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + patience;
        let mut generation = self.client.generation();
        loop {
            generation.borrow_and_update();
            let left = until.saturating_duration_since(Instant::now());
            match round_trip(&self.client.current(), left).await {
                // Messages in transit are lost when a generation ends, and the next one begins with
                // the same subscriptions: so a round trip on the next one is as good.
                Err(error) if Instant::now() < until => {
                    let next = tokio::time::timeout_at(until, generation.changed()).await;
                    if !matches!(next, Ok(Ok(()))) {
                        return Err(error);
                    }
                }
                result => return result,
            }
        }
    }
}

/// Connects for the first time, waiting for NATS as long as it takes.
async fn connect_first(context: &Context, connector: &Connector) -> anyhow::Result<NewClient> {
    let servers = context.options.nats.servers();
    let mut has_warned = false;
    for attempt in 0.. {
        let new = tokio::select! {
            new = connector.connect(attempt, false) => new,
            () = context.shutdown.cancelled() => {
                return Err(anyhow::Error::new(StoppedEarly));
            }
        };
        let error = match new {
            Ok(new) => return Ok(new),
            Err(ConnectFailure::Misconfigured(error)) => {
                return Err(misconfigured(&error));
            }
            Err(ConnectFailure::Unreachable(error)) => error,
        };
        if is_refused(&error) {
            return Err(anyhow::Error::new(Misconfigured(format!(
                "NATS at {servers} refuses these credentials ({error}): check NATS_USER and \
                 NATS_PASSWORD, NATS_TOKEN, NATS_CREDS or NATS_NKEY"
            ))));
        }
        // Each server once, then a wait.
        if (attempt + 1) % connector.servers() != 0 {
            continue;
        }
        if !std::mem::replace(&mut has_warned, true) {
            warn!(%servers, error = %error.root_cause(), "NATS cannot be reached, trying again until it can");
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = context.shutdown.cancelled() => {}
        }
    }
    unreachable!("attempts have no end")
}

fn is_refused(error: &anyhow::Error) -> bool {
    let error = error.downcast_ref::<async_nats::ConnectError>();
    error.is_some_and(|error| {
        matches!(
            error.kind(),
            ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation
        )
    })
}
