//! Servers that are lost, and leaders that hand over.

use std::time::Duration;

use client::JobState;
use test_support::{DEADLINE, eventually};

use crate::fixture::{Fixture, Submitted};

/// The longest time that a submission may take while a server is lost.
const STALL: Duration = Duration::from_secs(10);

const STREAMS: [&str; 4] = ["JOBS", "JOBS_LATER", "JOBS_STATE", "JOBS_ADVISORIES"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_server_is_killed_in_turn_and_every_job_ends_once() {
    let mut fixture = Fixture::start().await;
    let mut consumers = Vec::new();
    for name in ["a", "b", "c"] {
        consumers.push(fixture.consumer(name, &[]).await);
    }
    let load = fixture.load();
    // The leader of the queue first, so that an election is among them for sure.
    let first = fixture.cluster.leader_of(&fixture.admin, "JOBS").await;
    for number in (0..3).map(|turn| (first + turn) % 3) {
        // Two servers have to be there at any time.
        fixture.cluster.is_healthy().await;
        for stream in STREAMS {
            fixture
                .cluster
                .is_replicated(&fixture.admin, stream, 3)
                .await;
        }
        ends_grow(&fixture).await;
        fixture.cluster.server_mut(number).kill().await;
        ends_grow(&fixture).await;
        fixture.cluster.server_mut(number).start_again().await;
    }
    let submitted = load.stop().await;
    println!("{}", summary(&submitted));
    assert!(submitted.longest < STALL, "{:?}", submitted.longest);
    all_end_once(&fixture, &submitted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_step_down_during_batches_lose_nothing() {
    let fixture = Fixture::start().await;
    let _consumer = fixture.consumer("only", &[]).await;
    let load = fixture.load();
    for _ in 0..2 {
        for stream in ["JOBS", "JOBS_STATE", "JOBS_LATER"] {
            ends_grow(&fixture).await;
            fixture.cluster.step_down(&fixture.admin, stream).await;
        }
    }
    let submitted = load.stop().await;
    println!("{}", summary(&submitted));
    assert!(submitted.longest < STALL, "{:?}", submitted.longest);
    all_end_once(&fixture, &submitted).await;
}

fn summary(submitted: &Submitted) -> String {
    let Submitted { good, bad, longest } = submitted;
    format!(
        "{} jobs, {} of them to fail; the longest submission took {longest:?}",
        good.len() + bad.len(),
        bad.len()
    )
}

/// Waits until more jobs have ended than now.
async fn ends_grow(fixture: &Fixture) {
    let mut first = None;
    eventually(DEADLINE, "more ends of jobs", async || {
        let now = fixture.records().await?;
        let first = *first.get_or_insert(now);
        (now >= first + 50).then_some(())
    })
    .await;
}

/// Whether each job has the one end that it should have, in one record.
pub(crate) async fn all_end_once(fixture: &Fixture, submitted: &Submitted) {
    let all = [&submitted.good[..], &submitted.bad].concat();
    let ended = fixture.ends(&all).await;
    for id in &submitted.good {
        assert_eq!(ended[id].state, JobState::Succeeded, "{:?}", ended[id]);
    }
    for id in &submitted.bad {
        let record = &ended[id];
        assert_eq!(record.state, JobState::Dead, "{record:?}");
        assert_eq!(record.failures.len(), 2, "{record:?}");
    }
    assert_eq!(fixture.records().await, Some(all.len()));
}
