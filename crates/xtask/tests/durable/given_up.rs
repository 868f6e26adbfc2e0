//! Messages that the server gives up by itself, or because somebody tells it to.

use async_nats::{HeaderMap, Message, Request};
use client::Topology;
use common::{DeadReason, JobId, JobRecord, JobState, Timestamp, subjects};
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, eventually};

use crate::fixture::stop;
use crate::lane::{Lane, succeeded};

/// A lane in which the test may do anything.
async fn open() -> Lane {
    let lane = Lane::on(NatsServer::builder().open().start().await).await;
    Topology::default()
        .ensure(&lane.operator.clone().into())
        .await
        .unwrap();
    lane
}

/// Makes a durable consumer of kind `note`, which gives a message up after so many deliveries.
async fn create(lane: &Lane, stream: &str, name: &str, max_deliver: u32) {
    let config = json!({"durable_name": name, "ack_policy": "explicit", "max_deliver": max_deliver,
        "filter_subject": "jobs.*.*.*.*.note"});
    let request = json!({"stream_name": stream, "config": config, "action": "create"});
    let subject = format!("$JS.API.CONSUMER.DURABLE.CREATE.{stream}.{name}");
    let answer = lane.operator.request(subject, request.to_string().into());
    let answer: Value = serde_json::from_slice(&answer.await.unwrap().payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}

/// The next message of a durable consumer, if there is one.
async fn next(lane: &Lane, stream: &str, name: &str) -> Option<Message> {
    let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}");
    let pull = json!({"batch": 1, "no_wait": true}).to_string();
    // It comes under its own subject, so the inbox has to be one of its own.
    let request = Request::new()
        .inbox(lane.operator.new_inbox())
        .payload(pull.into());
    let answer = lane.operator.send_request(subject, request).await.unwrap();
    answer.status.is_none().then_some(answer)
}

async fn answer(lane: &Lane, message: Message, word: &'static str) {
    let reply = message.reply.unwrap();
    lane.operator.publish(reply, word.into()).await.unwrap();
    lane.operator.flush().await.unwrap();
}

/// Tells the server to give up the next message.
async fn terminate(lane: &Lane, stream: &str, name: &str) {
    let message = next(lane, stream, name).await.unwrap();
    answer(lane, message, "+TERM").await;
}

/// Whether so many advisories wait for a consumer.
async fn there_are(lane: &Lane, count: u64) -> Option<()> {
    let info = lane.info("JOBS_ADVISORIES", &Value::Null).await;
    (info["state"]["messages"] == count).then_some(())
}

async fn advisories(lane: &Lane, count: u64) {
    let what = format!("{count} advisories");
    eventually(DEADLINE, &what, async || there_are(lane, count).await).await;
}

