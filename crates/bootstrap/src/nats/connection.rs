use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::{
    ConnectErrorKind, ConnectOptions, Event, ReconnectToServer, Request, RequestErrorKind, Server,
    ServerAddr,
};
use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tracing::{debug, error, info, warn};

use super::client::{Client, End, EndOnDrop, Replacement};
use super::filter::{Filter, Offer};
use crate::cli::{self, Misconfigured};
use crate::health::Health;
use crate::monitor::Link;
use crate::service::Context;
use crate::task::Beat;

/// The wait between two attempts to reach NATS at the start.
const RETRY: Duration = Duration::from_secs(1);

/// The wait between two attempts to replace a client that has ended: from this ...
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// ... doubled each time up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(4);

/// How long the server may take to confirm subscriptions before that is reported.
const CONFIRMATION: Duration = Duration::from_secs(2);

/// How often the way to the server and back is measured.
const PROBE: Duration = Duration::from_secs(2);

/// How long one measurement waits.
const ANSWER: Duration = Duration::from_secs(3);

/// A connection without an answer for this long is closed and made again.
const SILENCE: Duration = Duration::from_secs(20);

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
    /// What is known of the health of the service.
    pub health: Health,
    connected: watch::Receiver<bool>,
    link: Arc<Link>,
}

impl Nats {
    pub(crate) async fn connect(context: &Context, purpose: &str) -> anyhow::Result<Self> {
        let servers = context.options.nats.servers();
        let (up, connected) = watch::channel(false);
        let link = Arc::new(Link::new(purpose, connected.clone()));
        context.monitor.watch(&link);
        context.monitor.tell();
        let connector = Connector {
            context: context.clone(),
            purpose: purpose.to_owned(),
            addresses: shuffled(
                context
                    .options
                    .nats
                    .addresses()
                    .map_err(|error| cli::misconfigured(&error))?,
            ),
            up: Arc::new(up),
            link: Arc::downgrade(&link),
        };
        let mut told = false;
        for attempt in 0.. {
            let new = tokio::select! {
                new = connector.connect(attempt, false) => new,
                () = context.shutdown.cancelled() => {
                    return Err(anyhow::Error::new(StoppedEarly));
                }
            };
            let error = match new {
                Ok(new) => {
                    let (client, replacement) =
                        Client::supervised(new.client, new.end, connected.clone());
                    link.client.get_or_init(|| replacement.clone());
                    new.gate.install();
                    let name = format!("connection {purpose}");
                    let work = |life| supervise(connector, replacement, new.gate, life);
                    tokio::spawn(context.health.supervise(name, work));
                    return Ok(Self {
                        client,
                        health: context.health.clone(),
                        connected,
                        link,
                    });
                }
                Err(ConnectFailure::Misconfigured(error)) => {
                    return Err(cli::misconfigured(&error));
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
            if (attempt + 1) % connector.addresses.len() != 0 {
                continue;
            }
            if !std::mem::replace(&mut told, true) {
                warn!(%servers, error = %error.root_cause(), "NATS cannot be reached, trying again until it can");
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = context.shutdown.cancelled() => {}
            }
        }
        unreachable!("attempts have no end")
    }

    /// Whether there is a connection now; changes can be waited for.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
    }

    /// Waits, if the connection was lost just now, until it is there again, but no longer than a second
    /// after its loss.
    pub async fn bridge_short_loss(&self) {
        let mut connected = self.connected();
        if *connected.borrow() {
            return;
        }
        if let Some(lost) = self.link.lost() {
            // Whether it is there is seen by whoever uses it.
            let _ = tokio::time::timeout_at(lost + SHORT_LOSS, connected.wait_for(|up| *up)).await;
        }
    }

    /// How often the client library reported that it dropped messages of a subscription.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.link.dropped.load(Ordering::Relaxed)
    }

    /// Waits until the server has handled the subscriptions that were made on this connection;
    /// warns when that takes long, and does not wait for longer. `to` names them.
    pub async fn confirm_subscriptions(&self, to: &str) {
        if let Err(error) = self.round_trip(CONFIRMATION).await {
            warn!("the server has not confirmed the subscription to {to} yet: {error:#}");
        }
    }

    /// Goes to the server and back: when it returns, the server has handled all that was
    /// published, subscribed and unsubscribed on this connection before, and what it sent until
    /// then has arrived.
    ///
    /// The library's flush only writes to the socket, and its drain gives subscriptions up while
    /// messages are still under way.
    ///
    /// # Errors
    /// When the server does not answer within `patience`.
    pub async fn round_trip(&self, patience: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + patience;
        let mut lives = self.client.lives();
        loop {
            lives.borrow_and_update();
            let left = until.saturating_duration_since(Instant::now());
            match round_trip(&self.client.current(), left).await {
                // What was under way on a connection that has ended does not arrive any more, and the
                // next one begins with the same subscriptions.
                Err(error) if Instant::now() < until => {
                    let next = tokio::time::timeout_at(until, lives.changed()).await;
                    if !matches!(next, Ok(Ok(()))) {
                        return Err(error);
                    }
                }
                result => return result,
            }
        }
    }
}

