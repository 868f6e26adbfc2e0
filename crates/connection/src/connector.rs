//! Makes the library clients of one connection.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use async_nats::{ConnectOptions, Event, ServerAddr};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::connect_error::ConnectError;
use crate::filter::Filter;
use crate::generations::{End, EndOnDrop};
use crate::options::{Identity, Options};
use crate::server_choice::{FirstServer, choose_again, shuffled};
use crate::state::ConnectionState;

/// Makes the library clients of one connection.
pub(crate) struct Connector {
    options: Options,
    identity: Identity,
    pub(crate) purpose: String,
    /// The configured servers, in random order.
    addresses: Vec<ServerAddr>,
    /// Whether the connection is up.
    pub(crate) up: Arc<watch::Sender<bool>>,
    state: Weak<ConnectionState>,
}

/// A library client that is connected.
pub(crate) struct NewClient {
    pub(crate) client: async_nats::Client,
    /// Reached when its connection task has ended.
    pub(crate) end: Arc<End>,
    pub(crate) gate: Gate,
}

pub(crate) enum ConnectFailure {
    Misconfigured(anyhow::Error),
    Unreachable(anyhow::Error),
}

/// Decides whether the connection counts as up: the library client is connected, and it is installed.
/// It connects before its subscriptions are made, and must not be used earlier.
#[derive(Clone)]
pub(crate) struct Gate {
    state: Arc<Mutex<GateState>>,
    up: Arc<watch::Sender<bool>>,
}

#[derive(Default)]
struct GateState {
    installed: bool,
    connected: bool,
}

impl Gate {
    fn change(&self, change: impl FnOnce(&mut GateState)) {
        // Nothing panics while it is locked.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        let up = state.installed && state.connected;
        self.up
            .send_if_modified(|was| std::mem::replace(was, up) != up);
    }

    pub(crate) fn set_installed(&self, installed: bool) {
        self.change(|state| state.installed = installed);
    }

    fn set_connected(&self, connected: bool) {
        self.change(|state| state.connected = connected);
    }

    pub(crate) fn is_up(&self) -> bool {
        *self.up.borrow()
    }
}

impl Connector {
    pub(crate) fn new(
        options: &Options,
        identity: &Identity,
        purpose: &str,
        up: watch::Sender<bool>,
        state: &Arc<ConnectionState>,
    ) -> Result<Self, ConnectError> {
        let addresses = options.pool();
        let addresses =
            addresses.map_err(|error| ConnectError::Misconfigured(format!("{error:#}")))?;
        Ok(Self {
            options: options.clone(),
            identity: identity.clone(),
            purpose: purpose.to_owned(),
            addresses: shuffled(addresses),
            up: Arc::new(up),
            state: Arc::downgrade(state),
        })
    }

    /// The number of configured servers.
    pub(crate) fn servers(&self) -> usize {
        self.addresses.len()
    }

    /// What the monitor shows of the connection; `None` if the connection is no longer used.
    pub(crate) fn state(&self) -> Option<Arc<ConnectionState>> {
        self.state.upgrade()
    }

    /// Connects once, to the server that the number of the attempt selects. `filtered` connects
    /// through the filter at once, because an earlier client ended at a message.
    pub(crate) async fn connect(
        &self,
        attempt: usize,
        filtered: bool,
    ) -> Result<NewClient, ConnectFailure> {
        let nats = &self.options;
        let options = nats.connect_options(&self.identity.inbox_prefix).await;
        let options = options.map_err(ConnectFailure::Misconfigured)?;
        let unreachable = ConnectFailure::Unreachable;
        let unreadable = self.state().map(|state| Arc::clone(&state.unreadable));
        let filter = Filter::new(&self.purpose, nats.tls(), unreadable.unwrap_or_default());
        let filter = Arc::new(filter.map_err(unreachable)?);
        let gate = Gate {
            state: Arc::default(),
            up: Arc::clone(&self.up),
        };
        let end = Arc::new(End::default());
        let first = FirstServer {
            address: self.addresses[attempt % self.addresses.len()].clone(),
            filtered,
        };
        let options = self.with_callbacks(options, &gate, &end, &filter, first);
        let mut pool = self.addresses.clone();
        pool.push(filter.address.clone());
        let client = options.connect(pool).await;
        let client = client.map_err(|error| unreachable(error.into()))?;
        Ok(NewClient { client, end, gate })
    }

    fn with_callbacks(
        &self,
        options: ConnectOptions,
        gate: &Gate,
        end: &Arc<End>,
        filter: &Arc<Filter>,
        first: FirstServer,
    ) -> ConnectOptions {
        let on_event = {
            let (gate, state, purpose) = (gate.clone(), self.state.clone(), self.purpose.clone());
            let end_on_drop = EndOnDrop(Arc::clone(end));
            move |event| {
                let _kept = &end_on_drop;
                match &event {
                    Event::Connected => gate.set_connected(true),
                    Event::Disconnected | Event::Closed => {
                        if let Some(state) = state.upgrade() {
                            state.set_lost();
                        }
                        gate.set_connected(false);
                    }
                    Event::SlowConsumer(_) => {
                        if let Some(state) = state.upgrade() {
                            state.dropped.fetch_add(1, Ordering::Relaxed);
                        }
                    }
                    Event::ServerError(error) => {
                        if let Some(state) = state.upgrade() {
                            state.refusals.note(&error.to_string());
                        }
                    }
                    _ => {}
                }
                log(&event, gate.is_up(), &purpose);
                std::future::ready(())
            }
        };
        let filter = Arc::clone(filter);
        let first = Mutex::new(Some(first));
        options
            .name(format!("{} {}", self.identity.instance, self.purpose))
            .event_callback(on_event)
            .reconnect_to_server_callback(move |servers, last| {
                let filter = Arc::clone(&filter);
                // Nothing panics while it is locked.
                let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
                // In a task, because the library wants a future that is `Sync`.
                let chosen = tokio::spawn(async move {
                    if let Some(first) = first {
                        return Some(first.choose(&filter).await);
                    }
                    filter.remember(&last.server_id);
                    choose_again(&filter, &servers).await
                });
                async move { chosen.await.ok().flatten() }
            })
    }
}

fn log(event: &Event, up: bool, purpose: &str) {
    match event {
        Event::Connected => info!(connection = purpose, "connected to NATS"),
        Event::Disconnected => warn!(connection = purpose, "lost NATS, reconnecting"),
        Event::LameDuckMode => info!(
            connection = purpose,
            "the NATS server is about to stop: moving to another one"
        ),
        Event::Draining | Event::Closed => {}
        Event::SlowConsumer(_) => {
            error!(
                connection = purpose,
                "the NATS client dropped messages: its buffer was full"
            );
        }
        Event::ServerError(problem) => error!(
            connection = purpose, error = ?problem.to_string(),
            "NATS refuses something; is the user in its configuration allowed to do this?"
        ),
        // Without a connection this is a failed reconnect; the loss was logged.
        Event::ClientError(problem) if !up => {
            debug!(connection = purpose, error = ?problem.to_string(), "NATS is still away");
        }
        Event::ClientError(problem) => {
            warn!(connection = purpose, error = ?problem.to_string(), "the NATS client reports a problem");
        }
    }
}
