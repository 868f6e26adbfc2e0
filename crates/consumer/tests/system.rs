//! The embedded system for tests of users. Needs the feature `testing`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use client::{Client, Draft};
use common::{DeadReason, JobState, Timestamp, codes};
use consumer::testing::{End, System};
use consumer::{Attempt, Failure, Handler, Job, Registry};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::watch;

const HOUR: Duration = Duration::from_hours(1);

#[derive(Serialize, Deserialize)]
struct Add(u32, u32);

impl Job for Add {
    const KIND: &'static str = "add";
    type Output = u32;
}

/// Fails so many times before it succeeds.
#[derive(Serialize, Deserialize)]
struct Flaky {
    failures: u32,
}

impl Job for Flaky {
    const KIND: &'static str = "flaky";
    type Output = u32;
}

struct Flakes;

impl Handler for Flakes {
    type Job = Flaky;

    async fn handle(&self, job: Flaky, attempt: Attempt) -> Result<u32, Failure> {
        if attempt.number > job.failures {
            return Ok(attempt.number);
        }
        Err(Failure::Transient {
            error: anyhow::anyhow!("away"),
            retry_after: Some(HOUR),
        })
    }
}

/// A job whose handler submits so many more, one after the other.
#[derive(Serialize, Deserialize)]
struct Chain(u32);

impl Job for Chain {
    const KIND: &'static str = "chain";
    type Output = ();
}

fn add() -> Registry {
    Registry::new().with_job(async |Add(a, b): Add| Ok(a + b))
}

async fn start(handlers: Registry) -> System {
    let program = tokio::task::spawn_blocking(test_support::nats_binary).await;
    let program = program.unwrap().unwrap().path;
    System::start_with(program, handlers).await.unwrap()
}

#[tokio::test]
async fn all_jobs_that_are_due_are_run_and_told_once() {
    let mut system = start(add()).await;
    let jobs = system.client().clone();
    assert!(system.run_due().await.unwrap().is_empty());
    let handles = jobs.submit_all((0..50).map(|n| Add(n, 1))).await.unwrap();
    let mut ended = system.run_due().await.unwrap();
    assert_eq!(ended.len(), 50);
    ended.sort_by_key(|job| job.id);
    let mut ids: Vec<_> = handles.iter().map(client::Handle::id).collect();
    ids.sort();
    assert!(ended.iter().map(|job| job.id).eq(ids));
    assert!(ended.iter().all(|job| job.attempts == 1));
    assert_eq!(ended[0].kind.as_ref().unwrap().as_str(), "add");
    let sums = ended
        .iter()
        .filter(|job| matches!(&job.end, End::Succeeded(sum) if *sum == json!(8)));
    assert_eq!(sums.count(), 1);
    assert_eq!(handles[7].result().await.unwrap(), 8);
    assert_eq!(jobs.confirmed(Add(1, 2)).await.unwrap(), 3);
    assert!(system.run_due().await.unwrap().is_empty());
    system.stop().await.unwrap();
}

#[tokio::test]
async fn time_moves_to_a_retry_and_not_beyond_it() {
    let mut system = start(Registry::new().with(Flakes)).await;
    let jobs = system.client().clone();
    let handle = jobs.submit(Flaky { failures: 2 }).await.unwrap();
    assert!(system.run_due().await.unwrap().is_empty());
    let attempt = async || {
        let record = handle.record().await.unwrap().unwrap();
        assert_eq!(record.state, JobState::Retrying);
        record.attempt
    };
    assert_eq!(attempt().await, 1);
    system.advance(HOUR / 2).await.unwrap();
    assert!(system.run_due().await.unwrap().is_empty());
    assert_eq!(attempt().await, 1, "the retry is due in half an hour");
    system.advance(HOUR / 2).await.unwrap();
    assert!(system.run_due().await.unwrap().is_empty());
    assert_eq!(attempt().await, 2, "the next retry is due in an hour");
    system.advance(HOUR).await.unwrap();
    let ended = system.run_due().await.unwrap();
    let [job] = &ended[..] else {
        panic!("{ended:?}")
    };
    assert_eq!((job.id, job.attempts), (handle.id(), 3));
    assert_eq!(job.end, End::Succeeded(json!(3)));
    assert_eq!(job.record.failures.len(), 2);
}

