//! A consumer that is told to stop finishes what runs, and says what it could not finish.

use std::time::{Duration, Instant};

use async_nats::Request;
use common::{Outcome, Status, codes};
use test_support::{DEADLINE, Signal};

use crate::fixture::{Fixture, code};

fn submit(fixture: &Fixture, job: &'static str) -> tokio::task::JoinHandle<Outcome> {
    let publisher = fixture.publisher.clone();
    tokio::spawn(async move {
        let request = Request::new().payload(job.into()).timeout(Some(DEADLINE));
        let answer = publisher
            .send_request("jobs.create", request)
            .await
            .unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    })
}

#[tokio::test]
async fn sigterm_in_the_middle_of_a_job_lets_it_finish() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let fixture = Fixture::start().await;
        let mut consumer = fixture.consumer(&[]).await;
        let running = submit(&fixture, r#"{"kind":"sleep","payload":{"ms":700}}"#);
        fixture.status(|status| status.in_flight == 1).await;
        consumer.signal(signal);
        let outcome = running.await.unwrap();
        assert_eq!(outcome.status, Status::Succeeded);
        assert_eq!(consumer.wait().await.code(), Some(0));
        let last = consumer.stdout().pop().unwrap();
        assert!(last.contains("stopped processed=1 succeeded=1"), "{last}");
    }
}

#[tokio::test]
async fn a_job_over_the_grace_period_is_named_and_its_requester_is_told() {
    let fixture = Fixture::start().await;
    let mut consumer = fixture
        .consumer(&["--concurrency", "1", "--grace", "1s"])
        .await;
    let job = r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","kind":"sleep","payload":{"ms":600000},"timeout":"1h"}"#;
    let running = submit(&fixture, job);
    fixture.status(|status| status.in_flight == 1).await;
    let waiting = submit(&fixture, r#"{"kind":"echo"}"#);
    fixture.status(|status| status.waiting == 1).await;

    let told = Instant::now();
    consumer.signal(Signal::SIGTERM);
    // What was not started is handed back at once, so that another consumer can have it.
    let waiting = waiting.await.unwrap();
    assert_eq!(
        (waiting.status, code(&waiting)),
        (Status::Interrupted, codes::INTERRUPTED)
    );
    assert_eq!(
        fixture.status(|_| true).await.state,
        common::ConsumerState::Draining
    );
    let running = running.await.unwrap();
    assert_eq!(
        (running.status, code(&running)),
        (Status::Interrupted, codes::INTERRUPTED)
    );
    assert_eq!(consumer.wait().await.code(), Some(0));
    assert!(
        told.elapsed() < Duration::from_secs(5),
        "{:?}",
        told.elapsed()
    );

    let said = consumer.stdout().join("\n");
    let named = "job interrupted: it did not end within the grace period job.id=01890a5d-ac96-774b-bcce-b302099a8057";
    assert!(said.contains(named), "{said}");
    assert!(said.contains("interrupted=2"), "{said}");
}

#[tokio::test]
async fn plain_jobs_that_wait_are_run_before_the_end() {
    let fixture = Fixture::start().await;
    let mut consumer = fixture.consumer(&["--concurrency", "1"]).await;
    let jobs = [
        r#"{"kind":"sleep","payload":{"ms":400}}"#,
        r#"{"kind":"echo"}"#,
        r#"{"kind":"echo"}"#,
    ];
    for job in jobs {
        fixture
            .publisher
            .publish("jobs.create", job.into())
            .await
            .unwrap();
    }
    fixture.status(|status| status.waiting == 2).await;
    consumer.signal(Signal::SIGTERM);
    assert_eq!(consumer.wait().await.code(), Some(0));
    let last = consumer.stdout().pop().unwrap();
    assert!(last.contains("stopped processed=3 succeeded=3"), "{last}");
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let fixture = Fixture::start().await;
    let mut consumer = fixture.consumer(&["--grace", "1h"]).await;
    let job = r#"{"kind":"sleep","payload":{"ms":600000},"timeout":"1h"}"#;
    fixture
        .publisher
        .publish("jobs.create", job.into())
        .await
        .unwrap();
    fixture.status(|status| status.in_flight == 1).await;
    consumer.signal(Signal::SIGINT);
    consumer
        .wait_for_line(|line| line.contains("stopping signal"))
        .await;
    consumer.signal(Signal::SIGINT);
    assert_eq!(consumer.wait().await.code(), Some(130));
}
