//! What is read from the leader of a stream.

use async_nats::HeaderMap;
use client::{Client, NatsClient, Topology};
use jetstream::{Stream, direct_get};
use serde_json::json;
use test_support::put;

use crate::fixture::{connect_to, job};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_is_found_through_another_server_right_after_it_was_submitted() {
    // Of so many reads, some reach a follower before the job does.
    const JOBS: usize = 200;
    let cluster = test_support::NatsCluster::start().await;
    let worker = NatsClient::from(cluster.connect_as("worker").await);
    Topology::default().ensure(&worker).await.unwrap();
    let mut clients: Vec<Client> = Vec::new();
    for number in 0..3 {
        clients.push(connect_to(&cluster, number).await);
    }
    for number in 0..JOBS {
        let job = job(&json!({"kind": "nobody.serves"}));
        clients[number % 3].submit_job(&job).await.unwrap();
        for other in [1, 2] {
            let found = clients[(number + other) % 3].record(job.id).await.unwrap();
            assert!(found.is_some(), "job {number} is not found");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_returns_what_a_direct_get_returns() {
    let cluster = test_support::NatsCluster::start().await;
    let worker = NatsClient::from(cluster.connect_as("worker").await);
    Topology::default().ensure(&worker).await.unwrap();
    let admin = cluster.connect_as("admin").await;
    let mut headers = HeaderMap::new();
    for (name, value) in [
        ("A", "1"),
        ("A", "2"),
        ("Nats-Sequence", "9"),
        ("Long", "x y  z"),
    ] {
        headers.append(name, value);
    }
    let large = "x".repeat(900_000);
    for (number, (headers, payload)) in [
        (HeaderMap::new(), "{}"),
        (headers, ""),
        (HeaderMap::new(), large.as_str()),
    ]
    .into_iter()
    .enumerate()
    {
        let subject = format!("jobs.state.{number}");
        put(&admin, subject.clone(), headers, payload.to_owned()).await;
        let read = direct_get::last(&worker, Stream::State, &subject).await;
        let read = read.unwrap().unwrap();
        // A follower may not have it yet.
        let direct = test_support::eventually(test_support::DEADLINE, &subject, async || {
            let question = json!({"last_by_subj": subject}).to_string();
            let direct = admin.request("$JS.API.DIRECT.GET.JOBS_STATE", question.into());
            direct.await.ok().filter(|direct| direct.status.is_none())
        })
        .await;
        assert_eq!(Some(&read.headers), direct.headers.as_ref());
        assert_eq!(read.payload, direct.payload);
        // The other forms of the question.
        let sequence = read.sequence;
        let at = direct_get::at(&worker, Stream::State, sequence).await;
        assert_eq!(at.unwrap().unwrap().subject, subject);
        let next = direct_get::next(&worker, Stream::State, "jobs.state.*", sequence).await;
        assert_eq!(next.unwrap().unwrap().subject, subject);
        let since = direct_get::next_since(&worker, Stream::State, "*.state.*", read.at).await;
        assert_eq!(since.unwrap().unwrap().sequence, sequence);
    }
    let none = direct_get::last(&worker, Stream::State, "jobs.state.none").await;
    assert!(none.unwrap().is_none());
}
