//! A publisher that has more than the consumers can take.

use common::ConsumerState;
use serde_json::json;
use test_support::DEADLINE;

use crate::fixture::{Fixture, said, sleep};

#[tokio::test]
async fn a_consumer_that_is_full_is_not_overrun_and_every_job_is_done() {
    let fixture = Fixture::start().await;
    let mut consumer = fixture
        .consumer("small", &["--concurrency", "2", "--inbox", "4"])
        .await;
    let run = fixture.bulk((0..200).map(|_| sleep(50)), &["--in-flight", "64"]);
    run.all_succeed(DEADLINE).await;
    for words in ["leaving the queue group", "joining the queue group again"] {
        consumer.wait_for_line(|line| line.contains(words)).await;
    }
    let status = fixture
        .status_of("small", |it| it.state == ConsumerState::Running)
        .await;
    // What was handed back was not run meanwhile, so nothing ran twice.
    assert_eq!(
        (status.totals.processed, status.totals.succeeded),
        (200, 200)
    );
    assert_eq!(status.dropped, 0);
}

#[tokio::test]
async fn jobs_made_faster_than_they_are_done_wait_in_the_publisher() {
    let fixture = Fixture::start().await;
    let _consumer = fixture
        .consumer("small", &["--concurrency", "2", "--inbox", "4"])
        .await;
    let mut publisher = fixture
        .publisher()
        .args(["--count", "200", "--interval", "0s", "--in-flight", "64"])
        .args(["--kind", "sleep", "--payload"])
        .arg(json!({"ms": 10}).to_string())
        .start();
    assert_eq!(publisher.wait().await.code(), Some(0));
    let summary = said(&publisher, "summary").remove(0);
    assert_eq!(
        (&summary["submitted"], &summary["succeeded"]),
        (&200.into(), &200.into()),
        "{summary}"
    );
}
