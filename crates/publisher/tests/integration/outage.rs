//! NATS goes away and comes back.

use std::time::Duration;

use test_support::{NatsServer, Service};

use crate::support::{Responder, file, file_of, logged, publisher};

fn count(service: &Service, words: &str) -> usize {
    let lines = service.lines();
    lines
        .iter()
        .filter(|line| line.text.contains(words))
        .count()
}

/// What a service warned of, without the time.
fn problems(service: &Service) -> Vec<String> {
    let lines = service.lines().into_iter().filter_map(|line| {
        let (_, problem) = line.text.split_once(' ')?;
        let problem = problem.trim_start();
        let is_one = problem.starts_with("WARN") || problem.starts_with("ERROR");
        is_one.then(|| problem.to_owned())
    });
    lines.collect()
}

#[tokio::test]
async fn jobs_are_kept_while_nats_is_away_and_it_is_said_once() {
    let mut nats = NatsServer::start().await;
    // The first twenty are answered, and the next ones never, until NATS has been away.
    let (back, gone) = tokio::sync::watch::channel(false);
    let responder = Responder::start(&nats, move |request| {
        (request.number < 20 || *gone.borrow()).then(|| request.outcome("succeeded"))
    })
    .await;
    let (_folder, input) = file_of((0..200).map(|_| r#"{"kind":"a"}"#.to_owned()));
    let (_other, output) = file("outcomes.ndjson");
    let mut publisher = publisher(&nats)
        .arg("--input")
        .arg(&input)
        .arg("--output")
        .arg(&output)
        .args(["--in-flight", "50"])
        .env("RUST_LOG", "info,connection=debug")
        .start();
    responder.asked(70).await;
    nats.stop().await;
    publisher
        .wait_for_line(|line| line.contains("jobs are kept"))
        .await;
    back.send_replace(true);
    // Level debug, and the same problem again, so it is not counted below.
    publisher
        .wait_for_lines(3, |line| line.contains("NATS is still away"))
        .await;
    nats.start_again().await;
    assert!(publisher.wait().await.success());
    let mut problems = problems(&publisher);
    problems.sort_unstable();
    let all = problems.len();
    problems.dedup();
    assert_eq!(problems.len(), all, "said more than once: {problems:#?}");
    assert!(logged(&publisher, "jobs are kept").contains("jobs=50"));
    assert!(logged(&publisher, "going on").contains("jobs=50"));
    assert_eq!(count(&publisher, "lost NATS"), 1);
    let summary = logged(&publisher, "summary");
    assert!(summary.contains("succeeded=200 failed=0"), "{summary}");
    let outcomes = std::fs::read_to_string(output).unwrap();
    assert_eq!(outcomes.lines().count(), 200);
    assert!(
        outcomes
            .lines()
            .all(|outcome| outcome.contains(r#""attempt":1,"#)),
        "the outage counted as an attempt"
    );
}

#[tokio::test]
async fn consumers_that_come_back_later_than_the_publisher_are_waited_for() {
    let mut nats = NatsServer::start().await;
    let mute = Responder::start(&nats, |_| None).await;
    let (_folder, input) = file_of([
        r#"{"kind":"a","max_attempts":1,"backoff":{"initial":"50ms","max":"50ms"}}"#.to_owned(),
    ]);
    let mut publisher = publisher(&nats).arg("--input").arg(&input).start();
    mute.asked(1).await;
    drop(mute);
    nats.kill().await;
    nats.start_again().await;
    publisher
        .wait_for_line(|line| line.contains("going on"))
        .await;
    // Without a consumer, its only attempt must not be used up.
    let _responder = Responder::start(&nats, |request| Some(request.outcome("succeeded"))).await;
    assert!(publisher.wait().await.success());
}

#[tokio::test]
async fn a_publisher_that_starts_before_nats_waits_for_it() {
    let mut nats = NatsServer::start().await;
    nats.stop().await;
    let mut publisher = publisher(&nats).args(["--count", "1"]).start();
    publisher
        .wait_for_line(|line| line.contains("NATS cannot be reached"))
        .await;
    nats.start_again().await;
    let _responder = Responder::start(&nats, |request| Some(request.outcome("succeeded"))).await;
    assert!(publisher.wait().await.success());
}

#[tokio::test]
async fn jobs_that_are_made_here_are_not_made_while_nats_is_away() {
    let mut nats = NatsServer::start().await;
    let responder = Responder::start(&nats, |request| Some(request.outcome("succeeded"))).await;
    let mut publisher = publisher(&nats).args(["--rate", "200"]).start();
    responder.asked(1).await;
    nats.stop().await;
    publisher
        .wait_for_line(|line| line.contains("jobs are kept"))
        .await;
    nats.start_again().await;
    let back = publisher
        .wait_for_line(|line| line.contains("going on"))
        .await;
    assert!(back.contains("jobs=0") || back.contains("jobs=1"), "{back}");
    let before = responder.requests().len();
    responder.asked(before + 20).await;
    publisher.signal(test_support::Signal::SIGTERM);
    assert!(
        publisher
            .wait_within(Duration::from_secs(20))
            .await
            .success()
    );
}
