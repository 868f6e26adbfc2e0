//! Counts how jobs ended, logs it, and answers whoever asked for the outcome. A plain publish asks
//! for nothing and gets no answer.

use std::time::Duration;

use async_nats::{HeaderMap, Subject};
use bytes::Bytes;
use common::{Job, JobId, Outcome, OutcomeError, Status, codes, subjects};
use tracing::{info, warn};

use crate::consumer::{Consumer, Origin, Served, Started};
use crate::durable_lane;
use crate::inbox::{CoreDelivery, Delivery};
use crate::job_log::About;
use crate::report::{Ending, KindReport};
use crate::runner::Ended;
use crate::trace;

/// Which submission of its job a message is, from 1.
pub(crate) fn attempt_of(headers: Option<&HeaderMap>) -> u32 {
    headers
        .and_then(|headers| headers.get(subjects::ATTEMPT_HEADER))
        .and_then(|value| value.as_str().parse().ok())
        .filter(|attempt| *attempt > 0)
        .unwrap_or(1)
}

/// Why a job is not run, and never will be.
pub(crate) struct Refusal {
    /// Rejected or expired.
    pub(crate) status: Status,
    pub(crate) error: OutcomeError,
}

impl Refusal {
    pub(crate) fn rejected(code: &'static str, message: String) -> Self {
        Self {
            status: Status::Rejected,
            error: OutcomeError::new(code, message),
        }
    }
}

/// An outcome on its way to whoever asked for it.
///
/// Jobs are settled by plain functions, which leave this to be sent if there is somebody to send it
/// to: most jobs of a flood have nobody, and a slot's future stays small.
#[must_use]
pub(crate) struct Answer {
    reply: Subject,
    id: Option<JobId>,
    message: Bytes,
}

impl Answer {
    fn new(consumer: &Consumer, reply: Subject, mut outcome: Outcome) -> Self {
        let limit = consumer.nats.client.max_payload();
        let mut bytes = written(&outcome);
        if bytes.len() > limit {
            let size = bytes.len();
            outcome.status = Status::Failed;
            outcome.result = None;
            outcome.error = Some(OutcomeError::new(
                codes::RESULT_TOO_LARGE,
                format!(
                    "the job ran, but its outcome of {size} bytes is over the limit of {limit} bytes for a message"
                ),
            ));
            bytes = written(&outcome);
        }
        Self {
            reply,
            id: outcome.id,
            message: bytes.into(),
        }
    }
}

/// Sends an outcome, if somebody asked for it.
pub(crate) async fn send(consumer: &Consumer, answer: Option<Answer>) {
    let Some(Answer { reply, id, message }) = answer else {
        return;
    };
    if let Err(error) = consumer.nats.client.publish(reply, message).await {
        let id = id.map(tracing::field::display);
        warn!(job.id = id, %error, "the outcome of a job could not be sent");
    }
}

/// Settles a job that is not run.
pub(crate) fn refuse(
    consumer: &Consumer,
    report: &KindReport,
    (id, attempt): (Option<JobId>, u32),
    reply: Option<Subject>,
    Refusal { status, error }: Refusal,
) -> Option<Answer> {
    report.ended(if status == Status::Expired {
        Ending::Expired
    } else {
        Ending::Rejected
    });
    if consumer.log.has_room(About::Failure) {
        let id = id.map(tracing::field::display);
        // The text repeats parts of the message, whoever sent it: so it is logged escaped.
        warn!(job.id = id, code = %error.code, error = ?loggable(&error), "job {status}");
    }
    let reply = reply?;
    let outcome = not_run(consumer, id, attempt, status, error);
    Some(Answer::new(consumer, reply, outcome))
}

/// Settles a job whose handler ran.
pub(crate) fn ended(
    consumer: &Consumer,
    started: Started,
    elapsed: Duration,
    ended: Ended,
) -> Option<Answer> {
    let Started {
        id,
        served,
        attempt,
        origin,
        span,
        ..
    } = started;
    let reply = match origin {
        Origin::Core { reply } => reply,
        Origin::Durable(lease) => {
            durable_lane::ended(consumer, served, (lease, span), elapsed, ended);
            return None;
        }
    };
    let Served { kind, report, .. } = &consumer.served()[served];
    let (status, ending, result, error) = match ended {
        Ended::Returned(result) => (Status::Succeeded, Ending::Succeeded, result, None),
        Ended::InvalidPayload(text) => {
            let error = OutcomeError::new(codes::INVALID_PAYLOAD, text);
            (Status::Rejected, Ending::Rejected, None, Some(error))
        }
        Ended::Failed {
            code,
            message,
            retry_after,
        } => {
            let mut error = OutcomeError::new(code, message);
            error.retry_after_ms =
                retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
            (Status::Failed, Ending::Failed, None, Some(error))
        }
    };
    report.ended(ending);
    report.ran(elapsed);
    trace::end(span, status.as_str(), error.as_ref());
    let duration_ms = (elapsed.as_secs_f64() * 1e6).round() / 1e3;
    let about = if error.is_none() {
        About::Success
    } else {
        About::Failure
    };
    if consumer.log.has_room(about) {
        match &error {
            None => {
                info!(job.id = %id, job.kind = %kind, attempt, elapsed_ms = duration_ms, "job {status}");
            }
            Some(error) => warn!(
                job.id = %id, job.kind = %kind, attempt, elapsed_ms = duration_ms,
                code = %error.code, error = ?loggable(error), "job {status}"
            ),
        }
    }
    let reply = reply?;
    let name = consumer.instance.clone();
    let id = Some(id);
    let outcome = Outcome {
        id,
        status,
        consumer: name,
        attempt,
        result,
        error,
        duration_ms,
    };
    Some(Answer::new(consumer, reply, outcome))
}

