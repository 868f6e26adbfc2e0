//! Servers that are not, or do not stay, as the lane needs them.

use client::Topology;
use common::JobState;
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, Service, eventually};

use crate::fixture::{said, stop};
use crate::lane::{Lane, succeeded};

/// Asks JetStream, as somebody who may do anything.
async fn ask(client: &async_nats::Client, subject: &str, question: Value) -> Value {
    let question = if question.is_null() {
        String::new()
    } else {
        question.to_string()
    };
    let answer = client.request(subject.to_owned(), question.into());
    let answer: Value = serde_json::from_slice(&answer.await.unwrap().payload).unwrap();
    assert!(answer["error"].is_null(), "{subject}: {answer}");
    answer
}

#[tokio::test]
async fn without_jetstream_a_consumer_says_so_once_and_serves_the_other_lane() {
    let server = NatsServer::builder().without_jetstream().start().await;
    let client = server.connect_as("publisher").await;
    let mut consumer = Service::named("consumer")
        .envs(server.env_for("worker"))
        .env("LOG_FORMAT", "json")
        .start();
    let message = "the server has no JetStream for this user: taking core jobs only";
    consumer.wait_for_line(|line| line.contains(message)).await;
    let answer = client.request("jobs.create", r#"{"kind": "echo", "payload": 7}"#.into());
    let answer: Value = serde_json::from_slice(&answer.await.unwrap().payload).unwrap();
    assert_eq!(
        (&answer["status"], &answer["result"]),
        (&json!("succeeded"), &json!(7))
    );
    stop(&mut consumer).await;
    assert_eq!(said(&consumer, message).len(), 1);
    let complaints: Vec<_> = consumer.stdout();
    assert!(
        complaints.iter().all(|line| !line.contains("\"WARN\"")),
        "{complaints:?}"
    );

    let mut consumer = Service::named("consumer")
        .envs(server.env_for("worker"))
        .args(["--durable", "required"])
        .start();
    assert_eq!(consumer.wait().await.code(), Some(1));
    let lines = consumer.lines();
    let why = lines
        .iter()
        .any(|line| line.text.contains("--durable required"));
    assert!(why, "{lines:?}");
}

#[tokio::test]
async fn a_durable_consumer_that_somebody_deletes_is_made_again() {
    let lane = Lane::on(NatsServer::builder().open().start().await).await;
    let mut consumer = lane.consumer("only", &[]).await;
    let before = lane.submit(json!({"kind": "note"})).await;
    lane.becomes(before, JobState::Succeeded).await;
    for stream in ["JOBS", "JOBS_LATER"] {
        let subject = format!("$JS.API.CONSUMER.DELETE.{stream}.note");
        ask(&lane.operator, &subject, Value::Null).await;
    }
    // One is submitted at once, perhaps while there is none.
    let meanwhile = lane.submit(json!({"kind": "note"})).await;
    consumer
        .wait_for_lines(2, |line| line.contains("was created again"))
        .await;
    let run_at = common::Timestamp::now().shifted(1500);
    let later = lane.submit(json!({"kind": "note", "run_at": run_at})).await;
    let jobs = [before, meanwhile, later];
    let ended = lane.all_end(&jobs, DEADLINE).await;
    lane.account(&jobs, &ended, 0..=0);
    succeeded(&ended);
    stop(&mut consumer).await;
}

#[tokio::test]
async fn a_stream_that_somebody_deletes_is_made_again() {
    let lane = Lane::on(NatsServer::builder().open().start().await).await;
    let mut consumer = lane.consumer("only", &[]).await;
    let before = lane.submit(json!({"kind": "note"})).await;
    lane.becomes(before, JobState::Succeeded).await;
    ask(&lane.operator, "$JS.API.STREAM.DELETE.JOBS", Value::Null).await;
    eventually(DEADLINE, "the stream", async || {
        let info = lane.info("JOBS", &Value::Null).await;
        info["error"].is_null().then_some(())
    })
    .await;
    let after = lane.submit(json!({"kind": "note"})).await;
    lane.becomes(after, JobState::Succeeded).await;
    stop(&mut consumer).await;
}

#[tokio::test]
async fn a_stream_that_differs_is_reported_field_by_field_and_left_as_it_is() {
    let server = NatsServer::builder().open().start().await;
    let client = server.connect_as("worker").await;
    let other = json!({
        "name": "JOBS",
        "subjects": ["jobs.durable.>"],
        "retention": "workqueue",
        "storage": "file",
        "discard": "old",
        "max_msgs_per_subject": 1,
        "max_bytes": 1_000_000,
    });
    ask(&client, "$JS.API.STREAM.CREATE.JOBS", other).await;
    let mut consumer = Service::named("consumer")
        .envs(server.env_for("worker"))
        .start();
    assert_eq!(consumer.wait().await.code(), Some(1));
    let lines: Vec<_> = consumer.lines().into_iter().map(|line| line.text).collect();
    let line = lines
        .iter()
        .find(|line| line.contains("the stream JOBS exists"));
    let line = line.unwrap_or_else(|| panic!("{lines:?}"));
    for field in [
        r#"subjects is ["jobs.durable.>"] instead of ["jobs.durable.*.*.*.>","jobs.unique.*"]"#,
        r#"retention is "workqueue" instead of "limits""#,
        r#"discard is "old" instead of "new""#,
        "max_bytes is 1000000 instead of",
        "allow_direct is",
        "allow_atomic is",
    ] {
        assert!(line.contains(field), "{field}: {line}");
    }
    assert!(
        !line.contains("storage") && !line.contains("max_msgs_per_subject"),
        "{line}"
    );
    let info = ask(&client, "$JS.API.STREAM.INFO.JOBS", Value::Null).await;
    assert_eq!(info["config"]["max_bytes"], 1_000_000, "it was changed");
}

#[tokio::test]
async fn a_server_that_confirms_too_early_is_refused_unless_it_is_wanted() {
    let lazy = "jetstream { store_dir: $NATS_STORE_DIR, strict: true, max_file_store: 8GB }";
    let lane = Lane::on(NatsServer::builder().config(lazy).start().await).await;
    let mut refusing = Service::named("consumer")
        .envs(lane.fixture.server.env_for("worker"))
        .start();
    assert_eq!(refusing.wait().await.code(), Some(1));
    let lines = refusing.lines();
    let why = lines.iter().any(|line| {
        ["sync_interval: always", "--accept-unsafe-server"]
            .iter()
            .all(|part| line.text.contains(part))
    });
    assert!(why, "{lines:?}");

    let mut going_on = lane.consumer("only", &["--accept-unsafe-server"]).await;
    let warning = going_on
        .wait_for_line(|line| line.contains("sync_interval: always"))
        .await;
    assert!(warning.contains("WARN"), "{warning}");
    let id = lane.submit(json!({"kind": "note"})).await;
    lane.becomes(id, JobState::Succeeded).await;
    stop(&mut going_on).await;
}

#[tokio::test]
async fn a_queue_that_drops_old_jobs_is_refused_by_those_who_fill_it_and_by_those_who_empty_it() {
    let lane = Lane::on(NatsServer::builder().open().start().await).await;
    Topology::default()
        .ensure(&lane.operator.clone().into())
        .await
        .unwrap();
    let info = lane.info("JOBS", &Value::Null).await;
    let mut config = info["config"].clone();
    config["discard"] = json!("old");
    config["discard_new_per_subject"] = json!(false);
    ask(&lane.operator, "$JS.API.STREAM.UPDATE.JOBS", config).await;
    let arguments = ["--delivery", "durable", "--count", "1"];
    let mut publisher = lane.fixture.publisher().args(arguments).start();
    assert_eq!(publisher.wait().await.code(), Some(2));
    let lines = publisher.stdout().join("\n");
    for part in [
        "the stream JOBS drops old messages",
        "--accept-unsafe-server",
    ] {
        assert!(lines.contains(part), "{lines}");
    }
    let mut publisher = lane
        .fixture
        .publisher()
        .args(arguments)
        .arg("--accept-unsafe-server")
        .start();
    assert_eq!(publisher.wait().await.code(), Some(0));
    // A consumer would have made it otherwise, and so does not take it for its own.
    let mut consumer = Service::named("consumer")
        .envs(lane.fixture.server.env_for("worker"))
        .arg("--accept-unsafe-server")
        .start();
    assert_eq!(consumer.wait().await.code(), Some(1));
    let lines = consumer.stdout().join("\n");
    assert!(
        lines.contains(r#"discard is "old" instead of "new""#),
        "{lines}"
    );
}
