//! A full consumer leaves the queue group, loses nothing that reached it, and comes back.

use std::time::{Duration, Instant};

use common::{ConsumerState, ConsumerStatus, Outcome, Status};
use futures_util::{StreamExt as _, stream};
use test_support::{DEADLINE, eventually};

use crate::fixture::Fixture;

/// How many messages the server sent on the subscriptions to `jobs.create` and below.
async fn delivered(fixture: &Fixture) -> u64 {
    let connz = fixture.server.connz().await;
    let connections = connz["connections"].as_array().unwrap();
    let jobs = connections
        .iter()
        .find(|c| c["name"].as_str().is_some_and(|n| n.ends_with(" jobs")));
    jobs.map_or(0, |connection| connection["out_msgs"].as_u64().unwrap())
}

#[tokio::test]
async fn a_full_inbox_loses_nothing_that_the_server_sent() {
    let fixture = Fixture::start().await;
    // Handlers that hold their slot until all is published, and an inbox that is full at once.
    let _consumer = fixture
        .consumer(&["--concurrency", "2", "--inbox", "8"])
        .await;
    fixture
        .publish(r#"{"kind":"sleep","payload":{"ms":300}}"#, 2)
        .await;
    for number in 0..200_000_u32 {
        let job = format!(r#"{{"kind":"echo","payload":{number}}}"#);
        fixture
            .publisher
            .publish("jobs.create", job.into())
            .await
            .unwrap();
    }
    fixture.publisher.flush().await.unwrap();
    let status = eventually(DEADLINE, "all that was sent to be run", async || {
        let status = fixture
            .status(|status| status.waiting == 0 && status.in_flight == 0)
            .await;
        let delivered = delivered(&fixture).await;

        (status.totals.processed == delivered && delivered > 8).then_some(status)
    })
    .await;
    assert_eq!(status.received, status.totals.processed);
    assert_eq!(
        (status.dropped, status.totals.busy, status.totals.failed),
        (0, 0, 0)
    );
    println!(
        "{} of 200,002 reached the consumer, and all of them were run",
        status.received
    );
}

const REQUESTS: usize = 500;

#[tokio::test]
async fn a_request_that_reaches_a_full_consumer_is_handed_back_and_none_goes_unanswered() {
    let fixture = Fixture::start().await;
    let mut consumer = fixture
        .consumer(&["--concurrency", "1", "--inbox", "4"])
        .await;
    let mut answers = fixture
        .publisher
        .subscribe("_INBOX_publisher.here")
        .await
        .unwrap();
    for number in 0..REQUESTS {
        // The first has the slot before the others come: the inbox is theirs.
        let ms = if number == 0 { 2000 } else { 20 };
        let job = format!(r#"{{"kind":"sleep","payload":{{"ms":{ms}}}}}"#);
        fixture
            .publisher
            .publish_with_reply("jobs.create", "_INBOX_publisher.here", job.into())
            .await
            .unwrap();
        if number == 0 {
            fixture.status(|status| status.in_flight == 1).await;
        }
    }
    // Without a member in the group the server itself answers, with status 503.
    let (mut done, mut busy, mut unserved) = (0_u64, 0_u64, 0_usize);
    for _ in 0..REQUESTS {
        let answer = tokio::time::timeout(DEADLINE, answers.next())
            .await
            .unwrap()
            .unwrap();
        if answer.status.is_some() {
            unserved += 1;
            continue;
        }
        match serde_json::from_slice::<Outcome>(&answer.payload)
            .unwrap()
            .status
        {
            Status::Succeeded => done += 1,
            Status::Busy => busy += 1,
            other => panic!("unexpected outcome {other}"),
        }
    }
    assert!(
        done >= 5 && busy + unserved as u64 > 0,
        "{done} {busy} {unserved}"
    );
    let status = fixture.status(|status| status.waiting == 0).await;
    assert_eq!((status.totals.succeeded, status.totals.busy), (done, busy));

    // It left when it was full, and is back.
    consumer
        .wait_for_line(|line| line.contains("leaving the queue group"))
        .await;
    consumer
        .wait_for_line(|line| line.contains("joining the queue group again"))
        .await;
    fixture
        .status(|status| status.state == ConsumerState::Running)
        .await;
    assert_eq!(
        fixture.outcome(r#"{"kind":"echo"}"#).await.status,
        Status::Succeeded
    );
}

/// One job runs for ever, and the one that the inbox holds waits for it.
fn is_stuck(status: &ConsumerStatus) -> bool {
    status.state == ConsumerState::Saturated && status.in_flight == 1 && status.waiting == 1
}

#[tokio::test]
async fn no_job_waits_behind_a_full_consumer_while_another_is_idle() {
    let fixture = Fixture::start().await;
    let full = fixture
        .consumer(&["--concurrency", "1", "--inbox", "1", "--instance", "full"])
        .await;
    fixture.occupy().await;
    fixture.occupy().await;
    fixture.status(is_stuck).await;

    let _idle = fixture.consumer(&["--instance", "idle"]).await;
    let outcomes: Vec<Outcome> = stream::iter(0..200)
        .map(|_| fixture.outcome(r#"{"kind":"echo"}"#))
        .buffer_unordered(16)
        .collect()
        .await;
    assert!(
        outcomes
            .iter()
            .all(|o| o.status == Status::Succeeded && o.consumer == "idle")
    );
    drop(full);
}

#[tokio::test]
async fn status_is_answered_at_once_also_when_it_is_full() {
    let fixture = Fixture::start().await;
    let _consumer = fixture
        .consumer(&["--concurrency", "1", "--inbox", "1"])
        .await;
    fixture.occupy().await;
    fixture.occupy().await;
    fixture.status(is_stuck).await;
    let observer = fixture.server.connect_as("status").await;
    let mut times = Vec::new();
    for _ in 0..20 {
        let asked = Instant::now();
        observer.request("jobs.status", "".into()).await.unwrap();
        times.push(asked.elapsed());
    }
    // The bench measures how fast; here it is only shown that no job is waited for.
    times.sort();
    assert!(
        times[times.len() / 2] < Duration::from_millis(50),
        "{times:?}"
    );
}
