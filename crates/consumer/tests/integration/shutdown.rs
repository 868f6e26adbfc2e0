//! A stopping consumer finishes running jobs, and logs those that it could not finish.

use std::time::{Duration, Instant};

use async_nats::Request;
use common::{Outcome, Status, codes};
use test_support::{DEADLINE, Signal, eventually};

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
async fn a_job_over_the_grace_period_is_logged_and_its_requester_gets_an_outcome() {
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
    fixture
        .publish(
            r#"{"kind":"sleep","payload":{"ms":600000},"timeout":"1h"}"#,
            1,
        )
        .await;
    fixture.status(|status| status.in_flight == 1).await;
    consumer.signal(Signal::SIGINT);
    consumer
        .wait_for_line(|line| line.contains("stopping signal"))
        .await;
    consumer.signal(Signal::SIGINT);
    assert_eq!(consumer.wait().await.code(), Some(0));
    assert!(consumer.stdout().join("\n").contains("job interrupted"));
}

#[tokio::test]
async fn it_ends_in_time_with_many_requests_to_hand_back_and_no_connection() {
    let mut fixture = Fixture::start().await;
    let args = ["--concurrency", "1", "--inbox", "20000", "--grace", "2s"];
    let mut consumer = fixture.consumer(&args).await;
    let job = r#"{"kind":"sleep","payload":{"ms":600000},"timeout":"1h"}"#;
    for _ in 0..6_000 {
        let reply = "_INBOX_publisher.here";
        fixture
            .publisher
            .publish_with_reply("jobs.create", reply, job.into())
            .await
            .unwrap();
    }
    fixture.status(|status| status.waiting == 5_999).await;
    fixture.server.kill().await;
    consumer
        .wait_for_line(|line| line.contains("lost NATS, reconnecting connection=\"jobs\""))
        .await;
    consumer.signal(Signal::SIGTERM);
    assert_eq!(
        consumer.wait_within(Duration::from_secs(8)).await.code(),
        Some(0)
    );
    let said = consumer.stdout().join("\n");
    assert!(
        said.contains("jobs could not be handed back in time"),
        "{said}"
    );
    assert!(said.contains("stopped processed=0"), "{said}");
}

/// The processes that this one started and that are still there.
fn children(parent: u32) -> Vec<String> {
    let folders = std::fs::read_dir("/proc").unwrap().flatten();
    let stats =
        folders.filter_map(|folder| std::fs::read_to_string(folder.path().join("stat")).ok());
    // The parent stands behind the name in brackets and the state.
    let child = |stat: &String| {
        stat.rsplit_once(") ").unwrap().1.split(' ').nth(1) == Some(&parent.to_string())
    };
    stats
        .filter(child)
        .map(|stat| stat.split(' ').next().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn a_second_signal_leaves_no_program_behind() {
    let fixture = Fixture::start().await;
    let folder = tempfile::tempdir().unwrap();
    let handlers = folder.path().join("handlers.toml");
    std::fs::write(
        &handlers,
        "[handlers.\"wait\"]\nexec = [\"sleep\", \"1000\"]\n",
    )
    .unwrap();
    let mut consumer = fixture
        .consumer(&["--grace", "1h", "--handlers", handlers.to_str().unwrap()])
        .await;
    fixture
        .publish(r#"{"kind":"wait","timeout":"1h"}"#, 1)
        .await;
    let program = eventually(DEADLINE, "the program", async || {
        children(consumer.id()).pop()
    })
    .await;
    consumer.signal(Signal::SIGTERM);
    consumer
        .wait_for_line(|line| line.contains("stopping signal"))
        .await;
    consumer.signal(Signal::SIGTERM);
    consumer.wait().await;
    eventually(DEADLINE, "the end of the program", async || {
        let stat = std::fs::read_to_string(format!("/proc/{program}/stat"));
        stat.map_or(true, |stat| stat.contains(") Z "))
            .then_some(())
    })
    .await;
}