/// Gives up a job that runs; whoever asked for its outcome is to be told.
pub(crate) fn interrupted(consumer: &Consumer, started: Started) -> Option<Answer> {
    let Started {
        id,
        served,
        attempt,
        at,
        origin,
        span,
    } = started;
    let why = OutcomeError::new(codes::INTERRUPTED, "the consumer stopped");
    trace::end(span, codes::INTERRUPTED, Some(&why));
    let kind = &consumer.served()[served].kind;
    consumer
        .report_of(served, origin.lease().is_some())
        .ended(Ending::Interrupted);
    let reply = match origin {
        Origin::Core { reply } => reply,
        Origin::Durable(lease) => {
            warn!(
                job.id = %id, job.kind = %kind, elapsed_ms = at.elapsed().as_millis(),
                "job interrupted: it did not end within the grace period, and is given back"
            );
            durable_lane::give_back(consumer, lease);
            return None;
        }
    };
    warn!(
        job.id = %id, job.kind = %kind, elapsed_ms = at.elapsed().as_millis(), told = reply.is_some(),
        "job interrupted: it did not end within the grace period"
    );
    let (id, status) = (Some(id), Status::Interrupted);
    reply.map(|reply| hand_back(consumer, id, attempt, reply, status))
}

/// Gives a job back that was not started when the consumer stopped.
pub(crate) fn not_started(consumer: &Consumer, delivery: Delivery) -> Option<Answer> {
    match delivery {
        Delivery::Core(delivery) => interrupted_unread(consumer, delivery),
        Delivery::Durable(lease) => {
            durable_lane::give_back(consumer, lease);
            None
        }
    }
}

/// The same for a job of `jobs.create`.
pub(crate) fn interrupted_unread(consumer: &Consumer, delivery: CoreDelivery) -> Option<Answer> {
    consumer.report.others.ended(Ending::Interrupted);
    if delivery.reply.is_some() {
        hand_back_unread(consumer, delivery, Status::Interrupted)
    } else {
        let job = Job::decode(&delivery.payload).ok();
        let id = job.as_ref().and_then(|job| job.id);
        let kind = job.as_ref().map(|job| job.kind.as_str());
        lost(
            consumer,
            id,
            kind,
            "it was not started within the grace period",
        );
        None
    }
}

/// Says that a job which nobody will submit again is lost.
pub(crate) fn lost(consumer: &Consumer, id: Option<JobId>, kind: Option<&str>, why: &str) {
    if consumer.log.has_room(About::Failure) {
        let id = id.map(tracing::field::display);
        warn!(
            job.id = id,
            job.kind = kind,
            "job lost, which was published without asking for its outcome: {why}"
        );
    }
}

/// Hands back a job for which there is no room.
pub(crate) fn busy(consumer: &Consumer, id: Option<JobId>, attempt: u32, reply: Subject) -> Answer {
    consumer.report.others.ended(Ending::Busy);
    hand_back(consumer, id, attempt, reply, Status::Busy)
}

/// The same for a job that was not read yet.
pub(crate) fn busy_unread(consumer: &Consumer, delivery: Delivery) -> Option<Answer> {
    let delivery = match delivery {
        Delivery::Core(delivery) => delivery,
        Delivery::Durable(lease) => {
            durable_lane::give_back(consumer, lease);
            return None;
        }
    };
    consumer.report.others.ended(Ending::Busy);
    hand_back_unread(consumer, delivery, Status::Busy)
}

/// Answers with `busy` or `interrupted` for a job that was not started.
fn hand_back(
    consumer: &Consumer,
    id: Option<JobId>,
    attempt: u32,
    reply: Subject,
    status: Status,
) -> Answer {
    let error = match status {
        Status::Busy => {
            OutcomeError::new(codes::BUSY, "the consumer is full; submit the job again")
        }
        _ => OutcomeError::new(
            codes::INTERRUPTED,
            "the consumer stopped before the job was done; submit it again",
        ),
    };
    let outcome = not_run(consumer, id, attempt, status, error);
    Answer::new(consumer, reply, outcome)
}

/// The outcome of a job whose handler was not called, or gave nothing.
fn not_run(
    consumer: &Consumer,
    id: Option<JobId>,
    attempt: u32,
    status: Status,
    error: OutcomeError,
) -> Outcome {
    Outcome {
        id,
        status,
        consumer: consumer.instance.clone(),
        attempt,
        result: None,
        error: Some(error),
        duration_ms: 0.0,
    }
}

/// The same for a job that was not read yet.
fn hand_back_unread(consumer: &Consumer, delivery: CoreDelivery, status: Status) -> Option<Answer> {
    let reply = delivery.reply?;
    let id = Job::decode(&delivery.payload).ok().and_then(|job| job.id);
    let attempt = attempt_of(delivery.headers.as_deref());
    Some(hand_back(consumer, id, attempt, reply, status))
}

fn written(outcome: &Outcome) -> Vec<u8> {
    serde_json::to_vec(outcome).expect("an outcome is plain data with text for keys")
}

/// What of an error may stand in a log. That a payload is wrong is said with the value that is
/// wrong, which is nobody's business there: only its field is told.
pub(crate) fn loggable(error: &OutcomeError) -> String {
    const LONGEST: usize = 200;
    let text = match error.message.split_once(':') {
        Some((field, _)) if error.code == codes::INVALID_PAYLOAD => field,
        _ => &error.message,
    };
    let mut shown: String = text.chars().take(LONGEST).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}
