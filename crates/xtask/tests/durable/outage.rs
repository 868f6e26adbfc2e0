//! A server that crashes, and one that is full.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use common::{JobId, JobState};
use serde_json::json;
use tempfile::TempDir;
use test_support::{DEADLINE, NatsServer, eventually};

use crate::fixture::stop;
use crate::lane::{ACK_WAIT, Lane, Submitter, succeeded, succeeded_at_once};

#[tokio::test]
async fn a_server_that_is_killed_twice_under_load_loses_nothing_that_it_acknowledged() {
    const JOBS: usize = 3_000;
    const CONSUMERS: [&str; 4] = ["a", "b", "c", "d"];
    let mut lane = Lane::start().await;
    let mut consumers = Vec::new();
    for name in CONSUMERS {
        consumers.push(lane.consumer(name, &[]).await);
    }
    let jobs: Vec<_> = (0..JOBS)
        .map(|_| (JobId::generate(), json!({"kind": "note"})))
        .collect();
    let submitter = Submitter::new(&lane);
    let mut confirmed = submitter.confirmed();
    // In small batches, so that it is still at it when the server goes.
    let submitting = tokio::spawn(submitter.submit(jobs, 20));
    let mut may_run_again = 0;
    for share in [300, 1_200] {
        lane.runs(share).await;
        println!(
            "server killed when {} were confirmed",
            *confirmed.borrow_and_update()
        );
        let ends = lane.stored_ends().await;
        lane.fixture.server.kill().await;
        // Those that had begun and whose outcome was not stored, and those that were about to begin.
        may_run_again += lane.ledger().jobs().len() - ends + CONSUMERS.len() * 4;
        lane.fixture.server.start_again().await;
    }
    println!("{may_run_again} may run again");
    let jobs = submitting.await.unwrap();
    let ended = lane.all_end(&jobs, DEADLINE).await;
    lane.account(&jobs, &ended, 0..=may_run_again);
    succeeded(&ended);
    for consumer in &mut consumers {
        stop(consumer).await;
    }
}

/// Acknowledgements are lost with the server, and jobs of killed consumers wait for the next
/// delivery, while others go on at full speed: what is trimmed meanwhile must be what has ended.
#[tokio::test]
async fn a_server_and_consumers_that_are_killed_at_full_speed_lose_no_job() {
    const JOBS: usize = 20_000;
    const SLOTS: [&str; 2] = ["--concurrency", "128"];
    let mut lane = Lane::start().await;
    let mut consumers = Vec::new();
    for name in ["a", "b", "c", "d"] {
        consumers.push((name, lane.consumer(name, &SLOTS).await));
    }
    let jobs: Vec<_> = (0..JOBS)
        .map(|_| (JobId::generate(), json!({"kind": "echo"})))
        .collect();
    let submitting = tokio::spawn(Submitter::new(&lane).submit(jobs, 500));
    for (share, killed) in [(5_000, 0), (12_000, 1)] {
        let what = format!("{share} outcomes");
        eventually(DEADLINE, &what, async || {
            let info = lane.info("JOBS_STATE", &json!(null)).await;
            let ends = info["state"]["messages"].as_u64()?;
            (ends >= share).then_some(())
        })
        .await;
        let (name, consumer) = &mut consumers[killed];
        consumer.kill().await;
        lane.fixture.server.kill().await;
        lane.fixture.server.start_again().await;
        *consumer = lane.consumer(name, &SLOTS).await;
    }
    let jobs = submitting.await.unwrap();
    let ended = lane.all_end(&jobs, DEADLINE).await;
    let again = ended.values().filter(|record| record.attempt > 1).count();
    println!("{JOBS} jobs, all ended, {again} of them in a second attempt");
    succeeded(&ended);
    for (_, consumer) in &mut consumers {
        stop(consumer).await;
    }
}

