//! The connection of an application.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use connection::{ConnectError, Health, Identity, Nats, NatsClient, Options};
use futures_util::SinkExt as _;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::submit::{Patience, Submitter};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(30);

/// How often the state of a connection that the application has made is read.
const POLL: Duration = Duration::from_millis(100);

/// The connection of an application. Clones share it; it ends with the last of them.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) nats: NatsClient,
    /// Whether the connection is up.
    pub(crate) connected: watch::Receiver<bool>,
    /// The connection, if it was made here: it notes what the server refuses.
    _own: Option<Nats>,
    /// Stops what watches the connection, with the last clone.
    _stop: Arc<DropGuard>,
}

impl Link {
    /// Connects to NATS, and prepares to submit.
    pub(crate) async fn connect(
        options: &Options,
        patience: Patience,
    ) -> Result<(Self, Submitter), ConnectError> {
        let stop = CancellationToken::new();
        let health = Health::new(stop.clone());
        let identity = Identity {
            instance: options.shown_name(),
            inbox_prefix: options.default_inbox_prefix(),
        };
        let nats = Nats::connect_within(CONNECT, options, &identity, &health, "jobs").await?;
        let submitter = Submitter::new(&nats, patience);
        let link = Self {
            connected: nats.connected(),
            nats: nats.client.clone(),
            _own: Some(nats),
            _stop: Arc::new(stop.drop_guard()),
        };
        Ok((link, submitter))
    }

    /// Uses a connection that the application has made.
    pub(crate) fn over(nats: async_nats::Client, patience: Patience) -> (Self, Submitter) {
        let stop = CancellationToken::new();
        let connected = watch_state(nats.clone(), stop.clone());
        let nats = NatsClient::from(nats);
        let submitter = Submitter::over(&nats, connected.clone(), patience);
        let link = Self {
            nats,
            connected,
            _own: None,
            _stop: Arc::new(stop.drop_guard()),
        };
        (link, submitter)
    }
}

/// Reads whether a connection of the application is up, until `stop` is cancelled.
fn watch_state(nats: async_nats::Client, stop: CancellationToken) -> watch::Receiver<bool> {
    let statistics = nats.statistics();
    let connects = move || statistics.connects.load(Ordering::Relaxed);
    let client = nats.clone();
    let is_up = move || client.connection_state() == async_nats::connection::State::Connected;
    let (up, connected) = watch::channel(is_up());
    tokio::spawn(stop.run_until_cancelled_owned(async move {
        let mut before = connects();
        // The end of this task, and so of `up`, says that the connection is closed for good.
        while !has_ended(&nats) {
            tokio::time::sleep(POLL).await;
            let (now, connected) = (is_up(), connects());
            // Also a change: the connection was lost and made again between two reads.
            let again = std::mem::replace(&mut before, connected) != connected;
            up.send_if_modified(|was| std::mem::replace(was, now) != now || again);
        }
    }));
    connected
}

/// Whether the connection task of a library client has ended, after an error or because the application
/// has drained the client.
fn has_ended(nats: &async_nats::Client) -> bool {
    // It takes a place in the queue of the connection task, and gives the place back at once.
    let mut nats = nats.clone();
    let mut context = Context::from_waker(Waker::noop());
    matches!(nats.poll_ready_unpin(&mut context), Poll::Ready(Err(_)))
}
