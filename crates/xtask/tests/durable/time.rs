//! Jobs that wait for their time, and jobs that have none left.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use async_nats::HeaderMap;
use common::{JobId, JobState, Timestamp, subjects};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::{Service, eventually};

use crate::lane::{Lane, between, takes_durable_jobs};

/// A time so many seconds from now, or ago.
fn from_now(seconds: i64) -> Timestamp {
    Timestamp::now().shifted(seconds * 1000)
}

/// Stores a job where jobs wait for their time, as older publishers did.
pub(crate) async fn submit_for_later(lane: &Lane, job: Value, at: Timestamp) -> JobId {
    let id = JobId::generate();
    let kind = job["kind"].as_str().unwrap();
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Schedule", format!("@at {at}"));
    let target = format!("{}.{id}.normal.1.{kind}", subjects::DUE);
    headers.insert("Nats-Schedule-Target", target);
    let worker = lane.fixture.server.connect_as("worker").await;
    test_support::put(&worker, subjects::later(id), headers, job.to_string()).await;
    id
}

#[tokio::test]
async fn a_job_waits_for_its_time_however_it_was_submitted() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("only", &[]).await;
    let run_at = from_now(3);
    let job = json!({"kind": "note", "run_at": run_at});
    let queued = lane.submit(job.clone()).await;
    let later = submit_for_later(&lane, job, run_at).await;
    let past = lane
        .submit(json!({"kind": "note", "run_at": from_now(-60)}))
        .await;

    // The consumer that got it puts it off.
    let record = lane.becomes(queued, JobState::Scheduled).await;
    assert_eq!(
        record.next_at.map(|at| between(at, run_at)),
        Some(Duration::ZERO)
    );
    lane.becomes(past, JobState::Succeeded).await;
    assert!(Timestamp::now() < run_at, "too slow to tell");
    let ledger = lane.ledger();
    assert!(ledger.of(queued).is_empty() && ledger.of(later).is_empty());
    for id in [queued, later] {
        let record = lane.becomes(id, JobState::Succeeded).await;
        assert_eq!((record.attempt, record.failures.len()), (1, 0));
        let wait = between(run_at, record.at);
        assert!(wait < Duration::from_secs(5), "{wait:?} too late");
        assert_eq!(lane.ledger().of(id).len(), 1);
    }
    println!("submitted 3, succeeded 3, runs {}", lane.ledger().0.len());
}

#[tokio::test]
async fn a_job_that_comes_too_late_expires_without_being_run() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("only", &["--kinds", "note,flaky"]).await;
    let expired = lane
        .submit(json!({"kind": "note", "deadline": from_now(-1)}))
        .await;
    // Its first attempt is in time, and what would come after it is not.
    let backoff = json!({"initial": "1h", "max": "1h"});
    let job =
        json!({"kind": "note", "deadline": from_now(2), "run_at": from_now(4), "backoff": backoff});
    let never = lane.submit(job).await;
    let in_time = lane
        .submit(json!({"kind": "note", "deadline": from_now(600)}))
        .await;
    lane.becomes(in_time, JobState::Succeeded).await;
    for id in [expired, never] {
        let record = lane.becomes(id, JobState::Expired).await;
        assert_eq!(record.attempt, 0, "{record:?}");
        assert!(lane.dead_letter(id, "note").await.is_none());
    }
    let ledger = lane.ledger();
    assert_eq!(ledger.0.len(), 1, "{ledger:?}");
}

/// Makes the clock of a process wrong by `CLOCK_OFFSET` seconds.
const WRONG_CLOCK: &str = r#"
    #define _GNU_SOURCE
    #include <stdlib.h>
    #include <sys/syscall.h>
    #include <time.h>
    #include <unistd.h>
    int clock_gettime(clockid_t clock, struct timespec *time) {
        int result = syscall(SYS_clock_gettime, clock, time);
        const char *offset = getenv("CLOCK_OFFSET");
        if (result == 0 && clock == CLOCK_REALTIME && offset != NULL) {
            time->tv_sec += atol(offset);
        }
        return result;
    }
"#;

/// Builds that as a library to be loaded before all others; `None` where there is no C compiler.
fn wrong_clock(folder: &Path) -> Option<String> {
    let source = folder.join("clock.c");
    let library = folder.join("clock.so");
    std::fs::write(&source, WRONG_CLOCK).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .arg(&library)
        .arg(&source)
        .status();
    built
        .ok()?
        .success()
        .then(|| library.to_str().unwrap().to_owned())
}

/// A consumer whose clock is wrong by so many seconds.
async fn consumer(lane: &Lane, library: &str, offset: i64) -> Service {
    let server = &lane.fixture.server;
    let mut consumer = Service::named("consumer")
        .envs(server.env_for("worker"))
        .env("CONSUMER_INSTANCE", "wrong")
        .env("LD_PRELOAD", library)
        .env("CLOCK_OFFSET", offset.to_string())
        .env("LOG_FORMAT", "json")
        .start();
    takes_durable_jobs(&mut consumer).await;
    consumer
}

#[tokio::test]
async fn a_consumer_whose_clock_is_an_hour_off_keeps_the_time_of_the_server() {
    let folder = TempDir::new().unwrap();
    let Some(library) = wrong_clock(folder.path()) else {
        println!("skipped: there is no C compiler to make a clock wrong with");
        return;
    };
    for offset in [3600, -3600] {
        let lane = Lane::start().await;
        let consumer = consumer(&lane, &library, offset).await;
        // The clock is really wrong: the consumer's own log says so.
        let off = eventually(test_support::DEADLINE, "a time in the log", async || {
            let last = consumer.stdout().pop()?;
            let said: Value = serde_json::from_str(&last).unwrap();
            let logged: Timestamp = said["timestamp"].as_str()?.parse().ok()?;
            Some(logged.milliseconds_ahead_of(Timestamp::now()) / 1000)
        })
        .await;
        assert!((off - offset).abs() < 60, "the clock is off by {off} s");

        let open = lane
            .submit(json!({"kind": "echo", "deadline": from_now(600)}))
            .await;
        let expired = lane
            .submit(json!({"kind": "echo", "deadline": from_now(-600)}))
            .await;
        let run_at = from_now(2);
        let waits = lane.submit(json!({"kind": "echo", "run_at": run_at})).await;
        let retry = json!({"kind": "fail", "payload": {}, "max_attempts": 2, "backoff": {"initial": "10ms"}});
        let fails = lane.submit(retry).await;
        let record = lane.becomes(open, JobState::Succeeded).await;
        let wrong = record.at.milliseconds_ahead_of(Timestamp::now());
        assert!(wrong.abs() < 60_000, "a record that is {wrong} ms ahead");
        lane.becomes(expired, JobState::Expired).await;
        let record = lane.becomes(waits, JobState::Succeeded).await;
        let wait = record.at.milliseconds_ahead_of(run_at);
        // What a consumer takes for the server's time is off by up to a round trip.
        assert!(
            (-500..10_000).contains(&wait),
            "run {wait} ms after its time"
        );
        let record = lane.becomes(fails, JobState::Dead).await;
        assert_eq!(record.attempt, 2, "{record:?}");
        println!("clock off by {off} s: submitted 4, succeeded 2, expired 1, dead 1");
    }
}
