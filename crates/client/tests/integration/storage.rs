//! What the lane takes of the server, as somebody sees it who only looks on.

use client::{Topology, count_dead_letters, storage};
use common::{JobId, subjects};
use test_support::NatsServer;

#[tokio::test]
async fn who_only_looks_on_is_told_how_many_dead_letters_there_are_and_what_is_stored() {
    let nats = NatsServer::start().await;
    let (worker, status) = (
        nats.connect_as("worker").await,
        nats.connect_as("status").await,
    );
    assert_eq!(
        count_dead_letters(&status.clone().into()).await.unwrap(),
        None
    );
    Topology::default()
        .ensure(&worker.clone().into())
        .await
        .unwrap();
    assert_eq!(
        count_dead_letters(&status.clone().into()).await.unwrap(),
        Some(0)
    );
    let before = storage(&status.clone().into()).await.unwrap().unwrap();
    assert_eq!(before.limit_bytes, Some(8 << 30));

    for _ in 0..5 {
        let subject = subjects::dead(JobId::generate(), &"mail.send".parse().unwrap());
        worker.request(subject, "{}".into()).await.unwrap();
    }
    // A record is no dead letter.
    let record = subjects::state(JobId::generate());
    worker.request(record, "{}".into()).await.unwrap();
    assert_eq!(
        count_dead_letters(&status.clone().into()).await.unwrap(),
        Some(5)
    );
    assert!(
        storage(&status.clone().into())
            .await
            .unwrap()
            .unwrap()
            .bytes
            > before.bytes
    );
}
