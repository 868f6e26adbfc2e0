//! A file of many real jobs, of all sorts.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use test_support::{eventually, project_root};

use crate::fixture::{Fixture, peak_memory_mb, processed, said, says, stop};

const JOBS: usize = 100_000;

/// A machine on which this takes longer has other troubles.
const LONGEST: Duration = Duration::from_mins(5);

/// One in fifty starts a program.
fn job(number: usize) -> Value {
    match number % 50 {
        0 => json!({"kind": "checksum", "payload": text(number)}),
        1 => json!({"kind": "sha256", "payload": {"text": text(number - 1)}}),
        it if it % 10 == 5 => json!({"kind": "sleep", "payload": {"ms": number % 2}}),
        _ => json!({"kind": "echo", "payload": {"number": number, "text": text(number)}}),
    }
}

fn text(number: usize) -> String {
    format!("job {number}: {}", "x".repeat(number % 200))
}

/// The outcomes in the order of the jobs say that each job was run, and not another.
fn check_results(outcomes: &[Value]) {
    for (number, outcome) in outcomes.iter().enumerate() {
        assert_eq!(outcome["line"], number + 1);
        let (job, result) = (job(number), &outcome["result"]);
        match job["kind"].as_str() {
            Some("echo") => assert_eq!(*result, job["payload"]),
            // A program and our own handler take the checksum of the same text.
            Some("sha256") => {
                let hex = result["hex"].as_str().unwrap();
                let program = outcomes[number - 1]["result"].as_str().unwrap();
                assert_eq!(program, format!("{hex}  -"), "job {number}");
                assert_eq!(hex.len(), 64);
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn a_file_of_many_jobs_of_all_sorts_runs_through_four_consumers_and_nothing_is_lost() {
    let fixture = Fixture::start().await;
    let handlers = project_root().join("deploy/handlers.toml");
    let handlers = ["--handlers", handlers.to_str().unwrap()];
    let mut consumers = Vec::new();
    for name in ["one", "two", "three", "four"] {
        consumers.push(fixture.consumer(name, &handlers).await);
    }
    let mut status_service = fixture.status_service(&[]);

    let start = Instant::now();
    let run = fixture.bulk((0..JOBS).map(job), &[]);
    // Looked at while it runs: a process that has ended has no memory.
    let mut publisher_mb = 0;
    eventually(LONGEST, "the publisher's summary", async || {
        publisher_mb = peak_memory_mb(&run.publisher).unwrap_or(publisher_mb);
        (!said(&run.publisher, "summary").is_empty()).then_some(())
    })
    .await;
    let ended = run.all_succeed(LONGEST).await;
    let seconds = start.elapsed().as_secs_f64();
    assert_eq!(ended.summary["resubmitted"], 0, "{}", ended.summary);
    check_results(&ended.outcomes);

    let statuses = fixture.statuses(4).await;
    assert_eq!(processed(statuses.values()), JOBS as u64);
    for (name, status) in &statuses {
        assert_eq!(status.totals.succeeded, ended.by(name) as u64, "{name}");
        let kinds: Vec<_> = status.lanes["core"].kinds.keys().collect();
        assert_eq!(kinds, ["checksum", "echo", "sha256", "sleep"], "{name}");
    }
    let counted = |line: &Value| line["consumers"] == 4 && line["processed"] == JOBS;
    says(&status_service, "fleet", counted).await;
    stop(&mut status_service).await;

    let memory = |service| peak_memory_mb(service).unwrap();
    let consumers_mb: Vec<_> = consumers.iter().map(memory).collect();
    for consumer in &mut consumers {
        stop(consumer).await;
    }
    println!(
        "{JOBS} jobs took {seconds:.1} s; at most {publisher_mb} MB in the publisher, {consumers_mb:?} MB in the consumers"
    );
    // The input is read as it is needed, and the outcomes are written as they come.
    assert!((1..64).contains(&publisher_mb), "{publisher_mb} MB");
}
