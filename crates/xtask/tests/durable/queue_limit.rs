//! The limit of the queue is lifted while it does not matter, and is there when it does.

use std::time::Duration;

use async_nats::HeaderMap;
use client::{NatsClient, Patience, SubmitError, Submitter};
use common::{JobId, Priority, subjects};
use serde_json::{Value, json};
use test_support::{DEADLINE, eventually};
use tokio::sync::watch;

use crate::fixture::stop;
use crate::lane::Lane;

const LIMIT: i64 = 2 << 30;

/// The configuration and the state of the queue.
async fn queue(lane: &Lane) -> Value {
    let subject = "$JS.API.STREAM.INFO.JOBS";
    let answer = lane.admin.request(subject, "".into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

async fn max_bytes_becomes(lane: &Lane, wanted: i64) {
    eventually(DEADLINE, &format!("max_bytes of {wanted}"), async || {
        (queue(lane).await["config"]["max_bytes"] == wanted).then_some(())
    })
    .await;
}

/// Changes the declared limit, and lifts it.
async fn set_limit(lane: &Lane, bytes: i64) {
    let mut config = queue(lane).await["config"].take();
    config["max_bytes"] = json!(-1);
    config["metadata"]["jobs.max_bytes"] = json!(bytes.to_string());
    let update = "$JS.API.STREAM.UPDATE.JOBS";
    let answer = lane.admin.request(update, config.to_string().into()).await;
    let answer: Value = serde_json::from_slice(&answer.unwrap().payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}

/// Stores jobs of a kind that nobody serves.
async fn fill(lane: &Lane, jobs: usize, bytes: usize) {
    for _ in 0..jobs {
        let id = JobId::generate();
        let job = json!({"id": id, "kind": "unserved", "payload": "x".repeat(bytes)});
        let subject = subjects::durable_job(id, Priority::Normal, 1, &"unserved".parse().unwrap());
        let stored = lane
            .publish(subject, HeaderMap::new(), job.to_string())
            .await;
        stored.unwrap();
    }
}

#[tokio::test]
async fn consumers_lift_the_limit_of_a_small_queue_and_set_it_when_they_stop() {
    let lane = Lane::start().await;
    let mut one = lane.consumer("one", &[]).await;
    max_bytes_becomes(&lane, -1).await;
    // A consumer that starts leaves it lifted.
    let mut two = lane.consumer("two", &[]).await;
    assert_eq!(queue(&lane).await["config"]["max_bytes"], -1);
    let updated = |line: &str| line.contains("updated the stream JOBS ");
    for consumer in [&one, &two] {
        let lines = consumer.lines();
        assert!(!lines.iter().any(|line| updated(&line.text)), "{lines:?}");
    }
    stop(&mut one).await;
    // The other one lifts it again.
    max_bytes_becomes(&lane, -1).await;
    stop(&mut two).await;
    assert_eq!(queue(&lane).await["config"]["max_bytes"], LIMIT);
}

#[tokio::test]
async fn consumers_set_the_limit_of_a_large_queue() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("one", &[]).await;
    max_bytes_becomes(&lane, -1).await;
    let limit = 256 << 20;
    set_limit(&lane, limit).await;
    fill(&lane, 150, 900 << 10).await;
    max_bytes_becomes(&lane, limit).await;
    let purge = "$JS.API.STREAM.PURGE.JOBS";
    lane.admin.request(purge, "".into()).await.unwrap();
    max_bytes_becomes(&lane, -1).await;
    stop(&mut consumer).await;
}

/// As after a crash of all consumers.
#[tokio::test]
async fn a_submitter_heeds_a_limit_that_nobody_enforces() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("one", &[]).await;
    stop(&mut consumer).await;
    set_limit(&lane, 1_000_000).await;
    fill(&lane, 3, 500_000).await;
    let (_up, connected) = watch::channel(true);
    let client: NatsClient = lane.operator.clone().into();
    let patience = Patience {
        confirm: Duration::from_millis(100),
        wait_for_nats: false,
        wait_for_room: false,
    };
    let submitter = Submitter::over(&client, connected, patience);
    let mut stored = 0;
    let refused = eventually(DEADLINE, "a refused job", async || {
        let job = client::NewJob::decode(r#"{"kind": "unserved"}"#.into()).unwrap();
        match submitter.submit(&job).await {
            Ok(_) => {
                stored += 1;
                None
            }
            Err(error) => Some(error),
        }
    })
    .await;
    assert!(matches!(refused, SubmitError::Full { .. }), "{refused}");
    assert!(
        refused.to_string().contains("its limit is 1000000"),
        "{refused}"
    );
    let messages = queue(&lane).await["state"]["messages"].clone();
    assert_eq!(messages, 3 + stored);
    // There is room again.
    let purge = "$JS.API.STREAM.PURGE.JOBS";
    lane.admin.request(purge, "".into()).await.unwrap();
    eventually(DEADLINE, "a job that is stored", async || {
        let job = client::NewJob::decode(r#"{"kind": "unserved"}"#.into()).unwrap();
        submitter.submit(&job).await.ok()
    })
    .await;
}
