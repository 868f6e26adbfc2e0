//! A server with the lane's streams.

use std::time::Duration;

use async_nats::{Client, HeaderMap};
use bytes::Bytes;
use client::{Limits, NewJob, Patience, Submitter, Topology};
use common::JobId;
use serde_json::{Value, json};
use test_support::NatsServer;
pub(crate) use test_support::{put, put_record};
use tokio::sync::watch;

/// A server on which a worker has made the streams.
pub(crate) async fn lane() -> NatsServer {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    Topology::default()
        .ensure(&worker.clone().into())
        .await
        .unwrap();
    nats
}

/// The same with a queue of so many bytes.
pub(crate) async fn small_lane(jobs_bytes: i64) -> NatsServer {
    let nats = NatsServer::start().await;
    let topology = Topology {
        limits: Limits { jobs_bytes },
        ..Topology::default()
    };
    topology
        .ensure(&nats.connect_as("worker").await.into())
        .await
        .unwrap();
    nats
}

pub(crate) fn patience(confirm: Duration) -> Patience {
    Patience {
        confirm,
        wait_for_nats: false,
        wait_for_room: false,
    }
}

/// Whether a client is connected, for whoever has to know.
pub(crate) fn connected() -> watch::Receiver<bool> {
    // The sender is kept for as long as the process lives: there is always somebody who may say.
    let (sender, receiver) = watch::channel(true);
    std::mem::forget(sender);
    receiver
}

pub(crate) fn submitter(client: &Client) -> Submitter {
    Submitter::over(
        &client.clone().into(),
        connected(),
        patience(Duration::from_secs(20)),
    )
}

pub(crate) fn job(text: &str) -> NewJob {
    NewJob::decode(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

pub(crate) fn echo() -> NewJob {
    job(r#"{"kind":"echo","payload":1}"#)
}

pub(crate) async fn info(
    client: &(impl Clone + Into<connection::NatsClient>),
    stream: &str,
) -> Value {
    let client = client.clone().into();
    let api = format!("$JS.API.STREAM.INFO.{stream}");
    let answer = client.request(api, Bytes::new()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

pub(crate) async fn messages(
    client: &(impl Clone + Into<connection::NatsClient>),
    stream: &str,
) -> u64 {
    info(client, stream).await["state"]["messages"]
        .as_u64()
        .unwrap()
}

/// Stores many messages at once.
pub(crate) async fn put_all(client: &Client, messages: Vec<(String, String)>) {
    for batch in messages.chunks(1000) {
        let id = JobId::generate().to_string();
        for (number, (subject, body)) in (1..).zip(batch) {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Batch-Id", id.as_str());
            headers.insert("Nats-Batch-Sequence", number.to_string());
            if number == batch.len() {
                headers.insert("Nats-Batch-Commit", "1");
                put(client, subject.clone(), headers, body.clone()).await;
            } else {
                let sent =
                    client.publish_with_headers(subject.clone(), headers, body.clone().into());
                sent.await.unwrap();
            }
        }
    }
}

/// Puts jobs of a kind into the queue.
pub(crate) async fn queue(client: &Client, kind: &str, count: usize) -> Vec<JobId> {
    let ids: Vec<_> = (0..count).map(|_| JobId::generate()).collect();
    let kind = kind.parse().unwrap();
    let message = |id: &JobId| {
        let subject = common::subjects::durable_job(*id, common::Priority::Normal, 1, &kind);
        (subject, json!({"id": id, "kind": kind}).to_string())
    };
    put_all(client, ids.iter().map(message).collect()).await;
    ids
}

/// Gives a job up as a consumer would.
pub(crate) async fn bury(worker: &Client, kind: &str, reason: &str) -> JobId {
    let id = JobId::generate();
    test_support::bury(worker, id, kind, reason, "no such address").await;
    id
}
