//! NATS and consumers come and go.

use std::time::Duration;

use common::Status;
use test_support::{DEADLINE, NatsServer, Service, Signal, eventually};

use crate::fixture::Fixture;

/// A server that is away, and a consumer that waits for it.
async fn waiting_for_nats() -> (NatsServer, Service) {
    let mut server = NatsServer::start().await;
    let env = server.env_for("worker");
    server.stop().await;
    let mut consumer = Service::program(env!("CARGO_BIN_EXE_consumer"))
        .envs(env)
        .start();
    consumer
        .wait_for_line(|line| line.contains("NATS cannot be reached"))
        .await;
    (server, consumer)
}

#[tokio::test]
async fn a_consumer_that_starts_before_nats_waits_for_it() {
    let (mut server, mut consumer) = waiting_for_nats().await;
    server.start_again().await;
    consumer
        .wait_for_line(|line| line.contains("taking jobs"))
        .await;
    consumer.signal(Signal::SIGTERM);
    assert_eq!(consumer.wait().await.code(), Some(0));
}

#[tokio::test]
async fn a_consumer_that_never_met_nats_can_be_stopped() {
    let (_server, mut consumer) = waiting_for_nats().await;
    consumer.signal(Signal::SIGTERM);
    assert_eq!(consumer.wait().await.code(), Some(0));
}

#[tokio::test]
async fn a_consumer_serves_again_after_nats_was_away() {
    let mut fixture = Fixture::start().await;
    let mut consumer = fixture.consumer(&[]).await;
    consumer
        .wait_for_line(|line| line.contains("taking durable jobs"))
        .await;
    assert_eq!(
        fixture.outcome(r#"{"kind":"echo"}"#).await.status,
        Status::Succeeded
    );
    fixture.server.kill().await;
    consumer
        .wait_for_line(|line| line.contains("lost NATS, reconnecting connection=\"jobs\""))
        .await;
    fixture.server.start_again().await;
    eventually(DEADLINE, "an outcome after the restart", async || {
        let answer = tokio::time::timeout(
            Duration::from_secs(2),
            fixture
                .publisher
                .request("jobs.create", r#"{"kind":"echo"}"#.into()),
        );
        answer.await.ok()?.ok()
    })
    .await;
    assert_eq!(fixture.status(|_| true).await.totals.failed, 0);
    // Once for each of the three connections, however often it was tried again.
    let said = consumer.stdout();
    assert_eq!(
        said.iter()
            .filter(|line| line.contains("lost NATS"))
            .count(),
        3,
        "{said:#?}"
    );
    assert!(
        !said.iter().any(|line| line.contains("reports a problem")),
        "{said:#?}"
    );
}

#[tokio::test]
async fn wrong_credentials_end_it_with_a_clear_error() {
    let server = NatsServer::start().await;
    let mut consumer = Service::program(env!("CARGO_BIN_EXE_consumer"))
        .envs(server.env_for("worker"))
        .env("NATS_PASSWORD", "a-guess-at-a-password-here")
        .start();
    assert_eq!(consumer.wait().await.code(), Some(2));
    let said = consumer.stdout().join("\n");
    assert!(said.contains("check NATS_USER and NATS_PASSWORD"), "{said}");
    assert!(
        !said.contains("a-guess"),
        "the password is in the log: {said}"
    );
}

#[tokio::test]
async fn a_mistake_in_the_configuration_is_found_before_nats_is() {
    let mut server = NatsServer::start().await;
    let env = server.env_for("worker");
    server.stop().await;
    for args in [
        ["--handlers", "/does/not/exist.toml"],
        ["--kinds", "nobody.knows"],
    ] {
        let mut consumer = Service::program(env!("CARGO_BIN_EXE_consumer"))
            .envs(env.clone())
            .args(args)
            .start();
        assert_eq!(consumer.wait().await.code(), Some(2), "{args:?}");
        let said = consumer.stdout().join("\n");
        assert!(
            said.contains(args[1]) && !said.contains("cannot be reached"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn an_idle_consumer_does_not_wait_for_a_server_that_is_away() {
    let mut fixture = Fixture::start().await;
    let mut consumer = fixture.consumer(&["--grace", "1h"]).await;
    fixture.server.kill().await;
    consumer
        .wait_for_line(|line| line.contains("lost NATS, reconnecting connection=\"jobs\""))
        .await;
    consumer.signal(Signal::SIGTERM);
    assert_eq!(consumer.wait().await.code(), Some(0));
}
