//! Four thousand jobs that fail at once.

use std::time::{Duration, Instant};

use common::{DeadReason, JobState};
use serde_json::json;
use test_support::DEADLINE;

use crate::fixture::stop;
use crate::lane::Lane;

#[tokio::test]
async fn four_thousand_jobs_that_fail_again_and_again_are_all_dead_letters_in_the_end() {
    const JOBS: usize = 4_000;
    let lane = Lane::start().await;
    let many = ["--concurrency", "64"];
    let mut consumers = [
        lane.consumer("a", &many).await,
        lane.consumer("b", &many).await,
    ];
    // About a third of the waits are the server's.
    let backoff = json!({"initial": "1500ms", "factor": 1, "max": "1500ms"});
    let job = json!({"kind": "fail", "payload": {}, "max_attempts": 2, "backoff": backoff});
    let since = Instant::now();
    let jobs = lane.submit_all((0..JOBS).map(|_| job.clone())).await;
    // Good jobs are not kept waiting by the others.
    let good = lane.submit(json!({"kind": "note"})).await;
    let ended = lane.all_end(&jobs, DEADLINE * 2).await;
    println!("{JOBS} jobs failed twice each within {:?}", since.elapsed());
    let mut attempts = 0;
    for record in ended.values() {
        assert_eq!(record.state, JobState::Dead);
        assert_eq!(record.reason, Some(DeadReason::AttemptsUsedUp));
        let numbers: Vec<_> = record
            .failures
            .iter()
            .map(|failure| failure.attempt)
            .collect();
        assert_eq!(numbers, [1, 2], "{record:?}");
        attempts += numbers.len();
    }
    assert_eq!(lane.count("JOBS_STATE", "jobs.dead.>").await, JOBS);
    println!(
        "submitted {JOBS}, dead {}, attempts {attempts}, lost 0",
        ended.len()
    );
    lane.becomes(good, JobState::Succeeded).await;
    // None was run more often than its record says.
    let statuses = lane.fixture.statuses(2).await;
    let failed: u64 = statuses.values().map(|status| status.totals.failed).sum();
    assert_eq!(failed, attempts as u64);
    for stream in ["JOBS", "JOBS_LATER"] {
        test_support::eventually(Duration::from_secs(20), "empty queues", async || {
            (lane.count(stream, ">").await == 0).then_some(())
        })
        .await;
    }
    for consumer in &mut consumers {
        stop(consumer).await;
    }
}
