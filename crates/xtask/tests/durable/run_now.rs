//! Waiting jobs are run now, on request: each of them once, whatever breaks meanwhile.

use std::time::Duration;

use client::{Filter, ManyAction, ManyJobs, ManyWorker, NatsClient, RunNow, RunNowError, run_now};
use common::{JobId, JobState, Timestamp, subjects};
use futures_util::future::join_all;
use serde_json::json;
use test_support::{DEADLINE, eventually, put, put_record};

use crate::fixture::stop;
use crate::lane::{Lane, succeeded};

/// Within this time the watch for overdue jobs finds what a consumer began.
const FOUND: Duration = Duration::from_mins(1);

fn in_an_hour() -> Timestamp {
    Timestamp::now().after(Duration::from_hours(1))
}

async fn scheduled(lane: &Lane) -> JobId {
    let id = lane
        .submit(json!({"kind": "note", "run_at": in_an_hour()}))
        .await;
    lane.becomes(id, JobState::Scheduled).await;
    id
}

#[tokio::test]
async fn a_job_that_waits_for_its_time_or_for_its_next_attempt_runs_now() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("only", &[]).await;
    let client: NatsClient = lane.operator.clone().into();
    let scheduled = scheduled(&lane).await;
    let backoff = json!({"initial": "1h", "factor": 1, "max": "1h"});
    // A wait is a random part of the backoff: those of a job that waits for less than some seconds are rare.
    let retries = lane
        .submit(json!({"kind": "flaky", "backoff": backoff, "max_attempts": 3}))
        .await;
    lane.becomes(retries, JobState::Retrying).await;
    assert_eq!(run_now(&client, scheduled).await.unwrap(), RunNow::Done);
    let ran = lane.becomes(scheduled, JobState::Succeeded).await;
    assert_eq!(ran.attempt, 1);
    assert_eq!(run_now(&client, retries).await.unwrap(), RunNow::Done);
    lane.record_that(retries, DEADLINE, "the second attempt", |record| {
        record.attempt == 2
    })
    .await;

    // Nothing is done with any other job.
    let nobody = JobId::generate();
    for id in [scheduled, nobody] {
        assert_eq!(run_now(&client, id).await.unwrap(), RunNow::NotWaiting);
    }
    lane.hold(1);
    let running = lane.submit(json!({"kind": "held"})).await;
    lane.begun(running, 1, DEADLINE).await;
    assert_eq!(run_now(&client, running).await.unwrap(), RunNow::NotWaiting);
    lane.release(1);
    lane.becomes(running, JobState::Succeeded).await;
    stop(&mut consumer).await;
    let error = run_now(&client, retries).await.unwrap_err();
    assert!(matches!(error, RunNowError::NoConsumer), "{error}");
    assert_eq!(lane.ledger().of(scheduled).len(), 1);
}

#[tokio::test]
async fn a_job_that_is_asked_for_again_and_again_as_its_time_comes_runs_once() {
    let lane = Lane::start().await;
    let _one = lane.consumer("one", &[]).await;
    let _two = lane.consumer("two", &[]).await;
    let client: NatsClient = lane.operator.clone().into();
    let soon = Timestamp::now().after(Duration::from_secs(6));
    let jobs = lane
        .submit_all((0..100).map(|_| json!({"kind": "note", "run_at": soon})))
        .await;
    for id in &jobs {
        lane.becomes(*id, JobState::Scheduled).await;
    }
    // Some of them are asked for before their time, some while the server fires, some after it.
    let asked = jobs.iter().map(async |id| {
        loop {
            let result = run_now(&client, *id).await;
            if matches!(result, Ok(RunNow::NotWaiting)) {
                break;
            }
            assert!(result.is_ok(), "{result:?}");
        }
    });
    join_all(asked).await;
    let ended = lane.all_end(&jobs, 2 * DEADLINE).await;
    succeeded(&ended);
    lane.account(&jobs, &ended, 0..=0);
    lane.queue_empties().await;
}

#[tokio::test]
async fn the_watch_finishes_what_a_consumer_began_and_then_was_lost() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("only", &[]).await;
    let id = scheduled(&lane).await;
    consumer.kill().await;
    // The consumer was lost after its first write: the record says that the job is due, the schedule does not.
    let now = Timestamp::now();
    let mut record = serde_json::to_value(lane.record(id).await.unwrap()).unwrap();
    record["next_at"] = json!(now);
    let worker = lane.fixture.server.connect_as("worker").await;
    put_record(&worker, id, record).await;
    let slot = i64::try_from(now.unix_nanos() / 15_000_000_000).unwrap() + 1;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Jobs-Due", format!("jobs.due.{id}.normal.2.note"));
    put(&worker, subjects::overdue(slot, id), headers, String::new()).await;
    let _next = lane.consumer("next", &[]).await;
    let ran = lane
        .record_that(id, FOUND, "succeeded", |record| {
            record.state == JobState::Succeeded
        })
        .await;
    assert_eq!(ran.attempt, 1);
    assert_eq!(lane.ledger().of(id).len(), 1);
}

#[tokio::test]
async fn a_job_of_a_paused_kind_is_due_and_waits_for_the_end_of_the_pause() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("only", &[]).await;
    let client: NatsClient = lane.operator.clone().into();
    let id = scheduled(&lane).await;
    let kind = "note".parse().unwrap();
    client::kinds::pause(&client, &kind, &client::kinds::Pause::default())
        .await
        .unwrap();
    assert_eq!(run_now(&client, id).await.unwrap(), RunNow::Done);
    eventually(DEADLINE, "the job to be queued", async || {
        let record = client::look_up(&client, id).await.unwrap().unwrap();
        (record.state == JobState::Queued).then_some(())
    })
    .await;
    let why = client::why(&client, id).await.unwrap().unwrap();
    let why: Vec<_> = why.reasons.iter().map(client::Reason::name).collect();
    assert_eq!(why, ["paused"]);
    client::kinds::resume(&client, &kind, None).await.unwrap();
    lane.becomes(id, JobState::Succeeded).await;
}

#[tokio::test]
async fn all_waiting_jobs_that_match_are_run_and_others_are_left() {
    let lane = Lane::start().await;
    let _consumer = lane.consumer("only", &[]).await;
    let client: NatsClient = lane.operator.clone().into();
    let wait = |kind: &str| json!({"kind": kind, "run_at": in_an_hour()});
    let notes = lane.submit_all((0..300).map(|_| wait("note"))).await;
    let other = lane.submit(wait("mail.send")).await;
    for id in notes.iter().chain([&other]) {
        lane.becomes(*id, JobState::Scheduled).await;
    }
    let filter = Filter {
        kind: "note".parse().ok(),
        ..Filter::default()
    };
    let mut pages = ManyJobs::new(&client, ManyAction::RunNow, &filter)
        .await
        .unwrap();
    let (_up, connected) = tokio::sync::watch::channel(true);
    let worker = ManyWorker::new(&client, connected, ManyAction::RunNow);
    let mut done = 0;
    while let Some(page) = pages.next().await.unwrap() {
        let all = worker.apply(page.iter().map(|job| job.id)).await;
        assert_eq!(all.failed, []);
        done += all.done;
    }
    assert_eq!(done, 300);
    let ended = lane.all_end(&notes, 2 * DEADLINE).await;
    succeeded(&ended);
    assert_eq!(lane.record(other).await.unwrap().state, JobState::Scheduled);
}
