//! Consumers that are killed, paused and stopped.

use std::time::{Duration, Instant};

use common::{DeadReason, JobState, codes};
use serde_json::json;
use test_support::{DEADLINE, Signal, eventually};

use crate::fixture::stop;
use crate::lane::{ACK_WAIT, Lane, succeeded, succeeded_at_once};

/// What comes on top of the ack wait until a job runs again: a new server may take a second, and so
/// may whoever is to run it.
const HAND_OVER: Duration = Duration::from_secs(2);

#[tokio::test]
async fn a_job_whose_consumer_is_killed_is_done_by_another_after_the_ack_wait() {
    let lane = Lane::start().await;
    let mut mortal = lane.consumer("mortal", &[]).await;
    lane.hold(1);
    let held = lane
        .submit_all((0..4).map(|_| json!({"kind": "held"})))
        .await;
    for id in &held {
        lane.begun(*id, 1, DEADLINE).await;
    }
    lane.becomes(held[0], JobState::Running).await;
    let _other = lane.consumer("other", &[]).await;
    mortal.kill().await;
    let since = Instant::now();
    // What waits is done meanwhile.
    let waiting = lane
        .submit_all((0..100).map(|_| json!({"kind": "note"})))
        .await;
    let ended = lane.all_end(&waiting, DEADLINE).await;
    lane.account(&waiting, &ended, 0..=0);
    assert!(since.elapsed() < ACK_WAIT, "{:?}", since.elapsed());

    let ended = lane.all_end(&held, ACK_WAIT + HAND_OVER).await;
    let elapsed = since.elapsed();
    println!("done by another after {elapsed:?}");
    assert!(elapsed < ACK_WAIT + HAND_OVER, "{elapsed:?}");
    lane.account(&held, &ended, 4..=4);
    for record in ended.values() {
        assert_eq!((record.state, record.attempt), (JobState::Succeeded, 2));
        assert_eq!(record.result.as_ref().unwrap().get(), "\"other\"");
        assert_eq!(record.failures.len(), 1, "{record:?}");
        assert_eq!(record.failures[0].error.code, codes::LOST);
    }
    // The one that was seen running is known to have been lost with its consumer.
    let lost = &ended[&held[0]].failures[0];
    assert_eq!(lost.consumer.as_deref(), Some("mortal"));
}

#[tokio::test]
async fn a_job_that_kills_its_consumers_is_given_up_and_the_others_go_on() {
    let lane = Lane::start().await;
    let mut mortal = lane.consumer("mortal", &["--kinds", "poison,note"]).await;
    // A job that runs for longer than the ack wait stays with the one that has it, which has no room
    // for it a second time, while the other has.
    lane.hold(1);
    let one_at_a_time = ["--kinds", "held", "--concurrency", "1"];
    let _calm = lane.consumer("calm", &one_at_a_time).await;
    let _idle = lane.consumer("idle", &one_at_a_time).await;
    let long = lane.submit(json!({"kind": "held"})).await;
    let holder = lane.begun(long, 1, DEADLINE).await;
    let since = Instant::now();
    let poison = lane
        .submit(json!({"kind": "poison", "max_attempts": 2}))
        .await;
    let mut others = Vec::new();
    for attempt in 1..=2 {
        others.extend(
            lane.submit_all((0..50).map(|_| json!({"kind": "note"})))
                .await,
        );
        lane.begun(poison, attempt, ACK_WAIT + DEADLINE).await;
        let status = mortal.wait().await;
        assert_eq!(status.code(), None, "killed by a signal");
        mortal = lane.consumer("mortal", &["--kinds", "poison,note"]).await;
    }
    let record = lane
        .record_that(poison, ACK_WAIT + DEADLINE, "dead", |record| {
            record.state == JobState::Dead
        })
        .await;
    assert_eq!(
        record.reason,
        Some(DeadReason::DeliveriesExhausted),
        "{record:?}"
    );
    assert_eq!(record.failures.len(), 2, "{record:?}");
    assert!(
        record
            .failures
            .iter()
            .all(|failure| failure.error.code == codes::LOST)
    );
    assert!(lane.dead_letter(poison, "poison").await.is_some());
    assert_eq!(lane.ledger().of(poison).len(), 2);

    assert!(since.elapsed() > ACK_WAIT * 3 / 2, "{:?}", since.elapsed());
    lane.release(1);
    let record = lane.becomes(long, JobState::Succeeded).await;
    assert_eq!((record.attempt, record.consumer), (1, Some(holder)));
    assert_eq!(lane.ledger().of(long).len(), 1);

    let ended = lane.all_end(&others, ACK_WAIT + DEADLINE).await;
    // Two consumers were killed with four jobs each at most.
    lane.account(&others, &ended, 0..=8);
    succeeded(&ended);
    stop(&mut mortal).await;
}

