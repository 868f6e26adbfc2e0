//! Jobs that wait, and whose message somebody or something removes: each of them comes to an end.

use std::time::Duration;

use async_nats::{Client, HeaderMap};
use client::{Topology, dead_letters};
use common::{DeadReason, JobId, JobRecord, JobState, Timestamp, subjects};
use serde_json::{Value, json};
use test_support::{DEADLINE, Service, eventually, put};

use crate::fixture::stop;
use crate::lane::{ACK_WAIT, Lane, succeeded};
use crate::raw_client::{Login, RawClient};

/// A lost job is found within this time after its own.
const FOUND: Duration = Duration::from_mins(1);

const BROUGHT_BACK: &str = "the job is scheduled again";

/// The slot of a marker that is read next.
fn next_slot() -> i64 {
    i64::try_from(Timestamp::now().unix_nanos() / 15_000_000_000).unwrap() + 1
}

/// How many lines of the log say that jobs were brought back.
fn brought_back(consumers: &[&Service]) -> usize {
    let lines = consumers.iter().flat_map(|consumer| consumer.stdout());
    lines.filter(|line| line.contains(BROUGHT_BACK)).count()
}

/// Removes all jobs that wait for their time, as whoever may.
async fn wipe(lane: &Lane) {
    let worker = lane.fixture.server.connect_as("worker").await;
    let answer = worker.request("$JS.API.STREAM.PURGE.JOBS_LATER", "".into());
    let answer: Value = serde_json::from_slice(&answer.await.unwrap().payload).unwrap();
    assert_eq!(answer["success"], true, "{answer}");
}

/// Stores messages in one batch after the other.
async fn put_all(client: &Client, messages: Vec<(String, String)>) {
    for (number, batch) in messages.chunks(1000).enumerate() {
        for (place, (subject, payload)) in batch.iter().enumerate() {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Batch-Id", format!("batch-{number}"));
            headers.insert("Nats-Batch-Sequence", (place + 1).to_string());
            let (subject, payload) = (subject.clone(), payload.clone().into());
            if place + 1 < batch.len() {
                let sent = client.publish_with_headers(subject, headers, payload);
                sent.await.unwrap();
                continue;
            }
            headers.insert("Nats-Batch-Commit", "1");
            let answer = client.request_with_headers(subject, headers, payload);
            let answer: Value = serde_json::from_slice(&answer.await.unwrap().payload).unwrap();
            assert!(answer["error"].is_null(), "{answer}");
        }
    }
}

/// A record of a job that waits since some seconds, in its second run.
fn overdue(id: JobId, kind: &str, state: JobState) -> JobRecord {
    let now = Timestamp::now();
    let mut record = JobRecord::new(id, kind.parse().ok(), state, now.shifted(-30_000));
    record.run = 2;
    record.next_at = Some(now.shifted(-20_000));
    record
}

fn marker_headers(id: JobId, kind: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("Jobs-Due", format!("jobs.due.{id}.normal.2.{kind}"));
    headers
}

/// Waits until no marker is left that the watch has to see to.
async fn markers_are_seen_to(lane: &Lane, left: usize) {
    eventually(2 * FOUND, "the end of all markers", async || {
        (lane.count("JOBS_STATE", "jobs.overdue.*.*").await <= left).then_some(())
    })
    .await;
}

