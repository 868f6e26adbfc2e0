//! Many jobs are cancelled, or run now, by a filter.

use std::collections::HashSet;
use std::time::Duration;

use client::{Filter, JobState, ManyAction, ManyJobs, ManyWorker};
use common::{JobId, Timestamp};
use connection::NatsClient;
use serde_json::json;

use crate::support::{connected, lane, messages, put_record, queue};

#[tokio::test]
async fn each_job_that_matches_is_asked_to_be_cancelled_once_and_all_pages_are_read() {
    let nats = lane().await;
    let consumer = nats.connect_as("worker").await;
    let operator = nats.connect_as("operator").await;
    let expected = queue(&operator, "mail.send", 700).await;
    // So many others that a page ends among them.
    queue(&operator, "echo", 6000).await;
    let moving = expected[0];
    let record = |state: &str| json!({"kind": "mail.send", "state": state});
    put_record(&consumer, moving, record("running")).await;
    for state in ["succeeded", "cancelled", "expired"] {
        put_record(&consumer, JobId::generate(), record(state)).await;
    }
    let filter = Filter {
        kind: Some("mail.send".parse().unwrap()),
        ..Filter::default()
    };
    let client = NatsClient::from(operator.clone());
    let worker = ManyWorker::new(&client, connected(), ManyAction::Cancel);
    let mut pages = ManyJobs::new(&client, ManyAction::Cancel, &filter)
        .await
        .unwrap();
    let mut asked = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        let ids: Vec<_> = page.iter().map(|job| job.id).collect();
        let all = worker.apply(ids.clone()).await;
        assert_eq!((all.done, all.failed), (ids.len(), Vec::new()));
        if asked.is_empty() && ids.contains(&moving) {
            // It is put back into the queue: the list shows it again, at the place of its message.
            put_record(&consumer, moving, record("queued")).await;
            queue(&operator, "mail.send", 5).await;
        }
        asked.extend(ids);
    }
    assert_eq!(asked[0], moving);
    assert_eq!(asked.len(), 700, "none twice, and none that came later");
    let asked: HashSet<_> = asked.into_iter().collect();
    assert_eq!(asked, expected.into_iter().collect());
    // A request for each of them, and four records.
    assert_eq!(messages(&client, "JOBS_STATE").await, 704);
}

#[tokio::test]
async fn only_jobs_in_the_wanted_state_are_cancelled_and_none_that_has_ended() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let operator = nats.connect_as("operator").await;
    let queued = queue(&operator, "echo", 1).await[0];
    for state in ["running", "succeeded"] {
        put_record(&worker, JobId::generate(), json!({"state": state})).await;
    }
    let client = NatsClient::from(operator);
    for (state, expected) in [
        (JobState::Queued, &[queued][..]),
        (JobState::Succeeded, &[]),
    ] {
        let filter = Filter {
            state: Some(state),
            ..Filter::default()
        };
        let mut pages = ManyJobs::new(&client, ManyAction::Cancel, &filter)
            .await
            .unwrap();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await.unwrap() {
            found.extend(page.iter().map(|job| job.id));
        }
        assert_eq!(found, expected, "{state}");
    }
}

#[tokio::test]
async fn a_job_that_was_brought_forward_is_not_on_a_later_page() {
    let nats = lane().await;
    let consumer = nats.connect_as("worker").await;
    let operator = nats.connect_as("operator").await;
    let expected = queue(&operator, "echo", 450).await;
    let waits_until =
        |time: Timestamp| json!({"kind": "echo", "state": "scheduled", "next_at": time});
    let in_an_hour = Timestamp::now().after(Duration::from_hours(1));
    for id in &expected {
        put_record(&consumer, id, waits_until(in_an_hour)).await;
    }
    let filter = Filter {
        kind: Some("echo".parse().unwrap()),
        ..Filter::default()
    };
    let client = NatsClient::from(operator);
    let mut pages = ManyJobs::new(&client, ManyAction::RunNow, &filter)
        .await
        .unwrap();
    let mut found = Vec::new();
    while let Some(page) = pages.next().await.unwrap() {
        // The list shows them again, at the places of their messages.
        let soon = Timestamp::now().after(Duration::from_mins(5));
        for job in &page {
            put_record(&consumer, job.id, waits_until(soon)).await;
        }
        found.extend(page.iter().map(|job| job.id));
    }
    assert_eq!(found.len(), 450, "none twice");
    assert_eq!(HashSet::from_iter(found), HashSet::<_>::from_iter(expected));
}
