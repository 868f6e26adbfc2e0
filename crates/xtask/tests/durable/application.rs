//! The typed client of an application, as the user `application`, against real consumers.

use std::process::Stdio;
use std::time::Duration;

use client::{
    Client, ConfirmedError, ConnectError, Draft, Handle, Job, JobState, ResultError, SubmitError,
    Submitted,
};
use common::{Status, subjects};
use futures_util::StreamExt as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};
use test_support::{DEADLINE, eventually};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::fixture::{Sleep, stop};
use crate::lane::Lane;

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Checksum {
    text: String,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Sha256 {
    hex: String,
}

impl Job for Checksum {
    const KIND: &'static str = "sha256";
    type Output = Sha256;
}

#[derive(Serialize, Deserialize)]
struct Fail {
    message: String,
    permanent: bool,
}

impl Job for Fail {
    const KIND: &'static str = "fail";
    type Output = ();
}

/// A kind that no consumer serves.
#[derive(Serialize, Deserialize)]
struct Unserved;

impl Job for Unserved {
    const KIND: &'static str = "nobody.serves";
    type Output = ();
}

const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn abc() -> Checksum {
    let text = "abc".to_owned();
    Checksum { text }
}

async fn connect(lane: &Lane, user: &str) -> Client {
    let options = lane.fixture.options(user);
    Client::connect(options).await.unwrap()
}

#[tokio::test]
async fn a_typed_job_is_submitted_and_its_typed_result_comes_back_in_all_three_ways() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("a", &[]).await;
    let jobs = connect(&lane, "application").await;
    assert!(*jobs.connected().borrow(), "it counts as connected at once");
    let handle = jobs.submit(abc()).await.unwrap();
    assert!(!handle.was_known());
    assert_eq!(handle.result().await.unwrap().hex, ABC);
    let record = handle.record().await.unwrap().unwrap();
    assert_eq!(record.state, JobState::Succeeded);
    // The same id is the same job.
    let again = jobs.submit(abc()).id(handle.id()).await.unwrap();
    assert!(again.was_known());
    assert_eq!(again.result().await.unwrap().hex, ABC);

    let confirmed = jobs.confirmed(abc()).within(DEADLINE).await.unwrap();
    assert_eq!(confirmed.hex, ABC);
    let succeeded = async || {
        let statuses = lane.fixture.statuses(1).await;
        statuses["a"].lanes[subjects::CORE_LANE].kinds["sha256"]
            .counts
            .succeeded
    };
    let before = succeeded().await;
    jobs.fire_and_forget(abc()).await.unwrap();
    eventually(DEADLINE, "the published job", async || {
        (succeeded().await > before).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_became_of_a_job_without_a_result_is_an_error_of_its_own() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("a", &[]).await;
    let jobs = connect(&lane, "application").await;
    let fail = || Fail {
        message: "no such address".to_owned(),
        permanent: true,
    };
    let dead = jobs.submit(fail()).await.unwrap();
    match dead.result().await.unwrap_err() {
        ResultError::Dead { id, error, record } => {
            assert_eq!(id, dead.id());
            assert!(error.unwrap().message.contains("no such address"));
            assert_eq!(record.failures.len(), 1);
        }
        other => panic!("{other}"),
    }
    let cancelled = jobs
        .submit(Sleep { ms: 1 })
        .delay(Duration::from_hours(1))
        .await
        .unwrap();
    cancelled.cancel().await.unwrap();
    let error = cancelled.result().await.unwrap_err();
    assert!(matches!(error, ResultError::Cancelled(_)), "{error}");
    let expired = jobs
        .submit(abc())
        .deadline("2020-01-01T00:00:00Z".parse().unwrap())
        .await
        .unwrap();
    let error = expired.result().await.unwrap_err();
    assert!(matches!(error, ResultError::Expired(_)), "{error}");
    let wrong: Handle<Sleep> = jobs.handle(jobs.submit(abc()).await.unwrap().id());
    let error = wrong.result().await.unwrap_err();
    assert!(matches!(error, ResultError::Unreadable { .. }), "{error}");

    match jobs.confirmed(fail()).await.unwrap_err() {
        ConfirmedError::Unsuccessful { outcome, .. } => assert_eq!(outcome.status, Status::Failed),
        other => panic!("{other}"),
    }
    let within = Duration::from_millis(500);
    let error = jobs.confirmed(Sleep { ms: 60_000 }).within(within).await;
    match error.unwrap_err() {
        ConfirmedError::TimedOut { may_have_run, .. } => assert!(may_have_run),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn a_job_that_nobody_serves_is_waited_for_and_its_wait_can_end() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("a", &[]).await;
    let jobs = connect(&lane, "application").await;
    let waiting = jobs.submit(Unserved).await.unwrap();
    let ended = waiting.wait(Duration::from_millis(100)).await.unwrap();
    assert!(ended.is_none());
    let record = waiting.record().await.unwrap().unwrap();
    assert_eq!(record.state, JobState::Queued);
}

#[tokio::test]
async fn each_change_of_a_job_is_followed_to_its_end() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("a", &[]).await;
    let jobs = connect(&lane, "application").await;
    let fail = Fail {
        message: "away".to_owned(),
        permanent: false,
    };
    let backoff = serde_json::from_str(r#"{"initial": "1ms", "factor": 1, "max": "1ms"}"#);
    let handle = jobs
        .submit(fail)
        .max_attempts(2)
        .backoff(backoff.unwrap())
        .await
        .unwrap();
    let states: Vec<_> = handle
        .follow()
        .map(|record| record.unwrap().state)
        .collect()
        .await;
    assert_eq!(states.last(), Some(&JobState::Dead), "{states:?}");
    // Whoever begins to follow late sees the end.
    let states: Vec<_> = handle
        .follow()
        .map(|record| record.unwrap().state)
        .collect()
        .await;
    assert_eq!(states, [JobState::Dead]);
}

#[tokio::test]
async fn jobs_are_stored_together_or_not_at_all_and_a_key_makes_them_one() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("a", &[]).await;
    let jobs = connect(&lane, "application").await;
    let handles = jobs.submit_all((0..100).map(|_| abc())).await.unwrap();
    for handle in &handles {
        assert_eq!(handle.result().await.unwrap().hex, ABC);
    }
    let keyed = || Draft::new(Unserved).idempotency_key("order-7");
    let first = jobs.submit(keyed()).await.unwrap();
    let second = jobs.submit(keyed()).await.unwrap();
    assert_eq!(first.id(), second.id());
    assert!(second.was_known());
    // A job without a type is one however often it is submitted.
    let job = Draft::new(Unserved).into_job().unwrap();
    assert_eq!(jobs.submit_job(&job).await, Ok(Submitted::Stored));
    assert_eq!(jobs.submit_job(&job).await, Ok(Submitted::Known));
    let error = jobs.submit_all([Draft::new(Unserved), keyed()]).await;
    assert_eq!(error.unwrap_err(), SubmitError::SomeKnown);
}

#[tokio::test]
async fn errors_say_what_a_caller_can_do() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("a", &[]).await;
    let jobs = connect(&lane, "application").await;
    let text = "x".repeat(1 << 20);
    let error = jobs.submit(Checksum { text }).await.unwrap_err();
    assert!(matches!(error, SubmitError::TooLarge { .. }), "{error}");
    let error = jobs.submit(abc()).max_attempts(101).await.unwrap_err();
    assert!(error.to_string().contains("max_attempts"), "{error}");
    // A user that may not submit is told so at once.
    let status = connect(&lane, "status").await;
    let error = status.submit(abc()).await.unwrap_err();
    let SubmitError::Forbidden(subject) = &error else {
        panic!("{error}")
    };
    assert!(subject.starts_with("jobs.durable."), "{error}");
    // The client is as usable as before.
    let error = status.submit(abc()).await.unwrap_err();
    assert!(matches!(error, SubmitError::Forbidden(_)), "{error}");

    let wrong = lane
        .fixture
        .options("application")
        .user("application", "wrong");
    let error = Client::connect(wrong).await.unwrap_err();
    assert!(matches!(error, ConnectError::Misconfigured(_)), "{error}");
}

#[tokio::test]
async fn without_a_stream_nothing_is_stored_and_the_error_says_so() {
    let lane = Lane::start().await;
    let jobs = connect(&lane, "application").await;
    let submission = jobs.submit(abc());
    let error = tokio::time::timeout(2 * DEADLINE, submission)
        .await
        .unwrap();
    assert!(matches!(error, Err(SubmitError::NoStream(_))), "{error:?}");
}

#[tokio::test]
async fn a_dropped_submission_leaves_the_client_usable() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("a", &[]).await;
    let jobs = connect(&lane, "application").await;
    for _ in 0..200 {
        let submission = jobs.submit(abc()).into_future();
        let _ = tokio::time::timeout(Duration::ZERO, submission).await;
    }
    let handle = jobs.submit(abc()).await.unwrap();
    assert_eq!(handle.result().await.unwrap().hex, ABC);
}

