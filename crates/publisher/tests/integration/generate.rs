//! Jobs that the publisher generates.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use common::JobMessage;
use futures_util::StreamExt as _;
use test_support::{NatsServer, Signal};

use crate::support::{Request, Responder, logged, publisher};

#[tokio::test]
async fn by_default_a_job_is_made_each_second_for_ever_and_each_is_a_line() {
    let nats = NatsServer::start().await;
    let responder = Responder::start(&nats, |request| Some(request.outcome("succeeded"))).await;
    let start = Instant::now();
    let mut publisher = publisher(&nats).start();
    let lines = publisher
        .wait_for_lines(3, |line| line.contains("job succeeded"))
        .await;
    assert!(start.elapsed() >= Duration::from_secs(2));
    let requests = responder.requests().clone();
    for (line, request) in lines.iter().zip(&requests) {
        assert!(line.contains(&format!("job.id={}", request.id())), "{line}");
        assert!(
            line.contains("job.kind=echo consumer=scripted attempt=1 elapsed_ms="),
            "{line}"
        );
        assert_eq!(request.subject, "jobs.create");
        let job = JobMessage::decode(&request.payload).unwrap();
        assert_eq!(job.payload.unwrap().get(), r#"{"message":"hello"}"#);
        assert!(job.created_at.is_some());
    }
    publisher.signal(Signal::SIGTERM);
    assert!(publisher.wait().await.success());
    assert!(logged(&publisher, "summary").contains("failed=0"));
}

#[tokio::test]
async fn a_rate_is_kept() {
    let nats = NatsServer::start().await;
    let responder = Responder::start(&nats, |request| Some(request.outcome("succeeded"))).await;
    let start = Instant::now();
    let mut publisher = publisher(&nats)
        .args(["--rate", "2000", "--count", "3001", "--kind", "mail.send"])
        .args(["--payload", "[1]", "--timeout", "3s", "--deadline", "1m"])
        .start();
    assert!(publisher.wait().await.success());
    assert!(
        start.elapsed() >= Duration::from_millis(1_490),
        "{:?}",
        start.elapsed()
    );
    let summary = logged(&publisher, "summary");
    assert!(
        summary.contains("submitted=3001 succeeded=3001"),
        "{summary}"
    );
    let requests = responder.requests();
    let ids: HashSet<_> = requests.iter().map(Request::id).collect();
    assert_eq!(ids.len(), 3_001);
    let job = JobMessage::decode(&requests[0].payload).unwrap();
    assert_eq!(
        (job.kind.as_str(), job.payload.unwrap().get()),
        ("mail.send", "[1]")
    );
    assert!(job.timeout.is_some() && job.deadline.is_some());
}

#[tokio::test]
async fn a_slow_answer_does_not_hold_back_the_schedule() {
    let nats = NatsServer::start().await;
    let mut waiting = Vec::new();
    let (send, mut all) = tokio::sync::mpsc::unbounded_channel();
    let responder = Responder::start(&nats, move |request| {
        waiting.push((request.reply.clone().unwrap(), request.outcome("succeeded")));
        if waiting.len() == 10 {
            let _ = send.send(std::mem::take(&mut waiting));
        }
        None
    })
    .await;
    let mut publisher = publisher(&nats)
        .args(["--interval", "20ms", "--count", "10"])
        .start();
    for (reply, outcome) in all.recv().await.unwrap() {
        responder
            .client
            .publish(reply, outcome.into())
            .await
            .unwrap();
    }
    assert!(publisher.wait().await.success());
}

#[tokio::test]
async fn variables_count_like_flags() {
    let nats = NatsServer::start().await;
    let responder = Responder::on(&nats, "jobs.create.mail", |request| {
        Some(request.outcome("succeeded"))
    })
    .await;
    let mut publisher = publisher(&nats)
        .env("PUBLISHER_COUNT", "2")
        .env("PUBLISHER_RATE", "100")
        .env("PUBLISHER_INTERVAL", "")
        .env("PUBLISHER_INPUT", "")
        .env("PUBLISHER_KIND", "mail")
        .env("PUBLISHER_BY_KIND", "yes")
        .env("PUBLISHER_INSTANCE", "north")
        .env("LOG_FORMAT", "json")
        .start();
    assert!(publisher.wait().await.success());
    assert_eq!(responder.requests().len(), 2);
    for line in publisher.stdout() {
        let line: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(line["instance"], "north");
    }
}

#[tokio::test]
async fn it_is_found_as_a_micro_service() {
    let nats = NatsServer::start().await;
    let _responder = Responder::start(&nats, |request| Some(request.outcome("succeeded"))).await;
    let mut publisher = publisher(&nats).args(["--instance", "north"]).start();
    publisher
        .wait_for_line(|line| line.contains("job succeeded"))
        .await;
    let observer = nats.connect_as("status").await;
    let inbox = observer.new_inbox();
    let mut answers = observer.subscribe(inbox.clone()).await.unwrap();
    observer
        .publish_with_reply("$SRV.PING.publisher", inbox, "".into())
        .await
        .unwrap();
    let answer = tokio::time::timeout(test_support::DEADLINE, answers.next()).await;
    let answer = answer.unwrap().unwrap().payload;
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["name"], "publisher");
    assert_eq!(answer["metadata"]["instance"], "north");
}
