//! What Prometheus sees of a publisher.

use client::Limits;
use test_support::{NatsServer, Signal};

use crate::support::{AT_ONCE, Responder, bulk, make_streams, publisher, run};

fn outcome(outcome: &str) -> String {
    format!("jobs_publisher_outcomes_total{{outcome=\"{outcome}\"}}")
}

#[tokio::test]
async fn what_became_of_jobs_is_what_is_scraped() {
    let nats = NatsServer::start().await;
    let responder = Responder::start(&nats, |request| match request.number {
        0 => Some(request.outcome("busy")),
        1 | 2 => Some(request.outcome("succeeded")),
        3 => Some(request.outcome("failed")),
        _ => None,
    })
    .await;
    // The last job is never answered, so that the publisher goes on to be there.
    let mut publisher = publisher(&nats)
        .args(["--interval", "1ms", "--count", "4", "--in-flight", "1"])
        .start();
    let metrics = publisher
        .scrape_until(|metrics| metrics.get(&outcome("failed")) == Some(1.0))
        .await;
    assert_eq!(metrics.get(&outcome("succeeded")), Some(2.0));
    assert_eq!(metrics.get("jobs_publisher_submitted_total"), Some(4.0));
    assert_eq!(metrics.get("jobs_publisher_under_way"), Some(1.0));
    assert!(metrics.get("jobs_publisher_window") >= Some(1.0));
    let attempts = metrics.get("jobs_publisher_attempts_total");
    let again = metrics.get("jobs_publisher_resubmitted_total");
    assert_eq!((attempts, again), (Some(4.0), Some(1.0)));
    responder.asked(5).await;
    publisher.signal(Signal::SIGKILL);
    publisher.wait().await;
}

#[tokio::test]
async fn durable_jobs_count_as_stored() {
    let nats = NatsServer::start().await;
    make_streams(&nats, Limits::default()).await;
    let mut publisher = publisher(&nats)
        .args(["--delivery", "durable", "--interval", "50ms"])
        .start();
    let metrics = publisher
        .scrape_until(|metrics| metrics.get(&outcome("stored")) > Some(0.0))
        .await;
    assert_eq!(metrics.get("jobs_publisher_window"), None);
}

#[tokio::test]
async fn commands_of_an_operator_and_outcomes_on_standard_output_are_left_alone() {
    let nats = NatsServer::start().await;
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let mut info = publisher(&nats).args(["info", id]).start();
    info.wait().await;
    assert!(
        !info
            .lines()
            .iter()
            .any(|line| line.text.contains("metrics on"))
    );

    let _responder = Responder::start(&nats, |request| Some(request.outcome("succeeded"))).await;
    let line = format!(r#"{{"kind":"a",{AT_ONCE}}}"#);
    let (code, outcomes, publisher) = run(bulk(&nats, &[line])).await;
    assert_eq!((code, outcomes.len()), (0, 1));
    assert!(
        publisher
            .stderr()
            .iter()
            .any(|line| line.contains("metrics on http://127.0.0.1:"))
    );
}
