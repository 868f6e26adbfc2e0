//! How long the records of ended jobs are kept, and that a job has one record wherever it is stored.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_nats::HeaderMap;
use common::{JobId, JobRecord, JobState, Timestamp, subjects};
use futures_util::StreamExt as _;
use jetstream::{NotStored, batch, records};
use serde_json::json;
use test_support::{DEADLINE, NatsServer, eventually};

use crate::fixture::stop;
use crate::lane::Lane;

async fn ended(lane: &Lane) -> usize {
    lane.count("JOBS_STATE", subjects::ALL_ENDED).await
}

async fn has_ttl(lane: &Lane, id: JobId) -> bool {
    let record = lane.last("JOBS_STATE", &subjects::record(id)).await;
    let headers = record.unwrap().headers.unwrap();
    headers.get("Nats-TTL").is_some()
}

#[tokio::test]
async fn records_without_a_predecessor_are_removed_together_and_the_others_by_the_server() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("only", &["--keep-outcomes", "6s"]).await;
    lane.hold(1);
    let long = lane.submit(json!({"kind": "held"})).await;
    lane.becomes(long, JobState::Running).await;
    let dead = lane.submit(json!({"kind": "refuse"})).await;
    lane.becomes(dead, JobState::Dead).await;
    let jobs = lane
        .submit_all((0..300).map(|_| json!({"kind": "note"})))
        .await;
    let records = lane.all_end(&jobs, DEADLINE).await;
    let last = records.values().map(|record| record.at).max().unwrap();
    lane.release(1);
    lane.becomes(long, JobState::Succeeded).await;
    assert!(has_ttl(&lane, long).await, "it had a record while it ran");
    assert!(!has_ttl(&lane, dead).await, "a dead letter stays");

    eventually(DEADLINE, "the removal of the records", async || {
        let gone = ended(&lane).await == 0;
        (gone && lane.record(long).await.is_none()).then_some(())
    })
    .await;
    assert!(Timestamp::now().since(last).as_secs() >= 6, "too early");
    assert_eq!(lane.record(dead).await.unwrap().state, JobState::Dead);
    stop(&mut consumer).await;
}

#[tokio::test]
async fn the_longest_time_of_all_consumers_counts_also_after_the_one_with_it_has_gone() {
    let lane = Lane::on(NatsServer::builder().open().start().await).await;
    let mut long = lane.consumer("long", &["--keep-outcomes", "30s"]).await;
    let mut short = lane.consumer("short", &["--keep-outcomes", "1s"]).await;
    eventually(DEADLINE, "both notices", async || {
        (lane.count("JOBS_STATE", subjects::ALL_KEEPS).await == 2).then_some(())
    })
    .await;
    // Somebody has the server's answer to a request stored as if it were a notice.
    let forged = lane.publish(subjects::keep(1_000_000), HeaderMap::new(), "{}");
    forged.await.unwrap();
    stop(&mut long).await;

    let mut questions = lane
        .operator
        .subscribe("$JS.API.DIRECT.GET.JOBS_STATE")
        .await
        .unwrap();
    let rounds = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&rounds);
    tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            let text = String::from_utf8_lossy(&question.payload);
            counted.fetch_add(
                usize::from(text.contains(subjects::ALL_KEEPS)),
                Ordering::Relaxed,
            );
        }
    });
    let jobs = lane
        .submit_all((0..20).map(|_| json!({"kind": "note"})))
        .await;
    let records = lane.all_end(&jobs, DEADLINE).await;
    let last = records.values().map(|record| record.at).max().unwrap();
    let mut before = None;
    eventually(DEADLINE, "rounds that could remove them", async || {
        if Timestamp::now().since(last).as_secs() < 2 {
            return None;
        }
        let rounds = rounds.load(Ordering::Relaxed);
        (rounds >= *before.get_or_insert(rounds) + 2).then_some(())
    })
    .await;
    assert_eq!(ended(&lane).await, 20);

    // The notice of the consumer that has gone expires.
    let admin = lane.fixture.server.connect_as("admin").await;
    let purge = json!({"filter": subjects::keep(30)}).to_string();
    let purged = admin.request("$JS.API.STREAM.PURGE.JOBS_STATE", purge.into());
    purged.await.unwrap();
    eventually(DEADLINE, "the removal of the records", async || {
        (ended(&lane).await == 0).then_some(())
    })
    .await;
    stop(&mut short).await;
}

#[tokio::test]
async fn a_job_has_one_record_on_whichever_subject_the_first_one_was_stored() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("only", &[]).await;
    let worker = lane.fixture.server.connect_as("worker").await.into();
    let record = |id, state| {
        let record = JobRecord::new(id, None, state, Timestamp::now());
        records::encode(&record, 10_000)
    };
    let store = async |message| batch::store(&worker, vec![message]).await;
    let first = |id| records::message(id, record(id, JobState::Dead), 0, None);
    let first_and_last = |id| records::first_and_last(id, record(id, JobState::Succeeded));

    // Two consumers hold a job without a record, and it ends in both.
    let id = JobId::generate();
    store(first_and_last(id)).await.unwrap();
    for late in [first(id), first_and_last(id)] {
        assert_eq!(store(late).await, Err(NotStored::Conflict));
    }
    assert_eq!(lane.record(id).await.unwrap().state, JobState::Succeeded);
    let id = JobId::generate();
    store(first(id)).await.unwrap();
    assert_eq!(store(first_and_last(id)).await, Err(NotStored::Conflict));
    assert_eq!(lane.record(id).await.unwrap().state, JobState::Dead);

    // Bytes that are no record keep no job from its end.
    let id = JobId::generate();
    let forged = worker.request(subjects::ended(id), "{}".into());
    assert!(forged.await.is_ok());
    lane.submit_as(id, json!({"kind": "note"})).await.unwrap();
    lane.begun(id, 1, DEADLINE).await;
    lane.queue_empties().await;
    assert_eq!(lane.record(id).await.unwrap().state, JobState::Succeeded);
    assert_eq!(lane.ledger().of(id).len(), 1);
    stop(&mut consumer).await;
}

#[tokio::test]
async fn a_job_of_which_nothing_is_kept_tells_its_end_and_leaves_records_of_failures_only() {
    let lane = Lane::start().await;
    let mut consumer = lane.consumer("only", &["--keep", "failures"]).await;
    let jobs = lane
        .submit_all((0..50).map(|_| json!({"kind": "note"})))
        .await;
    lane.hold(1);
    let long = lane.submit(json!({"kind": "held"})).await;
    lane.becomes(long, JobState::Running).await;
    let flaky = lane.submit(json!({"kind": "flaky"})).await;
    let dead = lane.submit(json!({"kind": "refuse"})).await;
    let overdue = json!({"kind": "note", "deadline": "2020-01-01T00:00:00Z"});
    let expired = lane.submit(overdue).await;
    // It could not be left in the state `running`, or `retrying`.
    lane.release(1);
    lane.becomes(long, JobState::Succeeded).await;
    lane.becomes(flaky, JobState::Succeeded).await;
    lane.becomes(dead, JobState::Dead).await;
    lane.becomes(expired, JobState::Expired).await;
    lane.queue_empties().await;
    for id in jobs {
        assert_eq!(lane.ledger().of(id).len(), 1);
        assert!(lane.record(id).await.is_none());
        eventually(DEADLINE, "the event of the end", async || {
            (lane.states_of(id) == [JobState::Succeeded]).then_some(())
        })
        .await;
    }
    assert_eq!(ended(&lane).await, 1, "the one that expired");
    stop(&mut consumer).await;
}
