//! Settles jobs in the way of the lane that they came from.

use std::time::Duration;

use common::{OutcomeError, Status, codes};
use tracing::warn;

use crate::attempt_end::AttemptEnd;
use crate::consumer::Consumer;
use crate::core_lane::{self, Reply};
use crate::counters::Ending;
use crate::durable_lane;
use crate::inbox::WaitingJob;
use crate::running::{Origin, RunningJob};
use crate::trace;

/// Settles a job whose handler was called.
pub(crate) fn ended(
    consumer: &Consumer,
    job: RunningJob,
    elapsed: Duration,
    end: AttemptEnd,
) -> Option<Reply> {
    let RunningJob {
        id,
        kind,
        attempt,
        origin,
        span,
        ..
    } = job;
    let served = &consumer.kinds[kind];
    match origin {
        Origin::Core { reply } => {
            let (job, reply) = ((id, attempt), (reply, span));
            core_lane::settle::ended(consumer, served, job, reply, elapsed, end)
        }
        Origin::Durable(lease) => {
            durable_lane::settle::ended(consumer, served, (lease, span), elapsed, end);
            None
        }
    }
}

/// Settles a running job that the stop of the consumer interrupts.
pub(crate) fn interrupted(consumer: &Consumer, job: RunningJob) -> Option<Reply> {
    let RunningJob {
        id,
        kind,
        attempt,
        started_at,
        origin,
        span,
    } = job;
    let error = OutcomeError::new(codes::INTERRUPTED, "the consumer stopped");
    trace::end(span, codes::INTERRUPTED, Some(&error));
    let served = &consumer.kinds[kind];
    let kind = &served.kind;
    let elapsed_ms = started_at.elapsed().as_millis();
    match origin {
        Origin::Core { reply } => {
            served.core.ended(Ending::Interrupted);
            warn!(
                job.id = %id, job.kind = %kind, elapsed_ms, has_reply_subject = reply.is_some(),
                "job interrupted: it did not end within the grace period"
            );
            let (id, status) = (Some(id), Status::Interrupted);
            reply.map(|reply| core_lane::settle::hand_back(consumer, id, attempt, reply, status))
        }
        Origin::Durable(lease) => {
            served.durable.ended(Ending::Interrupted);
            warn!(
                job.id = %id, job.kind = %kind, elapsed_ms,
                "job interrupted: it did not end within the grace period, and is given back"
            );
            durable_lane::settle::give_back(consumer, lease);
            None
        }
    }
}

/// Hands back a job that was not started when the consumer stopped.
pub(crate) fn not_started(consumer: &Consumer, job: WaitingJob) -> Option<Reply> {
    match job {
        WaitingJob::Core(message) => core_lane::settle::interrupted_unread(consumer, message),
        WaitingJob::Durable(lease) => {
            durable_lane::settle::give_back(consumer, lease);
            None
        }
    }
}