#[tokio::test]
async fn an_application_may_bring_its_own_connection() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("a", &[]).await;
    let nats = lane.fixture.server.connect_as("application").await;
    let jobs = Client::over(nats);
    let handle = jobs.submit(abc()).await.unwrap();
    assert_eq!(handle.result().await.unwrap().hex, ABC);
    assert_eq!(jobs.confirmed(abc()).await.unwrap().hex, ABC);
}

#[tokio::test]
async fn a_wait_goes_on_when_the_server_comes_back() {
    let mut lane = Lane::start().await;
    let jobs = connect(&lane, "application").await;
    let mut consumer = lane.consumer("a", &[]).await;
    stop(&mut consumer).await;
    let handle = jobs.submit(abc()).await.unwrap();
    let result = tokio::spawn({
        let handle = handle.clone();
        async move { handle.result().await }
    });
    lane.fixture.server.kill().await;
    lane.fixture.server.start_again().await;
    let _consumer = lane.consumer("b", &[]).await;
    assert_eq!(result.await.unwrap().unwrap().hex, ABC);
}

/// The steps at which the outbox example can be killed, with the argument of the program that gets there,
/// and whether the order is placed by then.
const STEPS: [(&str, &[&str], bool); 4] = [
    ("inserted", &["place", "a book"], false),
    ("committed", &["place", "a book"], true),
    ("submitted", &["relay"], true),
    ("deleted", &["relay"], true),
];

