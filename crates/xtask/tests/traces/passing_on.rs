//! Nobody here records traces: those of others go through all the same.

use async_nats::{HeaderMap, Request};
use common::{JobId, Outcome, Priority, Status, Timestamp, subjects};
use serde_json::json;
use std::time::Duration;

use crate::fixture::{Fixture, stop};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn headers(traceparent: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("traceparent", traceparent);
    headers.insert("tracestate", "vendor=1");
    headers
}

async fn outcome(fixture: &Fixture, traceparent: &str) -> Outcome {
    let publisher = fixture.server.connect_as("publisher").await;
    let request = Request::new()
        .headers(headers(traceparent))
        .payload(r#"{"kind":"traced"}"#.into());
    let answer = publisher.send_request(subjects::CREATE, request).await;
    serde_json::from_slice(&answer.unwrap().payload).unwrap()
}

#[tokio::test]
async fn a_consumer_that_passes_a_job_on_passes_its_trace_on() {
    let fixture = Fixture::start().await;
    fixture.become_good();
    // Of both, NATS takes either: one in about 65,000 times none of the jobs is passed on.
    let other = fixture.consumer(&["--kinds", "echo"]).await;
    let consumer = fixture.consumer(&["--kinds", "traced"]).await;
    for _ in 0..16 {
        assert_eq!(outcome(&fixture, PARENT).await.status, Status::Succeeded);
    }
    stop(other).await;
    stop(consumer).await;
    let expected = format!("1 {PARENT} vendor=1");
    assert_eq!(fixture.said(), vec![expected; 16]);
}

#[tokio::test]
async fn the_trace_of_a_durable_job_survives_its_wait_its_retry_and_its_replay() {
    let fixture = Fixture::start().await;
    let consumer = fixture.consumer(&[]).await;
    let operator = fixture.server.connect_as("operator").await;
    let (id, kind) = (JobId::generate(), "traced".parse().unwrap());
    // The consumer puts it off, and the server makes it a job again.
    let run_at = Timestamp::now().after(Duration::from_secs(2));
    let job = json!({"id": id, "kind": kind, "run_at": run_at}).to_string();
    let subject = subjects::durable_job(id, Priority::Normal, 1, &kind);
    let request = Request::new().headers(headers(PARENT)).payload(job.into());
    let stored = operator.send_request(subject, request).await.unwrap();
    assert!(stored.payload.starts_with(b"{\"stream\":\"JOBS\""));
    fixture.attempts(2).await;
    fixture.become_good();
    fixture.replay(&id.to_string()).await;
    fixture.attempts(3).await;
    stop(consumer).await;
    let expected = [1, 2, 1].map(|attempt| format!("{attempt} {PARENT} vendor=1"));
    assert_eq!(fixture.said(), expected);
}

#[tokio::test]
async fn a_malformed_trace_costs_a_job_nothing() {
    let fixture = Fixture::start().await;
    fixture.become_good();
    let consumer = fixture.recording_consumer().await;
    for malformed in [
        "",
        "00",
        "$(touch x)",
        &PARENT.to_uppercase(),
        &"0".repeat(4000),
    ] {
        assert_eq!(outcome(&fixture, malformed).await.status, Status::Succeeded);
    }
    stop(consumer).await;
    let spans = fixture.collector.spans();
    assert_eq!(spans.len(), 10);
    let first = spans.iter().filter(|span| span.parent.is_empty());
    assert_eq!(first.count(), 5, "each begins a trace of its own");
    assert_eq!(fixture.said().len(), 5);
    assert!(fixture.said().iter().all(|line| line.starts_with("1 00-")));
}
