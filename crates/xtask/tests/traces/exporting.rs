//! What becomes of spans where the collector is not as it should be.

use test_support::DEADLINE;
use tokio::net::TcpListener;

use crate::fixture::{Fixture, stop};

#[tokio::test]
async fn what_a_collector_asks_for_is_sent_to_it_and_not_logged() {
    let fixture = Fixture::start().await;
    fixture.become_good();
    let consumer = fixture.consumer(&[]).await;
    let publisher = fixture
        .publisher()
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", fixture.collector.endpoint())
        .env(
            "OTEL_EXPORTER_OTLP_HEADERS",
            "authorization=Bearer%20s3cret",
        )
        .args(["--count", "1", "--log", "debug"]);
    let mut publisher = publisher.start();
    assert!(publisher.wait().await.success());
    stop(consumer).await;
    assert_eq!(fixture.collector.credentials(), ["Bearer s3cret"]);
    let lines = publisher.lines();
    assert!(
        lines
            .iter()
            .any(|line| line.text.contains("the collector takes spans"))
    );
    assert!(lines.iter().all(|line| !line.text.contains("s3cret")));
}

#[tokio::test]
async fn a_collector_that_is_away_or_does_not_answer_holds_no_job_up_and_is_mentioned_once() {
    let fixture = Fixture::start().await;
    let consumer = fixture.consumer(&["--kinds", "echo"]).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let away = format!("http://{}", gone.local_addr().unwrap());
    drop(gone);
    // The system takes the connection, and nobody reads from it.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = format!("http://{}", listener.local_addr().unwrap());
    let with_tls = away.replace("http:", "https:");
    for (endpoint, mentioned) in [(away, 1), (with_tls, 1), (silent, 0)] {
        let publisher = fixture
            .publisher()
            .env("OTEL_BSP_SCHEDULE_DELAY", "20")
            .args(["--count", "500", "--interval", "1ms"])
            .args(["--otlp-endpoint", &endpoint]);
        let mut publisher = publisher.start();
        // Its jobs have succeeded. Were each held up by the collector, it would not end in time.
        assert!(publisher.wait_within(DEADLINE).await.success());
        let lines = publisher.stdout();
        let told = lines.iter().filter(|line| line.contains("takes no spans"));
        assert_eq!(told.count(), mentioned, "{lines:?}");
    }
    stop(consumer).await;
}

#[tokio::test]
async fn an_endpoint_that_is_none_or_shows_a_secret_is_refused_and_not_repeated() {
    let fixture = Fixture::start().await;
    for endpoint in ["collector:4318", "http://user:s3cret@127.0.0.1:4318"] {
        let publisher = fixture.publisher().args(["--otlp-endpoint", endpoint]);
        let mut publisher = publisher.start();
        assert_eq!(publisher.wait().await.code(), Some(2));
        let lines = publisher.lines();
        let named = |name| lines.iter().any(|line| line.text.contains(name));
        assert!(named("OTEL_EXPORTER_OTLP_ENDPOINT"), "{lines:?}");
        assert!(!named("s3cret"), "{lines:?}");
    }
}
