//! The endpoint on jobs.fleet, asked as a gateway does.

use std::time::{Duration, Instant};

use async_nats::Client;
use common::subjects::FLEET;
use common::{Fleet, FleetRequest, Presence};
use test_support::{DEADLINE, NatsServer, eventually};

use crate::support::{Behaviour, Simulated, Watched, lane, processed, status, thousand};

async fn ask(client: &Client, request: &FleetRequest) -> Fleet {
    let question = serde_json::to_vec(request).unwrap();
    let answer = client.request(FLEET, question.into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

/// Waits until the fleet is as `wanted`.
async fn until(client: &Client, what: &str, wanted: impl Fn(&Fleet) -> bool) -> Fleet {
    eventually(DEADLINE, what, async || {
        let answer = client.request(FLEET, "".into()).await.ok()?;
        let fleet = serde_json::from_slice(&answer.payload).ok()?;
        wanted(&fleet).then_some(fleet)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_consumers_come_quickly_and_in_pages() {
    let nats = NatsServer::start().await;
    let _consumers = thousand(&nats, |n, status| {
        (status.totals, status.in_flight) = (processed(1_000 + n), 2);
        status.lanes = [(
            "core".to_owned(),
            lane("echo", status.totals, 0.5, n as f64),
        )]
        .into();
    })
    .await;
    let _watched = Watched::start(&nats, &[]);
    let gateway = nats.connect_as("gateway").await;
    let total = 1_000 * 1_000 + 4 * (0..250).sum::<u64>();
    let fleet = until(&gateway, "all consumers", |fleet| fleet.answering == 1_000).await;
    assert_eq!((fleet.totals.processed, fleet.missing), (total, 0));
    assert_eq!((fleet.concurrency, fleet.in_flight), (4_000, 2_000));
    assert!(fleet.asked_at.is_some() && fleet.interval_ms == 100);
    let echo = &fleet.kinds[0];
    assert_eq!((echo.kind.as_str(), echo.counts.processed), ("echo", total));
    assert!((echo.run_ms.p99 - 249.0).abs() < 1e-9);
    assert!(echo.run_counts.is_some());

    let mut request = FleetRequest {
        limit: Some(300),
        ..FleetRequest::default()
    };
    let (mut names, mut slowest) = (Vec::new(), Duration::ZERO);
    loop {
        let asked = Instant::now();
        let page = ask(&gateway, &request).await;
        slowest = slowest.max(asked.elapsed());
        names.extend(page.consumers.into_iter().map(|member| member.consumer));
        request.after = page.next;
        if request.after.is_none() {
            break;
        }
    }
    assert_eq!(names.len(), 1_000);
    assert!(names.is_sorted(), "in the order of their names");
    println!("the slowest page of 300 took {slowest:?}");
    let request = FleetRequest {
        search: Some("consumer-3-24".to_owned()),
        ..FleetRequest::default()
    };
    assert_eq!(ask(&gateway, &request).await.consumers.len(), 11);
}

#[tokio::test]
async fn a_request_does_not_wait_for_a_silent_consumer_which_is_missing() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let good = Simulated::with(&worker, {
        let mut status = status("consumer-1");
        status.totals = processed(7);
        status
    })
    .await;
    let mute = Simulated::start(&worker, "consumer-2").await;
    // A round with a silent consumer lasts until its timeout.
    let _watched = Watched::start(&nats, &["--timeout", "5s", "--gone-after", "1h"]);
    let gateway = nats.connect_as("gateway").await;
    until(&gateway, "both", |fleet| fleet.answering == 2).await;
    mute.behave(Behaviour::Mute);
    mute.ignored_a_question().await;
    let asked = Instant::now();
    let fleet = ask(&gateway, &FleetRequest::default()).await;
    assert!(
        asked.elapsed() < Duration::from_secs(2),
        "the round goes on"
    );
    assert_eq!(fleet.totals.processed, 7);
    let fleet = until(&gateway, "one of them missing", |fleet| fleet.missing == 1).await;
    assert_eq!(fleet.answering, 1);
    let presences: Vec<_> = fleet.consumers.iter().map(|it| it.presence).collect();
    assert_eq!(presences, [Presence::Present, Presence::Missing]);
    drop(good);
}

#[tokio::test]
async fn an_invalid_request_is_refused_as_micro_services_do() {
    let nats = NatsServer::start().await;
    let _watched = Watched::start(&nats, &[]);
    let gateway = nats.connect_as("gateway").await;
    let empty = until(&gateway, "an answer", |_| true).await;
    assert!(empty.consumers.is_empty() && empty.next.is_none());
    let answer = gateway.request(FLEET, "{\"lim\":1}".into()).await.unwrap();
    let headers = answer.headers.unwrap();
    let header = |name: &str| headers.get(name).unwrap().to_string();
    assert_eq!(header("Nats-Service-Error-Code"), "400");
    assert!(header("Nats-Service-Error").contains("unknown field `lim`"));
    assert!(answer.payload.is_empty());
}
