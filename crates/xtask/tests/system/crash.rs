//! A consumer that is killed takes the jobs that it holds with it, and none of them is lost.

use test_support::DEADLINE;

use crate::fixture::{Fixture, said, sleep};

/// The first attempt goes on as long as the consumer lives; any later one is done at once.
const STUBBORN: &str = r#"
    [handlers.stubborn]
    exec = ["/bin/sh", "-c", """
        if [ "$JOB_ATTEMPT" = 1 ]; then
            while kill -0 "$PPID"; do sleep 0.1; done
        fi
        echo "$JOB_ATTEMPT"
    """]
    timeout = "1h"
"#;

#[tokio::test]
async fn a_job_whose_only_consumer_is_killed_is_done_by_the_one_that_replaces_it() {
    let fixture = Fixture::start().await;
    let handlers = fixture.handlers(STUBBORN);
    let mut first = fixture.consumer("first", &["--handlers", &handlers]).await;
    let mut publisher = fixture
        .publisher()
        .args(["--count", "1", "--kind", "stubborn"])
        .args(["--confirm-timeout", "5s"])
        .start();
    fixture.status_of("first", |it| it.in_flight == 1).await;
    first.kill().await;

    let _second = fixture.consumer("second", &["--handlers", &handlers]).await;
    assert_eq!(publisher.wait().await.code(), Some(0));
    let summary = said(&publisher, "summary").remove(0);
    assert_eq!(
        (&summary["submitted"], &summary["succeeded"]),
        (&1.into(), &1.into()),
        "{summary}"
    );
    assert!(summary["resubmitted"].as_u64() >= Some(1), "{summary}");
    let second = fixture.status_of("second", |_| true).await;
    assert_eq!((second.totals.succeeded, second.totals.retried), (1, 1));
}

#[tokio::test]
async fn one_of_two_consumers_that_is_killed_under_load_loses_no_job() {
    let fixture = Fixture::start().await;
    let mut mortal = fixture.consumer("mortal", &[]).await;
    let _other = fixture.consumer("other", &[]).await;
    // Some of the 64 always wait or run in each of the two.
    let jobs = (0..600).map(|_| sleep(20));
    let run = fixture.bulk(jobs, &["--in-flight", "64", "--confirm-timeout", "3s"]);
    fixture
        .status_of("mortal", |it| it.totals.processed >= 20)
        .await;
    mortal.kill().await;

    let ended = run.all_succeed(DEADLINE).await;
    assert!(ended.by("mortal") >= 20 && ended.by("other") > 300);
    let resubmitted = ended.summary["resubmitted"].as_u64().unwrap();
    assert!(resubmitted > 0, "{}", ended.summary);
    let again = ended.outcomes.iter().map(|it| it["attempt"].as_u64());
    let again: u64 = again.map(|attempt| attempt.unwrap() - 1).sum();
    assert!(again > 0 && again <= resubmitted, "{again} {resubmitted}");
}
