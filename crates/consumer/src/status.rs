//! Answers for the consumer: `jobs.status`, the micro service API, and `jobs.serves.<kind>`.
//!
//! These answers have their own thread, runtime and connection. So an answer comes at once even
//! when the threads of the jobs are busy, and a flood of jobs does not delay a request in the
//! socket.
//!
//! When the consumer stops, the last requesters get its final status. Otherwise no total would
//! include the jobs that ended after their last request.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bootstrap::{Beat, Context, Endpoint, Nats, Subscriber};
use bytes::Bytes;
use common::{ConsumerStatus, Timestamp, subjects};
use futures_util::StreamExt as _;
use futures_util::stream::SelectAll;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use worker::Lane;

use crate::consumer::Consumer;

/// How many of the last requesters get the final status: every running status service, and one or
/// two people.
const LAST_REQUESTERS: usize = 8;

/// How long the server may take to confirm the final status.
const CONFIRMATION: Duration = Duration::from_millis(500);

/// Starts answering. Returns when the subscriptions are made, with a receiver that resolves when
/// the final status was sent, after `stop`.
///
/// # Errors
/// When the thread cannot be started, or there is no connection to NATS.
pub(crate) async fn start(
    context: &Context,
    consumer: &Arc<Consumer>,
    stop: CancellationToken,
) -> anyhow::Result<oneshot::Receiver<()>> {
    let (started, has_started) = oneshot::channel();
    let (ended, has_ended) = oneshot::channel();
    let (context, consumer) = (context.clone(), Arc::clone(consumer));
    let health = context.health.clone();
    health.on_own_thread("control", async move |mut heartbeat| {
        let opening = Box::pin(StatusTask::open(&context, &consumer));
        match heartbeat.during(Duration::MAX, opening).await {
            Ok(task) => {
                // The receiver is gone if the service stops meanwhile.
                let _ = started.send(Ok(()));
                task.answer(&consumer, &stop, &mut heartbeat).await;
                // The receiver is gone if the grace period is over.
                let _ = ended.send(());
            }
            Err(error) => drop(started.send(Err(error))),
        }
        heartbeat.done();
    })?;
    has_started
        .await
        .context("the thread that answers jobs.status ended")??;
    Ok(has_ended)
}

struct StatusTask {
    nats: Nats,
    identity: Identity,
    requests: Endpoint,
    /// `jobs.serves.<kind>` of each served kind.
    serves: SelectAll<Subscriber>,
}

impl StatusTask {
    async fn open(context: &Context, consumer: &Consumer) -> anyhow::Result<Self> {
        let identity = Identity::new(context);
        let nats = context.connect("control").await?;
        // An endpoint always joins a queue group. Each consumer has its own, so that all answer.
        let group = uuid::Uuid::new_v4().simple().to_string();
        let requests = context
            .register_endpoint(&nats, "status", group, subjects::STATUS)
            .await?;
        let mut serves = SelectAll::new();
        for kind in consumer.kinds.names() {
            let queue_group = subjects::WORKERS.to_owned();
            let subject = subjects::serves_kind(kind);
            serves.push(nats.client.queue_subscribe(subject, queue_group).await?);
        }
        nats.confirm_subscriptions(subjects::STATUS).await;
        Ok(Self {
            nats,
            identity,
            requests,
            serves,
        })
    }

    async fn answer(mut self, consumer: &Consumer, stop: &CancellationToken, heartbeat: &mut Beat) {
        let mut requesters = VecDeque::with_capacity(LAST_REQUESTERS);
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = heartbeat.tick() => {}
                request = self.requests.next() => {
                    let reply = consumer.reply_check.allowed(request.message.reply.clone());
                    let Some(reply) = reply else {
                        continue;
                    };
                    let status = self.identity.encoded_status(consumer);
                    if let Err(error) = request.respond(Ok(status)).await {
                        warn!(%error, "cannot answer a request on jobs.status");
                    }
                    if requesters.len() == LAST_REQUESTERS {
                        requesters.pop_front();
                    }
                    requesters.push_back(reply);
                }
                Some(question) = self.serves.next() => {
                    if let Some(reply) = consumer.reply_check.allowed(question.reply)
                        && let Err(error) = self.nats.client.publish(reply, Bytes::new()).await
                    {
                        warn!(%error, "cannot answer a request on jobs.serves");
                    }
                }
            }
        }
        for reply in requesters {
            // An error is ignored, because the requester may be gone and this consumer is about to
            // exit.
            let status = self.identity.encoded_status(consumer);
            let _ = self.nats.client.publish(reply, status).await;
        }
        if let Err(error) = self.nats.round_trip(CONFIRMATION).await {
            warn!("the final status may be lost: {error:#}");
        }
    }
}

/// The part of the status that does not change.
struct Identity {
    host: String,
    version: &'static str,
    started_at: Timestamp,
    started: Instant,
}

impl Identity {
    fn new(context: &Context) -> Self {
        Self {
            host: context.host(),
            version: context.about.version,
            started_at: Timestamp::now(),
            started: Instant::now(),
        }
    }

    fn encoded_status(&self, consumer: &Consumer) -> Bytes {
        serde_json::to_vec(&self.status(consumer))
            .expect("a status is plain data with string keys")
            .into()
    }

    fn status(&self, consumer: &Consumer) -> ConsumerStatus {
        let core = consumer.core.status();
        let mut totals = core.counts;
        let mut lanes = BTreeMap::from([(subjects::CORE_LANE.to_owned(), core)]);
        let lane = consumer.durable.lane();
        if lane.is_some() {
            let durable = consumer.durable.counters.status();
            totals += durable.counts;
            lanes.insert(subjects::DURABLE_LANE.to_owned(), durable);
        }
        let (in_flight, waiting) = consumer.in_flight_and_waiting();
        ConsumerStatus {
            consumer: consumer.instance.clone(),
            host: self.host.clone(),
            version: self.version.to_owned(),
            started_at: self.started_at,
            uptime_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            state: consumer.state.get(),
            concurrency: u32::try_from(consumer.slots.len()).unwrap_or(u32::MAX),
            in_flight: u32::try_from(in_flight).unwrap_or(u32::MAX),
            inbox: u32::try_from(consumer.inbox.limit()).unwrap_or(u32::MAX),
            waiting: waiting as u64,
            received: consumer.received(),
            dropped: consumer.nats.dropped(),
            unserved_kinds: lane.map(Lane::kinds_without_consumer).unwrap_or_default(),
            totals,
            lanes,
        }
    }
}
