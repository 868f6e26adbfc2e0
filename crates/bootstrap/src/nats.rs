//! The connection to NATS: options under the variables that the `nats` command line uses, and
//! one that is there again after it was lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::{
    Client, ConnectErrorKind, ConnectOptions, Event, Request, RequestErrorKind, ServerAddr,
};
use bytes::Bytes;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::cli::{self, Misconfigured};
use crate::monitor::Link;
use crate::service::Context;

/// How many messages the client library may hold for one subscription before it drops some: more
/// than a server keeps for a client that does not read (`max_pending`, 64 MiB by default), so
/// that it never comes to that. It is a bound and costs no memory by itself.
const SUBSCRIPTION_CAPACITY: usize = 4 * 1024 * 1024;

/// The wait between two attempts to reach NATS at the start.
const RETRY: Duration = Duration::from_secs(1);

/// How long the server may take to confirm subscriptions before that is reported.
const CONFIRMATION: Duration = Duration::from_secs(2);

/// Where NATS is, and who the service is there.
#[derive(Clone, clap::Args)]
#[command(next_help_heading = "NATS")]
pub struct NatsOptions {
    /// Servers, separated by commas; `tls://` asks for TLS
    #[arg(
        id = "nats_url",
        long = "nats-url",
        value_name = "URL",
        env = "NATS_URL",
        default_value = "nats://127.0.0.1:4222",
        value_delimiter = ',',
        hide_env_values = true
    )]
    url: Vec<ServerAddr>,

    /// User name
    #[arg(
        id = "nats_user",
        long = "nats-user",
        value_name = "NAME",
        env = "NATS_USER"
    )]
    user: Option<String>,

    /// Password of the user; better set as a variable than on a command line that others can see
    #[arg(
        id = "nats_password",
        long = "nats-password",
        value_name = "PASSWORD",
        env = "NATS_PASSWORD",
        hide_env_values = true,
        requires = "nats_user"
    )]
    password: Option<String>,

    /// Token, where the server asks for one
    #[arg(
        id = "nats_token",
        long = "nats-token",
        value_name = "TOKEN",
        env = "NATS_TOKEN",
        hide_env_values = true,
        conflicts_with = "nats_user"
    )]
    token: Option<String>,

    /// File with a user's JWT and seed
    #[arg(
        id = "nats_creds",
        long = "nats-creds",
        value_name = "FILE",
        env = "NATS_CREDS"
    )]
    creds: Option<PathBuf>,

    /// File with a user's NKEY seed
    #[arg(
        id = "nats_nkey",
        long = "nats-nkey",
        value_name = "FILE",
        env = "NATS_NKEY"
    )]
    nkey: Option<PathBuf>,

    /// File with the certificates of the authorities that may vouch for the server, in PEM
    #[arg(id = "nats_ca", long = "nats-ca", value_name = "FILE", env = "NATS_CA")]
    ca: Option<PathBuf>,

    /// File with this client's certificate, in PEM
    #[arg(
        id = "nats_cert",
        long = "nats-cert",
        value_name = "FILE",
        env = "NATS_CERT",
        requires = "nats_key"
    )]
    cert: Option<PathBuf>,

    /// File with the key of this client's certificate, in PEM
    #[arg(
        id = "nats_key",
        long = "nats-key",
        value_name = "FILE",
        env = "NATS_KEY",
        requires = "nats_cert"
    )]
    key: Option<PathBuf>,

    /// What inbox subjects begin with [default: `_INBOX_` and the service's user in deploy/nats.conf]
    #[arg(
        id = "nats_inbox_prefix", long = "nats-inbox-prefix", value_name = "PREFIX",
        env = "NATS_INBOX_PREFIX", value_parser = inbox_prefix
    )]
    inbox_prefix: Option<String>,
}

/// The service was told to stop while it still waited for NATS.
#[derive(Debug, thiserror::Error)]
#[error("told to stop before NATS was reached")]
pub(crate) struct StoppedEarly;

/// A connection to NATS.
#[derive(Clone, Debug)]
pub struct Nats {
    /// The client.
    pub client: Client,
    connected: watch::Receiver<bool>,
    link: Arc<Link>,
}

