//! The example of a consumer with handlers of its own does what it says.

use async_nats::{Client, Request};
use common::{Outcome, Status, codes};
use test_support::{DEADLINE, NatsServer, Service, Signal, example};

async fn outcome(publisher: &Client, job: serde_json::Value) -> Outcome {
    let request = Request::new()
        .payload(job.to_string().into())
        .timeout(Some(DEADLINE));
    let answer = publisher.send_request("jobs.create", request).await;
    let answer = answer.expect("a consumer answers");
    serde_json::from_slice(&answer.payload).expect("it answers with an outcome")
}

#[tokio::test]
async fn a_consumer_with_handlers_of_its_own_is_a_consumer() {
    let server = NatsServer::start().await;
    let publisher = server.connect_as("publisher").await;
    let mut consumer = Service::program(example("consumer", "word_count"))
        .envs(server.env_for("worker"))
        .start();
    let ready = consumer
        .wait_for_line(|line| line.contains("taking jobs"))
        .await;
    assert!(
        ready.contains("sha256,sleep,words.count,words.shout"),
        "{ready}"
    );

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("poem.txt");
    std::fs::write(&path, "A rose is a rose\nis a rose, is É").unwrap();
    let job = serde_json::json!({"kind": "words.count", "payload": {"path": path}});
    let counted = outcome(&publisher, job).await;
    let expected = r#"{"total":10,"distinct":4,"most_frequent":"a"}"#;
    assert_eq!(counted.result.unwrap().get(), expected);

    let job = serde_json::json!({"kind": "words.count", "payload": {"path": "/no/such/file"}});
    let failed = outcome(&publisher, job).await;
    let error = failed.error.unwrap();
    assert_eq!(
        (failed.status, &*error.code),
        (Status::Failed, codes::PERMANENT)
    );
    assert!(
        error
            .message
            .starts_with("cannot read /no/such/file: No such file"),
        "{}",
        error.message
    );

    let job = serde_json::json!({"kind": "words.count", "payload": {"file": "a"}});
    assert_eq!(outcome(&publisher, job).await.status, Status::Rejected);
    let job = serde_json::json!({"kind": "words.shout", "payload": "hey"});
    assert_eq!(
        outcome(&publisher, job).await.result.unwrap().get(),
        "\"HEY\""
    );

    consumer.signal(Signal::SIGTERM);
    assert!(consumer.wait().await.success());
}
