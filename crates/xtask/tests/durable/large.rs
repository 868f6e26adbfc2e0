//! Jobs, results and failures that are as large as a message may be.

use std::time::Duration;

use async_nats::HeaderMap;
use client::{Replayed, dead_letters};
use common::{DeadReason, JobId, JobState, Priority, Timestamp, subjects};
use serde_json::{Value, json};
use test_support::DEADLINE;

use crate::fixture::stop;
use crate::lane::{Lane, between};

/// What our own publisher leaves to headers.
const MARGIN: usize = 4096;

/// Stores a job of so many bytes, as any client can: its payload is a long message.
async fn submit_of_size(lane: &Lane, mut job: Value, size: usize) -> (JobId, String) {
    let id = JobId::generate();
    job["id"] = json!(id);
    job["payload"] = json!({"permanent": true, "message": ""});
    let padding = "x".repeat(size - job.to_string().len());
    job["payload"]["message"] = json!(padding);
    let text = job.to_string();
    let kind = job["kind"].as_str().unwrap().parse().unwrap();
    let subject = subjects::durable_job(id, Priority::High, 1, &kind);
    let stored = lane.publish(subject, HeaderMap::new(), text.clone()).await;
    stored.unwrap();
    (id, text)
}

#[tokio::test]
async fn the_dead_letter_of_a_job_that_fills_a_message_keeps_the_job_and_leaves_the_rest_out() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("only", &[]).await;
    let limit = lane.operator.max_payload();
    for (size, header) in [(limit - MARGIN, Some("permanent")), (limit, None)] {
        let (id, text) = submit_of_size(&lane, json!({"kind": "fail"}), size).await;
        let record = lane.becomes(id, JobState::Dead).await;
        assert_eq!(record.reason, Some(DeadReason::Permanent));
        // What the letter has no room for is here.
        assert!(record.failures[0].error.message.starts_with("xxx"));
        let letter = lane.dead_letter(id, "fail").await.unwrap();
        assert!(letter.payload == text, "not as it was submitted");
        let headers = letter.headers.unwrap();
        let reason = headers.get(subjects::DEAD_REASON_HEADER);
        assert_eq!(reason.map(async_nats::HeaderValue::as_str), header);
        lane.queue_empties().await;
        // It is none the worse for a replay.
        let letter = dead_letters::show(&lane.operator.clone().into(), id)
            .await
            .unwrap()
            .unwrap();
        let replayed = dead_letters::replay(&lane.operator.clone().into(), &letter, None)
            .await
            .unwrap();
        assert_eq!(replayed, Replayed::Yes);
        let record = lane
            .record_that(id, DEADLINE, "dead again", |record| {
                record.state == JobState::Dead && record.run == 2
            })
            .await;
        assert_eq!(record.failures.len(), 3, "{record:?}");
        assert!(lane.dead_letter(id, "fail").await.unwrap().payload == text);
    }
    stop(&mut consumer).await;
}

#[tokio::test]
async fn failures_that_do_not_fit_into_headers_or_beside_a_result_keep_no_job_from_ending() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("only", &[]).await;
    let at_once = json!({"initial": "1ms", "factor": 1, "max": "1ms"});
    let long = json!({"message": "x".repeat(5000)});
    let fails = lane
        .submit(json!({"kind": "fail", "payload": long, "max_attempts": 100, "backoff": at_once}))
        .await;
    let ends = lane
        .submit(json!({"kind": "late", "max_attempts": 100, "backoff": at_once}))
        .await;
    let record = lane.becomes(fails, JobState::Dead).await;
    assert_eq!(record.reason, Some(DeadReason::AttemptsUsedUp));
    assert_eq!(record.failures.len(), 100);
    let letter = lane.dead_letter(fails, "fail").await.unwrap();
    let headers = letter.headers.unwrap();
    let reason = headers.get(subjects::DEAD_REASON_HEADER).unwrap();
    assert_eq!(reason.as_str(), "attempts_used_up");
    let record = lane.becomes(ends, JobState::Succeeded).await;
    assert!(record.result.unwrap().get().len() > 1_040_000);
    // The last of them are kept.
    let last = record.failures.last().unwrap();
    assert_eq!((last.attempt, record.attempt), (30, 31));
    assert!(last.error.message.contains("xxx"), "{last:?}");
    lane.queue_empties().await;
    stop(&mut consumer).await;
}

#[tokio::test]
async fn a_job_that_fills_a_message_waits_for_its_time_all_the_same() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("only", &[]).await;
    let limit = lane.operator.max_payload();
    let run_at = Timestamp::now().after(Duration::from_secs(3));
    let early = json!({"kind": "note", "run_at": run_at});
    let (early, _) = submit_of_size(&lane, early, limit).await;
    let record = lane.becomes(early, JobState::Scheduled).await;
    assert_eq!(record.next_at, Some(run_at));
    let record = lane.becomes(early, JobState::Succeeded).await;
    let wait = between(run_at, record.at);
    assert!(wait < Duration::from_secs(5), "{wait:?} too late");
    assert_eq!((record.run, lane.ledger().of(early).len()), (1, 1));
    stop(&mut consumer).await;
}
