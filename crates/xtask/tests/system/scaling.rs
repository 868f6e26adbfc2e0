//! Consumers come and go while jobs are under way.

use test_support::DEADLINE;

use crate::fixture::{Fixture, processed, said, says, sleep, stop};

#[tokio::test]
async fn a_consumer_that_is_stopped_under_load_loses_nothing_and_runs_nothing_twice() {
    const JOBS: u64 = 1_000;
    let fixture = Fixture::start().await;
    let mut leaver = fixture.consumer("leaver", &[]).await;
    let mut stayer = fixture.consumer("stayer", &[]).await;
    let mut status_service = fixture.status_service(&[]);
    // Some of the 64 always wait or run in each of the two.
    let run = fixture.bulk((0..JOBS).map(|_| sleep(10)), &["--in-flight", "64"]);
    fixture
        .status_of("leaver", |it| it.totals.processed >= 20)
        .await;
    stop(&mut leaver).await;

    let ended = run.all_succeed(DEADLINE).await;
    // Jobs that waited in it were handed back, and went to the other.
    assert!(ended.by("leaver") >= 20);
    assert!(
        ended.summary["resubmitted"].as_u64() > Some(0),
        "{}",
        ended.summary
    );
    // Its last word on the way out is in the totals: together they are the jobs, neither more nor
    // less.
    let line = says(&status_service, "fleet", |line| {
        line["consumers"] == 1 && line["processed"] == JOBS
    })
    .await;
    assert_eq!(line["missing"], 0);
    let left = said(&status_service, "consumer left");
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["processed"], ended.by("leaver"));
    stop(&mut stayer).await;
    stop(&mut status_service).await;
    assert!(said(&status_service, "consumer is missing").is_empty());
}

#[tokio::test]
async fn a_consumer_that_joins_in_the_middle_takes_its_share_of_what_is_left() {
    const JOBS: u64 = 2_000;
    const IN_FLIGHT: u64 = 32;
    let fixture = Fixture::start().await;
    let _early = fixture.consumer("early", &[]).await;
    let run = fixture.bulk(
        (0..JOBS).map(|_| sleep(5)),
        &["--in-flight", &IN_FLIGHT.to_string()],
    );
    fixture
        .status_of("early", |it| it.totals.processed >= 100)
        .await;
    let _late = fixture.consumer("late", &[]).await;
    let at_join = fixture.statuses(2).await;
    let left = JOBS - processed(at_join.values()) - IN_FLIGHT;
    assert!(left > 500, "only {left} jobs were left to share");

    let ended = run.all_succeed(DEADLINE).await;
    // NATS picks one of the two at random for each of those: a share is binomial with p = 1/2, and
    // five standard deviations below its mean it is once in three million runs.
    let left = left as f64;
    let fewest = left / 2.0 - 5.0 * (left / 4.0).sqrt();
    assert!(
        ended.by("late") as f64 >= fewest,
        "{} of {left}",
        ended.by("late")
    );
}
