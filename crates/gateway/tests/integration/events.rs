//! Following a job.

use std::fs;

use reqwest::{Method, Response};
use serde_json::{Value, json};
use test_support::{NatsServer, Signal};

use crate::support::{Gateway, consumer, send};

/// An event as it came.
#[derive(Debug)]
struct Event {
    id: String,
    record: Value,
}

/// A stream of events.
struct Events {
    response: Response,
    read: String,
}

impl Events {
    async fn open(gateway: &Gateway, job: &str, last: Option<&str>) -> Self {
        let mut request = gateway.request(Method::GET, &format!("/v1/jobs/{job}/events"));
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self {
            response,
            read: String::new(),
        }
    }

    /// The next event; none at the end.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((block, _)) = self.read.split_once("\n\n") {
                let line = |name: &str| {
                    let mut lines = block.lines();
                    lines.find_map(|line| Some(line.strip_prefix(name)?.trim().to_owned()))
                };
                let event = line("data:").filter(|_| line("event:").is_some());
                let event = event.map(|data| Event {
                    id: line("id:").unwrap(),
                    record: serde_json::from_str(&data).unwrap(),
                });
                let read = block.len() + 2;
                self.read.drain(..read);
                if event.is_some() {
                    return event;
                }
                continue;
            }
            let chunk = self.response.chunk().await.unwrap()?;
            self.read.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

#[tokio::test]
async fn a_job_is_followed_to_its_end_and_a_lost_stream_resumes() {
    let nats = NatsServer::start().await;
    let gateway = Gateway::start(&nats).await;
    let mut first = consumer(&nats, &[]).await;
    let backoff = json!({"initial": "1h", "max": "1h"});
    let job = json!({"kind": "fail", "payload": {}, "backoff": backoff});
    let id = gateway.post("/v1/jobs", &job.to_string()).await.id();
    gateway.job_is(&id, "retrying").await;
    let mut events = Events::open(&gateway, &id, None).await;
    let event = events.next().await.unwrap();
    assert_eq!(
        (&event.record["state"], &event.record["attempt"]),
        (&json!("retrying"), &json!(1))
    );
    // The stream is lost, and taken up again where it was.
    drop(events);
    let mut events = Events::open(&gateway, &id, Some(&event.id)).await;
    gateway.delete(&format!("/v1/jobs/{id}")).await;
    let mut last = event;
    while let Some(event) = events.next().await {
        assert_ne!(event.id, last.id, "told twice");
        last = event;
    }
    assert_eq!(
        (&last.record["state"], &last.record["attempt"]),
        (&json!("cancelled"), &json!(1))
    );
    // Whoever has seen the end need not come again.
    let path = format!("/v1/jobs/{id}/events");
    let request = gateway
        .request(Method::GET, &path)
        .header("last-event-id", &last.id);
    assert_eq!(request.send().await.unwrap().status(), 204);
    // A late one is told the end, and no more.
    let mut events = Events::open(&gateway, &id, None).await;
    assert_eq!(events.next().await.unwrap().record["state"], "cancelled");
    assert!(events.next().await.is_none());
    first.signal(Signal::SIGTERM);
    assert!(first.wait().await.success());
}

#[tokio::test]
async fn open_streams_and_waits_do_not_hold_up_the_end() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let mut gateway = Gateway::start(&nats).await;
    let later = r#"{"kind":"echo","run_at":"2099-01-01T00:00:00Z"}"#;
    let id = gateway.post("/v1/jobs", later).await.id();
    let mut events = Events::open(&gateway, &id, None).await;
    assert_eq!(events.next().await.unwrap().record["state"], "scheduled");
    let request = gateway.posting(
        "/v1/jobs?wait=5m",
        r#"{"kind":"sleep","payload":{"ms":60000}}"#,
    );
    let waiting = tokio::spawn(request.send());
    test_support::eventually(
        test_support::DEADLINE,
        "the job that is waited for",
        async || {
            let jobs = gateway.get("/v1/jobs?kind=sleep").await.json();
            (jobs["jobs"].as_array().unwrap().len() == 1).then_some(())
        },
    )
    .await;
    gateway.service.signal(Signal::SIGTERM);
    // A consumer has put the job off meanwhile, perhaps.
    while let Some(event) = events.next().await {
        assert_eq!(event.record["state"], "scheduled");
    }
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(answer.status(), 202);
    assert!(gateway.service.wait().await.success());
}

#[tokio::test]
async fn streams_end_when_the_token_is_withdrawn_or_loses_the_scope() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let entry = |name: &str, scope: &str| {
        format!(
            "[[token]]\nname = \"{name}\"\ntoken = \"token-of-{name}-0123456789\"\nscopes = [\"submit\", \"{scope}\"]\n"
        )
    };
    let file = tempfile::NamedTempFile::new().unwrap();
    let before = ["gone", "blind", "kept"].map(|name| entry(name, "read"));
    fs::write(file.path(), before.concat()).unwrap();
    let mut gateway = Gateway::with(&nats, &["--tokens", file.path().to_str().unwrap()]).await;
    let bearer = |name: &str| format!("token-of-{name}-0123456789");
    let later = r#"{"kind":"echo","run_at":"2099-01-01T00:00:00Z"}"#;
    let submission = gateway.posting("/v1/jobs", later);
    let id = send(submission.bearer_auth(bearer("kept"))).await.id();
    let paths = [format!("/v1/jobs/{id}/events"), "/live".to_owned()];
    let mut streams = Vec::new();
    for path in &paths {
        for name in ["gone", "blind", "kept"] {
            let request = gateway.request(Method::GET, path);
            let mut stream = request.bearer_auth(bearer(name)).send().await.unwrap();
            assert_eq!(stream.status(), 200, "{path}");
            assert!(stream.chunk().await.unwrap().is_some(), "{path}");
            streams.push((name, path, stream));
        }
    }
    let after = [entry("blind", "operate"), entry("kept", "read")];
    fs::write(file.path(), after.concat()).unwrap();
    let is_read = |line: &str| line.contains("read the tokens again");
    gateway.service.wait_for_line(is_read).await;
    for (name, path, stream) in &mut streams {
        if *name != "kept" {
            let rest = async { while stream.chunk().await.unwrap().is_some() {} };
            let ended = tokio::time::timeout(test_support::DEADLINE, rest).await;
            assert!(ended.is_ok(), "{path} of {name} goes on");
        }
    }
    // The others, which were begun no later, go on: there is more to come, if only that all is well.
    for (name, path, stream) in &mut streams {
        if *name == "kept" {
            assert!(stream.chunk().await.unwrap().is_some(), "{path} has ended");
        }
    }
    drop(streams);
    gateway.stop().await;
}

#[tokio::test]
async fn streams_are_bounded() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::with(&nats, &["--waiting", "1"]).await;
    let later = r#"{"kind":"echo","run_at":"2099-01-01T00:00:00Z"}"#;
    let id = gateway.post("/v1/jobs", later).await.id();
    let events = Events::open(&gateway, &id, None).await;
    let answer = gateway.get(&format!("/v1/jobs/{id}/events")).await;
    assert_eq!(answer.problem().0, 429);
    assert!(answer.text.contains("--waiting"), "{answer:?}");
    drop(events);
    test_support::eventually(test_support::DEADLINE, "room for a stream", async || {
        let request = gateway.posting("/v1/jobs?wait=1m", r#"{"kind":"echo"}"#);
        (request.send().await.unwrap().status() == 200).then_some(())
    })
    .await;
}
