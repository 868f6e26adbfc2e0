//! A small queue of requests that all consumers share. A request waits in it until a consumer runs.

use std::sync::Arc;
use std::time::Duration;

use bootstrap::{Beat, Nats, NatsClient};
use jetstream::{Stream, Topology};
use tracing::warn;

use crate::fetch::{Event, Fetcher, Pulled};
use crate::phases::Phases;
use crate::queues::Queue;

/// How many requests are taken at a time.
const ROOM: usize = 16;

const TICK: Duration = Duration::from_secs(1);

/// The durable consumer of such a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Declared {
    pub(super) stream: Stream,
    pub(super) consumer: &'static str,
    /// The subjects of the messages; empty for all messages of the stream.
    pub(super) filter: &'static str,
}

impl Declared {
    pub(super) async fn ensure(
        self,
        topology: Topology,
        client: &NatsClient,
    ) -> anyhow::Result<()> {
        let filter = self.filter.to_owned();
        topology
            .ensure_pull_consumer(client, self.stream, self.consumer, filter)
            .await
    }
}

/// Carries requests out.
pub(super) trait Requests {
    /// Called before each pull.
    async fn before_pull(&self) {}

    /// Carries a request out. After an error, the server redelivers the request.
    async fn carry_out(&self, request: &Pulled<()>) -> anyhow::Result<()>;
}

/// Takes requests until the consumer leaves.
pub(crate) struct SharedQueue {
    nats: Nats,
    topology: Topology,
    phases: Phases,
}

impl SharedQueue {
    pub(crate) fn new(nats: &Nats, topology: Topology, phases: &Phases) -> Self {
        Self {
            nats: nats.clone(),
            topology,
            phases: phases.clone(),
        }
    }

    pub(super) async fn run(self, declared: Declared, requests: &impl Requests, mut life: Beat) {
        let client = &self.nats.client;
        let name = declared.consumer;
        let queue = Arc::new(Queue::of_requests(declared.stream, name));
        let mut fetcher = loop {
            let making = Fetcher::new(client, vec![Arc::clone(&queue)]);
            match life.during(Duration::MAX, making).await {
                Ok(fetcher) => break fetcher,
                Err(error) => warn!(consumer = name, "cannot pull, trying again: {error:#}"),
            }
            tokio::time::sleep(TICK).await;
        };
        let mut connected = self.nats.connected();
        let mut tick = tokio::time::interval(TICK);
        loop {
            life.beat();
            requests.before_pull().await;
            fetcher.pull(ROOM).await;
            tokio::select! {
                biased;
                () = self.phases.leaving() => return life.done(),
                event = fetcher.next() => match event {
                    Ok(Event::Pulled(batch)) => {
                        for pulled in batch {
                            // A write waits until the server confirms it.
                            let work = carry_out(client, requests, pulled);
                            life.during(Duration::MAX, work).await;
                        }
                    }
                    Ok(Event::Gone(index)) => {
                        fetcher.pause(index);
                        if let Err(error) = declared.ensure(self.topology, client).await {
                            warn!(consumer = name, "cannot create a durable consumer: {error:#}");
                        }
                    }
                    Ok(Event::Ended) => {}
                    Err(error) => {
                        warn!(consumer = name, "cannot pull any more: {error:#}");
                        return;
                    }
                },
                changed = connected.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    fetcher.forget();
                }
                _ = tick.tick() => {}
            }
        }
    }
}

async fn carry_out(client: &NatsClient, requests: &impl Requests, pulled: Pulled<()>) {
    match requests.carry_out(&pulled).await {
        Ok(()) => {
            let _ = client.publish(pulled.ack, "+ACK".into()).await;
        }
        Err(error) => warn!(
            subject = pulled.subject.as_str(),
            "cannot carry out a request, trying again: {error:#}"
        ),
    }
}