#[tokio::test]
async fn a_job_whose_attempts_are_used_up_is_a_dead_letter() {
    let mut system = start(Registry::new().with(Flakes)).await;
    let jobs = system.client().clone();
    let handle = jobs.submit(Flaky { failures: 9 }).max_attempts(3).await;
    let handle = handle.unwrap();
    let ended = system.drain().await.unwrap();
    let [job] = &ended[..] else {
        panic!("{ended:?}")
    };
    assert_eq!((job.id, job.attempts), (handle.id(), 3));
    let End::Dead { reason, error } = &job.end else {
        panic!("{job:?}")
    };
    assert_eq!(*reason, Some(DeadReason::AttemptsUsedUp));
    let error = error.as_ref().unwrap();
    assert_eq!((&*error.code, &*error.message), (codes::TRANSIENT, "away"));
    let dead = client::dead_letters::show(jobs.nats(), handle.id()).await;
    assert!(dead.unwrap().is_some());
}

#[tokio::test]
async fn jobs_for_later_run_at_their_time_and_in_its_order() {
    let mut system = start(add()).await;
    let jobs = system.client().clone();
    let at = Timestamp::now().after(24 * HOUR);
    let last = jobs.submit(Add(3, 0)).run_at(at).await.unwrap();
    let first = jobs.submit(Add(1, 0)).delay(HOUR).await.unwrap();
    let second = jobs.submit(Add(2, 0)).delay(2 * HOUR).await.unwrap();
    assert!(system.run_due().await.unwrap().is_empty());
    system.advance(HOUR).await.unwrap();
    let ids =
        |ended: Vec<consumer::testing::Ended>| ended.iter().map(|job| job.id).collect::<Vec<_>>();
    assert_eq!(ids(system.run_due().await.unwrap()), [first.id()]);
    let cancelled = jobs.submit(Add(4, 0)).delay(HOUR).await.unwrap();
    cancelled.cancel().await.unwrap();
    assert!(cancelled.result().await.is_err());
    let ended = system.drain().await.unwrap();
    assert_eq!(ended[0].end, End::Cancelled);
    assert_eq!(ids(ended), [cancelled.id(), second.id(), last.id()]);
}

#[tokio::test]
async fn jobs_that_handlers_submit_are_run_too() {
    static RUN: AtomicU32 = AtomicU32::new(0);
    let (give, take) = watch::channel(None::<Client>);
    let handlers = Registry::new().with_job(move |Chain(more): Chain| {
        let jobs = take.borrow().clone();
        async move {
            RUN.fetch_add(1, Ordering::Relaxed);
            if more > 0 {
                // Every other one is for later.
                let delay = if more % 2 == 0 { HOUR } else { Duration::ZERO };
                let next = Draft::new(Chain(more - 1)).delay(delay);
                jobs.unwrap().submit(next).await?;
            }
            Ok(())
        }
    });
    let mut system = start(handlers).await;
    give.send_replace(Some(system.client().clone()));
    system.client().submit(Chain(9)).await.unwrap();
    assert_eq!(system.run_due().await.unwrap().len(), 2);
    assert_eq!(system.drain().await.unwrap().len(), 8);
    assert_eq!(RUN.load(Ordering::Relaxed), 10);
}

#[tokio::test]
async fn the_example_of_the_documentation_is_right() -> anyhow::Result<()> {
    let away = async |_: Add| Err(Failure::transient(std::io::Error::other("away")));
    let mut system = start(Registry::new().with_job(away)).await;
    let jobs = system.client().clone();
    let handle = jobs.submit(Add(1, 2)).delay(HOUR).await?;
    assert!(system.run_due().await?.is_empty());
    system.advance(HOUR).await?;
    let ended = system.drain().await?;
    assert_eq!((ended[0].id, ended[0].attempts), (handle.id(), 5));
    assert!(matches!(ended[0].end, End::Dead { .. }));
    system.stop().await
}

#[tokio::test]
async fn a_consumer_that_cannot_start_is_an_error() {
    let program = tokio::task::spawn_blocking(test_support::nats_binary).await;
    let program = program.unwrap().unwrap().path;
    let twice = add().with_job(async |Add(a, b): Add| Ok(a * b));
    let error = System::start_with(program, twice).await.unwrap_err();
    assert!(format!("{error:#}").contains("two handlers"), "{error:#}");
    let error = System::start_with("/does/not/exist", add())
        .await
        .unwrap_err();
    assert!(
        format!("{error:#}").contains("/does/not/exist"),
        "{error:#}"
    );
}
