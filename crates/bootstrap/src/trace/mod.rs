//! OpenTelemetry traces of jobs, from their submission to their handler.
//!
//! A trace travels in the W3C headers `traceparent` and `tracestate`. Without `--otlp-endpoint` no span
//! is made, and the context of a trace begun elsewhere is passed on unchanged. Spans follow the semantic
//! conventions for messaging.

mod context;
mod export;
mod options;
mod span;

pub use context::{TRACEPARENT, TRACESTATE, TraceContext, inherited};
pub use export::is_on;
pub(crate) use export::start;
pub use options::TraceOptions;
pub use span::{Job, Span};
