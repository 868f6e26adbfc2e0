//! Delivery durable.

use async_nats::Client;
use bytes::Bytes;
use client::Limits;
use common::JobId;
use serde_json::Value;
use test_support::{DEADLINE, NatsServer, Service, ServiceBuilder, Signal, eventually};

use crate::support::{file_of, logged, make_streams, outcomes, publisher};

/// A server with the streams of durable jobs.
async fn server() -> NatsServer {
    with_streams(NatsServer::start().await, Limits::default()).await
}

async fn with_streams(nats: NatsServer, limits: Limits) -> NatsServer {
    make_streams(&nats, limits).await;
    nats
}

fn durable(nats: &NatsServer) -> ServiceBuilder {
    publisher(nats).args(["--delivery", "durable"])
}

fn durable_bulk(nats: &NatsServer, lines: &[impl AsRef<str>]) -> ServiceBuilder {
    let lines: Vec<_> = lines.iter().map(AsRef::as_ref).collect();
    durable(nats)
        .args(["--input", "-", "--output", "-"])
        .input(lines.join("\n"))
}

fn with_ids(count: usize) -> Vec<String> {
    (0..count)
        .map(|_| format!(r#"{{"id":"{}","kind":"echo"}}"#, JobId::generate()))
        .collect()
}

async fn messages(client: &Client, stream: &str) -> u64 {
    let api = format!("$JS.API.STREAM.INFO.{stream}");
    let answer = client.request(api, Bytes::new()).await.unwrap();
    let info: Value = serde_json::from_slice(&answer.payload).unwrap();
    info["state"]["messages"].as_u64().unwrap()
}

fn statuses(publisher: &Service) -> Vec<String> {
    let status = |outcome: Value| outcome["status"].as_str().unwrap().to_owned();
    outcomes(publisher).into_iter().map(status).collect()
}

#[tokio::test]
async fn a_bulk_is_stored_once_however_often_it_is_handed_over() {
    let nats = server().await;
    let client = nats.connect_as("publisher").await;
    let mut lines = with_ids(3_000);
    lines.push(lines[2_999].clone());
    lines.push("not json".to_owned());
    lines.push(r#"{"kind":"a","run_at":"2200-01-31T09:30:00Z","priority":"low"}"#.to_owned());
    for stored in [true, false] {
        let mut publisher = durable_bulk(&nats, &lines).start();
        // Because of the bad line.
        assert_eq!(publisher.wait().await.code(), Some(1));
        let summary = logged(&publisher, "summary");
        let counts = if stored {
            "submitted=3002 stored=3001 known_before=1 failed=0"
        } else {
            // The last one has no id of its own, so it is another job each time.
            "submitted=3002 stored=1 known_before=3001 failed=0"
        };
        assert!(summary.contains(counts), "{summary}");
        assert!(summary.contains("bad_lines=1"), "{summary}");
        let statuses = statuses(&publisher);
        assert_eq!(statuses.len(), 3_003);
        assert_eq!(statuses[0], if stored { "stored" } else { "known" });
        assert_eq!(statuses[3_001], "rejected");
    }
    assert_eq!(messages(&client, "JOBS").await, 3_002);
}

#[tokio::test]
async fn jobs_that_have_ended_are_known_too() {
    let nats = server().await;
    let (client, worker) = (
        nats.connect_as("publisher").await,
        nats.connect_as("worker").await,
    );
    let lines = with_ids(4);
    for line in &lines[..3] {
        let job: Value = serde_json::from_str(line).unwrap();
        let id = job["id"].as_str().unwrap();
        test_support::put_record(&worker, id, serde_json::json!({"state": "succeeded"})).await;
    }
    let mut publisher = durable_bulk(&nats, &lines).start();
    assert!(publisher.wait().await.success());
    assert_eq!(statuses(&publisher), ["known", "known", "known", "stored"]);
    let mut publisher = durable_bulk(&nats, &lines[..1])
        .arg("--all-or-none")
        .start();
    assert_eq!(publisher.wait().await.code(), Some(1));
    assert_eq!(messages(&client, "JOBS").await, 1);
}

#[tokio::test]
async fn the_output_says_which_job_holds_the_key_of_a_unique_job() {
    let nats = server().await;
    let id = JobId::generate();
    let first = format!(r#"{{"id":"{id}","kind":"echo","unique":{{"key":"a"}}}}"#);
    let mut publisher = durable_bulk(&nats, &[first]).start();
    assert!(publisher.wait().await.success());
    let keep = r#"{"kind":"echo","unique":{"key":"a","on_conflict":"keep"}}"#;
    let mut publisher = durable_bulk(&nats, &[keep]).start();
    assert!(publisher.wait().await.success());
    let kept = &outcomes(&publisher)[0];
    assert_eq!(kept["status"], "kept");
    assert_eq!(kept["holder"], id.to_string());
    let reject = r#"{"kind":"echo","unique":{"key":"a"}}"#;
    let mut publisher = durable_bulk(&nats, &[reject]).start();
    assert_eq!(publisher.wait().await.code(), Some(1));
    let refused = &outcomes(&publisher)[0];
    assert_eq!(refused["status"], "rejected");
    assert_eq!(refused["error"]["code"], "unique_conflict");
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains(&id.to_string()), "{message}");
    assert_eq!(
        messages(&nats.connect_as("publisher").await, "JOBS").await,
        2
    );
}

#[tokio::test]
async fn generated_jobs_have_a_priority_and_a_time() {
    let nats = server().await;
    let admin = nats.connect_as("admin").await;
    let mut publisher = durable(&nats)
        .args(["--count", "3", "--interval", "0s", "--kind", "mail.send"])
        .args(["--priority", "high", "--delay", "1h"])
        .start();
    assert!(publisher.wait().await.success());
    assert!(logged(&publisher, "summary").contains("stored=3"));
    assert_eq!(messages(&admin, "JOBS").await, 3);
    let last = r#"{"last_by_subj":"jobs.durable.*.high.1.mail.send"}"#;
    let answer = admin.request("$JS.API.DIRECT.GET.JOBS", last.into());
    let job: serde_json::Value = serde_json::from_slice(&answer.await.unwrap().payload).unwrap();
    let run_at: common::Timestamp = job["run_at"].as_str().unwrap().parse().unwrap();
    let wait = run_at.milliseconds_ahead_of(common::Timestamp::now());
    assert!((3_500_000..=3_600_000).contains(&wait), "{job}");
    let text = publisher.stdout().join("\n");
    assert!(!text.contains("given up"), "{text}");
}

#[tokio::test]
async fn all_or_none_stores_no_part_of_a_bad_batch() {
    let nats = server().await;
    let client = nats.connect_as("publisher").await;
    let good = with_ids(1_000);
    let mut bad = good.clone();
    bad[500] = r#"{"kind":"a..b"}"#.to_owned();
    let too_many = with_ids(1_001);
    let mut twice = good.clone();
    twice[1] = twice[0].clone();
    for (lines, words) in [
        (&bad, "not all lines are jobs"),
        (&too_many, "1001 jobs cannot be stored together"),
        (&twice, "have the same id"),
    ] {
        let mut publisher = durable_bulk(&nats, lines).arg("--all-or-none").start();
        assert_eq!(publisher.wait().await.code(), Some(1));
        assert!(
            publisher.stdout().iter().any(|line| line.contains(words)),
            "{words}: {:?}",
            publisher.stdout().first()
        );
        assert!(!statuses(&publisher).contains(&"stored".to_owned()));
        assert_eq!(messages(&client, "JOBS").await, 0);
    }
    let mut publisher = durable_bulk(&nats, &good).arg("--all-or-none").start();
    assert!(publisher.wait().await.success());
    assert_eq!(messages(&client, "JOBS").await, 1_000);
    // All of them are known now.
    let mut publisher = durable_bulk(&nats, &good).arg("--all-or-none").start();
    assert_eq!(publisher.wait().await.code(), Some(1));
}

#[tokio::test]
async fn a_server_without_jetstream_is_refused() {
    let nats = NatsServer::builder().without_jetstream().start().await;
    let mut publisher = durable(&nats).args(["--count", "1"]).start();
    assert_eq!(publisher.wait().await.code(), Some(2));
    let text = publisher.stdout().join("\n");
    assert!(text.contains("no JetStream"), "{text}");
}

#[tokio::test]
async fn a_server_that_confirms_too_early_is_refused_unless_accepted() {
    let lazy = "jetstream { store_dir: $NATS_STORE_DIR, strict: true }";
    let nats = NatsServer::builder().config(lazy).start().await;
    let nats = with_streams(nats, Limits::default()).await;
    let mut refusing = durable(&nats).args(["--count", "1"]).start();
    assert_eq!(refusing.wait().await.code(), Some(2));
    let text = refusing.stdout().join("\n");
    assert!(
        text.contains("sync_interval: always") && text.contains("--accept-unsafe-server"),
        "{text}"
    );
    let mut going_on = durable(&nats)
        .args(["--count", "1", "--accept-unsafe-server"])
        .start();
    assert!(going_on.wait().await.success());
    let text = going_on.stdout().join("\n");
    assert!(
        text.contains("WARN") && text.contains("sync_interval: always"),
        "{text}"
    );
}

#[tokio::test]
async fn a_publisher_that_was_killed_between_sending_and_the_answer_can_start_again() {
    let nats = server().await;
    let client = nats.connect_as("status").await;
    let lines = with_ids(30_000);
    let (_folder, input) = file_of(lines);
    let start = || durable(&nats).arg("--input").arg(&input).start();
    let mut killed = start();
    eventually(DEADLINE, "some jobs", async || {
        (messages(&client, "JOBS").await > 0).then_some(())
    })
    .await;
    killed.kill().await;
    let before = messages(&client, "JOBS").await;
    let mut again = start();
    assert!(again.wait().await.success());
    let summary = logged(&again, "summary");
    println!("stored before the kill {before}; {summary}");
    assert!(before < 30_000, "it was killed too late to show anything");
    assert_eq!(messages(&client, "JOBS").await, 30_000);
}

#[tokio::test]
async fn a_server_that_is_killed_twice_has_each_job_once_in_the_end() {
    let mut nats = server().await;
    let lines = with_ids(50_000);
    let (_folder, input) = file_of(lines);
    let mut publisher = durable(&nats).arg("--input").arg(&input).start();
    for more_than in [0, 20_000] {
        let client = nats.connect_as("status").await;
        eventually(DEADLINE, "jobs", async || {
            (messages(&client, "JOBS").await > more_than).then_some(())
        })
        .await;
        nats.kill().await;
        nats.start_again().await;
    }
    let status = publisher.wait().await;
    let summary = logged(&publisher, "summary");
    println!("{summary}");
    assert!(status.success(), "{summary}");
    assert!(summary.contains("failed=0"), "{summary}");
    let client = nats.connect_as("status").await;
    assert_eq!(messages(&client, "JOBS").await, 50_000);
}

#[tokio::test]
async fn a_full_queue_is_an_error_for_one_job_and_makes_a_bulk_wait() {
    let limits = Limits { jobs_bytes: 20_000 };
    let nats = with_streams(NatsServer::start().await, limits).await;
    let lines = with_ids(100);
    let mut bulk = durable_bulk(&nats, &lines).start();
    let full = bulk
        .wait_for_line(|line| line.contains("jobs wait to be stored"))
        .await;
    assert!(
        full.contains("JOBS") && full.contains("maximum bytes"),
        "{full}"
    );
    // The first to be refused is a batch: what is smaller finds room after it. So the bulk has to be
    // well under way, and the one job too large for what it leaves.
    let client = nats.connect_as("status").await;
    eventually(DEADLINE, "jobs of the bulk", async || {
        (messages(&client, "JOBS").await >= 30).then_some(())
    })
    .await;
    let payload = format!("\"{}\"", "x".repeat(16_000));
    let mut one = durable(&nats)
        .args(["--count", "1", "--payload", &payload])
        .args(["--confirm-timeout", "1s"])
        .start();
    assert_eq!(one.wait().await.code(), Some(1));
    let text = one.stdout().join("\n");
    assert!(text.contains("the stream JOBS"), "{text}");
    // Consumers would remove one job after the other.
    let worker = nats.connect_as("worker").await;
    let status = tokio::select! {
        status = bulk.wait() => status,
        () = async {
            loop {
                let purge = worker.request("$JS.API.STREAM.PURGE.JOBS", "".into()).await;
                purge.unwrap();
                tokio::task::yield_now().await;
            }
        } => unreachable!(),
    };
    assert!(status.success());
    assert!(logged(&bulk, "summary").contains("stored=100 "));
}

#[tokio::test]
async fn jobs_under_way_are_named_when_it_has_to_stop() {
    // No stream takes them.
    let nats = NatsServer::start().await;
    let lines = with_ids(3);
    let mut publisher = durable_bulk(&nats, &lines)
        .args(["--grace", "500ms", "--confirm-timeout", "1h"])
        .start();
    publisher
        .wait_for_line(|line| line.contains("reading jobs"))
        .await;
    // Their ids are known only from the last words, so they must have been read before.
    publisher
        .wait_for_line(|line| line.contains("progress"))
        .await;
    publisher.signal(Signal::SIGTERM);
    assert_eq!(publisher.wait().await.code(), Some(1));
    let named = logged(&publisher, "jobs that were given up");
    for line in &lines {
        let id = &line[7..43];
        assert!(named.contains(id), "{named}");
    }
    let outcomes = outcomes(&publisher);
    assert_eq!(outcomes.len(), 3);
    assert!(
        outcomes
            .iter()
            .all(|outcome| outcome["error"]["code"] == "interrupted"),
        "{outcomes:?}"
    );
}

#[tokio::test]
async fn flags_of_durable_jobs_are_refused_with_other_deliveries() {
    for flags in [&["--delay", "1s"][..], &["--input", "-", "--all-or-none"]] {
        let mut publisher = Service::named("publisher").args(flags).start();
        assert_eq!(publisher.wait().await.code(), Some(2));
        let text = [publisher.stdout(), publisher.stderr()].concat().join("\n");
        assert!(text.contains("--delivery durable"), "{text}");
    }
}
