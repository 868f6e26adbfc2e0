//! Settles durable jobs: counts how they ended, logs it, and hands the settlement to the lane.

use std::sync::Arc;
use std::time::Duration;

use bootstrap::trace::Span;
use common::{DeadReason, OutcomeError, codes};
use tracing::{info, warn};
use worker::{Lease, Settlement};

use crate::attempt_end::AttemptEnd;
use crate::consumer::Consumer;
use crate::counters::Ending;
use crate::job_log::{Topic, loggable};
use crate::kinds::ServedKind;
use crate::trace;

/// Settles a job whose handler was called.
pub(crate) fn ended(
    consumer: &Consumer,
    served: &ServedKind,
    (lease, span): (Arc<Lease>, Span),
    elapsed: Duration,
    end: AttemptEnd,
) {
    let kind = &lease.kind;
    served.durable.ran(elapsed);
    let elapsed_ms = milliseconds(elapsed);
    let (ending, settlement) = match end {
        AttemptEnd::Returned(result) => {
            if consumer.log.may_log(Topic::Success) {
                info!(job.id = %lease.id, job.kind = %kind, attempt = lease.attempt, elapsed_ms, "job succeeded");
            }
            trace::end(span, "succeeded", None);
            let settlement = Settlement::Succeeded {
                result,
                duration: elapsed,
            };
            (Ending::Succeeded, settlement)
        }
        AttemptEnd::InvalidPayload(text) => {
            let error = OutcomeError::new(codes::INVALID_PAYLOAD, text);
            failed(consumer, (&lease, span), elapsed_ms, &error, Next::Dead);
            let settlement = Settlement::Dead {
                reason: DeadReason::Permanent,
                error: Some(error),
            };
            (Ending::Rejected, settlement)
        }
        AttemptEnd::Failed {
            code,
            message,
            retry_after,
        } => {
            let error = OutcomeError::new(code, message);
            let permanent = AttemptEnd::is_permanent(code);
            let next = if permanent || lease.is_last_attempt() {
                Next::Dead
            } else {
                Next::Retry
            };
            failed(consumer, (&lease, span), elapsed_ms, &error, next);
            let settlement = if permanent {
                Settlement::Dead {
                    reason: DeadReason::Permanent,
                    error: Some(error),
                }
            } else {
                Settlement::Failed { error, retry_after }
            };
            (Ending::Failed, settlement)
        }
    };
    served.durable.ended(ending);
    consumer.durable.settle(lease, settlement);
}

/// Settles a job that was cancelled while its handler ran.
pub(crate) fn cancelled(
    consumer: &Consumer,
    served: &ServedKind,
    (lease, span): (Arc<Lease>, Span),
    elapsed: Duration,
) {
    served.durable.ran(elapsed);
    let elapsed_ms = milliseconds(elapsed);
    info!(job.id = %lease.id, job.kind = %lease.kind, elapsed_ms, "job cancelled");
    trace::end(span, "cancelled", None);
    served.durable.ended(Ending::Cancelled);
    consumer.durable.settle(lease, Settlement::Cancelled);
}

/// What follows a failed attempt.
#[derive(Clone, Copy)]
enum Next {
    Retry,
    Dead,
}

fn failed(
    consumer: &Consumer,
    (lease, span): (&Lease, Span),
    elapsed_ms: f64,
    error: &OutcomeError,
    next: Next,
) {
    let (outcome, next) = match next {
        Next::Retry => ("retrying", "retry"),
        Next::Dead => ("dead", "dead letter"),
    };
    trace::end(span, outcome, Some(error));
    if consumer.log.may_log(Topic::Failure) {
        warn!(
            job.id = %lease.id, job.kind = %lease.kind, attempt = lease.attempt, next, elapsed_ms,
            code = %error.code, error = ?loggable(error), "attempt failed"
        );
    }
}

/// Gives a job that was not done back to the queue, for another consumer.
pub(crate) fn give_back(consumer: &Consumer, lease: Arc<Lease>) {
    consumer.durable.settle(lease, Settlement::GivenBack);
}

/// Makes a dead letter of a job without a handler. The lane pulls served kinds only, so this
/// should not happen.
pub(crate) fn no_handler(consumer: &Consumer, lease: Arc<Lease>) {
    consumer.durable.counters.others.ended(Ending::Rejected);
    let settlement = Settlement::Dead {
        reason: DeadReason::NoHandler,
        error: None,
    };
    consumer.durable.settle(lease, settlement);
}

fn milliseconds(elapsed: Duration) -> f64 {
    (elapsed.as_secs_f64() * 1e6).round() / 1e3
}