/// A file system of its own for what a server stores, to be filled up.
struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// `None` where this process may not mount one.
    fn mount(megabytes: usize) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o"])
            .arg(format!("size={megabytes}m"))
            .arg("tmpfs")
            .arg(folder.path())
            .output();
        mounted.ok()?.status.success().then_some(Self { folder })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn grow(&self, megabytes: usize) {
        let remounted = Command::new("mount")
            .args(["-o", &format!("remount,size={megabytes}m")])
            .arg(self.path())
            .status();
        assert!(remounted.unwrap().success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Detached, so that a server which is still being ended does not keep it.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_acknowledges_nothing_more_and_keeps_all_that_was_acknowledged() {
    let Some(disk) = SmallDisk::mount(48) else {
        println!("skipped: only root may mount a small disk");
        return;
    };
    let store: PathBuf = disk.path().join("store");
    let configuration = format!(
        r#"jetstream {{ store_dir: "{}", sync_interval: always, strict: true, max_file_store: 8GB }}"#,
        store.display()
    );
    let server = NatsServer::builder().config(&configuration).start().await;
    let mut lane = Lane::on(server).await;
    let mut consumer = lane.consumer("first", &[]).await;
    // Nobody takes the jobs while the disk fills up.
    stop(&mut consumer).await;
    let padding = "x".repeat(400_000);
    let mut acknowledged = Vec::new();
    let refused = loop {
        assert!(acknowledged.len() < 1000, "the disk is never full");
        let id = JobId::generate();
        // Larger than what is read of it, and cut off from no batch.
        let job = json!({"kind": "note", "payload": padding, "id": id});
        let subject = format!("jobs.durable.{id}.normal.1.note");
        let request = async_nats::Request::new()
            .headers(HeaderMap::new())
            .payload(job.to_string().into())
            .timeout(Some(Duration::from_secs(3)));
        match lane.operator.send_request(subject, request).await {
            Ok(answer) => {
                let answer: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
                if answer["error"].is_object() {
                    break answer.to_string();
                }
                acknowledged.push(id);
            }
            Err(error) => break error.to_string(),
        }
    };
    println!(
        "{} acknowledged before the disk was full: {refused}",
        acknowledged.len()
    );
    assert!(acknowledged.len() > 50, "{refused}");

    lane.fixture.server.stop().await;
    disk.grow(256);
    lane.fixture.server.start_again().await;
    let mut consumer = lane.consumer("second", &[]).await;
    let ended = lane.all_end(&acknowledged, DEADLINE).await;
    lane.account(&acknowledged, &ended, 0..=0);
    succeeded(&ended);
    let more = lane.submit(json!({"kind": "note"})).await;
    lane.becomes(more, JobState::Succeeded).await;
    lane.queue_empties().await;
    stop(&mut consumer).await;
}

#[tokio::test]
async fn outcomes_wait_until_more_may_be_stored_and_no_job_is_lost_or_run_again() {
    let folder = tempfile::tempdir().unwrap();
    let limits = folder.path().join("limits.conf");
    let may_store = |size: &str| {
        let jetstream = format!(
            "jetstream {{ store_dir: $NATS_STORE_DIR, sync_interval: always, strict: true, max_file_store: {size} }}"
        );
        std::fs::write(&limits, jetstream).unwrap();
    };
    may_store("8GB");
    // Named from the server's own folder, which is a temporary one as well.
    let name = folder.path().file_name().unwrap().display();
    let include = format!("include '../{name}/limits.conf'");
    let server = NatsServer::builder().open().config(&include).start().await;
    let mut lane = Lane::on(server).await;
    let mut consumer = lane.consumer("first", &["--kinds", "held"]).await;
    // The streams are there, so the server may now be given less than they may hold.
    lane.fixture.server.stop().await;
    may_store("10MB");
    lane.fixture.server.start_again().await;
    lane.hold(1);
    let mut jobs = lane
        .submit_all((0..4).map(|_| json!({"kind": "held"})))
        .await;
    for id in &jobs {
        lane.becomes(*id, JobState::Running).await;
    }
    let refused = loop {
        assert!(jobs.len() < 1000, "the server is never full");
        let id = JobId::generate();
        let job = json!({"kind": "note", "payload": "x".repeat(100_000)});
        match lane.submit_as(id, job).await {
            Ok(_) => jobs.push(id),
            Err(refused) => break refused,
        }
    };
    println!("{} acknowledged, then: {refused:?}", jobs.len());
    assert!(refused.description.contains("insufficient"), "{refused:?}");
    // Another one comes, which runs what waits, and would run again what is given up.
    let mut second = lane.consumer("second", &["--kinds", "held,note"]).await;
    lane.release(1);
    lane.runs(jobs.len()).await;
    for service in [&mut consumer, &mut second] {
        service
            .wait_for_line(|line| line.contains("cannot store the record of a job"))
            .await;
    }
    let since = Instant::now();
    eventually(DEADLINE, "the end of the ack wait", async || {
        (since.elapsed() > ACK_WAIT + Duration::from_secs(2)).then_some(())
    })
    .await;
    assert_eq!(lane.stored_ends().await, 0);
    lane.fixture.server.stop().await;
    may_store("8GB");
    lane.fixture.server.start_again().await;
    let ended = lane.all_end(&jobs, DEADLINE).await;
    lane.account(&jobs, &ended, 0..=0);
    succeeded_at_once(&ended);
    stop(&mut consumer).await;
    stop(&mut second).await;
}
