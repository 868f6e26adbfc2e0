//! Jobs that are submitted from a terminal.

use common::JobId;
use serde_json::json;
use test_support::{DEADLINE, Service, eventually};

use crate::support::{Desk, end_of};

#[tokio::test]
async fn a_job_is_stored_as_the_flags_say_and_its_id_is_printed() {
    let desk = Desk::new().await;
    let (code, id) = desk.ask(&["submit", "--kind", "mail.send"]).await;
    assert_eq!(code, 0);
    assert!(id.parse::<JobId>().is_ok(), "{id}");
    assert_eq!(desk.queued(&id).await["kind"], "mail.send");

    let submit = [
        "submit",
        "--kind",
        "mail",
        "--payload",
        "-",
        "--priority",
        "high",
        "--timeout",
        "5s",
        "--max-attempts",
        "3",
        "--deadline",
        "2100-01-31T09:30:00Z",
        "--json",
    ];
    let told = end_of(desk.command(&submit).input("{\"to\": \"a\"}\n")).await;
    let said = told.json();
    assert_eq!(said["known"], false);
    let queued = desk.queued(said["id"].as_str().unwrap()).await;
    assert_eq!(queued["payload"], json!({"to": "a"}));
    assert_eq!(queued["max_attempts"], 3);
    assert_eq!(
        (&queued["priority"], &queued["timeout"]),
        (&json!("high"), &json!("5s"))
    );
    assert_eq!(queued["deadline"], "2100-01-31T09:30:00Z");
}

#[tokio::test]
async fn a_job_whose_id_is_known_is_not_stored_again() {
    let desk = Desk::new().await;
    let id = JobId::generate().to_string();
    let submit = ["submit", "--kind", "mail", "--id", &id, "--json"];
    assert_eq!(
        desk.tell(&submit).await.json(),
        json!({"id": id, "known": false})
    );
    let again = desk.tell(&submit).await;
    assert_eq!(
        (again.code, again.json()),
        (0, json!({"id": id, "known": true}))
    );
    assert!(again.err.contains("nothing was stored"), "{}", again.err);
}

#[tokio::test]
async fn a_unique_job_meets_the_job_that_holds_its_key() {
    let desk = Desk::new().await;
    let submit = ["submit", "--kind", "mail", "--unique", "user-7"];
    let (code, id) = desk.ask(&submit).await;
    assert_eq!(code, 0);
    assert_eq!(desk.queued(&id).await["unique"], json!({"key": "user-7"}));
    let refused = desk.tell(&submit).await;
    assert_eq!(refused.code, 1);
    let holds = format!("job {id} holds the key \"user-7\"");
    assert!(refused.err.contains(&holds), "{}", refused.err);
    let keep = [&submit[..], &["--on-conflict", "keep", "--json"]].concat();
    let kept = desk.tell(&keep).await;
    assert_eq!(
        (kept.code, kept.json()),
        (0, json!({"id": id, "known": true}))
    );
    assert!(kept.err.contains("nothing was stored"), "{}", kept.err);
    let info = desk.tell(&["info", &id]).await;
    assert!(info.err.contains("it holds the key user-7"), "{}", info.err);
}

#[tokio::test]
async fn a_job_for_later_waits_until_then() {
    let desk = Desk::new().await;
    for later in [["--delay", "1h"], ["--run-at", "2100-01-31T09:30:00Z"]] {
        let (_, id) = desk
            .ask(&[&["submit", "--kind", "mail"][..], &later].concat())
            .await;
        assert!(desk.queued(&id).await["run_at"].is_string());
        let (_, text) = desk.ask(&["info", &id]).await;
        assert!(text.contains("scheduled since"), "{text}");
    }
}

#[tokio::test]
async fn the_exit_code_says_how_a_job_that_is_waited_for_has_ended() {
    let desk = Desk::new().await;
    for (state, expected) in [("succeeded", 0), ("dead", 1)] {
        let id = JobId::generate();
        let text = id.to_string();
        let submit = [
            "submit", "--kind", "mail", "--id", &text, "--wait", "--json",
        ];
        let submit = desk.command(&submit).start();
        eventually(DEADLINE, "the job in the queue", async || {
            desk.queued(&text).await["kind"].is_string().then_some(())
        })
        .await;
        desk.record(id, json!({"state": state, "result": 1})).await;
        let told = crate::support::end(submit).await;
        assert_eq!(
            (told.code, &told.json()["state"]),
            (expected, &json!(state))
        );
    }
    let wait = [
        "submit",
        "--kind",
        "mail",
        "--wait",
        "--wait-timeout",
        "50ms",
    ];
    let told = desk.tell(&wait).await;
    assert_eq!(told.code, 1);
    assert!(told.out.contains("queued since"), "{}", told.out);
    assert!(
        told.err.contains("has not ended within 50ms"),
        "{}",
        told.err
    );
}

#[tokio::test]
async fn a_consumer_runs_what_is_submitted() {
    let desk = Desk::new().await;
    let consumer = Service::named("consumer").envs(desk.nats.env_for("worker"));
    let mut consumer = consumer.start();
    consumer
        .wait_for_line(|line| line.contains("taking durable jobs"))
        .await;
    let submit = ["submit", "--kind", "echo", "--payload", "[1.50]", "--wait"];
    let told = desk.tell(&submit).await;
    assert_eq!(told.code, 0, "{}", told.err);
    assert!(told.out.contains("result    [1.50]"), "{}", told.out);
}

#[tokio::test]
async fn without_the_streams_it_says_what_makes_them() {
    let nats = test_support::NatsServer::start().await;
    let submit = crate::support::jobs(&["submit", "--kind", "mail"]);
    let told = end_of(submit.envs(nats.env_for("operator"))).await;
    assert_eq!(told.code, 1);
    assert!(
        told.err.contains("there is no stream JOBS: a consumer"),
        "{}",
        told.err
    );
}
