//! Forwards jobs of kinds that this consumer does not serve.
//!
//! A job on `jobs.create` may reach any consumer of the queue group, also one without a handler
//! for it. That consumer forwards it as a request to `jobs.create.<kind>`, to which only consumers
//! that serve the kind subscribe, and relays the reply. A job is forwarded once at most: what
//! arrives on `jobs.create.<kind>` is run there or refused.
//!
//! A plain publish is forwarded as a request too, because only a reply shows that another consumer
//! took it. It is forwarded again after a wait when the consumers of its kind are full or stop,
//! because its sender does not submit it again.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Request, RequestErrorKind};
use common::{Backoff, JobId, JobKind, Outcome, WireDuration, codes, subjects};
use tokio::sync::Semaphore;
use tracing::warn;

use super::reply;
use super::settle::{self, Refusal};
use crate::consumer::Consumer;
use crate::counters::Ending;
use crate::inbox::CoreMessage;
use crate::job_log::Topic;

/// The most jobs that are forwarded at a time: each is a request that waits for its reply.
const LIMIT: u32 = 4096;

/// How long a reply on `jobs.serves.<kind>` may take.
const PRESENCE_TIMEOUT: Duration = Duration::from_secs(2);

/// How much longer than the job's time-out its reply may take.
const MARGIN: Duration = Duration::from_mins(1);

/// The time-out that is assumed for a job that sets none.
const ASSUMED_TIMEOUT: Duration = Duration::from_mins(10);

/// The longest wait before a plain publish is forwarded again.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// The parts of a job that are needed to forward it.
pub(crate) struct ForwardJob {
    pub(crate) id: Option<JobId>,
    pub(crate) kind: JobKind,
    pub(crate) timeout: Option<WireDuration>,
    pub(crate) attempt: u32,
}

/// The result of forwarding a job once.
enum Forwarded {
    /// A consumer replied with an outcome.
    Outcome(Message),
    /// All consumers that serve the kind are full.
    Full,
    /// No consumer serves the kind.
    NoConsumer,
    /// The connection was lost, or the reply did not come in time: the job may have run.
    Unknown(String),
}

/// Bounds how many jobs are forwarded at a time; clones share the bound.
#[derive(Clone)]
pub(crate) struct Forwarder {
    permits: Arc<Semaphore>,
}

impl Forwarder {
    pub(crate) fn new() -> Self {
        Self {
            permits: Arc::new(Semaphore::new(LIMIT as usize)),
        }
    }

    /// Returns when no job is being forwarded.
    pub(crate) async fn idle(&self) {
        // The semaphore is never closed.
        let _ = self.permits.acquire_many(LIMIT).await;
    }

    /// Forwards a job in the background.
    pub(crate) async fn forward(
        &self,
        consumer: &Arc<Consumer>,
        message: CoreMessage,
        job: ForwardJob,
    ) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            if let Some(to) = message.reply {
                let busy = settle::busy(consumer, job.id, job.attempt, to);
                reply::send(consumer, Some(busy)).await;
            } else {
                consumer.core.others.ended(Ending::Busy);
                let kind = Some(job.kind.as_str());
                settle::lost(consumer, job.id, kind, "too many jobs are being forwarded");
            }
            return;
        };
        let consumer = Arc::clone(consumer);
        tokio::spawn(async move {
            let _permit = permit;
            let forwarding = async {
                if message.reply.is_some() {
                    forward_request(&consumer, &message, &job).await;
                } else {
                    forward_plain(&consumer, &message, &job).await;
                }
            };
            let interrupted = tokio::select! {
                () = forwarding => false,
                () = consumer.hard_stop.cancelled() => true,
            };
            if interrupted {
                let interrupted = settle::interrupted_unread(&consumer, message);
                reply::send(&consumer, interrupted).await;
            }
        });
    }
}