#[tokio::test]
async fn a_consumer_that_was_paused_past_the_ack_wait_does_not_replace_its_successors_outcome() {
    let lane = Lane::start().await;
    let mut zombie = lane.consumer("zombie", &[]).await;
    lane.hold(1);
    let ended_meanwhile = lane.submit(json!({"kind": "held"})).await;
    let runs_meanwhile = lane.submit(json!({"kind": "held"})).await;
    lane.begun(ended_meanwhile, 1, DEADLINE).await;
    lane.begun(runs_meanwhile, 1, DEADLINE).await;
    zombie.pause();
    let since = Instant::now();
    lane.hold(2);
    let mut successor = lane.consumer("successor", &[]).await;
    // Both are the successor's now, and it has said so.
    for id in [ended_meanwhile, runs_meanwhile] {
        lane.begun(id, 2, ACK_WAIT + DEADLINE).await;
        lane.record_that(id, DEADLINE, "the successor's", |record| {
            record.consumer.as_deref() == Some("successor") && record.attempt == 2
        })
        .await;
    }
    assert!(
        since.elapsed() + Duration::from_secs(6) > ACK_WAIT,
        "nobody was at it"
    );
    // The zombie's programs end with a result, and it wakes up to report that.
    lane.release(1);
    eventually(DEADLINE, "the end of the first attempts", async || {
        (programs("zombie") == 0).then_some(())
    })
    .await;
    zombie.resume();
    let seen = lane
        .fixture
        .status_of("zombie", |status| status.totals.processed == 2)
        .await;
    println!("the zombie counts {:?}", seen.totals);
    // When it has stopped, it has said what it had to say.
    stop(&mut zombie).await;
    for id in [ended_meanwhile, runs_meanwhile] {
        let record = lane.record(id).await.unwrap();
        assert_eq!(record.state, JobState::Running, "{record:?}");
        assert_eq!(record.consumer.as_deref(), Some("successor"));
    }
    lane.release(2);
    let jobs = [ended_meanwhile, runs_meanwhile];
    let ended = lane.all_end(&jobs, DEADLINE).await;
    lane.account(&jobs, &ended, 2..=2);
    for record in ended.values() {
        assert_eq!((record.state, record.attempt), (JobState::Succeeded, 2));
        assert_eq!(record.result.as_ref().unwrap().get(), "\"successor\"");
    }
    stop(&mut successor).await;
}

/// How many programs of a consumer run.
fn programs(consumer: &str) -> usize {
    let wanted = format!("CONSUMER_INSTANCE={consumer}");
    let processes = std::fs::read_dir("/proc").unwrap();
    let runs = processes.filter(|process| {
        let path = process.as_ref().unwrap().path();
        let environment = std::fs::read(path.join("environ")).unwrap_or_default();
        let command = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
        let mut variables = environment.split(|byte| *byte == 0);
        command.trim() == "sh" && variables.any(|variable| variable == wanted.as_bytes())
    });
    runs.count()
}

#[tokio::test]
async fn a_consumer_that_is_stopped_under_load_gives_back_what_it_has_and_nothing_runs_twice() {
    const JOBS: usize = 2_000;
    let lane = Lane::start().await;
    let mut leaver = lane.consumer("leaver", &["--concurrency", "16"]).await;
    let mut stayer = lane.consumer("stayer", &["--concurrency", "16"]).await;
    let jobs = lane
        .submit_all((0..JOBS).map(|_| json!({"kind": "note"})))
        .await;
    lane.runs(200).await;
    leaver.signal(Signal::SIGTERM);
    assert_eq!(leaver.wait().await.code(), Some(0));
    let so_far = lane.ledger();
    assert!(so_far.0.len() < JOBS, "it was stopped when all was over");

    let ended = lane.all_end(&jobs, DEADLINE).await;
    lane.account(&jobs, &ended, 0..=0);
    succeeded_at_once(&ended);
    for record in ended.values() {
        assert!(record.failures.is_empty(), "{record:?}");
    }
    let by_leaver = lane
        .ledger()
        .0
        .iter()
        .filter(|run| run.consumer == "leaver")
        .count();
    println!("{by_leaver} of them by the one that was stopped");
    assert!(by_leaver > 0);
    stop(&mut stayer).await;
}
