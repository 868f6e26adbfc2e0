//! What a consumer tells of itself.

use std::process::Command;

use common::{ConsumerState, ConsumerStatus};
use futures_util::StreamExt as _;
use test_support::{DEADLINE, Service, Signal, eventually};

use crate::fixture::Fixture;

#[tokio::test]
async fn every_consumer_answers_with_its_own_counts() {
    let fixture = Fixture::start().await;
    let _one = fixture
        .consumer(&["--instance", "one", "--concurrency", "3"])
        .await;
    let _two = fixture
        .consumer(&["--instance", "two", "--inbox", "7"])
        .await;
    let _three = fixture.consumer(&["--instance", "three"]).await;
    for _ in 0..30 {
        fixture.outcome(r#"{"kind":"echo"}"#).await;
    }
    fixture.outcome(r#"{"kind":"fail","payload":{}}"#).await;
    let statuses = fixture.statuses(3).await;
    let names: Vec<_> = statuses.iter().map(|status| &*status.consumer).collect();
    assert_eq!(names, ["one", "three", "two"]);
    assert_eq!((statuses[0].concurrency, statuses[2].inbox), (3, 7));
    assert_eq!(
        statuses
            .iter()
            .map(|status| status.totals.processed)
            .sum::<u64>(),
        31
    );
    assert_eq!(
        statuses
            .iter()
            .map(|status| status.totals.failed)
            .sum::<u64>(),
        1
    );
    for status in &statuses {
        assert_eq!(status.state, ConsumerState::Running);
        assert_eq!(status.totals, status.lanes["core"].counts);
        let echo = &status.lanes["core"].kinds["echo"];
        assert_eq!(echo.run_counts.count(), echo.counts.succeeded);
        assert!(echo.counts.succeeded > 0 && echo.run_ms.max >= echo.run_ms.p50);
        assert!(status.started_at.to_string().ends_with('Z') && !status.host.is_empty());
    }
}

#[tokio::test]
async fn two_consumers_of_one_name_both_answer() {
    let fixture = Fixture::start().await;
    let _one = fixture.consumer(&["--instance", "twin"]).await;
    let _other = fixture.consumer(&["--instance", "twin"]).await;
    assert_eq!(fixture.statuses(2).await[0].consumer, "twin");
}

#[tokio::test]
async fn the_last_requester_gets_the_final_status() {
    let fixture = Fixture::start().await;
    let mut consumer = fixture.consumer(&[]).await;
    let observer = fixture.server.connect_as("status").await;
    let mut answers = observer.subscribe("_INBOX_status.kept").await.unwrap();
    observer
        .publish_with_reply("jobs.status", "_INBOX_status.kept", "".into())
        .await
        .unwrap();
    let mut next = async || {
        let answer = tokio::time::timeout(DEADLINE, answers.next())
            .await
            .unwrap()
            .unwrap();
        serde_json::from_slice::<ConsumerStatus>(&answer.payload).unwrap()
    };
    assert_eq!(next().await.totals.processed, 0);
    fixture.outcome(r#"{"kind":"echo"}"#).await;
    consumer.signal(Signal::SIGTERM);
    let last = next().await;
    assert_eq!(
        (last.state, last.totals.processed),
        (ConsumerState::Draining, 1)
    );
    assert_eq!(consumer.wait().await.code(), Some(0));
}

#[tokio::test]
async fn a_status_is_not_sent_into_the_subjects_of_the_system() {
    let fixture = Fixture::start().await;
    let mut consumer = fixture.consumer(&[]).await;
    let observer = fixture.server.connect_as("status").await;
    let reply = "jobs.create.echo";
    observer
        .publish_with_reply("jobs.status", reply, "".into())
        .await
        .unwrap();
    consumer
        .wait_for_line(|line| line.contains("not an inbox"))
        .await;
    fixture.outcome(r#"{"kind":"echo"}"#).await;
    assert_eq!(fixture.status(|_| true).await.received, 1);
}

#[tokio::test]
async fn consumers_are_found_as_nats_micro_services() {
    let fixture = Fixture::start().await;
    let _one = fixture.consumer(&["--instance", "one"]).await;
    let observer = fixture.server.connect_as("status").await;
    let answer = observer
        .request("$SRV.INFO.consumer", "".into())
        .await
        .unwrap();
    let info: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert_eq!(
        (&info["name"], &info["metadata"]["instance"]),
        (&"consumer".into(), &"one".into())
    );
    assert_eq!(info["endpoints"][0]["subject"], "jobs.status");
    fixture.status(|_| true).await;
    let answer = observer
        .request("$SRV.STATS.consumer", "".into())
        .await
        .unwrap();
    let stats: serde_json::Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(
        stats["endpoints"][0]["num_requests"].as_u64().unwrap() >= 1,
        "{stats}"
    );
}

#[tokio::test]
async fn the_health_check_follows_the_connection() {
    let mut fixture = Fixture::start().await;
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("health.sock");
    let mut consumer = fixture
        .consumer(&["--health-socket", socket.to_str().unwrap()])
        .await;
    let check = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_consumer"));
        command
            .arg("healthcheck")
            .env("CONSUMER_HEALTH_SOCKET", &socket);
        let output = command.output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stdout).unwrap(),
        )
    };
    consumer
        .wait_for_line(|line| line.contains("taking durable jobs"))
        .await;
    eventually(DEADLINE, "a healthy consumer", async || {
        (check().0 == Some(0)).then_some(())
    })
    .await;
    fixture.server.stop().await;
    eventually(DEADLINE, "an unhealthy consumer", async || {
        (check().0 == Some(1)).then_some(())
    })
    .await;
    assert!(
        check().1.contains("of 3 connections to NATS are up"),
        "{}",
        check().1
    );
    consumer.signal(Signal::SIGTERM);
    consumer.wait().await;
    assert_eq!(check().0, Some(1));
    let unset = Command::new(env!("CARGO_BIN_EXE_consumer"))
        .arg("healthcheck")
        .output()
        .unwrap();
    assert_eq!(unset.status.code(), Some(2));
}

#[tokio::test]
async fn json_logs_are_one_object_a_line_with_the_instance() {
    let fixture = Fixture::start().await;
    let mut consumer = Service::program(env!("CARGO_BIN_EXE_consumer"))
        .envs(fixture.server.env_for("worker"))
        .env("LOG_FORMAT", "json")
        .env("CONSUMER_INSTANCE", "json-1")
        .start();
    consumer
        .wait_for_line(|line| line.contains("taking jobs"))
        .await;
    fixture.outcome("not\u{7} a job\n").await;
    consumer
        .wait_for_line(|line| line.contains("job rejected"))
        .await;
    consumer.signal(Signal::SIGTERM);
    assert_eq!(consumer.wait().await.code(), Some(0));
    for line in consumer.stdout() {
        let object: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert_eq!(object["instance"], "json-1", "{line}");
        assert!(
            object["message"].is_string() && object["timestamp"].is_string(),
            "{line}"
        );
    }
}

#[test]
fn help_documents_each_flag_and_mistakes_name_the_variable() {
    let run = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_consumer"));
        command
            .args(args)
            .env_clear()
            .envs(env.iter().copied())
            .env("COLUMNS", "100");
        command.output().unwrap()
    };
    let help = run(&["--help"], &[]);
    insta::assert_snapshot!(String::from_utf8(help.stdout).unwrap());

    let wrong = run(&[], &[("CONSUMER_CONCURRENCY", "many")]);
    assert_eq!(wrong.status.code(), Some(2));
    let said = String::from_utf8(wrong.stderr).unwrap();
    assert!(
        said.contains("'many'") && said.contains("variable 'CONSUMER_CONCURRENCY'"),
        "{said}"
    );
    let wrong = run(&[], &[("RUST_LOG", "a=b=c")]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(
        String::from_utf8(wrong.stderr)
            .unwrap()
            .contains("RUST_LOG")
    );
    let version = run(&["--version"], &[]);
    assert_eq!(
        String::from_utf8(version.stdout).unwrap().trim(),
        format!("consumer {}", env!("CARGO_PKG_VERSION"))
    );
}
