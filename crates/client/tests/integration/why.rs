//! Why a job has not ended.

use std::time::Duration;

use async_nats::{Client, HeaderMap};
use client::kinds::{self, Pause, PauseEnd};
use client::{Reason, Stream, Topology, cancel, why};
use common::{JobId, JobState, Timestamp, subjects};
use futures_util::StreamExt as _;
use serde_json::json;

use crate::support::{lane, put, put_record, queue};

async fn reasons(client: &Client, id: JobId) -> Vec<Reason> {
    let found = why(&client.clone().into(), id).await.unwrap();
    found.expect("the job is known").reasons
}

/// The names of the reasons.
async fn names(client: &Client, id: JobId) -> Vec<&'static str> {
    let reasons = reasons(client, id).await;
    reasons.iter().map(Reason::name).collect()
}

/// Says that a consumer serves a kind, as one would.
async fn serve(worker: &Client, kind: &'static str) {
    let mut questions = worker
        .queue_subscribe(format!("jobs.serves.{kind}"), "workers".to_owned())
        .await
        .unwrap();
    let client = worker.clone();
    tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            let reply = question.reply.unwrap();
            client.publish(reply, "".into()).await.unwrap();
        }
    });
    worker.flush().await.unwrap();
}

#[tokio::test]
async fn a_waiting_job_says_what_it_waits_for() {
    let nats = lane().await;
    let (worker, operator) = (
        nats.connect_as("worker").await,
        nats.connect_as("operator").await,
    );
    let kind = "mail.send".parse().unwrap();
    let ids = queue(&nats.connect_as("gateway").await, "mail.send", 5).await;
    assert_eq!(names(&operator, ids[2]).await, ["no_consumer"]);
    serve(&worker, "mail.send").await;
    Topology::default()
        .ensure_consumer(&worker.clone().into(), Stream::Jobs, &kind, None)
        .await
        .unwrap();
    assert_eq!(reasons(&operator, ids[0]).await, []);
    assert_eq!(
        reasons(&operator, ids[2]).await,
        [Reason::Behind { jobs: 2 }]
    );

    // Other kinds and what has been delivered are not in front of it.
    queue(&nats.connect_as("gateway").await, "echo", 3).await;
    let inbox = worker.new_inbox();
    let mut pulled = worker.subscribe(inbox.clone()).await.unwrap();
    let next = "$JS.API.CONSUMER.MSG.NEXT.JOBS.mail=send";
    worker
        .publish_with_reply(next, inbox, r#"{"batch":2}"#.into())
        .await
        .unwrap();
    for _ in 0..2 {
        pulled.next().await.unwrap();
    }
    assert_eq!(names(&operator, ids[0]).await, ["delivered"]);
    assert_eq!(reasons(&operator, ids[2]).await, []);
    assert_eq!(
        reasons(&operator, ids[4]).await,
        [Reason::Behind { jobs: 2 }]
    );

    let pause = Pause {
        end: PauseEnd::After(Duration::from_hours(1)),
        reason: Some("the mail server moves".to_owned()),
        by: Some("ann".to_owned()),
    };
    let client = operator.clone().into();
    kinds::pause(&client, &kind, &pause).await.unwrap();
    let paused = reasons(&operator, ids[4]).await;
    assert_eq!(paused[1], Reason::Behind { jobs: 2 });
    let text = paused[0].to_string();
    assert!(
        text.starts_with("its kind mail.send is paused until 2"),
        "{text}"
    );
    assert!(text.ends_with(", by ann: the mail server moves"), "{text}");

    cancel(&client, ids[4]).await.unwrap();
    let all = names(&operator, ids[4]).await;
    assert_eq!(all, ["cancel_requested", "paused"]);
}

#[tokio::test]
async fn each_state_is_a_reason_of_its_own() {
    let nats = lane().await;
    let (worker, operator) = (
        nats.connect_as("worker").await,
        nats.connect_as("operator").await,
    );
    serve(&worker, "mail").await;
    let unknown = why(&operator.clone().into(), JobId::generate()).await;
    assert_eq!(unknown.unwrap(), None);
    let soon = Timestamp::now().after(Duration::from_hours(1));
    for (fields, expected) in [
        (json!({"state": "succeeded"}), &[][..]),
        (json!({"state": "dead"}), &[]),
        (
            json!({"state": "running", "consumer": "a", "attempt": 2}),
            &["running"],
        ),
        (
            json!({"state": "retrying", "next_at": soon, "attempt": 1}),
            &["retrying"],
        ),
        (
            json!({"state": "scheduled", "next_at": soon}),
            &["scheduled"],
        ),
    ] {
        let id = JobId::generate();
        let mut fields = fields;
        fields["kind"] = json!("mail");
        put_record(&worker, id, fields.clone()).await;
        assert_eq!(names(&operator, id).await, expected, "{fields}");
    }
    let id = JobId::generate();
    put(
        &worker,
        format!("jobs.state.{id}"),
        HeaderMap::new(),
        "garbage".to_owned(),
    )
    .await;
    assert_eq!(names(&operator, id).await, ["unreadable"]);
}

#[tokio::test]
async fn a_job_for_newer_consumers_says_so() {
    let nats = lane().await;
    let worker = nats.connect_as("worker").await;
    let gateway = nats.connect_as("gateway").await;
    serve(&worker, "mail").await;
    let id = JobId::generate();
    let mut headers = HeaderMap::new();
    headers.insert(subjects::REQUIRES_HEADER, "1000");
    let subject = format!("jobs.durable.{id}.normal.1.mail");
    put(
        &gateway,
        subject,
        headers,
        json!({"id": id, "kind": "mail"}).to_string(),
    )
    .await;
    let found = why(&gateway.clone().into(), id).await.unwrap().unwrap();
    assert_eq!(found.state, JobState::Queued);
    assert_eq!(found.reasons, [Reason::NewerVersion { version: 1000 }]);
}
