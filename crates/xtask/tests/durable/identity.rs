//! The same id is the same job, for as long as it is known.

use std::sync::{Arc, Mutex};

use async_nats::HeaderMap;
use client::Topology;
use common::{JobId, JobRecord, JobState, Timestamp, subjects};
use futures_util::StreamExt as _;
use serde_json::json;
use test_support::{DEADLINE, NatsServer, eventually};

use crate::lane::{Lane, STORED_ALREADY};

#[tokio::test]
async fn a_job_that_is_submitted_again_is_one_job_while_it_waits_and_after_it_has_ended() {
    let lane = Lane::start().await;
    // Nobody serves the kind yet.
    let _consumer = lane.consumer("first", &["--kinds", "echo"]).await;
    let id = JobId::generate();
    let job = json!({"kind": "note"});
    lane.submit_as(id, job.clone()).await.unwrap();
    let refused = lane.submit_as(id, job.clone()).await.unwrap_err();
    assert_eq!(refused.code, STORED_ALREADY, "{refused:?}");
    assert!(refused.description.contains("per subject"), "{refused:?}");
    // With another priority it has another subject, and is still one job.
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
    let all = format!("jobs.durable.{id}.>");
    headers.insert("Nats-Expected-Last-Subject-Sequence-Subject", all);
    let subject = format!("jobs.durable.{id}.high.1.note");
    let refused = lane
        .publish(subject.clone(), headers, job.to_string())
        .await;
    assert!(refused.unwrap_err().is_known());

    let second = lane.consumer("second", &["--kinds", "note"]).await;
    let before = lane.becomes(id, JobState::Succeeded).await;
    lane.queue_empties().await;
    // Now the stream takes it again, and its record says that it is done; so it does to a client
    // that leaves the guard away and gives it another priority.
    lane.submit_all((0..20).map(|_| json!({"kind": "note"})))
        .await;
    lane.runs(21).await;
    // It reaches the consumer in one batch with itself.
    second.pause();
    lane.submit_as(id, job.clone()).await.unwrap();
    lane.publish(subject, HeaderMap::new(), job.to_string())
        .await
        .unwrap();
    second.resume();
    let other = lane.submit(job).await;
    lane.becomes(other, JobState::Succeeded).await;
    lane.queue_empties().await;
    let after = lane.record(id).await.unwrap();
    assert_eq!(
        serde_json::to_value(before).unwrap(),
        serde_json::to_value(after).unwrap()
    );
    assert_eq!(lane.states_of(id), [JobState::Succeeded]);
    let runs = lane.ledger();
    assert_eq!((runs.of(id).len(), runs.of(other).len()), (1, 1));
    println!("submitted 1 job five times, succeeded 1, runs 1");
}

/// A message that says that its id is new.
fn fresh() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(subjects::FRESH_HEADER, "1");
    headers
}

#[tokio::test]
async fn a_job_of_which_nobody_can_know_is_not_looked_up_and_any_other_is() {
    let lane = Lane::on(NatsServer::builder().open().start().await).await;
    Topology::default()
        .ensure(&lane.operator.clone().into())
        .await
        .unwrap();
    let mut questions = lane
        .operator
        .subscribe("$JS.API.DIRECT.GET.JOBS_STATE")
        .await
        .unwrap();
    let asked = Arc::new(Mutex::new(String::new()));
    let all_asked = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            let text = String::from_utf8_lossy(&question.payload).into_owned();
            // That of the test itself is for one record by name.
            if text.contains("multi_last") {
                all_asked.lock().unwrap().push_str(&text);
            }
        }
    });
    let asked_of = |id: JobId| asked.lock().unwrap().contains(&id.to_string());
    let store = async |id: JobId, headers| {
        let job = json!({"kind": "note", "id": id}).to_string();
        let subject = format!("jobs.durable.{id}.normal.1.note");
        lane.publish(subject, headers, job).await.unwrap();
    };
    let end = async |id: JobId, state| {
        let record = JobRecord::new(id, None, state, Timestamp::now());
        let record = serde_json::to_string(&record).unwrap();
        lane.publish(subjects::state(id), HeaderMap::new(), record)
            .await
            .unwrap();
    };

    // A server that crashed may have forgotten that it delivered what it had stored before.
    let before = JobId::generate();
    end(before, JobState::Succeeded).await;
    store(before, fresh()).await;
    let consumer = lane.consumer("first", &["--kinds", "note"]).await;
    lane.queue_empties().await;
    assert!(asked_of(before));
    // When the consumer has found out how far the queue went, later ones are not looked up.
    let (new, known) = eventually(DEADLINE, "a job without a look-up", async || {
        let (new, known) = (JobId::generate(), JobId::generate());
        store(new, fresh()).await;
        store(known, HeaderMap::new()).await;
        lane.becomes(new, JobState::Succeeded).await;
        lane.becomes(known, JobState::Succeeded).await;
        assert!(asked_of(known));
        (!asked_of(new)).then_some((new, known))
    })
    .await;
    // Somebody cancelled a job and was interrupted before he had removed its message.
    consumer.pause();
    let cancelled = JobId::generate();
    lane.cancel(cancelled).await;
    end(cancelled, JobState::Cancelled).await;
    store(cancelled, fresh()).await;
    consumer.resume();
    lane.queue_empties().await;

    let runs = lane.ledger();
    let counts = [before, new, known, cancelled].map(|id| runs.of(id).len());
    assert_eq!(counts, [0, 1, 1, 0]);
}
