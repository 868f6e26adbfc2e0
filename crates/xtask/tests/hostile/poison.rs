//! Messages whose headers the client library cannot read.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::{DeadReason, JobId, JobState, Priority, Timestamp, subjects};
use serde_json::{Value, json};
use test_support::{DEADLINE, Service, eventually};

use crate::fixture::{Fixture, said, says, sleep, stop};
use crate::lane::{Lane, between, succeeded};
use crate::raw::{RawMessage, RawUser};

/// Blocks of headers that the server stores as they are, and at which async-nats 0.51 panics (the
/// first) or drops its connection.
pub(crate) const UNREADABLE: [(&str, &[u8]); 6] = [
    ("a bare CR", b"NATS/1.0\r\ntraceparent: a\r b\r\n\r\n"),
    ("a blank in a name", b"NATS/1.0\r\nA B: x\r\n\r\n"),
    ("no colon", b"NATS/1.0\r\nno-colon\r\n\r\n"),
    (
        "a value that is not UTF-8",
        b"NATS/1.0\r\nA: \xff\xfe\r\n\r\n",
    ),
    ("another version", b"NATS/9.9\r\nA: x\r\n\r\n"),
    ("no version", b"hello\r\n\r\n"),
];

/// The line of a service whose client has ended.
const CLIENT_ENDED: &str =
    "the NATS client ended, perhaps at a message with unreadable headers: reconnecting";

/// A durable job of kind `echo` with these headers.
pub(crate) fn durable_job(id: JobId, headers: &[u8]) -> RawMessage {
    let kind = "echo".parse().unwrap();
    RawMessage {
        subject: subjects::durable_job(id, Priority::Normal, 1, &kind),
        headers: headers.to_vec(),
        payload: json!({"id": id, "kind": "echo"}).to_string().into_bytes(),
    }
}

/// How often the services have lost a connection so far.
async fn reconnects(services: &mut [Service]) -> u64 {
    let mut sum = 0;
    for service in services {
        sum += service.scrape().await.sum("jobs_nats_reconnects_total");
    }
    sum
}

#[tokio::test]
async fn hundreds_of_unreadable_messages_between_good_ones_are_buried_and_stop_nobody() {
    const EACH: usize = 60;
    let lane = Lane::start().await;
    // The streams have to be there before anybody takes from them.
    stop(&mut lane.consumer("first", &[]).await).await;
    let mut user = RawUser::log_in(&lane.fixture.server, "publisher").await;
    let (mut good, mut bad) = (Vec::new(), BTreeMap::new());
    let mut consumers = Vec::new();
    for round in 0..EACH {
        if round == EACH / 2 {
            // Half of them wait already, the others come while the consumers run.
            consumers.push(lane.consumer("a", &[]).await);
            consumers.push(lane.consumer("b", &[]).await);
        }
        for (_, headers) in UNREADABLE {
            let id = JobId::generate();
            user.store(&durable_job(id, headers)).await.unwrap();
            bad.insert(id, headers);
            good.push(lane.submit(json!({"kind": "echo"})).await);
        }
    }
    succeeded(&lane.all_end(&good, DEADLINE).await);
    let ids: Vec<_> = bad.keys().copied().collect();
    let ended = lane.all_end(&ids, DEADLINE).await;
    for (id, headers) in bad {
        let record = &ended[&id];
        assert_eq!(record.state, JobState::Dead, "{record:?}");
        assert_eq!(record.reason, Some(DeadReason::UnreadableHeaders));
        // What was sent is kept as it was.
        let letter = lane.dead_letter(id, "echo").await.unwrap();
        let kept = letter.headers.as_ref().unwrap();
        let kept = kept.get(subjects::UNREADABLE_HEADER).unwrap();
        let kept = STANDARD.decode(kept.as_str()).unwrap();
        assert!(kept.starts_with(&headers[..headers.len() - 2]), "{kept:?}");
        let job = json!({"id": id, "kind": "echo"}).to_string();
        assert_eq!(letter.payload, job);
    }
    lane.queue_empties().await;
    // The same processes, which have lost each connection a few times at the most.
    let lost = reconnects(&mut consumers).await;
    assert!(lost <= 12, "{lost} reconnects of two consumers");
    assert_eq!(lane.fixture.statuses(2).await.len(), 2);
}

#[tokio::test]
async fn unreadable_requests_on_jobs_create_cost_nobody_else_his_answer() {
    let fixture = Fixture::start().await;
    let mut consumers = [
        fixture.consumer("a", &[]).await,
        fixture.consumer("b", &[]).await,
    ];
    let mut user = RawUser::log_in(&fixture.server, "publisher").await;
    for (what, headers) in UNREADABLE {
        for subject in ["jobs.create", "jobs.create.echo"] {
            for _ in 0..8 {
                let job = RawMessage {
                    subject: subject.to_owned(),
                    headers: headers.to_vec(),
                    payload: json!({"kind": "echo"}).to_string().into_bytes(),
                };
                user.send(&job).await;
            }
        }
        // Each of them takes jobs again.
        let ended = fixture
            .bulk((0..20).map(|_| sleep(1)), &["--delivery", "confirmed"])
            .all_succeed(DEADLINE)
            .await;
        assert_eq!(ended.outcomes.len(), 20, "after {what}");
    }
    // With the filter in place each further one is answered.
    let number = user
        .send(&RawMessage {
            subject: "jobs.create".to_owned(),
            headers: UNREADABLE[0].1.to_vec(),
            payload: json!({"kind": "echo"}).to_string().into_bytes(),
        })
        .await;
    let answer = eventually(DEADLINE, "an answer", async || user.answer(number)).await;
    let answer: serde_json::Value = serde_json::from_slice(&answer).unwrap();
    assert_eq!(answer["status"], "rejected", "{answer}");
    assert_eq!(answer["error"]["code"], "unreadable_headers", "{answer}");
    for consumer in &mut consumers {
        consumer
            .scrape_until(|metrics| metrics.sum("jobs_nats_unreadable_messages_total") > 0)
            .await;
    }
    let lost = reconnects(&mut consumers).await;
    assert!(lost <= 8, "{lost} reconnects of two consumers");
}

#[tokio::test]
async fn a_client_that_has_ended_is_replaced_at_once() {
    let fixture = Fixture::start().await;
    let mut consumer = fixture.consumer("a", &["--log-format", "json"]).await;
    let user = &mut RawUser::log_in(&fixture.server, "publisher").await;
    user.send(&RawMessage {
        subject: "jobs.create".to_owned(),
        headers: UNREADABLE[0].1.to_vec(),
        payload: b"{}".to_vec(),
    })
    .await;
    let time = |line: &Value| -> Timestamp { line["timestamp"].as_str().unwrap().parse().unwrap() };
    let line = says(&consumer, "connected to NATS", |line| {
        let ended = said(&consumer, CLIENT_ENDED);
        ended.first().is_some_and(|ended| time(line) > time(ended))
    })
    .await;
    let away = between(time(&said(&consumer, CLIENT_ENDED)[0]), time(&line));
    println!("the consumer was away for {away:?}");
    // Here on a busy machine; a few milliseconds otherwise.
    assert!(away < Duration::from_secs(5), "{away:?}");
    stop(&mut consumer).await;
}
