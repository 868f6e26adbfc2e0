use std::borrow::Cow;
use std::fmt::Display;

use async_nats::HeaderMap;
use opentelemetry::trace::{
    Span as _, SpanContext, SpanKind, Status, TraceContextExt as _, Tracer as _,
};
use opentelemetry::{Context, KeyValue, Value};
use opentelemetry_sdk::trace::Span as SdkSpan;

use super::context::TraceContext;
use super::export::tracer;

/// The longest description of an error in a span, in characters.
const LONGEST: usize = 200;

/// A span of a trace; it ends when it is dropped.
///
/// If no spans are recorded, it only carries a context from elsewhere, and is empty without one. It has
/// to be cheap, because each job has one.
#[derive(Debug, Default)]
pub struct Span(Option<State>);

#[derive(Debug)]
enum State {
    /// Nothing is recorded; the context from elsewhere is passed on.
    PassedOn(Box<SpanContext>),
    Recorded(Box<Recorded>),
}

#[derive(Debug)]
struct Recorded {
    span: SdkSpan,
    /// Whether it is a call without an answer yet: if it is dropped now, the call was given up.
    awaits_answer: bool,
}

/// The attributes of a span that come from its job.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// The id of the job.
    pub id: &'a dyn Display,
    /// The kind of the job.
    pub kind: &'a dyn Display,
    /// The subject that it is submitted on, without tokens of the single job: `jobs.create` or
    /// `jobs.durable`.
    pub destination: &'static str,
}

impl Span {
    /// Begins the span of a submission, in the trace of `parent` or a new one. Its context has to be put
    /// into the message with [`Span::put_into`].
    #[must_use]
    pub fn send(parent: Option<&TraceContext>, job: Job<'_>) -> Self {
        Self::of_job(parent, SpanKind::Producer, "send", job)
    }

    /// Begins the span of an attempt; `sender` is the context in the message.
    #[must_use]
    pub fn process(sender: Option<&TraceContext>, job: Job<'_>) -> Self {
        Self::of_job(sender, SpanKind::Consumer, "process", job)
    }

    /// Begins the span of an HTTP request: its method, the route that it matched, and a look-up of its
    /// headers `traceparent` and `tracestate`.
    #[must_use]
    pub fn serve<'a>(
        method: &str,
        route: &str,
        header: impl Fn(&'static str) -> Option<&'a str>,
    ) -> Self {
        let parent = header(super::TRACEPARENT)
            .and_then(|parent| TraceContext::read(parent, header(super::TRACESTATE)));
        let name = || format!("{method} {route}").into();
        let mut span = Self::start(parent.as_ref(), SpanKind::Server, name);
        if span.is_recorded() {
            span.set("http.request.method", method.to_owned());
            span.set("http.route", route.to_owned());
        }
        span
    }

    /// Begins the span of a call to a service or a program. If it is dropped before [`Span::answered`],
    /// the call counts as failed.
    #[must_use]
    pub fn call(parent: Option<&TraceContext>, name: impl FnOnce() -> Cow<'static, str>) -> Self {
        let mut span = Self::start(parent, SpanKind::Client, name);
        if let Some(recorded) = span.recorded() {
            recorded.awaits_answer = true;
        }
        span
    }

    fn of_job(
        parent: Option<&TraceContext>,
        kind: SpanKind,
        operation: &'static str,
        job: Job<'_>,
    ) -> Self {
        let name = || format!("{operation} {}", job.destination).into();
        let mut span = Self::start(parent, kind, name);
        if span.is_recorded() {
            span.set("messaging.system", "nats");
            span.set("messaging.operation.name", operation);
            span.set("messaging.operation.type", operation);
            span.set("messaging.destination.name", job.destination);
            span.set("messaging.message.id", job.id.to_string());
            span.set("jobs.kind", job.kind.to_string());
        }
        span
    }

    fn start(
        parent: Option<&TraceContext>,
        kind: SpanKind,
        name: impl FnOnce() -> Cow<'static, str>,
    ) -> Self {
        let Some(tracer) = tracer() else {
            return Self(parent.map(|parent| State::PassedOn(Box::new(parent.0.clone()))));
        };
        let mut context = Context::new();
        if let Some(parent) = parent {
            context = context.with_remote_span_context(parent.0.clone());
        }
        let builder = tracer.span_builder(name()).with_kind(kind);
        let span = tracer.build_with_context(builder, &context);
        let recorded = Recorded {
            span,
            awaits_answer: false,
        };
        Self(Some(State::Recorded(Box::new(recorded))))
    }

    fn recorded(&mut self) -> Option<&mut Recorded> {
        match self.0.as_mut()? {
            State::PassedOn(_) => None,
            State::Recorded(recorded) => Some(recorded),
        }
    }

    /// The context for work that belongs to this span; `None` if it belongs to no trace.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        let context = match self.0.as_ref()? {
            State::PassedOn(context) => context.as_ref(),
            State::Recorded(recorded) => recorded.span.span_context(),
        };
        context.is_valid().then(|| TraceContext(context.clone()))
    }

    /// Writes the context into the headers of a NATS message.
    pub fn put_into(&self, headers: &mut HeaderMap) {
        if let Some(context) = self.context() {
            context.put_into(headers);
        }
    }

    /// Whether attributes are recorded; if not, there is no use in computing them.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        matches!(&self.0, Some(State::Recorded(recorded)) if recorded.span.is_recording())
    }

    /// Sets an attribute.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(recorded) = self.recorded() {
            recorded.span.set_attribute(KeyValue::new(name, value));
        }
    }

    /// Ends the wait of a call: with `None` for success, or with an error code. Only the first call of
    /// this method counts.
    pub fn answered(&mut self, error: Option<&str>) {
        if let Some(recorded) = self.recorded() {
            recorded.answered(error);
        }
    }

    /// Marks the span as failed, with a code for programs and a message that may be logged.
    pub fn failed(&mut self, code: &str, message: &str) {
        if let Some(recorded) = self.recorded() {
            recorded.failed(code, message);
        }
    }
}

impl Recorded {
    fn answered(&mut self, error: Option<&str>) {
        if std::mem::take(&mut self.awaits_answer)
            && let Some(error) = error
        {
            self.failed(error, "");
        }
    }

    fn failed(&mut self, code: &str, message: &str) {
        let code = KeyValue::new("error.type", code.to_owned());
        self.span.set_attribute(code);
        let message: String = message.chars().take(LONGEST).collect();
        self.span.set_status(Status::error(message));
    }
}

impl Drop for Recorded {
    fn drop(&mut self) {
        self.answered(Some("given_up"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn without_recording_a_trace_is_passed_on_unchanged() {
        let job = Job {
            id: &1,
            kind: &"mail",
            destination: "jobs.create",
        };
        let parent = TraceContext::read(PARENT, Some("a=b"));
        let spans = [
            Span::send(parent.as_ref(), job),
            Span::process(parent.as_ref(), job),
            Span::call(parent.as_ref(), || unreachable!("the name is not needed")),
            Span::serve("POST", "/v1/jobs", |name| match name {
                super::super::TRACEPARENT => Some(PARENT),
                _ => Some("a=b"),
            }),
        ];
        for mut span in spans {
            span.set("a", 1);
            span.failed("transient", "text");
            assert!(!span.is_recorded());
            assert_eq!(span.context(), parent);
        }
        let mut headers = HeaderMap::new();
        Span::send(None, job).put_into(&mut headers);
        assert!(headers.is_empty());
    }
}