#[tokio::test]
async fn an_outbox_survives_kills_between_all_its_steps_without_a_lost_or_a_doubled_job() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("a", &[]).await;
    let example = tokio::task::spawn_blocking(|| test_support::example("client", "outbox"));
    let example = example.await.unwrap();
    let run = |folder: &std::path::Path, arguments: &[&str]| {
        let mut command = Command::new(&example);
        command
            .arg(folder.join("orders.db"))
            .args(arguments)
            .envs(lane.fixture.server.env_for("application"))
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        command
    };
    for (step, arguments, placed) in STEPS {
        let folder = tempfile::tempdir().unwrap();
        if arguments[0] == "relay" {
            let placed = run(folder.path(), &["place", "a book"]).output().await;
            assert!(placed.unwrap().status.success());
        }
        let before = jobs(&lane).await;
        let mut paused = run(folder.path(), arguments);
        let mut paused = paused.env("OUTBOX_PAUSE", step).spawn().unwrap();
        let mut lines = BufReader::new(paused.stdout.take().unwrap()).lines();
        let told = tokio::time::timeout(DEADLINE, lines.next_line()).await;
        assert_eq!(told.unwrap().unwrap().unwrap(), format!("paused: {step}"));
        let pid = i32::try_from(paused.id().unwrap()).unwrap();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        paused.wait().await.unwrap();

        let relayed = run(folder.path(), &["relay"]).output().await;
        assert!(relayed.unwrap().status.success());
        let expected = before + usize::from(placed);
        assert_eq!(jobs(&lane).await, expected, "killed after {step}");
        let again = run(folder.path(), &["relay"]).output().await.unwrap();
        assert!(again.status.success() && again.stdout.is_empty());
    }
}

/// How many jobs there are, when none of them waits any more.
async fn jobs(lane: &Lane) -> usize {
    lane.queue_empties().await;
    lane.count("JOBS_STATE", subjects::ALL_RECORDS).await
}
