//! What is registered as a NATS micro service, and stays so when its connection is made anew.

use std::fmt;
use std::time::Duration;

use async_nats::service::{self, Request, Service, ServiceExt as _};
use futures_util::StreamExt as _;
use tokio::task::JoinHandle;
use tracing::warn;

use super::{Client, Nats};
use crate::service::Context;

/// The wait before a registration is tried again.
const RETRY: Duration = Duration::from_millis(200);

/// A service that NATS shows under its name, as long as this is kept.
#[derive(Debug)]
pub struct Registration {
    task: JoinHandle<()>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Registration {
    pub(crate) async fn new(context: &Context, nats: &Nats) -> anyhow::Result<Self> {
        let mut lives = nats.client.lives();
        let mut service = start(context, &nats.client).await?;
        let (context, client) = (context.clone(), nats.client.clone());
        let health = context.health.clone();
        let task = tokio::spawn(health.supervise("registration", async move |mut life| {
            while life.during(Duration::MAX, lives.changed()).await.is_ok() {
                // That of the client that has ended goes with it.
                let mut told = false;
                service = loop {
                    match start(&context, &client).await {
                        Ok(service) => break service,
                        Err(error) => try_again(&error, &mut told).await,
                    }
                    life.beat();
                };
            }
            drop(service);
        }));
        Ok(Self { task })
    }
}

/// A subject on which a service answers, and under which NATS shows it.
#[derive(Debug)]
pub struct Endpoint {
    context: Context,
    client: Client,
    name: &'static str,
    queue_group: String,
    subject: &'static str,
    current: Current,
}

struct Current {
    /// Dropping it would end the registration.
    _service: Service,
    requests: service::endpoint::Endpoint,
}

impl Endpoint {
    pub(crate) async fn new(
        context: &Context,
        nats: &Nats,
        name: &'static str,
        queue_group: String,
        subject: &'static str,
    ) -> anyhow::Result<Self> {
        let client = nats.client.clone();
        let current = Current::new(context, &client, name, &queue_group, subject).await?;
        Ok(Self {
            context: context.clone(),
            client,
            name,
            queue_group,
            subject,
            current,
        })
    }

    /// The next request. Whoever waits no longer loses none.
    pub async fn next(&mut self) -> Request {
        loop {
            if let Some(request) = self.current.requests.next().await {
                return request;
            }
            let mut told = false;
            self.current = loop {
                // The next client may not be there yet.
                self.client.live().await;
                let (context, client, name) = (&self.context, &self.client, self.name);
                match Current::new(context, client, name, &self.queue_group, self.subject).await {
                    Ok(current) => break current,
                    Err(error) => try_again(&error, &mut told).await,
                }
            };
        }
    }
}

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Current").finish_non_exhaustive()
    }
}

impl Current {
    async fn new(
        context: &Context,
        client: &Client,
        name: &str,
        queue_group: &str,
        subject: &str,
    ) -> anyhow::Result<Self> {
        let service = start(context, client).await?;
        let endpoint = service.endpoint_builder().name(name);
        let requests = endpoint
            .queue_group(queue_group)
            .add(subject)
            .await
            .map_err(|error| anyhow::anyhow!("cannot answer on {subject}: {error}"))?;
        Ok(Self {
            _service: service,
            requests,
        })
    }
}

async fn start(context: &Context, client: &Client) -> anyhow::Result<Service> {
    let metadata = [
        ("instance", context.instance.clone()),
        ("host", context.host()),
    ];
    client
        .current()
        .service_builder()
        .metadata(metadata.map(|(key, value)| (key.to_owned(), value)).into())
        .start(context.about.name, context.about.version)
        .await
        .map_err(|error| anyhow::anyhow!("cannot register as a micro service: {error}"))
}

/// Waits before another attempt: an error is a client that has ended, after which another one comes.
async fn try_again(error: &anyhow::Error, told: &mut bool) {
    if !std::mem::replace(told, true) {
        warn!("{error:#}, trying again");
    }
    tokio::time::sleep(RETRY).await;
}
