//! NATS goes away in the middle of everything, and comes back.

use test_support::DEADLINE;

use crate::fixture::{Fixture, processed, said, says, sleep, stop};

const JOBS: u64 = 4_000;
const IN_FLIGHT: u64 = 256;

#[tokio::test]
async fn a_run_outlasts_a_nats_that_is_stopped_and_started() {
    let mut fixture = Fixture::start().await;
    let mut consumers = Vec::new();
    for name in ["one", "two"] {
        consumers.push(fixture.consumer(name, &["--concurrency", "8"]).await);
    }
    let mut status_service = fixture.status_service(&[]);
    let run = fixture.bulk(
        (0..JOBS).map(|_| sleep(5)),
        &["--in-flight", &IN_FLIGHT.to_string()],
    );
    for name in ["one", "two"] {
        fixture
            .status_of(name, |it| it.totals.processed >= 100)
            .await;
    }
    fixture.server.stop().await;
    says(&run.publisher, "lost NATS, reconnecting", |_| true).await;
    fixture.server.start_again().await;

    let ended = run.all_succeed(DEADLINE).await;
    // It is said once, and not for each of the jobs that were under way.
    for words in [
        "lost NATS, reconnecting",
        "jobs are kept until NATS is back, and no new ones are taken",
        "going on with the jobs that were kept",
    ] {
        assert_eq!(said(&ended.publisher, words).len(), 1, "{words}");
    }
    // A job that was under way can have run twice; none can have run less than once.
    let statuses = fixture.statuses(2).await;
    let count = processed(statuses.values());
    assert!((JOBS..=JOBS + IN_FLIGHT).contains(&count), "{count}");
    let all_counted =
        |line: &serde_json::Value| line["consumers"] == 2 && line["processed"] == count;
    says(&status_service, "fleet", all_counted).await;
    stop(&mut status_service).await;
    assert!(said(&status_service, "consumer is missing").is_empty());
    for consumer in &mut consumers {
        stop(consumer).await;
    }
}
