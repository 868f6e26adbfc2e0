//! Settles durable jobs: counts how they ended, logs it, and hands the settlement to the lane.

use std::sync::Arc;
use std::time::Duration;

use bootstrap::trace::Span;
use common::{DeadReason, OutcomeError, codes};
use tracing::{info, warn};
use worker::{Lease, Settlement};

use crate::attempt_end::{AttemptEnd, Next};
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
    let (ending, settlement) = match end.next(lease.is_last_attempt()) {
        Next::Succeeded(result) => {
            if consumer.log.may_log(Topic::Success) {
                info!(job.id = %lease.id, job.kind = %kind, attempt = lease.attempt, elapsed_ms, "job succeeded");
            }
            trace::end(span, "succeeded", None);
            let settlement = Settlement::Succeeded {
                result,
                duration: elapsed,
                leaves_record: served.keep.successes(),
            };
            (Ending::Succeeded, settlement)
        }
        Next::Retry { error, retry_after } => {
            let words = ("retrying", "retry");
            failed(consumer, (&lease, span), elapsed_ms, &error, words);
            (Ending::Failed, Settlement::Failed { error, retry_after })
        }
        Next::Dead { reason, error } => {
            let words = ("dead", "dead letter");
            failed(consumer, (&lease, span), elapsed_ms, &error, words);
            let ending = if error.code == codes::INVALID_PAYLOAD {
                Ending::Rejected
            } else {
                Ending::Failed
            };
            let error = Some(error);
            (ending, Settlement::Dead { reason, error })
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

/// Logs a failed attempt, and ends its span. `outcome` is what the span says, `next` what the log says.
fn failed(
    consumer: &Consumer,
    (lease, span): (&Lease, Span),
    elapsed_ms: f64,
    error: &OutcomeError,
    (outcome, next): (&'static str, &str),
) {
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
