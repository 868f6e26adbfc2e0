//! More jobs than the consumers take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::subjects;
use test_support::{NatsServer, Service};

use crate::support::{AT_ONCE, Responder, bulk, logged, run};

fn jobs(count: usize, job: &str) -> Vec<String> {
    vec![job.to_owned(); count]
}

#[tokio::test]
async fn a_burst_at_a_slow_fleet_waits_for_its_turn_and_uses_up_no_attempts() {
    const ROOM: usize = 6;
    let nats = NatsServer::start().await;
    let refused = Arc::new(AtomicUsize::new(0));
    let held = Arc::new(AtomicUsize::new(0));
    let (take, mut taken) = tokio::sync::mpsc::unbounded_channel::<(String, String)>();
    let responder = Responder::start(&nats, {
        let (held, refused) = (Arc::clone(&held), Arc::clone(&refused));
        move |request| {
            if held.load(Ordering::SeqCst) == ROOM {
                refused.fetch_add(1, Ordering::SeqCst);
                return Some(request.outcome("busy"));
            }
            held.fetch_add(1, Ordering::SeqCst);
            let reply = request.reply.clone().unwrap();
            let _ = take.send((reply, request.outcome("succeeded")));
            None
        }
    })
    .await;
    // Two at a time, as a consumer with two cores would.
    let client = responder.client.clone();
    let worker = tokio::spawn(async move {
        let mut pace = tokio::time::interval(Duration::from_millis(10));
        loop {
            pace.tick().await;
            for _ in 0..2 {
                let Ok((reply, outcome)) = taken.try_recv() else {
                    continue;
                };
                held.fetch_sub(1, Ordering::SeqCst);
                client.publish(reply, outcome.into()).await.unwrap();
            }
        }
    });
    let job = r#"{"kind":"a","backoff":{"initial":"50ms","max":"1s"}}"#;
    let args = ["--in-flight", "64"];
    let (code, outcomes, _) = run(bulk(&nats, &jobs(200, job)).args(args)).await;
    worker.abort();
    assert_eq!(code, 0);
    assert_eq!(outcomes.len(), 200);
    let refused = refused.load(Ordering::SeqCst);
    assert!(refused > 0, "the burst was no burst");
    assert!(
        refused < 300,
        "{refused} refusals: the publisher does not hold back"
    );
}

#[tokio::test]
async fn a_burst_at_a_small_consumer_is_done_by_it() {
    let nats = NatsServer::start().await;
    let mut consumer = Service::named("consumer")
        .envs(nats.env_for("worker"))
        .args(["--concurrency", "2", "--inbox", "4"])
        .start();
    consumer
        .wait_for_line(|line| line.contains("taking jobs"))
        .await;
    let job = r#"{"kind":"sleep","payload":{"ms":50}}"#;
    let args = ["--in-flight", "64"];
    let (code, outcomes, _) = run(bulk(&nats, &jobs(200, job)).args(args)).await;
    assert_eq!(code, 0);
    assert_eq!(outcomes.len(), 200);
}

#[tokio::test]
async fn consumers_that_are_full_for_long_differ_from_absent_ones() {
    let nats = NatsServer::start().await;
    // It answers that it is there, and takes no jobs.
    let full = Responder::on(&nats, "jobs.serves.a", |_| Some(String::new())).await;
    let job = r#"{"kind":"a","max_attempts":1,"backoff":{"initial":"10ms","max":"10ms"}}"#;
    let mut publisher = bulk(&nats, &[job]).start();
    full.asked(20).await;
    let responder = Responder::start(&nats, |request| Some(request.outcome("succeeded"))).await;
    assert!(publisher.wait().await.success());
    assert_eq!(responder.requests()[0].attempt, None, "a refusal counted");
}

#[tokio::test]
async fn a_consumer_that_is_full_of_long_jobs_is_waited_for() {
    let nats = NatsServer::start().await;
    let mut consumer = Service::named("consumer")
        .envs(nats.env_for("worker"))
        .args(["--concurrency", "1", "--inbox", "1"])
        .start();
    let line = |line: &str| line.contains("taking jobs");
    consumer.wait_for_line(line).await;
    let long = r#"{"kind":"sleep","payload":{"ms":3000}}"#;
    let mut first = bulk(&nats, &jobs(2, long)).start();
    consumer.wait_for_line(|line| line.contains("full")).await;
    let echo = r#"{"kind":"echo","max_attempts":2,"backoff":{"initial":"50ms","max":"50ms"}}"#;
    let (code, ..) = run(bulk(&nats, &[echo])).await;
    assert_eq!(code, 0, "it did not wait for room");
    assert!(first.wait().await.success());
}

