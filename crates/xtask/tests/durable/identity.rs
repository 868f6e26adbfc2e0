//! The same id is the same job, for as long as it is known.

use async_nats::HeaderMap;
use common::{JobId, JobState};
use serde_json::json;
use test_support::{DEADLINE, eventually};

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
    eventually(DEADLINE, "an empty queue", async || {
        (lane.count("JOBS", "jobs.durable.>").await == 0).then_some(())
    })
    .await;
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
    eventually(DEADLINE, "an empty queue", async || {
        (lane.count("JOBS", "jobs.durable.>").await == 0).then_some(())
    })
    .await;
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
