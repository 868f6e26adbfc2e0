//! Jobs that a newer version wrote, and consumers that are older.

use async_nats::HeaderMap;
use common::{JobId, JobState};
use serde_json::json;
use test_support::{DEADLINE, eventually};

use crate::fixture::stop;
use crate::lane::Lane;

#[tokio::test]
async fn a_job_of_a_future_version_waits_for_a_newer_consumer_and_is_not_buried() {
    let lane = Lane::start().await;
    let mut old = lane.consumer("old", &[]).await;
    let id = JobId::generate();
    let subject = format!("jobs.durable.{id}.normal.1.note");
    let job = json!({"kind": "note", "id": id, "gate": {"slots": 3}}).to_string();
    let mut headers = HeaderMap::new();
    headers.insert("Jobs-Requires", "3");
    lane.publish(subject, headers, job.clone()).await.unwrap();
    // The same without the header is a mistake of its sender.
    let mistaken = lane.submit(json!({"kind": "note", "gate": 1})).await;
    lane.becomes(mistaken, JobState::Dead).await;

    let warning = old
        .wait_for_line(|line| line.contains("needs version 3 of the wire format"))
        .await;
    assert!(warning.contains("note"), "{warning}");
    // It comes again, later each time, and takes no attempt.
    let record = lane
        .record_that(id, DEADLINE, "put off twice", |record| record.run >= 3)
        .await;
    assert_eq!((record.state, record.attempt), (JobState::Scheduled, 0));
    assert!(record.failures.is_empty(), "{record:?}");
    assert!(lane.dead_letter(id, "note").await.is_none());
    let other = lane.submit(json!({"kind": "note"})).await;
    lane.becomes(other, JobState::Succeeded).await;
    stop(&mut old).await;

    // What a newer consumer gets is what was submitted, and says which version it needs.
    let due = eventually(DEADLINE, "the job in the queue again", async || {
        lane.last("JOBS_LATER", &format!("jobs.due.{id}.>")).await
    })
    .await;
    assert_eq!(due.payload, job);
    let headers = due.headers.unwrap();
    assert_eq!(headers.get("Jobs-Requires").unwrap().as_str(), "3");
}
