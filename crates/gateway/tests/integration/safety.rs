//! A server that may lose what it has confirmed.

use serde_json::json;
use test_support::{DEADLINE, NatsServer, Signal, eventually};

use crate::support::{Gateway, answer_with, consumer, streams_without_consumer};

const JOB: &str = r#"{"kind":"echo","payload":1}"#;
const LAZY: &str = "jetstream { store_dir: $NATS_STORE_DIR, strict: true, max_file_store: 8GB }";

#[tokio::test]
async fn no_durable_job_is_taken_by_a_server_that_confirms_too_early_unless_that_is_wanted() {
    let nats = NatsServer::builder().config(LAZY).start().await;
    let mut maker = consumer(&nats, &["--accept-unsafe-server"]).await;
    maker.signal(Signal::SIGTERM);
    assert!(maker.wait().await.success());
    let mut gateway = Gateway::start(&nats).await;
    let line = |line: &str| line.contains("WARN") && line.contains("sync_interval: always");
    gateway.service.wait_for_line(line).await;
    for path in ["/v1/jobs", "/v1/jobs?wait=1s", "/v1/jobs?all_or_none=true"] {
        let body = if path.contains("all") {
            format!("[{JOB},{JOB}]")
        } else {
            JOB.to_owned()
        };
        let answer = gateway.post(path, &body).await;
        assert_eq!(answer.problem().0, 503, "{path}: {answer:?}");
        for part in [
            "takes no durable jobs",
            "sync_interval: always",
            "--accept-unsafe-server",
        ] {
            assert!(answer.text.contains(part), "{part}: {answer:?}");
        }
    }
    let depths = gateway.get("/v1/streams").await.json();
    assert_eq!(depths["streams"][0]["messages"], 0, "{depths}");
    eventually(DEADLINE, "the page to say why", async || {
        let page = gateway.get("/").await.text;
        (page.contains("takes no durable jobs") && page.contains("sync_interval")).then_some(())
    })
    .await;

    // Nothing that the server stores is promised to these.
    let outcome = json!({"status": "succeeded", "consumer": "c", "attempt": 1, "duration_ms": 0});
    let _worker = answer_with(&nats, outcome).await;
    for (delivery, status) in [("confirmed", 200), ("fire-and-forget", 202)] {
        let path = format!("/v1/jobs?delivery={delivery}");
        let answer = gateway.post(&path, JOB).await;
        assert_eq!(answer.status, status, "{answer:?}");
    }

    let mut going_on = Gateway::with(&nats, &["--accept-unsafe-server"]).await;
    going_on.service.wait_for_line(line).await;
    assert_eq!(going_on.post("/v1/jobs", JOB).await.status, 202);
}

#[tokio::test]
async fn the_server_is_looked_at_again_when_it_is_another_one() {
    let mut nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    assert_eq!(gateway.post("/v1/jobs", JOB).await.status, 202);
    // The same address leads to a server that confirms too early, and then to a good one again.
    for (lines, status, words) in [
        (LAZY, 503, "takes no durable jobs"),
        (
            "jetstream { store_dir: $NATS_STORE_DIR, sync_interval: always, strict: true }",
            202,
            "queued",
        ),
    ] {
        nats.stop().await;
        nats.reconfigure(lines);
        nats.start_again().await;
        // Until it is connected, it is not there.
        let answer = eventually(DEADLINE, "the gateway to be connected", async || {
            let answer = gateway.post("/v1/jobs?wait=1ms", JOB).await;
            let away = ["no connection", "has not answered", "not confirmed"];
            let away = away.iter().any(|words| answer.text.contains(words));
            assert!(away || answer.status == status, "{answer:?}");
            (!away).then_some(answer)
        })
        .await;
        assert!(answer.text.contains(words), "{answer:?}");
    }
}