/// Forwards a request once and replies with the result; its sender may submit it again.
async fn forward_request(consumer: &Consumer, message: &CoreMessage, job: &ForwardJob) {
    let Some(to) = message.reply.clone() else {
        return;
    };
    match forward_once(consumer, message, job).await {
        Forwarded::Outcome(outcome) => {
            if let Err(error) = consumer.nats.client.publish(to, outcome.payload).await {
                warn!(%error, "cannot send the outcome of a forwarded job");
            }
        }
        Forwarded::Full => {
            let busy = settle::busy(consumer, job.id, job.attempt, to);
            reply::send(consumer, Some(busy)).await;
        }
        Forwarded::NoConsumer => refuse(consumer, message, job).await,
        Forwarded::Unknown(why) => {
            // No reply: the sender's own time-out ends its wait.
            if consumer.log.may_log(Topic::Failure) {
                let id = job.id.map(tracing::field::display);
                warn!(job.id = id, job.kind = %job.kind, "a forwarded job got no reply: {why}");
            }
        }
    }
}

/// Forwards a plain publish until a consumer runs it, or it may have run.
async fn forward_plain(consumer: &Consumer, message: &CoreMessage, job: &ForwardJob) {
    let backoff = Backoff::default();
    for retry in 1.. {
        match forward_once(consumer, message, job).await {
            Forwarded::Outcome(outcome) => {
                let outcome = serde_json::from_slice::<Outcome>(&outcome.payload);
                if outcome.is_ok_and(|outcome| !outcome.status.invites_another_attempt()) {
                    return;
                }
            }
            Forwarded::Full => {}
            Forwarded::NoConsumer => return refuse(consumer, message, job).await,
            Forwarded::Unknown(why) => {
                return settle::lost(consumer, job.id, Some(job.kind.as_str()), &why);
            }
        }
        let wait = backoff.delay(retry, rand::random());
        tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
    }
}

async fn refuse(consumer: &Consumer, message: &CoreMessage, job: &ForwardJob) {
    let text = format!(
        "field `kind`: no consumer has a handler for the kind \"{}\"",
        job.kind
    );
    let refusal = Refusal::rejected(codes::UNKNOWN_KIND, text);
    let others = &consumer.core.others;
    let about = (job.id, job.attempt);
    let refused = settle::refused(consumer, others, about, message.reply.clone(), refusal);
    reply::send(consumer, refused).await;
}

/// Sends a job to the subject of its kind once and waits for the reply.
async fn forward_once(consumer: &Consumer, message: &CoreMessage, job: &ForwardJob) -> Forwarded {
    let wait = job.timeout.map_or(ASSUMED_TIMEOUT, WireDuration::get) + MARGIN;
    let mut request = Request::new()
        .payload(message.payload.clone())
        .timeout(None);
    if let Some(headers) = &message.headers {
        request = request.headers(headers.as_ref().clone());
    }
    let mut connected = consumer.nats.connected();
    let reply = consumer
        .nats
        .client
        .send_request(subjects::create_kind(&job.kind), request);
    // The library's own time-out does not cover a lost connection, and a reply that is sent while
    // the connection is away is lost.
    let reply = tokio::select! {
        reply = tokio::time::timeout(wait, reply) => reply,
        _ = connected.wait_for(|up| !up) => {
            return Forwarded::Unknown("the connection to NATS was lost".to_owned());
        }
    };
    match reply {
        Ok(Ok(outcome)) => Forwarded::Outcome(outcome),
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
            // If this is unknown, the consumers of the kind count as full.
            let served = worker::is_served(&consumer.nats.client, &job.kind, PRESENCE_TIMEOUT);
            match served.await {
                Ok(Some(false)) => Forwarded::NoConsumer,
                Ok(Some(true) | None) | Err(_) => Forwarded::Full,
            }
        }
        Ok(Err(error)) => Forwarded::Unknown(error.to_string()),
        Err(_) => Forwarded::Unknown("the reply did not come in time".to_owned()),
    }
}