#[tokio::test]
async fn jobs_that_wait_come_back_when_all_of_them_are_wiped() {
    let lane = Lane::start().await;
    let one = lane.consumer("one", &[]).await;
    let two = lane.consumer("two", &[]).await;
    let run_at = Timestamp::now().shifted(6_000);
    let mut jobs = Vec::new();
    for number in 0..10 {
        let job = json!({"kind": "note", "run_at": run_at, "payload": number});
        jobs.push(lane.submit(job).await);
    }
    let backoff = json!({"initial": "10s", "factor": 1, "max": "10s"});
    for _ in 0..6 {
        jobs.push(
            lane.submit(json!({"kind": "flaky", "backoff": backoff}))
                .await,
        );
    }
    let large = json!({"kind": "note", "run_at": run_at, "payload": "x".repeat(8192)});
    let large = lane.submit(large).await;
    let cancelled = lane.submit(json!({"kind": "note", "run_at": run_at})).await;
    for id in jobs.iter().chain([&large, &cancelled]) {
        // A wait is a random part of the backoff. If both waits are shorter than a second, the job keeps its
        // message and has ended by now.
        lane.record_that(*id, DEADLINE, "it waits", |record| {
            record.run > 1 || record.state == JobState::Succeeded
        })
        .await;
    }
    // The messages of the first run are trimmed, so that nothing but the markers is left.
    lane.queue_empties().await;
    wipe(&lane).await;
    lane.cancel(cancelled).await;
    lane.becomes(cancelled, JobState::Cancelled).await;

    let record = lane
        .record_that(large, FOUND, "dead", |record| {
            record.state == JobState::Dead
        })
        .await;
    assert_eq!(record.reason, Some(DeadReason::LostSchedule));
    let overdue = record.at.milliseconds_ahead_of(run_at);
    assert!(
        (0..60_000).contains(&overdue),
        "found {overdue} ms after its time"
    );
    let letter = lane.dead_letter(large, "note").await.unwrap();
    let headers = letter.headers.unwrap();
    let reason = headers.get(subjects::DEAD_REASON_HEADER).unwrap().as_str();
    assert_eq!((reason, &*letter.payload), ("lost_schedule", &b""[..]));
    // There is nothing to be replayed but a payload that somebody gives.
    let client = lane.operator.clone().into();
    let letter = dead_letters::show(&client, large).await.unwrap().unwrap();
    let error = dead_letters::replay(&client, &letter, None)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("is lost"), "{error}");
    let replayed = dead_letters::replay(&client, &letter, Some("7".into())).await;
    replayed.unwrap();
    lane.becomes(large, JobState::Succeeded).await;

    let ended = lane.all_end(&jobs, 2 * FOUND).await;
    succeeded(&ended);
    let ledger = lane.ledger();
    for (number, id) in jobs.iter().enumerate() {
        let runs = if number < 10 { 1 } else { 3 };
        assert_eq!(ledger.of(*id).len(), runs, "{id}");
    }
    assert!(ledger.of(cancelled).is_empty());
    let states = lane.states_of(cancelled);
    assert_eq!(states.last(), Some(&JobState::Cancelled), "{states:?}");
    assert!(brought_back(&[&one, &two]) > 0, "nothing is said of it");
}

#[tokio::test]
async fn a_restart_of_everything_misses_no_job() {
    let mut lane = Lane::start().await;
    let mut consumer = lane.consumer("before", &[]).await;
    let run_at = Timestamp::now().shifted(15_000);
    let id = lane.submit(json!({"kind": "note", "run_at": run_at})).await;
    lane.record_that(id, DEADLINE, "it waits", |record| record.run > 1)
        .await;
    lane.queue_empties().await;
    consumer.kill().await;
    wipe(&lane).await;
    lane.fixture.server.kill().await;
    eventually(DEADLINE, "its time, and several slots more", async || {
        (Timestamp::now() > run_at.shifted(20_000)).then_some(())
    })
    .await;
    lane.fixture.server.start_again().await;
    let _consumer = lane.consumer("after", &[]).await;
    let record = lane
        .record_that(id, FOUND, "succeeded", |record| {
            record.state == JobState::Succeeded
        })
        .await;
    assert_eq!((record.run, record.attempt), (4, 1));
    assert_eq!(lane.ledger().of(id).len(), 1);
}

#[tokio::test]
async fn four_thousand_jobs_in_one_slot_come_back_once_each() {
    const COUNT: usize = 4_000;
    let lane = Lane::start().await;
    let worker = lane.fixture.server.connect_as("worker").await;
    let mut one = lane.consumer("one", &["--kinds", "echo"]).await;
    let mut two = lane.consumer("two", &["--kinds", "echo"]).await;
    let slot = next_slot() + 2;
    let mut jobs = Vec::new();
    let mut messages = Vec::new();
    for _ in 0..COUNT {
        let id = JobId::generate();
        let record = overdue(id, "echo", JobState::Retrying);
        messages.push((subjects::state(id), json!(record).to_string()));
        let job = json!({"id": id, "kind": "echo"}).to_string();
        messages.push((subjects::overdue(slot, id), job));
        jobs.push(id);
    }
    put_all(&worker, messages).await;
    let ended = lane.all_end(&jobs, 4 * FOUND).await;
    succeeded(&ended);
    for record in ended.values() {
        assert_eq!((record.run, record.attempt), (4, 1));
    }
    let told = brought_back(&[&one, &two]);
    assert!((10..200).contains(&told), "{told} lines in the log");
    // Those of the second time are removed as well, when they are seen to.
    markers_are_seen_to(&lane, 1).await;
    stop(&mut one).await;
    stop(&mut two).await;
}

