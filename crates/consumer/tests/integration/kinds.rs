//! Consumers that serve some kinds only, and jobs that find them.

use common::{Status, codes};
use test_support::{DEADLINE, Service, Signal, eventually};

use crate::fixture::{Fixture, code};

#[tokio::test]
async fn a_job_finds_the_consumer_that_serves_its_kind() {
    let fixture = Fixture::start().await;
    let _hasher = fixture
        .consumer(&["--kinds", "sha256", "--instance", "hasher"])
        .await;
    let _others = fixture
        .consumer(&["--kinds", "echo,sleep,fail", "--instance", "others"])
        .await;
    // Whichever of the two a job on the general subject reaches first, its own runs it.
    for _ in 0..50 {
        let hash = fixture
            .outcome(r#"{"kind":"sha256","payload":{"text":""}}"#)
            .await;
        assert_eq!(
            (hash.status, &*hash.consumer),
            (Status::Succeeded, "hasher")
        );
        let echo = fixture.outcome(r#"{"kind":"echo"}"#).await;
        assert_eq!(
            (echo.status, &*echo.consumer),
            (Status::Succeeded, "others")
        );
    }
    let by_subject = fixture
        .outcome_on("jobs.create.echo", br#"{"kind":"echo"}"#)
        .await;
    assert_eq!(by_subject.consumer, "others");

    let unknown = fixture.outcome(r#"{"kind":"resize"}"#).await;
    assert_eq!(
        (unknown.status, code(&unknown)),
        (Status::Rejected, codes::UNKNOWN_KIND)
    );
    let mismatch = fixture
        .outcome_on("jobs.create.echo", br#"{"kind":"sha256"}"#)
        .await;
    assert_eq!(
        (mismatch.status, code(&mismatch)),
        (Status::Rejected, codes::KIND_MISMATCH)
    );
}

#[tokio::test]
async fn a_plain_job_is_passed_on_too() {
    let fixture = Fixture::start().await;
    let _hasher = fixture
        .consumer(&["--kinds", "sha256", "--instance", "hasher"])
        .await;
    let _other = fixture
        .consumer(&["--kinds", "echo", "--instance", "other"])
        .await;
    fixture
        .publish(r#"{"kind":"sha256","payload":{"text":""}}"#, 40)
        .await;
    test_support::eventually(
        test_support::DEADLINE,
        "all 40 to be run by the hasher",
        async || {
            let statuses = fixture.statuses(2).await;
            (statuses[0].totals.succeeded == 40).then_some(())
        },
    )
    .await;
}

/// How many jobs a consumer that has stopped says it processed.
fn processed(consumer: &Service) -> u64 {
    let last = consumer.stdout().pop().unwrap();
    let (_, rest) = last.split_once("stopped processed=").unwrap();
    rest.split(' ').next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn plain_jobs_that_were_passed_on_outlive_the_consumer_they_were_passed_to() {
    const JOBS: u64 = 60;
    let fixture = Fixture::start().await;
    let _other = fixture
        .consumer(&["--kinds", "echo", "--instance", "a-echo"])
        .await;
    let mut first = fixture
        .consumer(&[
            "--kinds",
            "sleep",
            "--concurrency",
            "1",
            "--instance",
            "b-first",
        ])
        .await;
    let _second = fixture
        .consumer(&[
            "--kinds",
            "sleep",
            "--concurrency",
            "1",
            "--instance",
            "c-second",
        ])
        .await;
    fixture
        .publish(r#"{"kind":"sleep","payload":{"ms":30}}"#, JOBS)
        .await;
    eventually(DEADLINE, "some jobs done and many to do", async || {
        let statuses = fixture.statuses(3).await;
        (statuses[1].totals.processed >= 3 && statuses[1].waiting >= 3).then_some(())
    })
    .await;
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait().await.code(), Some(0));
    let first = processed(&first);
    eventually(DEADLINE, "the rest of the jobs", async || {
        let statuses = fixture.statuses(2).await;
        (first + statuses[1].totals.succeeded == JOBS).then_some(())
    })
    .await;
}

#[tokio::test]
async fn plain_jobs_wait_in_the_consumer_that_received_them_while_all_consumers_of_their_kind_are_full()
 {
    const JOBS: u64 = 40;
    let fixture = Fixture::start().await;
    let mut other = fixture
        .consumer(&["--kinds", "echo", "--instance", "a-echo"])
        .await;
    let sleeper = [
        "--kinds",
        "sleep",
        "--concurrency",
        "1",
        "--inbox",
        "2",
        "--instance",
        "b-sleep",
    ];
    let _sleeper = fixture.consumer(&sleeper).await;
    fixture
        .publish(r#"{"kind":"sleep","payload":{"ms":10}}"#, JOBS)
        .await;
    eventually(DEADLINE, "all jobs", async || {
        let statuses = fixture.statuses(2).await;
        (statuses[1].totals.succeeded == JOBS).then_some(())
    })
    .await;
    other.signal(Signal::SIGTERM);
    assert_eq!(other.wait().await.code(), Some(0));
    assert!(!other.stdout().iter().any(|line| line.contains("job lost")));
}

#[tokio::test]
async fn a_kind_whose_only_consumer_is_full_is_busy_and_not_unknown() {
    let fixture = Fixture::start().await;
    let mut sleeper = fixture
        .consumer(&[
            "--kinds",
            "sleep",
            "--concurrency",
            "1",
            "--inbox",
            "1",
            "--instance",
            "sleeper",
            "--grace",
            "1s",
        ])
        .await;
    fixture.occupy().await;
    fixture.occupy().await;
    fixture
        .status(|status| status.state == common::ConsumerState::Saturated && status.waiting == 1)
        .await;
    let _other = fixture
        .consumer(&["--kinds", "echo", "--instance", "other"])
        .await;
    let outcome = fixture
        .outcome(r#"{"kind":"sleep","payload":{"ms":1}}"#)
        .await;
    assert_eq!(
        (outcome.status, &*outcome.consumer),
        (Status::Busy, "other")
    );
    sleeper.signal(Signal::SIGTERM);
    assert_eq!(sleeper.wait().await.code(), Some(0));
}

#[tokio::test]
async fn kinds_without_a_handler_are_a_mistake_in_the_configuration() {
    let fixture = Fixture::start().await;
    let mut consumer = fixture.consumer_without_waiting(&["--kinds", "echo,mail.*"]);
    assert_eq!(consumer.wait().await.code(), Some(2));
    let said = consumer.stdout().join("\n");
    assert!(
        said.contains("CONSUMER_KINDS: no handler matches mail.*"),
        "{said}"
    );
    assert!(said.contains("echo, fail, sha256, sleep"), "{said}");
}
