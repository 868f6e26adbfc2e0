//! The span of an attempt at a job.

use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use bootstrap::trace::{self, Span, TraceContext};
use common::{JobId, JobMessage, OutcomeError, Timestamp, subjects};
use worker::Lease;

use crate::job_log::loggable;

/// Begins the span of an attempt. Its parent is the span that submitted the job, for every
/// attempt and also when another consumer forwarded the job.
///
/// Most jobs have no headers and most consumers record no traces: then this costs next to nothing.
pub(crate) fn process(
    headers: Option<&HeaderMap>,
    attempt: (JobId, u32),
    job: &JobMessage<'_>,
    lease: Option<&Lease>,
) -> Span {
    if headers.is_some() || trace::is_on() {
        begin(headers, attempt, job, lease)
    } else {
        Span::default()
    }
}

#[inline(never)]
fn begin(
    headers: Option<&HeaderMap>,
    (id, attempt): (JobId, u32),
    job: &JobMessage<'_>,
    lease: Option<&Lease>,
) -> Span {
    let sender = TraceContext::of_nats(headers);
    let (lane, destination) = match lease {
        Some(_) => (subjects::DURABLE_LANE, subjects::DURABLE),
        None => (subjects::CORE_LANE, subjects::CREATE),
    };
    let about = trace::Job {
        id: &id,
        kind: &job.kind,
        destination,
    };
    let mut span = Span::process(sender.as_ref(), about);
    if span.is_recorded() {
        span.set("messaging.consumer.group.name", subjects::WORKERS);
        span.set("jobs.lane", lane);
        span.set("jobs.attempt", i64::from(attempt));
        let waited = match lease {
            Some(lease) => lease.queued_at().map(since),
            None => job
                .created_at
                .map(|created| Timestamp::now().since(created)),
        };
        if let Some(waited) = waited {
            let waited = (waited.as_secs_f64() * 1e6).round() / 1e3;
            span.set("jobs.queue_wait_ms", waited);
        }
    }
    span
}

/// Time since a moment; zero if the clock of the server is ahead of ours.
fn since(moment: SystemTime) -> Duration {
    let now = SystemTime::now();
    now.duration_since(moment).unwrap_or_default()
}

/// Ends the span with the outcome of the attempt. Called before the job is settled, because a
/// settled job is visible to others.
pub(crate) fn end(span: Span, outcome: &'static str, error: Option<&OutcomeError>) {
    if span.is_recorded() {
        end_recorded(span, outcome, error);
    }
}

fn end_recorded(mut span: Span, outcome: &'static str, error: Option<&OutcomeError>) {
    span.set("jobs.outcome", outcome);
    if let Some(error) = error {
        span.failed(&error.code, &loggable(error));
    }
}
