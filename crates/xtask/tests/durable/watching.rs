//! What those who look on are told of the lane.

use std::time::Duration;

use client::Topology;
use common::{JobKind, JobState, Timestamp, subjects};
use serde_json::json;
use test_support::DEADLINE;

use crate::fixture::{said, says, stop};
use crate::lane::Lane;
use crate::time::submit_for_later;

#[tokio::test]
async fn kinds_that_nobody_serves_are_named_everywhere_until_somebody_serves_them() {
    const SERVED: &str = "every waiting kind has a consumer again";
    let lane = Lane::start().await;
    lane.hold(1);
    let mut picky = lane.consumer("picky", &["--kinds", "echo"]).await;
    let mut status = lane.fixture.status_service(&[]);
    let held = lane.submit(json!({"kind": "held"})).await;
    lane.submit(json!({"kind": "refuse"})).await;
    // It waits for its time first, and then for somebody who serves it.
    let due = Timestamp::now().shifted(1000);
    submit_for_later(&lane, json!({"kind": "note"}), due).await;

    for kind in ["held", "note", "refuse"] {
        let wanted = |line: &str| line.contains("no consumer serves") && line.contains(kind);
        let warning = picky.wait_for_line(wanted).await;
        assert!(warning.contains("WARN"), "{warning}");
    }
    let known = lane
        .fixture
        .status_of("picky", |status| status.unserved_kinds.len() == 3)
        .await;
    let kinds: Vec<_> = known.unserved_kinds.iter().map(JobKind::as_str).collect();
    assert_eq!(kinds, ["held", "note", "refuse"]);
    let told = "durable jobs wait, and no consumer serves their kinds";
    let warning = says(&status, told, |line| line["kinds"] == "held,note,refuse").await;
    assert_eq!(warning["level"], "WARN");
    assert!(said(&status, SERVED).is_empty());

    // Now it is served, and still in front.
    let mut other = lane
        .consumer("other", &["--kinds", "held,note,refuse"])
        .await;
    lane.begun(held, 1, DEADLINE).await;
    picky
        .wait_for_lines(1, |line| {
            line.contains("every waiting kind has a consumer again")
        })
        .await;
    lane.fixture
        .status_of("picky", |status| status.unserved_kinds.is_empty())
        .await;
    says(&status, SERVED, |line| line["level"] == "INFO").await;
    lane.becomes(held, JobState::Running).await;
    lane.release(1);
    lane.becomes(held, JobState::Succeeded).await;
    for service in [&mut picky, &mut other, &mut status] {
        stop(service).await;
    }
}

#[tokio::test]
async fn the_status_service_tells_what_waits_and_counts_what_is_done() {
    const DEPTH: &str = "durable jobs";
    let lane = Lane::start().await;
    let worker = lane.fixture.server.connect_as("worker").await;
    Topology::default()
        .ensure(&worker.clone().into())
        .await
        .unwrap();
    let hour = Timestamp::now().after(Duration::from_hours(1));
    submit_for_later(&lane, json!({"kind": "note"}), hour).await;
    let mut jobs = lane
        .submit_all((0..3).map(|_| json!({"kind": "note"})))
        .await;
    let mut status = lane.fixture.status_service(&[]);
    // Also while nobody is there to take them.
    says(&status, "no consumer answers on jobs.status yet", |_| true).await;
    let depth = |queued: u64, scheduled: u64| {
        move |line: &serde_json::Value| line["queued"] == queued && line["scheduled"] == scheduled
    };
    says(&status, DEPTH, depth(3, 1)).await;

    let mut consumer = lane.consumer("only", &[]).await;
    jobs.push(lane.submit(json!({"kind": "refuse"})).await);
    lane.all_end(&jobs, DEADLINE).await;
    says(&status, DEPTH, depth(0, 1)).await;
    let fleet = says(&status, "fleet", |line| line["processed"] == 4).await;
    assert_eq!(fleet["failed"], 1, "{fleet}");
    let known = lane.fixture.status_of("only", |_| true).await;
    let counts = known.lanes[subjects::DURABLE_LANE].counts;
    assert_eq!(
        (counts.processed, counts.succeeded, counts.failed),
        (4, 3, 1)
    );
    stop(&mut status).await;
    // Once, not with every round.
    let lines = said(&status, DEPTH);
    assert_eq!(lines.iter().filter(|line| depth(0, 1)(line)).count(), 1);
    let last = said(&status, "stopped asking").remove(0);
    assert_eq!(
        (&last["processed"], &last["succeeded"]),
        (&4.into(), &3.into())
    );
    stop(&mut consumer).await;
}
