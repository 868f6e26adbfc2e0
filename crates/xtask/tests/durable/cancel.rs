//! A job can be cancelled in every state.

use std::fs;
use std::time::{Duration, Instant};

use common::{JobState, Timestamp};
use serde_json::json;
use test_support::{DEADLINE, eventually};

use crate::fixture::stop;
use crate::lane::{ACK_WAIT, Lane};

/// How soon a cancellation has to show: far sooner than by the expiry of anything.
const SOON: Duration = Duration::from_secs(10);

async fn is_cancelled(lane: &Lane, id: common::JobId) {
    lane.record_that(id, SOON, "cancelled", |record| {
        record.state == JobState::Cancelled
    })
    .await;
}

/// Nothing of a job is left that could be run.
async fn nothing_is_left(lane: &Lane) {
    eventually(SOON, "empty streams", async || {
        let queued = lane.count("JOBS", "jobs.durable.>").await;
        let later = lane.count("JOBS_LATER", ">").await;
        (queued + later == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn jobs_that_wait_are_cancelled_whatever_they_wait_for() {
    let lane = Lane::start().await;
    // It serves nothing of what is cancelled, and carries it out all the same.
    let _keeper = lane.consumer("keeper", &["--kinds", "echo,fail"]).await;
    let queued = lane.submit(json!({"kind": "note"})).await;
    let hour = Timestamp::now().after(Duration::from_hours(1));
    let scheduled = lane.submit(json!({"kind": "echo", "run_at": hour})).await;
    let backoff = json!({"initial": "1h", "factor": 1, "max": "1h"});
    let retrying = lane
        .submit(json!({"kind": "fail", "payload": {}, "backoff": backoff}))
        .await;
    lane.becomes(scheduled, JobState::Scheduled).await;
    lane.becomes(retrying, JobState::Retrying).await;
    eventually(DEADLINE, "both jobs in the server", async || {
        (lane.count("JOBS_LATER", "jobs.later.*").await == 2).then_some(())
    })
    .await;
    for (id, kind) in [(queued, "note"), (scheduled, "echo"), (retrying, "fail")] {
        lane.cancel(id).await;
        is_cancelled(&lane, id).await;
        let record = lane.record(id).await.unwrap();
        assert_eq!(record.kind.unwrap().as_str(), kind);
    }
    nothing_is_left(&lane).await;
    let record = lane.record(retrying).await.unwrap();
    assert_eq!(record.failures.len(), 1, "{record:?}");

    // Whoever serves the kind later finds nothing to do.
    let _late = lane.consumer("late", &["--kinds", "note"]).await;
    let other = lane.submit(json!({"kind": "note"})).await;
    lane.becomes(other, JobState::Succeeded).await;
    assert!(lane.ledger().of(queued).is_empty());
    assert_eq!(lane.states_of(queued), [JobState::Cancelled]);
}

#[tokio::test]
async fn a_job_that_runs_is_stopped_and_its_program_is_killed() {
    let lane = Lane::start().await;
    let _one = lane.consumer("one", &[]).await;
    let _two = lane.consumer("two", &[]).await;
    lane.hold(1);
    let program = lane.submit(json!({"kind": "held"})).await;
    let handler = lane
        .submit(json!({"kind": "sleep", "payload": {"ms": 600_000}, "timeout": "1h"}))
        .await;
    lane.begun(program, 1, DEADLINE).await;
    lane.becomes(handler, JobState::Running).await;
    let running = lane.becomes(program, JobState::Running).await;
    assert!(running.consumer.is_some(), "{running:?}");
    assert_eq!(programs_of(program).len(), 1);

    let since = Instant::now();
    for id in [program, handler] {
        lane.cancel(id).await;
        is_cancelled(&lane, id).await;
    }
    eventually(SOON, "the end of the program", async || {
        programs_of(program).is_empty().then_some(())
    })
    .await;
    println!("cancelled 2 of 2 that ran within {:?}", since.elapsed());
    let idle = async |name| {
        lane.fixture
            .status_of(name, |status| status.in_flight == 0)
            .await
    };
    let cancelled = [idle("one").await, idle("two").await];
    let cancelled: u64 = cancelled.iter().map(|status| status.totals.cancelled).sum();
    assert_eq!(cancelled, 2);
    // Neither is run again.
    nothing_is_left(&lane).await;
    assert_eq!(lane.ledger().0.len(), 1);
}

/// The processes that run a job: each has its id in its environment.
fn programs_of(id: common::JobId) -> Vec<String> {
    let wanted = format!("JOB_ID={id}");
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").unwrap() {
        let path = process.unwrap().path();
        // Others' processes cannot be read, and processes end.
        let Ok(environment) = fs::read(path.join("environ")) else {
            continue;
        };
        // Its shell, and not what that has started.
        let Ok(command) = fs::read_to_string(path.join("comm")) else {
            continue;
        };
        let mut variables = environment.split(|byte| *byte == 0);
        if command.trim() == "sh" && variables.any(|variable| variable == wanted.as_bytes()) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test]
async fn a_cancellation_that_finds_no_consumer_is_carried_out_by_the_next_one() {
    let lane = Lane::start().await;
    let mut first = lane.consumer("first", &[]).await;
    lane.hold(1);
    let running = lane.submit(json!({"kind": "held"})).await;
    lane.begun(running, 1, DEADLINE).await;
    first.kill().await;
    let queued = lane
        .submit_all((0..50).map(|_| json!({"kind": "note"})))
        .await;
    let mut all = queued.clone();
    all.push(running);
    for id in &all {
        lane.cancel(*id).await;
    }
    let since = Instant::now();
    let mut second = lane.consumer("second", &[]).await;
    let ended = lane.all_end(&all, ACK_WAIT + DEADLINE).await;
    lane.account(
        &[running],
        &ended
            .clone()
            .into_iter()
            .filter(|(id, _)| *id == running)
            .collect(),
        0..=0,
    );
    assert_eq!(ended[&running].state, JobState::Cancelled);
    assert!(since.elapsed() < ACK_WAIT, "it waited for the ack wait");
    // Those that were waiting may have been run before their turn came, but not in vain: a job has
    // one end.
    let ledger = lane.ledger();
    let cancelled: Vec<_> = queued
        .iter()
        .filter(|id| ended[id].state == JobState::Cancelled)
        .collect();
    println!(
        "of {} that waited {} were cancelled",
        queued.len(),
        cancelled.len()
    );
    assert!(
        cancelled.iter().all(|id| ledger.of(**id).is_empty()),
        "run, and then called cancelled"
    );
    assert_eq!(
        cancelled.len(),
        queued.len(),
        "run although it was cancelled"
    );
    stop(&mut second).await;
}