#[tokio::test]
async fn a_full_consumer_is_waited_for_behind_one_that_passes_jobs_on() {
    let nats = NatsServer::start().await;
    let consumer = |args: &[&str]| {
        Service::named("consumer")
            .envs(nats.env_for("worker"))
            .args(args)
            .start()
    };
    let mut full = consumer(&["--kinds", "sleep", "--concurrency", "1", "--inbox", "1"]);
    let mut other = consumer(&["--kinds", "echo"]);
    for consumer in [&mut full, &mut other] {
        consumer
            .wait_for_line(|line| line.contains("taking jobs"))
            .await;
    }
    let long = r#"{"kind":"sleep","payload":{"ms":3000}}"#;
    let mut first = bulk(&nats, &jobs(2, long)).start();
    full.wait_for_line(|line| line.contains("full")).await;
    let short = r#"{"kind":"sleep","payload":{"ms":1},"max_attempts":1,"backoff":{"initial":"50ms","max":"50ms"}}"#;
    let (code, outcomes, _) = run(bulk(&nats, &[short])).await;
    assert_eq!(code, 0, "it did not wait for room: {outcomes:?}");
    assert_eq!(outcomes[0]["attempt"], 1);
    assert!(first.wait().await.success());
}

#[tokio::test]
async fn a_job_waits_as_long_as_consumers_are_full_and_that_is_logged_once_in_a_while() {
    let nats = NatsServer::start().await;
    let (room, full) = tokio::sync::watch::channel(false);
    let responder = Responder::start(&nats, move |request| {
        let status = if *full.borrow() { "succeeded" } else { "busy" };
        Some(request.outcome(status))
    })
    .await;
    let job = r#"{"kind":"a","max_attempts":1,"backoff":{"initial":"50ms","max":"50ms"}}"#;
    let mut publisher = bulk(&nats, &jobs(3, job)).start();
    let line = publisher
        .wait_for_line(|line| line.contains("jobs wait"))
        .await;
    // One of the three may be under way again just then.
    let waits = ["jobs=1", "jobs=2", "jobs=3"].map(|jobs| line.contains(jobs));
    assert!(waits.contains(&true), "{line}");
    room.send_replace(true);
    assert!(publisher.wait().await.success());
    logged(&publisher, "jobs wait");
    let requests = responder.requests();
    assert!(requests.len() > 100, "{} requests", requests.len());
    assert!(requests.iter().all(|it| it.attempt.is_none()), "it counted");
}

#[tokio::test]
async fn a_kind_without_consumers_does_not_hold_back_the_others() {
    let nats = NatsServer::start().await;
    let responder = Responder::on(&nats, "jobs.create.served", |request| {
        Some(request.outcome("succeeded"))
    })
    .await;
    let mut lines = jobs(20, &format!(r#"{{"kind":"unserved",{AT_ONCE}}}"#));
    lines.extend(jobs(500, r#"{"kind":"served"}"#));
    let args = ["--by-kind", "--in-flight", "64"];
    let (code, outcomes, _) = run(bulk(&nats, &lines).args(args)).await;
    assert_eq!(code, 1);
    let (unserved, served) = outcomes.split_at(20);
    for outcome in unserved {
        assert_eq!(outcome["error"]["code"], "no_consumer");
    }
    assert!(
        served
            .iter()
            .all(|outcome| outcome["status"] == "succeeded")
    );
    let requests = responder.requests();
    assert_eq!(requests.len(), 500, "none of them was submitted twice");
    assert!(requests.iter().all(|it| it.subject == "jobs.create.served"));
}

#[tokio::test]
async fn as_many_jobs_are_under_way_as_asked_for_and_no_more() {
    const IN_FLIGHT: usize = 300;
    let nats = NatsServer::start().await;
    let mut waiting: Vec<(String, String)> = Vec::new();
    let (send, mut batches) = tokio::sync::mpsc::unbounded_channel();
    let responder = Responder::on(&nats, subjects::CREATE, move |request| {
        waiting.push((request.reply.clone().unwrap(), request.outcome("succeeded")));
        // At first as many as are let through without an answer, then as many as asked for.
        if [256, 256 + IN_FLIGHT].contains(&(request.number + 1)) {
            let _ = send.send(std::mem::take(&mut waiting));
        }
        None
    })
    .await;
    let lines = jobs(256 + IN_FLIGHT, r#"{"kind":"a"}"#);
    let publisher = bulk(&nats, &lines).args(["--in-flight", "300"]);
    let answer = async {
        while let Some(batch) = batches.recv().await {
            assert!(batch.len() <= IN_FLIGHT);
            for (reply, outcome) in batch {
                responder
                    .client
                    .publish(reply, outcome.into())
                    .await
                    .unwrap();
            }
            if responder.requests().len() == 256 + IN_FLIGHT {
                return;
            }
        }
    };
    let ((), (code, outcomes, _)) = tokio::join!(answer, run(publisher));
    assert_eq!((code, outcomes.len()), (0, 256 + IN_FLIGHT));
}
