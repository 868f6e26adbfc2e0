//! A server with the lane's streams.

use std::time::Duration;

use async_nats::Client;
use bytes::Bytes;
use common::JobId;
use durable::{Limits, NewJob, Patience, Submitter, Topology};
use serde_json::Value;
use test_support::NatsServer;
pub(crate) use test_support::{put, put_record};
use tokio::sync::watch;

/// A server on which a worker has made the streams.
pub(crate) async fn lane() -> NatsServer {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    Topology::default().ensure(&worker).await.unwrap();
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
        .ensure(&nats.connect_as("worker").await)
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
    Submitter::over(client, connected(), patience(Duration::from_secs(20)))
}

pub(crate) fn job(text: &str) -> NewJob {
    NewJob::decode(Bytes::copy_from_slice(text.as_bytes())).unwrap()
}

pub(crate) fn echo() -> NewJob {
    job(r#"{"kind":"echo","payload":1}"#)
}

pub(crate) async fn info(client: &Client, stream: &str) -> Value {
    let api = format!("$JS.API.STREAM.INFO.{stream}");
    let answer = client.request(api, Bytes::new()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

pub(crate) async fn messages(client: &Client, stream: &str) -> u64 {
    info(client, stream).await["state"]["messages"]
        .as_u64()
        .unwrap()
}

/// Gives a job up as a consumer would.
pub(crate) async fn bury(worker: &Client, kind: &str, reason: &str) -> JobId {
    let id = JobId::generate();
    test_support::bury(worker, id, kind, reason, "no such address").await;
    id
}
