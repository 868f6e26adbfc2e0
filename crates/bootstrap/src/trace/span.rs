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

/// The longest description of an error in a span.
const LONGEST: usize = 200;

/// A piece of work in a trace; it ends when it is dropped.
///
/// Where no traces are recorded it is nothing but the trace that others have begun, to be passed on;
/// and where there is none, nothing at all: each job has one.
#[derive(Debug, Default)]
pub struct Span(Option<State>);

#[derive(Debug)]
enum State {
    Passed(Box<SpanContext>),
    On(Box<Recorded>),
}

#[derive(Debug)]
struct Recorded {
    span: SdkSpan,
    /// Whether it has failed if it is dropped now: whoever waited for a call has given it up.
    waits: bool,
}

/// What a span says of the job that it is about.
#[derive(Clone, Copy)]
pub struct Job<'a> {
    /// Its id.
    pub id: &'a dyn Display,
    /// Its kind.
    pub kind: &'a dyn Display,
    /// Where it is handed over, without what is particular to it: `jobs.create` or `jobs.durable`.
    pub destination: &'static str,
}

impl Span {
    /// A job is handed over, as part of a trace if there is one already. What the span is put into
    /// ([`Span::put_into`]) belongs to it.
    #[must_use]
    pub fn send(parent: Option<&TraceContext>, job: Job<'_>) -> Self {
        Self::of_job(parent, SpanKind::Producer, "send", job)
    }

    /// A job is run, of which this is the sender's context.
    #[must_use]
    pub fn process(sender: Option<&TraceContext>, job: Job<'_>) -> Self {
        Self::of_job(sender, SpanKind::Consumer, "process", job)
    }

    /// A request has come in over HTTP: its method, the route that it matched, and its headers
    /// `traceparent` and `tracestate`.
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

    /// Another service or a program is called. It has failed if it is dropped before
    /// [`Span::answered`].
    #[must_use]
    pub fn call(parent: Option<&TraceContext>, name: impl FnOnce() -> Cow<'static, str>) -> Self {
        let mut span = Self::start(parent, SpanKind::Client, name);
        if let Some(recorded) = span.recorded() {
            recorded.waits = true;
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
            return Self(parent.map(|parent| State::Passed(Box::new(parent.0.clone()))));
        };
        let mut context = Context::new();
        if let Some(parent) = parent {
            context = context.with_remote_span_context(parent.0.clone());
        }
        let builder = tracer.span_builder(name()).with_kind(kind);
        let span = tracer.build_with_context(builder, &context);
        let recorded = Recorded { span, waits: false };
        Self(Some(State::On(Box::new(recorded))))
    }

    fn recorded(&mut self) -> Option<&mut Recorded> {
        match self.0.as_mut()? {
            State::Passed(_) => None,
            State::On(recorded) => Some(recorded),
        }
    }

    /// Where in which trace this is, for what is done because of it.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        let context = match self.0.as_ref()? {
            State::Passed(context) => context.as_ref(),
            State::On(recorded) => recorded.span.span_context(),
        };
        context.is_valid().then(|| TraceContext(context.clone()))
    }

    /// Writes the context into the headers of a NATS message.
    pub fn put_into(&self, headers: &mut HeaderMap) {
        if let Some(context) = self.context() {
            context.put_into(headers);
        }
    }

    /// Whether it is of any use to say more of it.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        matches!(&self.0, Some(State::On(recorded)) if recorded.span.is_recording())
    }

    /// Says more of it.
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(recorded) = self.recorded() {
            recorded.span.set_attribute(KeyValue::new(name, value));
        }
    }

    /// What was called has answered, or could not be called: then this is a word for why. What is
    /// said of it later does not count.
    pub fn answered(&mut self, error: Option<&str>) {
        if let Some(recorded) = self.recorded() {
            recorded.answered(error);
        }
    }

    /// It failed: a word for programs, and for people as much as may stand in a log.
    pub fn failed(&mut self, code: &str, message: &str) {
        if let Some(recorded) = self.recorded() {
            recorded.failed(code, message);
        }
    }
}

impl Recorded {
    fn answered(&mut self, error: Option<&str>) {
        if std::mem::take(&mut self.waits)
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
    fn where_nothing_is_recorded_a_trace_is_passed_on_as_it_came() {
        let job = Job {
            id: &1,
            kind: &"mail",
            destination: "jobs.create",
        };
        let parent = TraceContext::read(PARENT, Some("a=b"));
        let spans = [
            Span::send(parent.as_ref(), job),
            Span::process(parent.as_ref(), job),
            Span::call(parent.as_ref(), || unreachable!("nobody reads its name")),
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
