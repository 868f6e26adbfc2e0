//! Looking jobs up, waiting for them, and cancelling them.

use std::time::Duration;

use async_nats::HeaderMap;
use client::{Waited, cancel, look_up, message, wait};
use common::{JobId, JobState, subjects};
use serde_json::json;
use test_support::DEADLINE;
use tokio::sync::watch;

use crate::support::{connected, echo, job, lane, messages, put, put_record, submitter};

#[tokio::test]
async fn a_job_is_found_wherever_it_is() {
    let nats = lane().await;
    let (publisher, operator) = (
        nats.connect_as("publisher").await,
        nats.connect_as("operator").await,
    );
    let worker = nats.connect_as("worker").await;
    let nobody = look_up(&operator.clone().into(), JobId::generate())
        .await
        .unwrap();
    assert!(nobody.is_none());

    let queued = job(r#"{"kind":"mail.send"}"#);
    submitter(&publisher).submit(&queued).await.unwrap();
    let record = look_up(&operator.clone().into(), queued.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((record.state, record.run), (JobState::Queued, 1));
    assert_eq!(record.kind.unwrap().as_str(), "mail.send");

    let later = job(r#"{"kind":"mail.send","run_at":"2200-01-31T09:30:00Z"}"#);
    submitter(&publisher).submit(&later).await.unwrap();
    let record = look_up(&operator.clone().into(), later.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(record.state, JobState::Scheduled);
    assert_eq!(record.next_at, later.run_at);
    assert_eq!(record.kind.unwrap().as_str(), "mail.send");

    let at = common::Timestamp::now().after(Duration::from_secs(1));
    let due = job(&format!(r#"{{"kind":"mail.send","run_at":"{at}"}}"#));
    submitter(&publisher).submit(&due).await.unwrap();
    test_support::eventually(DEADLINE, "the job to be due", async || {
        let record = look_up(&operator.clone().into(), due.id)
            .await
            .unwrap()
            .unwrap();
        (record.state == JobState::Queued).then_some(())
    })
    .await;

    let running = json!({"state": "running", "consumer": "consumer-1"});
    put_record(&worker, queued.id, running).await;
    let record = look_up(&operator.clone().into(), queued.id)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(record.state, JobState::Running);
    assert_eq!(record.consumer.as_deref(), Some("consumer-1"));
}

#[tokio::test]
async fn the_bytes_of_a_job_are_told_until_it_has_ended_and_are_those_of_its_last_run() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let gateway = nats.connect_as("gateway").await;
    let submitted = async |fields: &str| {
        let new = job(&format!(r#"{{"kind":"mail","payload":"a"{fields}}}"#));
        submitter(&gateway).submit(&new).await.unwrap();
        new.id
    };
    let payload = async |id| {
        let record = look_up(&gateway.clone().into(), id).await.unwrap().unwrap();
        let bytes = message(&gateway.clone().into(), &record).await.unwrap()?;
        let body: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        Some(body["payload"].clone())
    };
    let scheduled = submitted(r#","run_at":"2200-01-31T09:30:00Z""#).await;
    assert_eq!(payload(scheduled).await, Some(json!("a")));
    let queued = submitted("").await;
    assert_eq!(payload(queued).await, Some(json!("a")));
    put_record(&worker, queued, json!({"state": "running"})).await;
    assert_eq!(payload(queued).await, Some(json!("a")));
    put_record(&worker, queued, json!({"state": "succeeded"})).await;
    assert_eq!(payload(queued).await, None);

    // It waits for a retry, and the message of the run before is there still.
    let retrying = submitted("").await;
    put_record(&worker, retrying, json!({"state": "retrying", "run": 2})).await;
    assert_eq!(payload(retrying).await, None);
    let mut headers = HeaderMap::new();
    headers.insert("Nats-Schedule", "@at 2200-01-31T09:30:00Z");
    headers.insert(
        "Nats-Schedule-Target",
        format!("jobs.due.{retrying}.normal.2.mail"),
    );
    let body = r#"{"kind":"mail","payload":"b"}"#.to_owned();
    put(&worker, subjects::later(retrying), headers, body).await;
    assert_eq!(payload(retrying).await, Some(json!("b")));
}

#[tokio::test]
async fn an_end_is_not_missed_whenever_it_comes() {
    let nats = lane().await;
    let (worker, operator) = (
        nats.connect_as("worker").await,
        connection::NatsClient::from(nats.connect_as("operator").await),
    );
    // Before, while and after it is waited for: how they fall is up to the machine.
    for round in 0..50 {
        let id = JobId::generate();
        let ending = async {
            for _ in 0..round % 10 {
                tokio::task::yield_now().await;
            }
            put_record(&worker, id, json!({"state": "running"})).await;
            put_record(&worker, id, json!({"state": "succeeded", "result": 7})).await;
        };
        let (waited, ()) = tokio::join!(wait(&operator, connected(), id, DEADLINE), ending);
        let Waited::Ended(record) = waited.unwrap() else {
            panic!("the end was missed")
        };
        assert_eq!(record.result.unwrap().get(), "7");
    }
}

#[tokio::test]
async fn an_end_during_an_outage_is_not_missed() {
    let mut nats = lane().await;
    let (publisher, operator) = (
        nats.connect_as("publisher").await,
        nats.connect_as("operator").await,
    );
    let job = echo();
    submitter(&publisher).submit(&job).await.unwrap();
    let (up, connected) = watch::channel(true);
    let operator = operator.into();
    let mut waiting = std::pin::pin!(wait(&operator, connected, job.id, DEADLINE));
    let early = tokio::time::timeout(Duration::from_millis(200), &mut waiting).await;
    assert!(early.is_err());
    nats.stop().await;
    up.send_replace(false);
    nats.start_again().await;
    // A worker is back first: nobody is told.
    let worker = nats.connect_as("worker").await;
    put_record(&worker, job.id, json!({"state": "expired"})).await;
    up.send_replace(true);
    let Waited::Ended(record) = waiting.await.unwrap() else {
        panic!("the end was missed")
    };
    assert_eq!(record.state, JobState::Expired);
}

#[tokio::test]
async fn a_wait_has_an_end_and_says_how_the_job_is_then() {
    let nats = lane().await;
    let (publisher, operator) = (
        nats.connect_as("publisher").await,
        nats.connect_as("operator").await,
    );
    let job = echo();
    let patience = Duration::from_millis(50);
    let waited = wait(&operator.clone().into(), connected(), job.id, patience).await;
    assert!(matches!(waited.unwrap(), Waited::NotYet(None)));
    submitter(&publisher).submit(&job).await.unwrap();
    let waited = wait(&operator.clone().into(), connected(), job.id, patience).await;
    let Waited::NotYet(Some(record)) = waited.unwrap() else {
        panic!("the job is not known")
    };
    assert_eq!(record.state, JobState::Queued);
}

#[tokio::test]
async fn a_request_to_cancel_is_stored_until_somebody_carries_it_out() {
    let nats = lane().await;
    let operator = nats.connect_as("operator").await;
    let id = JobId::generate();
    cancel(&operator.clone().into(), id).await.unwrap();
    cancel(&operator.clone().into(), id).await.unwrap();
    assert_eq!(messages(&operator, "JOBS_STATE").await, 1);
    let last = json!({"last_by_subj": subjects::cancel(id)}).to_string();
    let kept = operator.request("$JS.API.DIRECT.GET.JOBS_STATE", last.into());
    let headers = kept.await.unwrap().headers.unwrap();
    assert!(headers.get("Nats-TTL").is_some(), "it would stay for ever");
}

#[tokio::test]
async fn a_record_that_nobody_can_read_is_shown_as_that_and_replaced_by_the_next_one() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let id = JobId::generate();
    let subject = subjects::state(id);
    put(&worker, subject, HeaderMap::new(), "oops".to_owned()).await;
    let shown = async || look_up(&worker.clone().into(), id).await.unwrap().unwrap();
    let record = shown().await;
    assert_eq!((record.id, record.state), (id, JobState::Unreadable));
    let error = &record.failures[0].error;
    assert_eq!(error.code, "unreadable_record");
    assert!(error.message.contains("cannot be read"), "{error:?}");
    // What its message says is known all the same.
    let publisher = nats.connect_as("publisher").await;
    let text = format!(r#"{{"kind":"mail.send","id":"{id}"}}"#);
    submitter(&publisher).submit(&job(&text)).await.unwrap();
    let record = shown().await;
    assert_eq!(record.state, JobState::Unreadable);
    assert_eq!(record.kind.unwrap().as_str(), "mail.send");
    put_record(&worker, id, json!({"state": "running"})).await;
    assert_eq!(shown().await.state, JobState::Running);
}