/// See [`Nats::round_trip`].
async fn round_trip(client: &async_nats::Client, patience: Duration) -> anyhow::Result<()> {
    // Nobody listens on a new inbox, and that is what the server answers at once.
    let request = Request::new().payload(Bytes::new()).timeout(None);
    let answer = client.send_request(client.new_inbox(), request);
    match tokio::time::timeout(patience, answer).await {
        Ok(Err(error)) if error.kind() != RequestErrorKind::NoResponders => Err(error.into()),
        Ok(_) => Ok(()),
        Err(_) => anyhow::bail!("the server did not answer within {patience:?}"),
    }
}

/// Creates the library's clients for one connection of a service.
struct Connector {
    context: Context,
    purpose: String,
    /// The configured servers, in random order.
    addresses: Vec<ServerAddr>,
    up: Arc<watch::Sender<bool>>,
    /// Only the one who uses the connection keeps it.
    link: std::sync::Weak<Link>,
}

/// A client of the library that is connected.
struct NewClient {
    client: async_nats::Client,
    /// Reached when its connection task has ended.
    end: Arc<End>,
    gate: Gate,
}

enum ConnectFailure {
    Misconfigured(anyhow::Error),
    Unreachable(anyhow::Error),
}

/// Says whether a connection is up. A client is connected before its subscriptions are made, and
/// nobody is to use it earlier.
#[derive(Clone)]
struct Gate {
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

    fn install(&self) {
        self.change(|state| state.installed = true);
    }

    fn is_up(&self) -> bool {
        *self.up.borrow()
    }
}

