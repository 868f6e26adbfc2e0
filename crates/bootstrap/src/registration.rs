//! Registration as a NATS micro service, renewed with each generation of the connection.

use std::fmt;
use std::time::Duration;

use async_nats::service::{self, Request, Service, ServiceExt as _};
use connection::{Nats, NatsClient};
use futures_util::StreamExt as _;
use tokio::task::JoinHandle;
use tracing::warn;

use crate::context::Context;

/// The wait before a failed registration is repeated.
const RETRY: Duration = Duration::from_millis(200);

/// A registered micro service. Dropping this ends the registration.
#[derive(Debug)]
pub struct Registration {
    task: JoinHandle<()>,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Context {
    /// Registers this instance as a NATS micro service, so that `nats micro ls` and `$SRV.PING`
    /// find it under the service's name; the metadata holds its instance and host name.
    ///
    /// Dropping the returned value ends the registration.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn register(&self, nats: &Nats) -> anyhow::Result<Registration> {
        Registration::new(self, nats).await
    }

    /// Registers it with a subject on which it answers requests, as a member of a queue group.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn register_endpoint(
        &self,
        nats: &Nats,
        name: &'static str,
        queue_group: String,
        subject: &'static str,
    ) -> anyhow::Result<Endpoint> {
        Endpoint::new(self, nats, name, queue_group, subject).await
    }
}

impl Registration {
    pub(crate) async fn new(context: &Context, nats: &Nats) -> anyhow::Result<Self> {
        let mut generation = nats.client.generation();
        let mut service = start(context, &nats.client).await?;
        let (context, client) = (context.clone(), nats.client.clone());
        let health = context.health.clone();
        let task = tokio::spawn(
            health.supervise("registration", async move |mut heartbeat| {
                while heartbeat
                    .during(Duration::MAX, generation.changed())
                    .await
                    .is_ok()
                {
                    // The registration of the last generation ended with it.
                    let mut has_warned = false;
                    service = loop {
                        match start(&context, &client).await {
                            Ok(service) => break service,
                            Err(error) => wait_to_retry(&error, &mut has_warned).await,
                        }
                        heartbeat.beat();
                    };
                }
                drop(service);
            }),
        );
        Ok(Self { task })
    }
}

/// A registered micro service with a subject on which it answers requests.
#[derive(Debug)]
pub struct Endpoint {
    context: Context,
    client: NatsClient,
    name: &'static str,
    queue_group: String,
    subject: &'static str,
    current: Current,
}

struct Current {
    /// Dropping this would end the registration.
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

    /// The next request. Dropping the future loses no request.
    pub async fn next(&mut self) -> Request {
        loop {
            if let Some(request) = self.current.requests.next().await {
                return request;
            }
            let mut has_warned = false;
            self.current = loop {
                // The next generation may not be there yet.
                self.client.wait_until_live().await;
                let (context, client, name) = (&self.context, &self.client, self.name);
                match Current::new(context, client, name, &self.queue_group, self.subject).await {
                    Ok(current) => break current,
                    Err(error) => wait_to_retry(&error, &mut has_warned).await,
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
        client: &NatsClient,
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

async fn start(context: &Context, client: &NatsClient) -> anyhow::Result<Service> {
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

/// Waits before another attempt. The error means that the library client has ended, and a new one will
/// follow.
async fn wait_to_retry(error: &anyhow::Error, has_warned: &mut bool) {
    if !std::mem::replace(has_warned, true) {
        warn!("{error:#}, trying again");
    }
    tokio::time::sleep(RETRY).await;
}
