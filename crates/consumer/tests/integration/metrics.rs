//! What Prometheus sees of a consumer.

use common::{JobId, Status, Timestamp, subjects};
use serde_json::json;
use test_support::{DEADLINE, Service, eventually};

use crate::fixture::Fixture;

/// A page of the monitor, as soon as it has this status.
async fn until(consumer: &mut Service, path: &str, status: u16) -> String {
    let what = format!("{status} on {path}");
    eventually(DEADLINE, &what, async || {
        let answer = consumer.look_at(path).await;
        (answer.status == status).then_some(answer.body)
    })
    .await
}

#[tokio::test]
async fn what_was_run_is_what_is_scraped_by_lane_kind_and_outcome() {
    let fixture = Fixture::start().await;
    let mut consumer = fixture.consumer(&["--monitor", "127.0.0.1:0"]).await;
    consumer
        .wait_for_line(|line| line.contains("taking durable jobs"))
        .await;
    let minute_ago = Timestamp::now().shifted(-60_000);
    let to_come = Timestamp::now().shifted(3_600_000);
    for job in [
        json!({"kind": "echo"}),
        json!({"kind": "echo", "created_at": minute_ago}),
        json!({"kind": "echo", "created_at": to_come}),
    ] {
        let outcome = fixture.outcome(&job.to_string()).await;
        assert_eq!(outcome.status, Status::Succeeded);
    }
    let failing = r#"{"kind":"fail","payload":{"permanent":true}}"#;
    assert_eq!(fixture.outcome(failing).await.status, Status::Failed);
    let slow = r#"{"kind":"sleep","payload":{"ms":30}}"#;
    assert_eq!(fixture.outcome(slow).await.status, Status::Succeeded);

    let id = JobId::generate();
    let dead = subjects::durable_job(id, common::Priority::Normal, 1, &"fail".parse().unwrap());
    fixture
        .publisher
        .publish(dead, failing.into())
        .await
        .unwrap();

    let core = |kind: &str, outcome: &str| {
        format!("jobs_processed_total{{lane=\"core\",kind=\"{kind}\",outcome=\"{outcome}\"}}")
    };
    let metrics = consumer
        .scrape_until(|metrics| metrics.get("jobs_dead_letters_total") == Some(1.0))
        .await;
    assert_eq!(metrics.get(&core("echo", "succeeded")), Some(3.0));
    assert_eq!(metrics.get(&core("echo", "failed")), Some(0.0));
    assert_eq!(metrics.get(&core("fail", "failed")), Some(1.0));
    assert_eq!(metrics.get(&core("other", "rejected")), Some(0.0));
    assert_eq!(metrics.sum("jobs_processed_total"), 6);
    let durable = "jobs_processed_total{lane=\"durable\",kind=\"fail\",outcome=\"failed\"}";
    assert_eq!(metrics.get(durable), Some(1.0));
    assert_eq!(metrics.get("jobs_received_total"), Some(6.0));

    let run = |name: &str, labels: &str| {
        metrics.get(&format!(
            "jobs_run_seconds_{name}{{{labels}lane=\"core\",kind=\"sleep\"}}"
        ))
    };
    assert_eq!(run("count", ""), Some(1.0));
    assert_eq!(run("bucket", "le=\"0.025\","), Some(0.0));
    assert_eq!(run("bucket", "le=\"+Inf\","), Some(1.0));
    assert!(run("sum", "").is_some_and(|sum| (0.029..30.0).contains(&sum)));
    let wait = |name: &str| metrics.get(&format!("jobs_wait_seconds_{name}"));
    assert_eq!(wait("count{lane=\"durable\"}"), Some(1.0));
    // One did not say when it was made, and one was made by a clock that is ahead.
    assert_eq!(wait("count{lane=\"core\"}"), Some(2.0));
    assert_eq!(wait("bucket{le=\"0.001\",lane=\"core\"}"), Some(1.0));
    assert_eq!(wait("bucket{le=\"15.0\",lane=\"core\"}"), Some(1.0));
    assert_eq!(wait("bucket{le=\"300.0\",lane=\"core\"}"), Some(2.0));
    assert!(wait("sum{lane=\"core\"}").is_some_and(|sum| (60.0..300.0).contains(&sum)));

    for connection in ["jobs", "control", "durable"] {
        let of = |name: &str| metrics.get(&format!("{name}{{connection=\"{connection}\"}}"));
        assert_eq!(of("jobs_nats_connected"), Some(1.0));
        assert_eq!(of("jobs_nats_reconnects_total"), Some(0.0));
        let away = of("jobs_nats_round_trip_seconds");
        assert!(
            away.is_some_and(|away| away > 0.0 && away < 0.5),
            "{away:?}"
        );
    }
    let memory = metrics.get("process_resident_memory_bytes");
    assert!(memory.is_some_and(|bytes| bytes > 1e6), "{memory:?}");
}

