//! Settles core jobs: counts how they ended, logs it, and makes the reply. A plain publish gets
//! no reply.

use std::time::Duration;

use async_nats::{HeaderMap, Subject};
use bootstrap::trace::Span;
use common::{JobId, JobMessage, Outcome, OutcomeError, Status, codes, subjects};
use tracing::{info, warn};

use super::reply::Reply;
use crate::attempt_end::AttemptEnd;
use crate::consumer::Consumer;
use crate::counters::{Ending, KindCounters};
use crate::inbox::CoreMessage;
use crate::job_log::{Topic, loggable};
use crate::kinds::ServedKind;
use crate::trace;

/// The number of the submission that a message is, from 1.
pub(crate) fn attempt_of(headers: Option<&HeaderMap>) -> u32 {
    headers
        .and_then(|headers| headers.get(subjects::ATTEMPT_HEADER))
        .and_then(|value| value.as_str().parse().ok())
        .filter(|attempt| *attempt > 0)
        .unwrap_or(1)
}

/// Why a job is refused for good.
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

/// Settles a job that is not run.
pub(crate) fn refused(
    consumer: &Consumer,
    counters: &KindCounters,
    (id, attempt): (Option<JobId>, u32),
    reply: Option<Subject>,
    Refusal { status, error }: Refusal,
) -> Option<Reply> {
    counters.ended(if status == Status::Expired {
        Ending::Expired
    } else {
        Ending::Rejected
    });
    if consumer.log.may_log(Topic::Failure) {
        let id = id.map(tracing::field::display);
        // The text repeats parts of the message, so it is logged escaped.
        warn!(job.id = id, code = %error.code, error = ?loggable(&error), "job {status}");
    }
    let reply = reply?;
    let outcome = not_run(consumer, id, attempt, status, error);
    Some(Reply::new(consumer, reply, outcome))
}

/// Settles a job whose handler was called.
pub(crate) fn ended(
    consumer: &Consumer,
    served: &ServedKind,
    (id, attempt): (JobId, u32),
    (reply, span): (Option<Subject>, Span),
    elapsed: Duration,
    end: AttemptEnd,
) -> Option<Reply> {
    let (status, ending, result, error) = match end {
        AttemptEnd::Returned(result) => (Status::Succeeded, Ending::Succeeded, result, None),
        AttemptEnd::InvalidPayload(text) => {
            let error = OutcomeError::new(codes::INVALID_PAYLOAD, text);
            (Status::Rejected, Ending::Rejected, None, Some(error))
        }
        AttemptEnd::Failed {
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
    served.core.ended(ending);
    served.core.ran(elapsed);
    trace::end(span, status.as_str(), error.as_ref());
    let kind = &served.kind;
    let duration_ms = (elapsed.as_secs_f64() * 1e6).round() / 1e3;
    let topic = if error.is_none() {
        Topic::Success
    } else {
        Topic::Failure
    };
    if consumer.log.may_log(topic) {
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
    let outcome = Outcome {
        id: Some(id),
        status,
        consumer: consumer.instance.clone(),
        attempt,
        result,
        error,
        duration_ms,
    };
    Some(Reply::new(consumer, reply, outcome))
}

/// Settles a message that was not read when the consumer stopped.
pub(crate) fn interrupted_unread(consumer: &Consumer, message: CoreMessage) -> Option<Reply> {
    consumer.core.others.ended(Ending::Interrupted);
    if message.reply.is_some() {
        hand_back_unread(consumer, message, Status::Interrupted)
    } else {
        let job = JobMessage::decode(&message.payload).ok();
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

/// Logs that a plain publish is lost: its publisher does not submit it again.
pub(crate) fn lost(consumer: &Consumer, id: Option<JobId>, kind: Option<&str>, why: &str) {
    if consumer.log.may_log(Topic::Failure) {
        let id = id.map(tracing::field::display);
        warn!(
            job.id = id,
            job.kind = kind,
            "job lost; it was published without a reply subject: {why}"
        );
    }
}

/// Hands back a job for which there is no room.
pub(crate) fn busy(consumer: &Consumer, id: Option<JobId>, attempt: u32, reply: Subject) -> Reply {
    consumer.core.others.ended(Ending::Busy);
    hand_back(consumer, id, attempt, reply, Status::Busy)
}

/// Hands back a message, not read yet, for which there is no room.
pub(crate) fn busy_unread(consumer: &Consumer, message: CoreMessage) -> Option<Reply> {
    consumer.core.others.ended(Ending::Busy);
    hand_back_unread(consumer, message, Status::Busy)
}

/// The reply `busy` or `interrupted` to a job that is handed back.
pub(crate) fn hand_back(
    consumer: &Consumer,
    id: Option<JobId>,
    attempt: u32,
    reply: Subject,
    status: Status,
) -> Reply {
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
    Reply::new(consumer, reply, outcome)
}

/// Hands back a message that was not read yet; `None` for a plain publish.
fn hand_back_unread(consumer: &Consumer, message: CoreMessage, status: Status) -> Option<Reply> {
    let reply = message.reply?;
    let id = JobMessage::decode(&message.payload)
        .ok()
        .and_then(|job| job.id);
    let attempt = attempt_of(message.headers.as_deref());
    Some(hand_back(consumer, id, attempt, reply, status))
}

/// The outcome of a job whose handler was not called, or did not end.
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
