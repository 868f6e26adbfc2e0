//! Publisher and consumer record what they do.

use crate::collector::Span;
use crate::fixture::{Fixture, stop};

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.name == name).collect()
}

/// What every span of a job says, by the semantic conventions for messaging.
fn is_messaging(span: &Span, operation: &str, destination: &str) {
    assert_eq!(span.name, format!("{operation} {destination}"));
    for (name, expected) in [
        ("messaging.system", "nats"),
        ("messaging.operation.name", operation),
        ("messaging.operation.type", operation),
        ("messaging.destination.name", destination),
    ] {
        assert_eq!(span.get(name), expected, "{span:?}");
    }
    assert_ne!(span.get("messaging.message.id"), "");
}

/// One trace, in which the one is because of the other.
fn follows(child: &Span, parent: &Span) {
    assert_eq!(child.trace, parent.trace);
    assert_eq!(child.parent, parent.id, "{child:?} {parent:?}");
    assert!(child.start >= parent.start);
}

#[tokio::test]
async fn a_confirmed_job_is_one_trace_from_its_publisher_to_the_program_that_runs_it() {
    let fixture = Fixture::start().await;
    fixture.become_good();
    let consumer = fixture.recording_consumer().await;
    fixture.publish_recorded(&["--kind", "traced"]).await;
    stop(consumer).await;

    let spans = fixture.collector.spans();
    let [send, process, run] = &spans[..] else {
        panic!("{spans:?}")
    };
    is_messaging(send, "send", "jobs.create");
    assert_eq!((send.kind, send.parent.as_str()), ("producer", ""));
    assert_eq!(send.service, "publisher");
    assert_eq!(send.get("jobs.outcome"), "succeeded");
    is_messaging(process, "process", "jobs.create");
    assert_eq!(
        (process.kind, process.service.as_str()),
        ("consumer", "consumer")
    );
    follows(process, send);
    assert!(process.end <= send.end);
    for (name, expected) in [
        ("messaging.message.id", send.get("messaging.message.id")),
        ("messaging.consumer.group.name", "workers"),
        ("jobs.kind", "traced"),
        ("jobs.lane", "core"),
        ("jobs.attempt", "1"),
        ("jobs.outcome", "succeeded"),
    ] {
        assert_eq!(process.get(name), expected, "{process:?}");
    }
    assert!(process.get("jobs.queue_wait_ms").parse::<f64>().unwrap() >= 0.0);
    assert_eq!((run.kind, run.get("process.exit.code")), ("client", "0"));
    follows(run, process);
    assert!(spans.iter().all(|span| !span.failed));
    let expected = format!("1 00-{}-{}-01", run.trace, run.id);
    assert_eq!(fixture.said(), [expected]);
}

#[tokio::test]
async fn a_request_over_http_is_one_trace_from_its_answer_to_the_program_that_runs_the_job() {
    let fixture = Fixture::start().await;
    fixture.become_good();
    let consumer = fixture.recording_consumer().await;
    let (gateway, address) = fixture.recording_gateway().await;
    let job = r#"{"kind":"traced"}"#;
    let answer = test_support::http_post(&*address, "/v1/jobs?wait=30s", job).await;
    let answer = answer.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.body);
    stop(gateway).await;
    stop(consumer).await;

    let spans = fixture.collector.spans();
    let [serve, send, process, run] = &spans[..] else {
        panic!("{spans:?}")
    };
    assert_eq!(serve.name, "POST /v1/jobs");
    assert_eq!((serve.kind, serve.parent.as_str()), ("server", ""));
    assert_eq!(serve.service, "gateway");
    for (name, expected) in [
        ("http.request.method", "POST"),
        ("http.route", "/v1/jobs"),
        ("http.response.status_code", "200"),
    ] {
        assert_eq!(serve.get(name), expected, "{serve:?}");
    }
    is_messaging(send, "send", "jobs.durable");
    assert_eq!((send.kind, send.service.as_str()), ("producer", "gateway"));
    follows(send, serve);
    is_messaging(process, "process", "jobs.durable");
    let by = (process.kind, process.service.as_str());
    assert_eq!(by, ("consumer", "consumer"));
    follows(process, send);
    let id = "messaging.message.id";
    assert_eq!(process.get(id), send.get(id));
    assert_eq!(process.get("jobs.outcome"), "succeeded");
    // It was waited for.
    assert!(process.end <= serve.end);
    follows(run, process);
    assert!(spans.iter().all(|span| !span.failed));
}

