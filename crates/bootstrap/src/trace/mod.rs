//! Traces of OpenTelemetry: what a job goes through, from whoever hands it over to its handler.
//!
//! A trace travels in the headers `traceparent` and `tracestate` of the W3C. Without
//! `--otlp-endpoint` no span is made, and a trace that others have begun is passed on as it came.
//! What spans say follows the semantic conventions for messaging.

mod context;
mod export;
mod options;
mod span;

pub use context::{TRACEPARENT, TRACESTATE, TraceContext, inherited};
pub use export::is_on;
pub(crate) use export::start;
pub use options::TraceOptions;
pub use span::{Job, Span};
