//! Passes a job on whose kind this consumer does not serve.
//!
//! A job on `jobs.create` may reach any consumer of the group, also one without a handler for
//! it. It is then sent on to `jobs.create.<kind>`, to which only consumers subscribe that serve
//! the kind, and their answer goes back to whoever asked. A job goes one step at most: what
//! arrives on the subject of a kind is run there.
//!
//! A plain publish is passed on as a request, too, or nobody would know that it found no taker.
//! When those who serve its kind are full or stop, it is passed on again after a wait: its sender
//! will not submit it again.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Request, RequestErrorKind};
use bytes::Bytes;
use common::{Backoff, JobId, JobKind, Outcome, WireDuration, codes, subjects};
use tracing::warn;

use crate::consumer::Consumer;
use crate::inbox::CoreDelivery;
use crate::job_log::About;
use crate::report::Ending;
use crate::settle::{self, Refusal};

/// The most jobs that are passed on at a time: each is a request that waits for its answer.
pub(crate) const LIMIT: u32 = 4096;

/// How long an answer to "does anybody serve this kind?" may take.
const PRESENCE: Duration = Duration::from_secs(2);

/// How long the outcome of a job is waited for beyond the time that the job may run, and how
/// long that is for a job which does not say.
const PATIENCE: Duration = Duration::from_mins(1);
const LONGEST: Duration = Duration::from_mins(10);

/// The longest wait before a plain job is passed on again.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// What has to be known of a job to pass it on.
pub(crate) struct Passed {
    pub(crate) id: Option<JobId>,
    pub(crate) kind: JobKind,
    pub(crate) timeout: Option<WireDuration>,
    pub(crate) attempt: u32,
}

/// What came of passing a job on once.
enum Answer {
    Outcome(Message),
    /// Those who serve the kind are full.
    Full,
    /// Nobody serves the kind.
    Nobody,
    /// The connection was lost, or the answer did not come in time: nobody knows.
    None(String),
}

/// Passes a job on, in the background.
pub(crate) async fn pass_on(consumer: &Arc<Consumer>, delivery: CoreDelivery, job: Passed) {
    let Ok(permit) = Arc::clone(&consumer.forwards).try_acquire_owned() else {
        if let Some(reply) = delivery.reply {
            let busy = settle::busy(consumer, job.id, job.attempt, reply);
            settle::send(consumer, Some(busy)).await;
        } else {
            consumer.report.others.ended(Ending::Busy);
            let kind = Some(job.kind.as_str());
            settle::lost(consumer, job.id, kind, "too many jobs are being passed on");
        }
        return;
    };
    let consumer = Arc::clone(consumer);
    tokio::spawn(async move {
        let _permit = permit;
        let passing = async {
            if delivery.reply.is_some() {
                pass_request(&consumer, &delivery, &job).await;
            } else {
                pass_plain(&consumer, &delivery, &job).await;
            }
        };
        let stopped = tokio::select! {
            () = passing => false,
            () = consumer.hard_stop.cancelled() => true,
        };
        if stopped {
            let interrupted = settle::interrupted_unread(&consumer, delivery);
            settle::send(&consumer, interrupted).await;
        }
    });
}

/// A request is answered with whatever comes of it; its sender submits it again if need be.
async fn pass_request(consumer: &Consumer, delivery: &CoreDelivery, job: &Passed) {
    let Some(reply) = delivery.reply.clone() else {
        return;
    };
    match ask(consumer, delivery, job).await {
        Answer::Outcome(answer) => {
            if let Err(error) = consumer.nats.client.publish(reply, answer.payload).await {
                warn!(%error, "the outcome of a job that was passed on could not be sent");
            }
        }
        Answer::Full => {
            let busy = settle::busy(consumer, job.id, job.attempt, reply);
            settle::send(consumer, Some(busy)).await;
        }
        Answer::Nobody => refuse(consumer, delivery, job).await,
        Answer::None(why) => {
            // Whoever asked has a time-out, too.
            if consumer.log.has_room(About::Failure) {
                let id = job.id.map(tracing::field::display);
                warn!(job.id = id, job.kind = %job.kind, "a job that was passed on got no answer: {why}");
            }
        }
    }
}

/// A plain job is passed on until somebody runs it, or nobody can know whether it was run.
async fn pass_plain(consumer: &Consumer, delivery: &CoreDelivery, job: &Passed) {
    let backoff = Backoff::default();
    for retry in 1.. {
        match ask(consumer, delivery, job).await {
            Answer::Outcome(answer) => {
                let outcome = serde_json::from_slice::<Outcome>(&answer.payload);
                if outcome.is_ok_and(|outcome| !outcome.status.invites_another_attempt()) {
                    return;
                }
            }
            Answer::Full => {}
            Answer::Nobody => return refuse(consumer, delivery, job).await,
            Answer::None(why) => {
                return settle::lost(consumer, job.id, Some(job.kind.as_str()), &why);
            }
        }
        let wait = backoff.delay(retry, rand::random());
        tokio::time::sleep(wait.min(LONGEST_WAIT)).await;
    }
}

async fn refuse(consumer: &Consumer, delivery: &CoreDelivery, job: &Passed) {
    let text = format!(
        "field `kind`: no consumer has a handler for the kind \"{}\"",
        job.kind
    );
    let refusal = Refusal::rejected(codes::UNKNOWN_KIND, text);
    let others = &consumer.report.others;
    let about = (job.id, job.attempt);
    let refused = settle::refuse(consumer, others, about, delivery.reply.clone(), refusal);
    settle::send(consumer, refused).await;
}

/// Sends a job to the subject of its kind once, and waits for what comes of it.
async fn ask(consumer: &Consumer, delivery: &CoreDelivery, job: &Passed) -> Answer {
    let wait = job.timeout.map_or(LONGEST, WireDuration::get) + PATIENCE;
    let mut request = Request::new()
        .payload(delivery.payload.clone())
        .timeout(None);
    if let Some(headers) = &delivery.headers {
        request = request.headers(headers.as_ref().clone());
    }
    let mut connected = consumer.nats.connected();
    let answer = consumer
        .nats
        .client
        .send_request(subjects::create_kind(&job.kind), request);
    // The library's own time-out does not cover a connection that is away; and an answer that is
    // sent meanwhile reaches nobody.
    let answer = tokio::select! {
        answer = tokio::time::timeout(wait, answer) => answer,
        _ = connected.wait_for(|up| !up) => return Answer::None("NATS was lost".to_owned()),
    };
    match answer {
        Ok(Ok(answer)) => Answer::Outcome(answer),
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
            if is_served(consumer, &job.kind).await {
                Answer::Full
            } else {
                Answer::Nobody
            }
        }
        Ok(Err(error)) => Answer::None(error.to_string()),
        Err(_) => Answer::None("it did not come in time".to_owned()),
    }
}

/// Nobody takes jobs of this kind now: because those who serve it are full, or because nobody
/// serves it at all?
async fn is_served(consumer: &Consumer, kind: &JobKind) -> bool {
    let presence = consumer
        .nats
        .client
        .request(subjects::serves_kind(kind), Bytes::new());
    match tokio::time::timeout(PRESENCE, presence).await {
        Ok(Err(error)) => error.kind() != RequestErrorKind::NoResponders,
        Ok(Ok(_)) | Err(_) => true,
    }
}
