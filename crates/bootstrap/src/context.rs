use std::time::Duration;

use connection::{ConnectError, Health, Identity, Nats};
use tokio_util::sync::CancellationToken;

use crate::about::About;
use crate::cli::Options;
use crate::misconfigured::Misconfigured;
use crate::monitor::Monitor;

/// What a running service works with.
#[derive(Clone, Debug)]
pub struct Context {
    /// The names of the service.
    pub about: About,
    /// The name of this instance.
    pub instance: String,
    /// How long work that has begun may take once [`Context::shutdown`] is cancelled.
    pub grace: Duration,
    /// Cancelled when the service has to stop.
    pub shutdown: CancellationToken,
    /// Cancelled when the service is told to stop a second time. The process ends one second later.
    pub hurry: CancellationToken,
    /// The metrics of the service.
    pub monitor: Monitor,
    pub(crate) options: Options,
    /// The health of this instance.
    pub health: Health,
}

impl Context {
    /// The context that [`run`](crate::run) makes, for programs and tests that start a service themselves.
    #[must_use]
    pub fn new(about: About, options: Options, shutdown: CancellationToken) -> Self {
        let instance = options.instance.clone().unwrap_or_else(|| {
            let random = uuid::Uuid::new_v4().simple().to_string();
            format!("{}-{}", about.name, &random[..6])
        });
        let health = Health::new(shutdown.clone());
        let monitor = Monitor::new(about, &instance, &health);
        Self {
            about,
            instance,
            monitor,
            grace: options.grace,
            shutdown,
            hurry: CancellationToken::new(),
            options,
            health,
        }
    }

    /// Connects to NATS, and waits for it as long as it takes. The purpose is part of the connection's
    /// name on the server.
    ///
    /// A connection that is lost later is always made again.
    ///
    /// # Errors
    /// When the configuration is wrong, the server refuses the credentials, or the service is told to
    /// stop before there is a connection.
    pub async fn connect(&self, purpose: &str) -> anyhow::Result<Nats> {
        self.monitor.log_address();
        let identity = Identity {
            instance: self.instance.clone(),
            inbox_prefix: self.about.inbox_prefix.to_owned(),
        };
        let options = self.options.nats.to_connection();
        let connected = Nats::connect(&options, &identity, &self.health, purpose).await;
        connected.map_err(|error| match error {
            ConnectError::Misconfigured(why) => anyhow::Error::new(Misconfigured(why)),
            error => anyhow::Error::new(error),
        })
    }

    /// The host name of this machine or container.
    #[must_use]
    pub fn host(&self) -> String {
        nix::unistd::gethostname()
            .ok()
            .and_then(|name| name.into_string().ok())
            .unwrap_or_else(|| "unknown".to_owned())
    }
}
