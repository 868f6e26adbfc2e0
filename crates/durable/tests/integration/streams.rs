//! What the lane holds, and what is promised of it.

use common::JobId;
use durable::{Stream, Topology, guarantees, queues, streams};
use serde_json::json;
use test_support::NatsServer;

use crate::support::{job, lane, put_record, submitter};

#[tokio::test]
async fn what_each_stream_holds_is_told() {
    let bare = NatsServer::start().await;
    let nobody = bare.connect_as("gateway").await;
    assert!(streams(&nobody).await.unwrap().is_none());
    assert!(queues(&nobody, 10).await.unwrap().is_empty());

    let nats = lane().await;
    let gateway = nats.connect_as("gateway").await;
    let worker = nats.connect_as("worker").await;
    submitter(&gateway)
        .submit(&job(r#"{"kind":"echo"}"#))
        .await
        .unwrap();
    for _ in 0..2 {
        put_record(&worker, JobId::generate(), json!({"state": "expired"})).await;
    }
    let depths = streams(&gateway).await.unwrap().unwrap();
    let messages: Vec<_> = depths
        .iter()
        .map(|depth| (depth.stream, depth.messages))
        .collect();
    assert_eq!(
        messages,
        [
            (Stream::Jobs, 1),
            (Stream::Later, 0),
            (Stream::State, 2),
            (Stream::Advisories, 0)
        ]
    );
    assert_eq!(depths[0].limit_bytes, Some(2 << 30));
    assert_eq!(depths[2].limit_bytes, None);
    assert!(depths[0].bytes > 0 && depths[0].oldest.is_some());
    assert!(depths[1].oldest.is_none());
}

#[tokio::test]
async fn what_waits_of_each_kind_is_told_for_more_kinds_than_one_answer_holds() {
    let nats = lane().await;
    let gateway = nats.connect_as("gateway").await;
    let worker = nats.connect_as("worker").await;
    for number in 0..300 {
        let kind = format!("kind.{number}");
        let name = kind.replace('.', "=");
        let filter = format!("jobs.durable.*.*.*.{kind}");
        let config = json!({
            "durable_name": name, "ack_policy": "explicit", "filter_subject": filter,
        });
        let request = json!({"stream_name": "JOBS", "config": config, "action": "create"});
        let subject = format!("$JS.API.CONSUMER.CREATE.JOBS.{name}.{filter}");
        worker
            .request(subject, request.to_string().into())
            .await
            .unwrap();
    }
    let submitter = submitter(&gateway);
    for kind in ["kind.7", "kind.299", "kind.7"] {
        let job = job(&format!(r#"{{"kind":"{kind}"}}"#));
        submitter.submit(&job).await.unwrap();
    }
    // One of them is with a consumer.
    let inbox = worker.new_inbox();
    let mut pulled = worker.subscribe(inbox.clone()).await.unwrap();
    let next = "$JS.API.CONSUMER.MSG.NEXT.JOBS.kind=7";
    worker
        .publish_with_reply(next, inbox, "1".into())
        .await
        .unwrap();
    futures_util::StreamExt::next(&mut pulled).await.unwrap();

    let all = queues(&gateway, 1000).await.unwrap();
    assert_eq!(all.len(), 300);
    let few = queues(&gateway, 2).await.unwrap();
    let few: Vec<_> = few
        .iter()
        .map(|queue| {
            let oldest = queue.oldest.is_some();
            (queue.kind.as_str(), queue.waiting, queue.running, oldest)
        })
        .collect();
    assert_eq!(few, [("kind.7", 1, 1, true), ("kind.299", 1, 0, true)]);
}

#[tokio::test]
async fn the_guarantees_in_force_are_told() {
    let nats = lane().await;
    let gateway = nats.connect_as("gateway").await;
    let all = guarantees(&gateway, Topology::default()).await.unwrap();
    assert!(all.jetstream);
    assert_eq!((all.synced, all.replicas), (Some(true), Some(1)));
    assert_eq!(all.findings, Vec::<String>::new());
    let wanted = Topology {
        replicas: Some(3),
        ..Topology::default()
    };
    let all = guarantees(&gateway, wanted).await.unwrap();
    assert!(all.findings[0].contains("1 servers"), "{:?}", all.findings);
}
