//! Looking jobs up, listing and cancelling them.

use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, eventually};

use crate::support::{Gateway, consumer, streams_without_consumer};

const NOBODY: &str = "01890a5d-ac96-774b-bcce-b302099a8057";

/// A text that a page must never run, wherever it is shown.
const SCRIPT: &str = "<script>alert('x')</script>\" onload=\"";

#[tokio::test]
async fn the_history_of_a_job_is_told() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    let job = json!({
        "kind": "fail", "payload": {"message": SCRIPT}, "max_attempts": 2,
        "backoff": {"initial": "1ms", "max": "1ms"},
    });
    let answer = gateway.post("/v1/jobs?wait=1m", &job.to_string()).await;
    let record = gateway.get(&format!("/v1/jobs/{}", answer.id())).await;
    assert_eq!(record.status, 200);
    // A browser takes it for nothing but data.
    assert_eq!(record.headers["content-type"], "application/json");
    assert_eq!(record.headers["x-content-type-options"], "nosniff");
    let record = record.json();
    assert_eq!(
        (&record["state"], &record["reason"]),
        (&json!("dead"), &json!("attempts_used_up"))
    );
    let failures = record["failures"].as_array().unwrap();
    assert_eq!(failures.len(), 2);
    assert!(
        failures[0]["error"]["message"]
            .as_str()
            .unwrap()
            .contains(SCRIPT)
    );
}

#[tokio::test]
async fn unknown_jobs_and_bad_ids_are_told_apart() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    assert_eq!(
        gateway.get(&format!("/v1/jobs/{NOBODY}")).await.problem().0,
        404
    );
    assert_eq!(
        gateway.get("/v1/jobs/7").await.problem(),
        (400, Some("id".to_owned()))
    );
    assert_eq!(
        gateway
            .get(&format!("/v1/jobs/{NOBODY}/events"))
            .await
            .problem()
            .0,
        404
    );
    assert_eq!(
        gateway
            .delete(&format!("/v1/jobs/{NOBODY}"))
            .await
            .problem()
            .0,
        404
    );
    assert_eq!(gateway.get("/v1/nothing").await.problem().0, 404);
    assert_eq!(gateway.delete("/v1/fleet").await.problem().0, 405);
}

#[tokio::test]
async fn jobs_are_listed_page_by_page() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let mut ids = Vec::new();
    for kind in ["a", "b", "a"] {
        ids.push(
            gateway
                .post("/v1/jobs", &json!({"kind": kind}).to_string())
                .await
                .id(),
        );
    }
    let listed = |body: &Value| -> Vec<String> {
        let jobs = body["jobs"].as_array().unwrap();
        jobs.iter()
            .map(|job| job["id"].as_str().unwrap().to_owned())
            .collect()
    };
    let page = gateway.get("/v1/jobs?limit=2").await.json();
    assert_eq!(listed(&page), [&*ids[2], &*ids[1]]);
    let next = page["next"].as_str().unwrap();
    let page = gateway
        .get(&format!("/v1/jobs?limit=2&cursor={next}"))
        .await
        .json();
    assert_eq!(listed(&page), [&*ids[0]]);
    let page = gateway.get("/v1/jobs?kind=b&state=queued").await.json();
    assert_eq!(listed(&page), [&*ids[1]]);
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("cursor=%3Cscript%3E", "cursor"),
        ("state=lost", "state"),
        ("kind=a%20b", "kind"),
        ("sate=dead", "sate"),
    ] {
        let answer = gateway.get(&format!("/v1/jobs?{query}")).await;
        assert_eq!(
            answer.problem(),
            (400, Some(field.to_owned())),
            "{query}: {answer:?}"
        );
    }
}

#[tokio::test]
async fn a_job_is_cancelled_while_it_waits_and_while_it_runs_but_not_after() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let gateway = Gateway::start(&nats).await;
    let later = r#"{"kind":"echo","run_at":"2099-01-01T00:00:00Z"}"#;
    let waiting = gateway.post("/v1/jobs", later).await.id();
    let answer = gateway.delete(&format!("/v1/jobs/{waiting}")).await;
    assert_eq!(
        (answer.status, &answer.json()["state"]),
        (200, &json!("cancelled")),
        "{answer:?}"
    );
    // Once more is no mistake.
    assert_eq!(
        gateway.delete(&format!("/v1/jobs/{waiting}")).await.status,
        200
    );

    let long = r#"{"kind":"sleep","payload":{"ms":600000},"timeout":"1h"}"#;
    let running = gateway.post("/v1/jobs", long).await.id();
    gateway.job_is(&running, "running").await;
    let answer = gateway.delete(&format!("/v1/jobs/{running}")).await;
    assert_eq!(
        (answer.status, &answer.json()["state"]),
        (200, &json!("cancelled")),
        "{answer:?}"
    );

    let done = gateway
        .post("/v1/jobs?wait=1m", r#"{"kind":"echo"}"#)
        .await
        .id();
    assert_eq!(
        gateway
            .delete(&format!("/v1/jobs/{done}"))
            .await
            .problem()
            .0,
        409
    );
    let dead = gateway.dead_job("x").await;
    assert_eq!(
        gateway
            .delete(&format!("/v1/jobs/{dead}"))
            .await
            .problem()
            .0,
        409
    );
}

#[tokio::test]
async fn a_cancellation_waits_for_a_consumer_to_come() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let id = gateway.post("/v1/jobs", r#"{"kind":"echo"}"#).await.id();
    let answer = gateway.delete(&format!("/v1/jobs/{id}")).await;
    assert_eq!(
        (answer.status, &answer.json()["state"]),
        (202, &json!("queued"))
    );
    let _consumer = consumer(&nats, &[]).await;
    eventually(DEADLINE, "the cancellation", async || {
        let answer = gateway.delete(&format!("/v1/jobs/{id}")).await;
        (answer.status == 200).then_some(())
    })
    .await;
}