impl Connector {
    /// Connects once; through the filter from the beginning, if a client before could not read a
    /// message. The number of the attempt says to which server.
    async fn connect(&self, attempt: usize, filtered: bool) -> Result<NewClient, ConnectFailure> {
        let nats = &self.context.options.nats;
        let options = nats.connect_options(self.context.about.inbox_prefix).await;
        let options = options.map_err(ConnectFailure::Misconfigured)?;
        let unreachable = ConnectFailure::Unreachable;
        let unreadable = self.link.upgrade().map(|link| Arc::clone(&link.unreadable));
        let filter = Filter::new(&self.purpose, nats.tls(), unreadable.unwrap_or_default());
        let filter = Arc::new(filter.map_err(unreachable)?);
        let gate = Gate {
            state: Arc::default(),
            up: Arc::clone(&self.up),
        };
        let end = Arc::new(End::default());
        let first = First {
            server: self.addresses[attempt % self.addresses.len()].clone(),
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
        first: First,
    ) -> ConnectOptions {
        let on_event = {
            let (gate, link, purpose) = (gate.clone(), self.link.clone(), self.purpose.clone());
            let until_the_end = EndOnDrop(Arc::clone(end));
            move |event| {
                let _kept = &until_the_end;
                match &event {
                    Event::Connected => gate.change(|state| state.connected = true),
                    Event::Disconnected | Event::Closed => {
                        if let Some(link) = link.upgrade() {
                            link.is_lost();
                        }
                        gate.change(|state| state.connected = false);
                    }
                    Event::SlowConsumer(_) => {
                        if let Some(link) = link.upgrade() {
                            link.dropped.fetch_add(1, Ordering::Relaxed);
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
            .name(format!("{} {}", self.context.instance, self.purpose))
            .event_callback(on_event)
            .reconnect_to_server_callback(move |servers, last| {
                let filter = Arc::clone(&filter);
                // Nothing panics while it is locked.
                let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
                // A task, because the library wants a future that threads can share.
                let chosen = tokio::spawn(async move {
                    if let Some(first) = first {
                        return Some(first.connect(&filter).await);
                    }
                    filter.know(&last.server_id);
                    reconnect(&filter, &servers).await
                });
                async move { chosen.await.ok().flatten() }
            })
    }
}

/// Where a client of the library connects first.
struct First {
    server: ServerAddr,
    filtered: bool,
}

impl First {
    async fn connect(self, filter: &Filter) -> ReconnectToServer {
        let mut addr = self.server;
        if self.filtered {
            if let Err(error) = filter.offer(&addr, true).await {
                debug!(%error, "a server cannot be reached");
            }
            // Without a filter in place nobody listens there, and the attempt has failed.
            addr = filter.address.clone();
        }
        ReconnectToServer {
            addr,
            delay: Some(Duration::ZERO),
        }
    }
}

/// Where a connection that was lost is made again: through the filter, if the server is there as it was.
async fn reconnect(filter: &Filter, servers: &[Server]) -> Option<ReconnectToServer> {
    let servers: Vec<_> = servers
        .iter()
        .filter(|server| server.addr != filter.address)
        .collect();
    let fewest = servers.iter().map(|server| server.failed_attempts).min()?;
    let best: Vec<_> = servers
        .into_iter()
        .filter(|server| server.failed_attempts == fewest)
        .collect();
    let server = best.get(random(best.len()))?;
    match filter.offer(&server.addr, false).await {
        Ok(Offer::Made) => Some(ReconnectToServer {
            addr: filter.address.clone(),
            delay: Some(Duration::ZERO),
        }),
        offered => {
            if let Err(error) = offered {
                debug!(%error, "a server cannot be reached");
            }
            Some(ReconnectToServer {
                addr: server.addr.clone(),
                delay: None,
            })
        }
    }
}

/// A random number below `below`, so that clients spread over the servers.
fn random(below: usize) -> usize {
    let random = uuid::Uuid::new_v4().as_u128() % (below.max(1) as u128);
    usize::try_from(random).unwrap_or(0)
}

fn shuffled(mut addresses: Vec<ServerAddr>) -> Vec<ServerAddr> {
    for last in (1..addresses.len()).rev() {
        addresses.swap(last, random(last + 1));
    }
    addresses
}

/// Replaces the client of the library when its connection task has ended, and measures whether the
/// server still answers; until nobody uses the connection.
async fn supervise(connector: Connector, replacement: Replacement, mut gate: Gate, mut life: Beat) {
    let mut probe = tokio::time::interval(PROBE);
    probe.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut up = connector.up.subscribe();
    let mut answered = Instant::now();
    loop {
        tokio::select! {
            biased;
            () = replacement.ended() => {
                if let Some(link) = connector.link.upgrade() {
                    link.is_lost();
                }
                gate.change(|state| state.installed = false);
                if !replacement.is_wanted() {
                    return life.done();
                }
                error!(
                    connection = connector.purpose,
                    "the NATS client ended, perhaps at a message with unreadable headers: reconnecting"
                );
                let again = connect_again(&connector, &replacement);
                let Some(new) = life.during(Duration::MAX, again).await else {
                    return life.done();
                };
                replacement.install(new.client, new.end).await;
                gate = new.gate;
                gate.install();
                answered = Instant::now();
            }
            // As soon as it is up, too. Its sender is the connector's.
            () = async { tokio::select! { _ = probe.tick() => {}, _ = up.changed() => {} } } => {
                let Some(client) = replacement.current() else {
                    return life.done();
                };
                life.beat();
                if !gate.is_up() {
                    answered = Instant::now();
                    continue;
                }
                let asked = Instant::now();
                // A client that ends meanwhile answers this with an error.
                if round_trip(&client, ANSWER).await.is_ok() {
                    answered = Instant::now();
                    if let Some(link) = connector.link.upgrade() {
                        link.answered(asked.elapsed());
                    }
                } else if answered.elapsed() >= SILENCE && gate.is_up() {
                    warn!(
                        connection = connector.purpose,
                        "NATS has not answered for {} s: connecting anew", SILENCE.as_secs()
                    );
                    answered = Instant::now();
                    // An error is a client that has ended.
                    let _ = client.force_reconnect().await;
                }
            }
        }
    }
}

/// Connects again until it succeeds; `None` if the connection is no longer used.
async fn connect_again(connector: &Connector, replacement: &Replacement) -> Option<NewClient> {
    let mut wait = FIRST_WAIT;
    let mut told = false;
    for attempt in 0.. {
        if !replacement.is_wanted() {
            break;
        }
        match connector.connect(attempt, true).await {
            Ok(new) => return Some(new),
            Err(ConnectFailure::Misconfigured(error) | ConnectFailure::Unreachable(error)) => {
                if !std::mem::replace(&mut told, true) {
                    warn!(
                        connection = connector.purpose,
                        "cannot connect to NATS again, trying until it works: {error:#}"
                    );
                }
            }
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    None
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

fn log(event: &Event, up: bool, purpose: &str) {
    match event {
        Event::Connected => info!(connection = purpose, "connected to NATS"),
        Event::Disconnected => warn!(connection = purpose, "lost NATS, reconnecting"),
        Event::LameDuckMode => info!(
            connection = purpose,
            "NATS server is about to stop, moving on"
        ),
        Event::Draining | Event::Closed => {}
        Event::SlowConsumer(_) => {
            error!(
                connection = purpose,
                "the NATS client had to drop messages: its buffer was full"
            );
        }
        Event::ServerError(problem) => error!(
            connection = purpose, error = ?problem.to_string(),
            "NATS refuses something; is the user in its configuration allowed to do this?"
        ),
        // Without a connection this is only the next attempt that failed: the loss was reported.
        Event::ClientError(problem) if !up => {
            debug!(connection = purpose, error = ?problem.to_string(), "NATS is still away");
        }
        Event::ClientError(problem) => {
            warn!(connection = purpose, error = ?problem.to_string(), "NATS client reports a problem");
        }
    }
}