#[tokio::test]
async fn a_job_whose_message_is_there_is_left_alone_and_an_earlier_one_does_not_run_twice() {
    let lane = Lane::start().await;
    let worker = lane.fixture.server.connect_as("worker").await;
    let topology = Topology::default();
    topology.ensure(&worker.clone().into()).await.unwrap();
    // A consumer was killed after it had put a job off, and before the schedule was stored; and its
    // kind is served by nobody, so that nobody finishes that.
    let stuck = lane.submit(json!({"kind": "mail.send"})).await;
    // The same, and what is due is there.
    let due = lane.submit(json!({"kind": "mail.send"})).await;
    let there = format!("jobs.durable.{due}.normal.2.mail.send");
    let job = json!({"id": due, "kind": "mail.send"}).to_string();
    lane.publish(there.clone(), HeaderMap::new(), job)
        .await
        .unwrap();
    let slot = next_slot();
    for id in [stuck, due] {
        let record = overdue(id, "mail.send", JobState::Retrying);
        put(
            &worker,
            subjects::state(id),
            HeaderMap::new(),
            json!(record).to_string(),
        )
        .await;
        let headers = marker_headers(id, "mail.send");
        put(&worker, subjects::overdue(slot, id), headers, String::new()).await;
    }
    let _watching = lane.consumer("watching", &["--kinds", "note"]).await;
    let record = lane
        .record_that(stuck, FOUND, "scheduled again", |record| record.run > 2)
        .await;
    assert_eq!((record.state, record.run), (JobState::Retrying, 4));
    eventually(FOUND, "a marker that is kept for later", async || {
        let now = lane
            .count("JOBS_STATE", &format!("jobs.overdue.*.{due}"))
            .await;
        let old = lane
            .count("JOBS_STATE", &subjects::overdue(slot, due))
            .await;
        (now == 1 && old == 0).then_some(())
    })
    .await;
    assert_eq!(lane.record(due).await.unwrap().run, 2);
    let _serving = lane.consumer("serving", &["--kinds", "mail.send"]).await;
    let ended = lane.all_end(&[stuck, due], 2 * ACK_WAIT).await;
    succeeded(&ended);
    lane.queue_empties().await;
    for id in [stuck, due] {
        assert_eq!(lane.ledger().of(id).len(), 1, "{id}");
    }
}

#[tokio::test]
async fn garbage_in_the_place_of_schedules_markers_and_the_cursor_stops_nothing() {
    let lane = Lane::start().await;
    let server = &lane.fixture.server;
    let worker = server.connect_as("worker").await;
    let _consumer = lane.consumer("only", &[]).await;
    let run_at = Timestamp::now().shifted(10_000);
    let robbed = lane.submit(json!({"kind": "note", "run_at": run_at})).await;
    lane.record_that(robbed, DEADLINE, "it waits", |record| record.run > 1)
        .await;
    eventually(DEADLINE, "its schedule", async || {
        lane.last("JOBS_LATER", &subjects::later(robbed)).await
    })
    .await;
    // The server answers a submission wherever the publisher says.
    let mut publisher = RawClient::log_in(server, Some(&Login::of(server, "publisher"))).unwrap();
    for target in [
        subjects::later(robbed),
        subjects::overdue(next_slot(), JobId::generate()),
        "jobs.overdue.1.garbage".to_owned(),
        "jobs.overdue.garbage.garbage".to_owned(),
        "jobs.overdue.watch.cursor".to_owned(),
    ] {
        let id = JobId::generate();
        let job = json!({"id": id, "kind": "note"}).to_string();
        let subject = format!("jobs.durable.{id}.normal.1.note");
        let complaints = publisher.complaints(&format!(
            "PUB {subject} {target} {}\r\n{job}\r\n",
            job.len()
        ));
        assert!(complaints.is_empty(), "{complaints:?}");
    }
    eventually(
        DEADLINE,
        "an answer in the place of the schedule",
        async || {
            let kept = lane.last("JOBS_LATER", &subjects::later(robbed)).await?;
            let forged: Value = serde_json::from_slice(&kept.payload).unwrap();
            (forged["stream"] == "JOBS").then_some(())
        },
    )
    .await;
    for number in 0..50 {
        let slot = next_slot() - number;
        let payload = "\u{0}\u{1}{".to_owned();
        put(
            &worker,
            subjects::overdue(slot, JobId::generate()),
            HeaderMap::new(),
            payload,
        )
        .await;
    }
    let record = lane
        .record_that(robbed, FOUND, "succeeded", |record| {
            record.state == JobState::Succeeded
        })
        .await;
    assert_eq!(record.attempt, 1);
    assert_eq!(lane.ledger().of(robbed).len(), 1);
    // Left are the cursor, the marker of the job that came back, and what is in no slot at all.
    markers_are_seen_to(&lane, 3).await;
}
