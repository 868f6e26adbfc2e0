//! The OpenTelemetry context in which a job is submitted.

use async_nats::HeaderMap;
use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt as _;

/// The W3C headers of a trace.
const TRACEPARENT: &str = "traceparent";
const TRACESTATE: &str = "tracestate";

/// Writes the current context into the headers of a job, unless there is none or the headers have one.
///
/// The layer of tracing-opentelemetry makes the context of an entered `tracing` span the current one.
pub(crate) fn put_current(headers: &mut HeaderMap) {
    if headers.get(TRACEPARENT).is_some() {
        return;
    }
    let context = Context::current();
    let span = context.span();
    let span = span.span_context();
    if !span.is_valid() {
        return;
    }
    let (trace, id, sampled) = (span.trace_id(), span.span_id(), span.is_sampled());
    let parent = format!("00-{trace}-{id}-{:02x}", u8::from(sampled));
    headers.insert(TRACEPARENT, parent);
    let state = span.trace_state().header();
    if !state.is_empty()
        && let Ok(state) = state.parse::<async_nats::HeaderValue>()
    {
        headers.insert(TRACESTATE, state);
    }
}