#[tokio::test]
async fn a_consumer_that_is_full_and_busy_is_seen_to_be() {
    let fixture = Fixture::start().await;
    let arguments = ["--concurrency", "1", "--inbox", "2", "--durable", "off"];
    let mut consumer = fixture.consumer(&arguments).await;
    fixture.occupy().await;
    fixture
        .publish(
            r#"{"kind":"sleep","payload":{"ms":600000},"timeout":"1h"}"#,
            5,
        )
        .await;
    let metrics = consumer
        .scrape_until(|metrics| metrics.get("jobs_saturated") == Some(1.0))
        .await;
    assert_eq!(metrics.get("jobs_in_flight"), Some(1.0));
    assert_eq!(metrics.get("jobs_concurrency"), Some(1.0));
    assert_eq!(metrics.get("jobs_inbox_limit"), Some(2.0));
    assert!(metrics.get("jobs_inbox_waiting") >= Some(2.0));
    assert_eq!(metrics.get("jobs_draining"), Some(0.0));
    assert_eq!(metrics.get("jobs_dead_letters_total"), None);
}

#[tokio::test]
async fn a_flood_of_unknown_kinds_makes_no_new_series() {
    let fixture = Fixture::start().await;
    let mut consumer = fixture.consumer(&[]).await;
    consumer
        .wait_for_line(|line| line.contains("taking durable jobs"))
        .await;
    // The watch of the pulls adds its series when it first looks.
    let pulls = "jobs_problem{respect=\"pulls\"}";
    let before = consumer
        .scrape_until(|metrics| metrics.get(pulls).is_some())
        .await;
    for number in 0..100 {
        let job = format!(r#"{{"kind":"made.up.{number}"}}"#);
        assert_eq!(fixture.outcome(&job).await.status, Status::Rejected);
    }
    let rejected = "jobs_processed_total{lane=\"core\",kind=\"other\",outcome=\"rejected\"}";
    let after = consumer
        .scrape_until(|metrics| metrics.get(rejected) == Some(100.0))
        .await;
    assert_eq!(before.series(), after.series());
}

#[tokio::test]
async fn readiness_goes_with_nats_and_comes_back_with_it_and_ends_with_the_drain() {
    let mut fixture = Fixture::start().await;
    let mut consumer = fixture.consumer(&["--grace", "1m"]).await;
    consumer
        .wait_for_line(|line| line.contains("taking durable jobs"))
        .await;
    until(&mut consumer, "/readyz", 200).await;
    fixture.server.kill().await;
    let why = until(&mut consumer, "/readyz", 503).await;
    assert!(why.contains("connections to NATS are up"), "{why}");
    assert_eq!(until(&mut consumer, "/livez", 200).await, "alive\n");
    let metrics = consumer
        .scrape_until(|metrics| metrics.sum("jobs_nats_connected") == 0)
        .await;
    assert_eq!(
        metrics.get("jobs_nats_round_trip_seconds{connection=\"jobs\"}"),
        None
    );

    fixture.server.start_again().await;
    until(&mut consumer, "/readyz", 200).await;
    consumer
        .scrape_until(|metrics| metrics.sum("jobs_nats_reconnects_total") >= 3)
        .await;

    fixture.occupy().await;
    consumer.signal(test_support::Signal::SIGTERM);
    assert_eq!(until(&mut consumer, "/readyz", 503).await, "stopping\n");
    consumer
        .scrape_until(|metrics| metrics.get("jobs_draining") == Some(1.0))
        .await;
    consumer.signal(test_support::Signal::SIGTERM);
    consumer.wait().await;
}

#[tokio::test]
async fn the_usual_port_is_taken_by_one_and_a_given_one_is_an_error_for_the_next() {
    let fixture = Fixture::start().await;
    let mut first = fixture.consumer(&[]).await;
    let mut second = fixture.consumer(&[]).await;
    until(&mut first, "/readyz", 200).await;
    until(&mut second, "/readyz", 200).await;

    let says = |line: &str| line.contains("metrics on http://");
    let line = first.wait_for_line(says).await;
    let address = line.split_once("http://").unwrap().1;
    let address = address.strip_suffix("/metrics").unwrap().to_owned();
    let mut third = fixture.consumer_without_waiting(&["--monitor", &address]);
    assert_eq!(third.wait().await.code(), Some(2));
    let said = third.stdout().join("\n");
    assert!(said.contains("--monitor or CONSUMER_MONITOR"), "{said}");

    let mut off = fixture.consumer(&["--monitor", "off"]).await;
    off.signal(test_support::Signal::SIGTERM);
    off.wait().await;
    assert!(!off.stdout().iter().any(|line| says(line)));
}
