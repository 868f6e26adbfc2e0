//! Passes a job on whose kind this consumer does not serve.
//!
//! A job on `jobs.create` may reach any consumer of the group, also one without a handler for
//! it. It is then sent on to `jobs.create.<kind>`, to which only consumers subscribe that serve
//! the kind, and their answer goes back to whoever asked. A job goes one step at most: what
//! arrives on the subject of a kind is run there.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Request, RequestErrorKind, Subject};
use bytes::Bytes;
use common::{JobId, JobKind, Status, WireDuration, codes, subjects};
use tracing::warn;

use crate::core::Core;
use crate::inbox::Delivery;
use crate::report::Ending;
use crate::runner::{Refusal, refuse};
use crate::settle;

/// The most jobs that are passed on at a time: each is a request that waits for its answer.
pub(crate) const LIMIT: u32 = 4096;

/// How long an answer to "does anybody serve this kind?" may take.
const PRESENCE: Duration = Duration::from_secs(2);

/// How long the outcome of a job is waited for beyond the time that the job may run, and how
/// long that is for a job which does not say.
const PATIENCE: Duration = Duration::from_mins(1);
const LONGEST: Duration = Duration::from_hours(1);

/// What has to be known of a job to pass it on.
pub(crate) struct Passed {
    pub(crate) id: Option<JobId>,
    pub(crate) kind: JobKind,
    pub(crate) timeout: Option<WireDuration>,
    pub(crate) attempt: u32,
}

/// Passes a job on, in the background.
pub(crate) async fn pass_on(core: &Arc<Core>, delivery: Delivery, job: Passed) {
    let Ok(permit) = Arc::clone(&core.forwards).try_acquire_owned() else {
        return give_back(
            core,
            delivery.reply,
            &job,
            "too many jobs are being passed on",
        )
        .await;
    };
    let core = Arc::clone(core);
    tokio::spawn(async move {
        let _permit = permit;
        let reply = delivery.reply.clone();
        tokio::select! {
            () = request(&core, delivery, &job) => {}
            () = core.hard_stop.cancelled() => {
                if let Some(reply) = reply {
                    settle::hand_back(&core, job.id, job.attempt, reply, Status::Interrupted).await;
                }
            }
        }
    });
}

async fn request(core: &Core, delivery: Delivery, job: &Passed) {
    let reply = delivery.reply;
    let wait = job.timeout.map_or(LONGEST, WireDuration::get) + PATIENCE;
    let mut request = Request::new().payload(delivery.payload).timeout(None);
    if let Some(headers) = delivery.headers {
        request = request.headers(*headers);
    }
    let answer = core
        .client
        .send_request(subjects::create_kind(&job.kind), request);
    // The library's own time-out does not cover a connection that is away.
    match tokio::time::timeout(wait, answer).await {
        Ok(Ok(answer)) => relay(core, reply, answer.payload).await,
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
            no_taker(core, reply, job).await;
        }
        // Whoever asked has its own time-out, and submits the job again.
        Ok(Err(error)) => {
            warn!(job.kind = %job.kind, %error, "a job that was passed on got no answer");
        }
        Err(_) => warn!(job.kind = %job.kind, "a job that was passed on got no answer in time"),
    }
}

async fn relay(core: &Core, reply: Option<Subject>, outcome: Bytes) {
    let Some(reply) = reply else { return };
    if let Err(error) = core.client.publish(reply, outcome).await {
        warn!(%error, "the outcome of a job that was passed on could not be sent");
    }
}

/// Nobody takes jobs of this kind now: because those who serve it are full, or because nobody
/// serves it at all?
async fn no_taker(core: &Core, reply: Option<Subject>, job: &Passed) {
    let presence = core
        .client
        .request(subjects::serves_kind(&job.kind), Bytes::new());
    let served = match tokio::time::timeout(PRESENCE, presence).await {
        Ok(Err(error)) => error.kind() != RequestErrorKind::NoResponders,
        Ok(Ok(_)) | Err(_) => true,
    };
    if !served {
        let text = format!(
            "field `kind`: no consumer has a handler for the kind \"{}\"",
            job.kind
        );
        let refusal = Refusal::rejected(codes::UNKNOWN_KIND, text);
        return refuse(
            core,
            &core.report.others,
            (job.id, job.attempt),
            reply,
            refusal,
        )
        .await;
    }
    give_back(
        core,
        reply,
        job,
        "all consumers that serve its kind are full",
    )
    .await;
}

/// Hands a job back as `busy`, or says that it is lost if there is nobody to hand it back to.
async fn give_back(core: &Core, reply: Option<Subject>, job: &Passed, why: &str) {
    core.report.others.ended(Ending::Busy);
    if let Some(reply) = reply {
        settle::hand_back(core, job.id, job.attempt, reply, Status::Busy).await;
    } else {
        warn!(job.kind = %job.kind, "job lost: {why}");
    }
}
