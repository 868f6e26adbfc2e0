//! The span of a job that ends without a call of its handler.

use bootstrap::trace::{Job, Span, TraceContext};
use common::subjects;

use crate::lease::Lease;
use crate::settle::Settlement;

/// Records such a span.
pub(crate) fn refused(lease: &Lease, settlement: &Settlement) {
    let (outcome, code) = match settlement {
        Settlement::Expired => ("expired", "expired"),
        Settlement::Dead { reason, .. } => ("dead", reason.as_str()),
        _ => return,
    };
    let sender = TraceContext::of_nats(lease.headers.as_ref());
    let job = Job {
        id: &lease.id,
        kind: &lease.kind,
        destination: subjects::DURABLE,
    };
    let mut span = Span::process(sender.as_ref(), job);
    span.set("messaging.consumer.group.name", subjects::WORKERS);
    span.set("jobs.lane", subjects::DURABLE_LANE);
    span.set("jobs.outcome", outcome);
    span.failed(code, "");
}
