//! What Prometheus sees of the status service.

use async_nats::{Client, HeaderMap, Request};
use common::{ConsumerState, Counts, JobId, Priority, Timestamp, subjects};
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, eventually};

use crate::support::{Behaviour, Simulated, Watched, make_streams, status};

fn consumers(state: &str) -> String {
    format!("jobs_fleet_consumers{{state=\"{state}\"}}")
}

#[tokio::test]
async fn the_fleet_is_scraped_as_it_answered() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let mut busy = status("busy");
    (busy.state, busy.in_flight, busy.waiting) = (ConsumerState::Saturated, 4, 30);
    busy.unserved_kinds = vec!["lost".parse().unwrap()];
    busy.totals = Counts {
        processed: 7,
        succeeded: 5,
        failed: 2,
        retried: 3,
        busy: 11,
        ..Counts::default()
    };
    let _busy = Simulated::with(&worker, busy).await;
    let idle = Simulated::start(&worker, "idle").await;

    let mut watched = Watched::start(&nats, &["--timeout", "300ms", "--gone-after", "1h"]);
    let metrics = watched
        .service
        .scrape_until(|metrics| metrics.get(&consumers("saturated")) == Some(1.0))
        .await;
    assert_eq!(metrics.get(&consumers("running")), Some(1.0));
    assert_eq!(metrics.get(&consumers("missing")), Some(0.0));
    assert_eq!(metrics.get("jobs_fleet_in_flight"), Some(4.0));
    assert_eq!(metrics.get("jobs_fleet_waiting"), Some(30.0));
    assert_eq!(metrics.get("jobs_fleet_concurrency"), Some(8.0));
    assert_eq!(metrics.get("jobs_fleet_unserved_kinds"), Some(1.0));
    let processed = |outcome: &str| {
        metrics.get(&format!(
            "jobs_fleet_processed_total{{outcome=\"{outcome}\"}}"
        ))
    };
    assert_eq!(
        (processed("succeeded"), processed("failed")),
        (Some(5.0), Some(2.0))
    );
    assert_eq!(metrics.get("jobs_fleet_retried_total"), Some(3.0));
    assert_eq!(
        metrics.get("jobs_fleet_handed_back_total{reason=\"busy\"}"),
        Some(11.0)
    );
    let round = metrics.get("jobs_fleet_round_seconds");
    assert!(
        round.is_some_and(|seconds| seconds > 0.0 && seconds < 1.0),
        "{round:?}"
    );
    // There are no streams, so metrics of durable jobs are left out.
    assert_eq!(metrics.get("jobs_scheduled"), None);

    idle.behave(Behaviour::Mute);
    let metrics = watched
        .service
        .scrape_until(|metrics| metrics.get(&consumers("missing")) == Some(1.0))
        .await;
    assert_eq!(metrics.get(&consumers("running")), Some(0.0));
}

/// Stores two scheduled jobs that are due; a consumer runs one of them.
async fn two_are_due(worker: &Client) {
    let kind = "echo".parse().unwrap();
    let config = json!({
        "durable_name": "echo", "ack_policy": "explicit",
        "filter_subject": "jobs.due.*.*.*.echo",
    });
    let create = "$JS.API.CONSUMER.CREATE.JOBS_LATER.echo.jobs.due.*.*.*.echo";
    let wanted = json!({"stream_name": "JOBS_LATER", "config": config}).to_string();
    let created = worker.request(create, wanted.into()).await.unwrap();
    let created: Value = serde_json::from_slice(&created.payload).unwrap();
    assert_eq!(created["name"], "echo", "{created}");
    for _ in 0..2 {
        let id = JobId::generate();
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Schedule", format!("@at {}", Timestamp::now()));
        let target = subjects::due_job(id, Priority::Normal, 1, &kind);
        headers.insert("Nats-Schedule-Target", target);
        let job = Request::new().headers(headers).payload("{}".into());
        let stored = worker.send_request(subjects::later(id), job).await;
        stored.unwrap();
    }
    let next = "$JS.API.CONSUMER.MSG.NEXT.JOBS_LATER.echo";
    let inbox = worker.new_inbox();
    let _running = worker.subscribe(inbox.clone()).await.unwrap();
    let pull = worker.publish_with_reply(next, inbox, "".into());
    pull.await.unwrap();
    let info = "$JS.API.CONSUMER.INFO.JOBS_LATER.echo";
    eventually(DEADLINE, "one that waits and one that runs", async || {
        let info = worker.request(info, "".into()).await.ok()?;
        let info: Value = serde_json::from_slice(&info.payload).ok()?;
        (info["num_pending"] == 1 && info["num_ack_pending"] == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_the_server_stores_of_durable_jobs_is_scraped() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let publisher = nats.connect_as("publisher").await;
    make_streams(&worker).await;
    let kind = "echo".parse().unwrap();
    for _ in 0..3 {
        let id = JobId::generate();
        let job = format!(r#"{{"id":"{id}","kind":"echo"}}"#);
        let subject = subjects::durable_job(id, Priority::Normal, 1, &kind);
        publisher.request(subject, job.into()).await.unwrap();
    }
    two_are_due(&worker).await;
    let letter = subjects::dead(JobId::generate(), &kind);
    worker.request(letter, "{}".into()).await.unwrap();

    let mut watched = Watched::start(&nats, &[]);
    let metrics = watched
        .service
        .scrape_until(|metrics| metrics.get("jobs_dead_letters").is_some())
        .await;
    let of = |name: &str| metrics.get(&format!("jobs_stream_{name}{{stream=\"JOBS\"}}"));
    assert_eq!(of("messages"), Some(3.0));
    assert!(of("bytes") > Some(0.0));
    assert_eq!(of("limit_bytes"), Some(f64::from(1 << 30) * 2.0));
    assert_eq!(metrics.get("jobs_dead_letters"), Some(1.0));
    assert_eq!(metrics.get("jobs_scheduled"), Some(2.0));
    assert_eq!(metrics.get("jobs_due"), Some(2.0));
    assert_eq!(metrics.get("jobs_backlog{kind=\"echo\"}"), Some(2.0));
    let age = metrics.get("jobs_queue_oldest_age_seconds");
    assert!(age.is_some_and(|age| (0.0..60.0).contains(&age)), "{age:?}");
    assert!(metrics.get("jobs_storage_bytes") < metrics.get("jobs_storage_limit_bytes"));
}
