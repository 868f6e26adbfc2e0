//! A consumer with handlers of its user's own, started by the library.

use std::time::Duration;

use bootstrap::Context;
use clap::Parser as _;
use common::{Status, codes};
use consumer::{Attempt, Config, Failure, Handler, Job, Registry};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use test_support::{DEADLINE, eventually};
use tokio_util::sync::CancellationToken;

use crate::fixture::{Fixture, code};

/// A job that ends long after every test. It has no payload.
#[derive(Serialize, Deserialize)]
struct Stay;

impl Job for Stay {
    const KIND: &'static str = "stubborn";
    type Output = ();
}

struct Stubborn;

impl Handler for Stubborn {
    type Job = Stay;

    async fn handle(&self, _: Stay, _: Attempt) -> Result<(), Failure> {
        tokio::time::sleep(Duration::from_hours(1)).await;
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        Some(Duration::from_millis(40))
    }
}

fn handlers() -> Registry {
    Registry::new()
        .with(Stubborn)
        .with_fn("panic", async |text: String| -> Result<(), Failure> {
            panic!("{text}")
        })
        .with_fn(
            "panic.before",
            |(): ()| -> std::future::Ready<Result<(), Failure>> { panic!("early") },
        )
        .with_fn("add", async |(a, b): (u32, u32)| Ok(a + b))
        .with_fn("io", async |path: String| {
            Ok(std::fs::read_to_string(path)?)
        })
        .with_fn("deep", async |levels: usize| {
            let text = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
            Ok(RawValue::from_string(text)?)
        })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handler_that_panics_hangs_or_fails_harms_no_other_job() {
    let fixture = Fixture::start().await;
    let shutdown = CancellationToken::new();
    let mut arguments = vec!["consumer".to_owned(), "--concurrency=1".to_owned()];
    for (variable, value) in fixture.server.env_for("worker") {
        arguments.push(format!(
            "--{}={value}",
            variable.to_lowercase().replace('_', "-")
        ));
    }
    let config = Config::parse_from(arguments);
    let context = Context::new(consumer::ABOUT, config.options.clone(), shutdown.clone());
    let consumer = tokio::spawn(consumer::serve(context, config, handlers()));
    fixture.status(|status| status.concurrency == 1).await;
    eventually(DEADLINE, "the consumer in the queue group", async || {
        fixture
            .publisher
            .request("jobs.create", r#"{"kind":"add","payload":[1,2]}"#.into())
            .await
            .ok()
    })
    .await;

    let outcome = fixture
        .outcome(r#"{"kind":"panic","payload":"boom"}"#)
        .await;
    assert_eq!(
        (outcome.status, code(&outcome)),
        (Status::Failed, codes::PANIC)
    );
    assert!(outcome.error.unwrap().message.contains("boom"));
    let outcome = fixture.outcome(r#"{"kind":"panic.before"}"#).await;
    assert_eq!(code(&outcome), codes::PANIC);
    let outcome = fixture.outcome(r#"{"kind":"stubborn"}"#).await;
    assert_eq!(code(&outcome), codes::TIMEOUT);
    assert!(
        outcome.error.unwrap().message.contains("40ms"),
        "the handler's own time-out counts"
    );
    let outcome = fixture
        .outcome(r#"{"kind":"io","payload":"/does/not/exist"}"#)
        .await;
    assert_eq!(
        code(&outcome),
        codes::TRANSIENT,
        "`?` makes a failure transient"
    );
    let outcome = fixture.outcome(r#"{"kind":"deep","payload":128}"#).await;
    assert_eq!(outcome.status, Status::Succeeded);
    let outcome = fixture.outcome(r#"{"kind":"deep","payload":129}"#).await;
    assert_eq!(
        (outcome.status, code(&outcome)),
        (Status::Failed, codes::RESULT_UNREADABLE)
    );
    let outcome = fixture.outcome(r#"{"kind":"add","payload":[20,22]}"#).await;
    assert_eq!(outcome.result.unwrap().get(), "42");

    shutdown.cancel();
    consumer.await.unwrap().unwrap();
}
