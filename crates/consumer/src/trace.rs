//! What a trace says of an attempt at a job.

use std::time::{Duration, SystemTime};

use async_nats::HeaderMap;
use bootstrap::trace::{self, Span, TraceContext};
use common::{Job, JobId, OutcomeError, Timestamp, subjects};
use worker::Lease;

use crate::settle::loggable;

/// Begins the span of an attempt; its parent is whoever handed the job over, also where another
/// consumer has passed it on, and for each attempt anew.
///
/// Most jobs have no headers, and most consumers record nothing: then it costs next to nothing.
pub(crate) fn process(
    headers: Option<&HeaderMap>,
    about: (JobId, u32),
    job: &Job<'_>,
    lease: Option<&Lease>,
) -> Span {
    if headers.is_some() || trace::is_on() {
        begin(headers, about, job, lease)
    } else {
        Span::default()
    }
}

#[inline(never)]
fn begin(
    headers: Option<&HeaderMap>,
    (id, number): (JobId, u32),
    job: &Job<'_>,
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
        span.set("jobs.attempt", i64::from(number));
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

/// Nothing, where the clock of the server is ahead.
fn since(moment: SystemTime) -> Duration {
    let now = SystemTime::now();
    now.duration_since(moment).unwrap_or_default()
}

/// Ends it with what became of the attempt: before the job is settled, which is for others to see.
pub(crate) fn end(span: Span, outcome: &'static str, error: Option<&OutcomeError>) {
    if span.is_recorded() {
        conclude(span, outcome, error);
    }
}

fn conclude(mut span: Span, outcome: &'static str, error: Option<&OutcomeError>) {
    span.set("jobs.outcome", outcome);
    if let Some(error) = error {
        span.failed(&error.code, &loggable(error));
    }
}
