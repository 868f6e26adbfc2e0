//! One job: it is shown, waited for and cancelled.

use common::JobId;
use serde_json::{Value, json};
use test_support::Signal;

use crate::support::{Desk, end};

#[tokio::test]
async fn a_job_is_shown_to_people_and_to_programs() {
    let desk = Desk::new().await;
    let id = desk.submit(r#"{"kind":"mail.send"}"#).await;
    let (code, text) = desk.ask(&["info", &id.to_string()]).await;
    assert_eq!(code, 0);
    assert!(
        text.contains("mail.send") && text.contains("queued since"),
        "{text}"
    );
    let fields = json!({
        "state": "succeeded", "result": {"n": 1}, "consumer": "evil\u{1b}[2J\nname",
    });
    desk.record(id, fields).await;
    let (_, text) = desk.ask(&["info", &id.to_string()]).await;
    assert!(!text.contains('\u{1b}'), "{text}");
    let (code, text) = desk.ask(&["info", &id.to_string(), "--json"]).await;
    let record: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, &record["result"]), (0, &json!({"n": 1})));
    let nobody = JobId::generate().to_string();
    let (code, text) = desk.ask(&["info", &nobody]).await;
    assert_eq!(code, 1);
    assert!(text.contains("is unknown"), "{text}");
    let (code, text) = desk.ask(&["info", &nobody, "--json"]).await;
    let said: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, said["state"].as_str()), (1, Some("unknown")));
}

#[tokio::test]
async fn a_job_that_waits_says_why() {
    let desk = Desk::new().await;
    let id = desk.submit(r#"{"kind":"mail.send"}"#).await;
    let (code, text) = desk.ask(&["why", &id.to_string()]).await;
    let expected = format!(
        "job {id} is queued\n  no consumer serves its kind mail.send: start one with a handler for it"
    );
    assert_eq!((code, text.trim_end()), (0, expected.as_str()));
    let (_, text) = desk.ask(&["why", &id.to_string(), "--json"]).await;
    let why: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(why["reasons"][0]["reason"], "no_consumer", "{why}");
    let (code, text) = desk.ask(&["why", &JobId::generate().to_string()]).await;
    assert_eq!(code, 1);
    assert!(text.contains("is unknown"), "{text}");
}

#[tokio::test]
async fn a_job_is_waited_for_and_the_exit_code_says_how_it_ended() {
    let desk = Desk::new().await;
    for (state, expected) in [("succeeded", 0), ("dead", 1), ("cancelled", 1)] {
        let id = desk.submit(r#"{"kind":"mail"}"#).await;
        let mut operator = desk
            .command(&["wait", &id.to_string(), "--log", "info"])
            .start();
        operator
            .wait_for_line(|line| line.contains("connected to NATS"))
            .await;
        desk.record(id, json!({"state": state})).await;
        assert_eq!(operator.wait().await.code(), Some(expected), "{state}");
        let text = operator.stdout().join("\n");
        assert!(text.contains(state), "{text}");
    }
    let id = desk.submit(r#"{"kind":"mail"}"#).await.to_string();
    let (code, text) = desk.ask(&["wait", &id, "--timeout", "50ms"]).await;
    assert_eq!(code, 1);
    assert!(text.contains("queued"), "{text}");
}

#[tokio::test]
async fn a_cancellation_is_asked_for() {
    let desk = Desk::new().await;
    let id = desk.submit(r#"{"kind":"mail"}"#).await;
    let (code, text) = desk.ask(&["cancel", &id.to_string()]).await;
    assert_eq!(code, 0);
    assert!(text.contains(&id.to_string()), "{text}");
    assert!(desk.is_asked_to_cancel(id).await, "nothing is stored");
    let (code, text) = desk.ask(&["cancel", &id.to_string(), "--json"]).await;
    let said: Value = serde_json::from_str(&text).unwrap();
    let expected = json!({"id": id, "cancel": "requested", "state": "queued"});
    assert_eq!((code, said), (0, expected));
}

#[tokio::test]
async fn what_has_ended_or_is_unknown_is_not_cancelled_and_the_exit_code_says_so() {
    let desk = Desk::new().await;
    for (state, expected, said) in [
        ("succeeded", 1, "refused"),
        ("expired", 1, "refused"),
        ("dead", 1, "refused"),
        ("cancelled", 0, "done"),
        ("unknown", 1, "refused"),
    ] {
        let id = JobId::generate();
        if state != "unknown" {
            desk.record(id, json!({"state": state})).await;
        }
        let (code, text) = desk.ask(&["cancel", &id.to_string()]).await;
        assert_eq!(code, expected, "{state}: {text}");
        assert!(text.contains(state), "{text}");
        let (code, text) = desk.ask(&["cancel", &id.to_string(), "--json"]).await;
        assert_eq!(code, expected, "{state}: {text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer, json!({"id": id, "cancel": said, "state": state}));
        assert!(!desk.is_asked_to_cancel(id).await, "{state}");
    }
}

#[tokio::test]
async fn a_wait_that_is_interrupted_ends_at_once_and_says_so_by_its_exit_code() {
    let desk = Desk::new().await;
    let id = desk.submit(r#"{"kind":"mail"}"#).await;
    let wait = ["wait", &id.to_string(), "--timeout", "1h", "--log", "info"];
    let mut wait = desk.command(&wait).start();
    wait.wait_for_line(|line| line.contains("connected to NATS"))
        .await;
    wait.signal(Signal::SIGINT);
    assert_eq!(end(wait).await.code, 130);
}

#[tokio::test]
async fn without_a_server_it_gives_up_and_says_what_to_look_at() {
    let nobody = ["queues", "--nats-url", "nats://127.0.0.1:1"];
    let told = crate::support::end_of(crate::support::jobs(&nobody)).await;
    assert_eq!(told.code, 1);
    assert!(
        told.err.contains("error: no connection to NATS within 10s"),
        "{}",
        told.err
    );
    assert!(told.err.contains("--nats-url"), "{}", told.err);
}

#[tokio::test]
async fn credentials_that_nats_refuses_are_a_mistake_in_the_configuration() {
    let desk = Desk::new().await;
    let told = end(desk
        .command(&["queues"])
        .env("NATS_PASSWORD", "guessed")
        .start())
    .await;
    assert_eq!(told.code, 2);
    assert!(told.err.contains("NATS_PASSWORD"), "{}", told.err);
}
