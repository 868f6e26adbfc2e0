use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::ConnectErrorKind;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use crate::client::NatsClient;
use crate::connect_error::ConnectError;
use crate::connector::{ConnectFailure, Connector, NewClient};
use crate::health::Health;
use crate::options::{Identity, Options};
use crate::refusals::Refusals;
use crate::round_trip::round_trip;
use crate::state::ConnectionState;
use crate::supervise::supervise;

/// The wait between two rounds over the servers at the start.
const RETRY: Duration = Duration::from_secs(1);

/// How long the server may take to confirm subscriptions before that is logged.
const CONFIRMATION: Duration = Duration::from_secs(2);

/// How long the first connection may take to count as up after it was made.
const SETTLED: Duration = Duration::from_secs(2);

/// How long after a loss callers wait for the connection to come back.
const SHORT_LOSS: Duration = Duration::from_secs(1);

/// A connection to NATS.
#[derive(Clone, Debug)]
pub struct Nats {
    /// The client.
    pub client: NatsClient,
    /// The health of the service.
    pub health: Health,
    connected: watch::Receiver<bool>,
    state: Arc<ConnectionState>,
}

impl Nats {
    /// Connects to NATS, and waits for it as long as it takes. The purpose is part of the connection's
    /// name on the server.
    ///
    /// A connection that is lost later is always made again. It ends when everything made with it is
    /// dropped.
    ///
    /// # Errors
    /// When the options are wrong, the server refuses the credentials, or the program is told to stop
    /// before there is a connection.
    pub async fn connect(
        options: &Options,
        identity: &Identity,
        health: &Health,
        purpose: &str,
    ) -> Result<Self, ConnectError> {
        let (up, connected) = watch::channel(false);
        let state = Arc::new(ConnectionState::new(purpose, connected.clone()));
        health.connections.add(&state);
        let connector = Connector::new(options, identity, purpose, up, &state)?;
        let new = connect_first(options, health, &connector).await?;
        let (client, replacement) = NatsClient::supervised(
            new.client,
            new.end,
            connected.clone(),
            state.refusals.clone(),
        );
        state.client.get_or_init(|| replacement.clone());
        new.gate.set_installed(true);
        let name = format!("connection {purpose}");
        let work = |heartbeat| supervise(connector, replacement, new.gate, heartbeat);
        tokio::spawn(health.supervise(name, work));
        // The client library says that it is connected a moment after it is.
        let _ = tokio::time::timeout(SETTLED, connected.clone().wait_for(|up| *up)).await;
        Ok(Self {
            client,
            health: health.clone(),
            connected,
            state,
        })
    }

    /// Connects to NATS like [`Nats::connect`], and waits for it up to `within`.
    ///
    /// # Errors
    /// See [`Nats::connect`]; also when there is no connection in time.
    pub async fn connect_within(
        within: Duration,
        options: &Options,
        identity: &Identity,
        health: &Health,
        purpose: &str,
    ) -> Result<Self, ConnectError> {
        let connecting = Self::connect(options, identity, health, purpose);
        let connected = tokio::time::timeout(within, connecting).await;
        connected.unwrap_or_else(|_| {
            let servers = options.shown();
            Err(ConnectError::Unreachable { servers, within })
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

    /// What the server has refused on this connection.
    #[must_use]
    pub fn refusals(&self) -> Refusals {
        self.state.refusals.clone()
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
async fn connect_first(
    options: &Options,
    health: &Health,
    connector: &Connector,
) -> Result<NewClient, ConnectError> {
    let servers = options.shown();
    let stop = health.tasks.stop();
    let mut has_warned = false;
    for attempt in 0.. {
        let new = tokio::select! {
            new = connector.connect(attempt, false) => new,
            () = stop.cancelled() => return Err(ConnectError::StoppedEarly),
        };
        let error = match new {
            Ok(new) => return Ok(new),
            Err(ConnectFailure::Misconfigured(error)) => {
                return Err(ConnectError::Misconfigured(format!("{error:#}")));
            }
            Err(ConnectFailure::Unreachable(error)) => error,
        };
        if is_refused(&error) {
            return Err(ConnectError::Misconfigured(format!(
                "NATS at {servers} refuses these credentials ({error}): check NATS_USER and \
                 NATS_PASSWORD, NATS_TOKEN, NATS_CREDS or NATS_NKEY"
            )));
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
            () = stop.cancelled() => {}
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