impl Nats {
    pub(crate) async fn connect(context: &Context, purpose: &str) -> anyhow::Result<Self> {
        let nats = &context.options.nats;
        let servers = nats.servers();
        let (up, connected) = watch::channel(false);
        let up = Arc::new(up);
        let link = Arc::new(Link::new(purpose, connected.clone()));
        context.monitor.watch(&link);
        context.monitor.tell();
        context.health.want_connection();
        let mut told = false;
        loop {
            let options = nats
                .connect_options(context.about.inbox_prefix)
                .await
                .map_err(|error| cli::misconfigured(&error))?
                .name(format!("{} {purpose}", context.instance))
                .event_callback({
                    let (up, health) = (Arc::clone(&up), context.health.clone());
                    // Only the one who uses the connection keeps it.
                    let (link, purpose) = (Arc::downgrade(&link), purpose.to_owned());
                    move |event| {
                        match &event {
                            Event::Connected if !up.send_replace(true) => health.connection_up(),
                            Event::Disconnected | Event::Closed if up.send_replace(false) => {
                                health.connection_down();
                            }
                            Event::SlowConsumer(_) => {
                                if let Some(link) = link.upgrade() {
                                    link.dropped.fetch_add(1, Ordering::Relaxed);
                                }
                            }
                            _ => {}
                        }
                        log(&event, *up.borrow(), &purpose);
                        std::future::ready(())
                    }
                });
            let attempt = options.connect(nats.url.as_slice());
            let result = tokio::select! {
                result = attempt => result,
                () = context.shutdown.cancelled() => {
                    return Err(anyhow::Error::new(StoppedEarly));
                }
            };
            let error = match result {
                Ok(client) => {
                    link.client.get_or_init(|| client.clone());
                    return Ok(Self {
                        client,
                        connected,
                        link,
                    });
                }
                Err(error) => error,
            };
            if matches!(
                error.kind(),
                ConnectErrorKind::Authentication | ConnectErrorKind::AuthorizationViolation
            ) {
                return Err(anyhow::Error::new(Misconfigured(format!(
                    "NATS at {servers} refuses these credentials ({error}): check NATS_USER and \
                     NATS_PASSWORD, NATS_TOKEN, NATS_CREDS or NATS_NKEY"
                ))));
            }
            if !std::mem::replace(&mut told, true) {
                warn!(%servers, error = %anyhow::Error::new(error).root_cause(), "NATS cannot be reached, trying again until it can");
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = context.shutdown.cancelled() => {}
            }
        }
    }

    /// Whether there is a connection now; changes can be waited for.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.connected.clone()
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
        round_trip(&self.client, patience).await
    }
}

/// See [`Nats::round_trip`].
pub(crate) async fn round_trip(client: &Client, patience: Duration) -> anyhow::Result<()> {
    // Nobody listens on a new inbox, and that is what the server answers at once.
    let request = Request::new().payload(Bytes::new()).timeout(None);
    let answer = client.send_request(client.new_inbox(), request);
    match tokio::time::timeout(patience, answer).await {
        Ok(Err(error)) if error.kind() != RequestErrorKind::NoResponders => Err(error.into()),
        Ok(_) => Ok(()),
        Err(_) => anyhow::bail!("the server did not answer within {patience:?}"),
    }
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

impl NatsOptions {
    /// The servers without credentials, for logs.
    fn servers(&self) -> String {
        let shown = self
            .url
            .iter()
            .map(|url| format!("{}:{}", url.host(), url.port()));
        shown.collect::<Vec<_>>().join(", ")
    }

    async fn connect_options(&self, default_inbox: &str) -> anyhow::Result<ConnectOptions> {
        let mut options = ConnectOptions::new()
            .custom_inbox_prefix(self.inbox_prefix.as_deref().unwrap_or(default_inbox))
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .connection_timeout(Duration::from_secs(5));
        // The library ignores what a URL says of its user.
        let in_url = self
            .url
            .iter()
            .find_map(|url| Some((url.username()?, url.password()?)));
        if let Some(user) = &self.user {
            let password = self.password.clone().unwrap_or_default();
            options = options.user_and_password(user.clone(), password);
        } else if let Some((user, password)) = in_url {
            options = options.user_and_password(user.to_owned(), password.to_owned());
        }
        if let Some(token) = &self.token {
            options = options.token(token.clone());
        }
        if let Some(path) = &self.creds {
            options = options
                .credentials_file(path)
                .await
                .with_context(|| format!("cannot use NATS_CREDS {}", path.display()))?;
        }
        if let Some(path) = &self.nkey {
            options = options.nkey(read(path, "NATS_NKEY")?.trim().to_owned());
        }
        if let Some(path) = &self.ca {
            read(path, "NATS_CA")?;
            options = options
                .add_root_certificates(path.clone())
                .require_tls(true);
        }
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            read(cert, "NATS_CERT")?;
            read(key, "NATS_KEY")?;
            options = options
                .add_client_certificate(cert.clone(), key.clone())
                .require_tls(true);
        }
        Ok(options)
    }
}

/// Files are read before the library does, whose errors do not name them.
fn read(path: &Path, variable: &str) -> anyhow::Result<String> {
    std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {variable} {}", path.display()))
}

fn inbox_prefix(text: &str) -> Result<String, String> {
    let token = |token: &str| {
        !token.is_empty()
            && token
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
    };
    if text.split('.').all(token) {
        Ok(text.to_owned())
    } else {
        Err("tokens of A-Z a-z 0-9 _ - joined by single dots".to_owned())
    }
}

impl std::fmt::Debug for NatsOptions {
    /// Shows no secret.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NatsOptions")
            .field("servers", &self.servers())
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}
