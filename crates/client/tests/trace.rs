//! The trace context of a submission. Needs the feature `opentelemetry`.

use client::{Client, Draft, Job, NewJob};
use jetstream::{Stream, Topology, direct_get};
use opentelemetry::trace::{TraceContextExt as _, TracerProvider as _};
use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider};
use serde::{Deserialize, Serialize};
use test_support::NatsServer;
use tracing::{Instrument as _, info_span};
use tracing_subscriber::layer::SubscriberExt as _;

#[derive(Serialize, Deserialize)]
struct Echo;

impl Job for Echo {
    const KIND: &'static str = "echo";
    type Output = ();
}

/// Sends the spans of this thread to OpenTelemetry.
fn subscribe(sampler: Sampler) -> tracing::subscriber::DefaultGuard {
    let provider = SdkTracerProvider::builder().with_sampler(sampler).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    tracing::subscriber::set_default(tracing_subscriber::registry().with(layer))
}

/// The header of the span that is entered now.
fn current() -> String {
    let context = opentelemetry::Context::current();
    let span = context.span().span_context().clone();
    let flags = span.trace_flags().to_u8();
    format!("00-{}-{}-{flags:02x}", span.trace_id(), span.span_id())
}

fn header(job: &NewJob, name: &str) -> Option<String> {
    Some(job.headers.get(name)?.as_str().to_owned())
}

#[test]
fn a_job_carries_the_context_of_the_span_in_which_it_is_made() {
    for (sampler, flags) in [(Sampler::AlwaysOn, "-01"), (Sampler::AlwaysOff, "-00")] {
        let _subscriber = subscribe(sampler);
        let outside = Draft::new(Echo).into_job().unwrap();
        assert_eq!(header(&outside, "traceparent"), None);
        info_span!("order").in_scope(|| {
            let job = Draft::new(Echo).into_job().unwrap();
            let parent = header(&job, "traceparent").unwrap();
            assert_eq!(parent, current());
            assert!(parent.ends_with(flags), "{parent}");
            assert_eq!(header(&job, "tracestate"), None);
            let other = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
            let job = Draft::new(Echo).traceparent(other).into_job().unwrap();
            assert_eq!(header(&job, "traceparent").unwrap(), other);
        });
    }
}

#[tokio::test]
async fn an_instrumented_submission_is_stored_with_its_context() {
    let _subscriber = subscribe(Sampler::AlwaysOn);
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await.into();
    Topology::default().ensure(&worker).await.unwrap();
    let jobs = Client::over(nats.connect_as("application").await);
    let submission = async {
        let handle = jobs.submit(Echo).await.unwrap();
        (handle.id(), current())
    };
    let (id, parent) = submission.instrument(info_span!("order")).await;
    let subject = format!("jobs.durable.{id}.>");
    let stored = direct_get::last(&worker, Stream::Jobs, &subject).await;
    let headers = stored.unwrap().unwrap().headers;
    assert_eq!(headers.get("traceparent").unwrap().as_str(), parent);
}
