//! On how many servers the streams are stored.

use std::time::Duration;

use test_support::{DEADLINE, NatsServer, Service};

use crate::elections::all_end_once;
use crate::fixture::Fixture;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_changed_up_and_down_under_load() {
    let fixture = Fixture::start().await;
    let _first = fixture.consumer("first", &["--replicas", "1"]).await;
    let (cluster, admin) = (&fixture.cluster, &fixture.admin);
    cluster.is_replicated(admin, "JOBS", 1).await;
    let load = fixture.load();
    for (name, replicas, servers) in [
        ("more", "3", 3),
        ("fewer", "1", 1),
        ("again", "auto", 3),
        ("never-fewer", "auto", 3),
    ] {
        let _consumer = fixture.consumer(name, &["--replicas", replicas]).await;
        for stream in ["JOBS", "JOBS_LATER", "JOBS_STATE", "JOBS_ADVISORIES"] {
            cluster.is_replicated(admin, stream, servers).await;
        }
    }
    let submitted = load.stop().await;
    assert!(
        submitted.longest < Duration::from_secs(10),
        "{:?}",
        submitted.longest
    );
    all_end_once(&fixture, &submitted).await;

    let mut too_many = fixture.start_consumer("too-many", &["--replicas", "5"]);
    is_refused(&mut too_many, 5).await;
    cluster.is_replicated(admin, "JOBS", 3).await;
}

#[tokio::test]
async fn one_server_refuses_more_replicas_with_a_reason() {
    let server = NatsServer::start().await;
    let consumer = |arguments: &[&str]| {
        let consumer = Service::named("consumer").envs(server.env_for("worker"));
        consumer.args(arguments).start()
    };
    is_refused(&mut consumer(&["--replicas", "3"]), 3).await;
    let mut auto = consumer(&[]);
    auto.wait_for_line(|line| line.contains("taking durable jobs"))
        .await;
    is_refused(&mut consumer(&["--replicas", "3"]), 3).await;
}

async fn is_refused(consumer: &mut Service, replicas: usize) {
    let why = format!("the stream JOBS cannot be stored on {replicas} servers");
    let told = consumer.wait_for_line(|line| line.contains(&why));
    tokio::time::timeout(DEADLINE, told).await.unwrap();
    assert_eq!(consumer.wait().await.code(), Some(1));
}