#[tokio::test]
async fn the_trace_of_a_durable_job_goes_on_through_retry_dead_letter_and_replay() {
    let fixture = Fixture::start().await;
    let consumer = fixture.recording_consumer().await;
    let durable = ["--delivery", "durable", "--kind", "traced", "--delay", "1s"];
    fixture.publish_recorded(&durable).await;
    fixture.attempts(2).await;
    let send = fixture.collector.spans().remove(0);
    fixture.become_good();
    fixture.replay(send.get("messaging.message.id")).await;
    fixture.attempts(3).await;
    stop(consumer).await;

    let spans = fixture.collector.spans();
    is_messaging(&send, "send", "jobs.durable");
    assert_eq!((send.kind, send.parent.as_str()), ("producer", ""));
    let attempts = named(&spans, "process jobs.durable");
    let expected = [
        ("1", "retrying", "transient", true),
        ("2", "dead", "permanent", true),
        ("1", "succeeded", "", false),
    ];
    assert_eq!(attempts.len(), expected.len(), "{spans:?}");
    for (attempt, expected) in attempts.iter().zip(expected) {
        is_messaging(attempt, "process", "jobs.durable");
        follows(attempt, &send);
        let said = ["jobs.attempt", "jobs.outcome", "error.type"].map(|name| attempt.get(name));
        assert_eq!((said[0], said[1], said[2], attempt.failed), expected);
        assert_eq!(
            (attempt.kind, attempt.get("jobs.lane")),
            ("consumer", "durable")
        );
        assert!(attempt.get("jobs.queue_wait_ms").parse::<f64>().unwrap() >= 0.0);
    }
    let runs: Vec<_> = spans.iter().filter(|span| span.kind == "client").collect();
    let codes: Vec<_> = runs
        .iter()
        .map(|run| run.get("process.exit.code"))
        .collect();
    assert_eq!(codes, ["75", "74", "0"]);
    for (run, attempt) in runs.iter().zip(attempts) {
        follows(run, attempt);
    }
    assert_eq!(spans.len(), 7);
}

#[tokio::test]
async fn what_a_handler_asks_a_web_service_belongs_to_the_trace() {
    let fixture = Fixture::start().await;
    let consumer = fixture.recording_consumer().await;
    fixture.publish_recorded(&["--kind", "hook"]).await;
    stop(consumer).await;
    let spans = fixture.collector.spans();
    let [_, process, call] = &spans[..] else {
        panic!("{spans:?}")
    };
    assert_eq!((call.name.as_str(), call.kind), ("POST", "client"));
    follows(call, process);
    for (name, expected) in [
        ("http.request.method", "POST"),
        ("http.response.status_code", "200"),
        ("server.address", "127.0.0.1"),
        ("url.full", ""),
    ] {
        assert_eq!(call.get(name), expected, "{call:?}");
    }
    let expected = format!("00-{}-{}-01", call.trace, call.id);
    assert_eq!(fixture.collector.calls(), [expected]);
}

#[tokio::test]
async fn a_durable_job_that_expires_says_so_in_its_trace() {
    let fixture = Fixture::start().await;
    let consumer = fixture.recording_consumer().await;
    let late = ["--deadline", "100ms", "--delay", "2s"];
    let durable = ["--delivery", "durable", "--kind", "traced"];
    fixture.publish_recorded(&[durable, late].concat()).await;
    let send = fixture.collector.spans().remove(0);
    fixture.ends(send.get("messaging.message.id")).await;
    stop(consumer).await;
    let spans = fixture.collector.spans();
    let [send, process] = &spans[..] else {
        panic!("{spans:?}")
    };
    is_messaging(process, "process", "jobs.durable");
    follows(process, send);
    let said = ["jobs.outcome", "error.type"].map(|name| process.get(name));
    assert_eq!(said, ["expired", "expired"]);
    assert!(process.failed && fixture.said().is_empty());
}

#[tokio::test]
async fn what_is_given_up_has_failed() {
    let fixture = Fixture::start().await;
    let consumer = fixture.recording_consumer().await;
    let publisher = fixture.publisher().args(["--count", "1", "--kind", "slow"]);
    let mut publisher = publisher
        .args(["--timeout", "300ms"])
        .args(["--otlp-endpoint", &fixture.collector.endpoint()])
        .start();
    assert_eq!(publisher.wait().await.code(), Some(1));
    stop(consumer).await;
    let spans = fixture.collector.spans();
    let said: Vec<_> = spans
        .iter()
        .map(|span| (span.name.as_str(), span.get("error.type"), span.failed))
        .collect();
    let expected = [
        ("send jobs.create", "timeout", true),
        ("process jobs.create", "timeout", true),
        ("sleep", "given_up", true),
    ];
    assert_eq!(said, expected);
}

#[tokio::test]
async fn a_trace_that_is_not_to_be_recorded_is_recorded_nowhere_and_still_passed_on() {
    let fixture = Fixture::start().await;
    fixture.become_good();
    let consumer = fixture.recording_consumer().await;
    for delivery in ["confirmed", "fire-and-forget", "durable"] {
        let none = [
            "--trace-ratio",
            "0",
            "--kind",
            "traced",
            "--delivery",
            delivery,
        ];
        fixture.publish_recorded(&none).await;
    }
    let said = fixture.attempts(3).await;
    stop(consumer).await;
    assert_eq!(fixture.collector.spans().len(), 0);
    for line in said {
        assert!(line.starts_with("1 00-") && line.ends_with("-00"), "{line}");
    }
}

#[tokio::test]
async fn a_publisher_that_is_run_in_a_trace_goes_on_with_it() {
    let fixture = Fixture::start().await;
    fixture.become_good();
    let consumer = fixture.consumer(&[]).await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let publisher = fixture.publisher().env("TRACEPARENT", parent);
    let once = ["--count", "1", "--kind", "traced"];
    assert!(publisher.args(once).start().wait().await.success());
    stop(consumer).await;
    assert_eq!(fixture.said(), [format!("1 {parent}")]);
    assert_eq!(fixture.collector.spans().len(), 0);
}