async fn nothing_is_left(lane: &Lane) {
    advisories(lane, 0).await;
    eventually(DEADLINE, "empty streams", async || {
        let queued = lane.count("JOBS", ">").await + lane.count("JOBS_LATER", ">").await;
        (queued == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_the_server_gives_up_is_a_dead_letter_as_it_was_submitted() {
    let lane = open().await;
    let mut jobs = Vec::new();
    for (stream, first) in [("JOBS", "jobs.durable"), ("JOBS_LATER", "jobs.due")] {
        create(&lane, stream, "note", 2).await;
        for _ in 0..2 {
            let id = JobId::generate();
            let bytes = format!(r#"{{"kind": "note",   "id": "{id}", "payload": [1]}}"#);
            let mut headers = HeaderMap::new();
            headers.insert("X-Tenant", "a");
            let subject = format!("{first}.{id}.high.3.note");
            lane.publish(subject, headers, bytes.clone()).await.unwrap();
            jobs.push((id, bytes));
        }
        terminate(&lane, stream, "note").await;
        let given_up = jobs.len() as u64;
        eventually(DEADLINE, "the last delivery", async || {
            if let Some(message) = next(&lane, stream, "note").await {
                answer(&lane, message, "-NAK").await;
            }
            there_are(&lane, given_up).await
        })
        .await;
    }
    // Nobody sees to them, until a consumer comes, of whatever kind.
    let mut consumer = lane.consumer("keeper", &["--kinds", "echo"]).await;
    for (id, bytes) in jobs {
        let record = lane.becomes(id, JobState::Dead).await;
        assert_eq!(record.reason, Some(DeadReason::DeliveriesExhausted));
        assert_eq!((record.run, record.attempt), (3, 0));
        let letter = lane.dead_letter(id, "note").await.unwrap();
        assert_eq!(letter.payload, bytes);
        let headers = letter.headers.unwrap();
        let header = |name| headers.get(name).unwrap().as_str();
        assert_eq!(header("X-Tenant"), "a");
        assert_eq!(header(subjects::DEAD_REASON_HEADER), "deliveries_exhausted");
        assert_eq!(header(subjects::PRIORITY_HEADER), "high");
        assert_eq!(lane.states_of(id), [JobState::Dead]);
    }
    nothing_is_left(&lane).await;
    stop(&mut consumer).await;
}

#[tokio::test]
async fn jobs_that_are_given_up_are_not_removed_before_they_are_buried() {
    const JOBS: u64 = 400;
    let lane = open().await;
    let mut consumer = lane.consumer("first", &["--kinds", "note"]).await;
    stop(&mut consumer).await;
    let jobs = lane
        .submit_all((0..JOBS).map(|_| json!({"kind": "note"})))
        .await;
    for _ in 0..JOBS {
        terminate(&lane, "JOBS", "note").await;
    }
    advisories(&lane, JOBS).await;
    // It has them in its own queue, as messages that are done with.
    let mut consumer = lane.consumer("second", &["--kinds", "note"]).await;
    let ended = lane.all_end(&jobs, DEADLINE).await;
    for record in ended.values() {
        assert_eq!(record.state, JobState::Dead, "{record:?}");
    }
    assert_eq!(lane.count("JOBS_STATE", "jobs.dead.>").await, jobs.len());
    // And then they are.
    nothing_is_left(&lane).await;
    stop(&mut consumer).await;
}

#[tokio::test]
async fn jobs_that_have_ended_or_that_only_somebody_else_gave_up_are_not_buried() {
    let lane = open().await;
    let ended = lane.submit(json!({"kind": "note"})).await;
    let record = JobRecord::new(ended, None, JobState::Succeeded, Timestamp::now());
    let record = serde_json::to_string(&record).unwrap();
    let subject = subjects::state(ended);
    let stored = lane.publish(subject, HeaderMap::new(), record).await;
    stored.unwrap();
    create(&lane, "JOBS", "note", 2).await;
    terminate(&lane, "JOBS", "note").await;
    // One who looks on has a durable consumer of his own, beside that of the lane.
    let alive = lane.submit(json!({"kind": "note"})).await;
    create(&lane, "JOBS", "watcher", 1).await;
    terminate(&lane, "JOBS", "watcher").await;
    terminate(&lane, "JOBS", "watcher").await;
    advisories(&lane, 3).await;
    let mut keeper = lane.consumer("keeper", &["--kinds", "echo"]).await;
    advisories(&lane, 0).await;
    assert_eq!(lane.states_of(ended), [JobState::Succeeded]);
    assert!(
        lane.last("JOBS", &format!("jobs.durable.{ended}.>"))
            .await
            .is_none()
    );
    assert!(lane.record(alive).await.is_none());
    assert_eq!(lane.count("JOBS_STATE", "jobs.dead.>").await, 0);

    let delete = "$JS.API.CONSUMER.DELETE.JOBS.note";
    lane.operator.request(delete, "".into()).await.unwrap();
    let mut consumer = lane.consumer("only", &["--kinds", "note"]).await;
    succeeded(&lane.all_end(&[alive], DEADLINE).await);
    stop(&mut keeper).await;
    stop(&mut consumer).await;
}
