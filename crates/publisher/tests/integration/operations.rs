//! What a person does with durable jobs at a terminal.

use async_nats::Client;
use client::{NewJob, Patience, Submitter, Topology};
use common::{JobId, subjects};
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, Service, bury, put_record};
use tokio::sync::watch;

struct Desk {
    nats: NatsServer,
    worker: Client,
}

impl Desk {
    async fn new() -> Self {
        let nats = NatsServer::start().await;
        let worker = nats.connect_as("worker").await;
        Topology::default()
            .ensure(&worker.clone().into())
            .await
            .unwrap();
        Self { nats, worker }
    }

    fn start(&self, args: &[&str]) -> Service {
        let operator = Service::named("publisher").envs(self.nats.env_for("operator"));
        operator.args(args).start()
    }

    /// Its exit code and what it prints to standard output.
    async fn ask(&self, args: &[&str]) -> (i32, String) {
        let mut operator = self.start(args);
        let code = operator.wait().await.code().unwrap();
        (code, operator.stdout().join("\n"))
    }

    async fn submit(&self, text: &str) -> JobId {
        let job = NewJob::decode(text.to_owned().into()).unwrap();
        let client = self.nats.connect_as("publisher").await;
        let (_up, connected) = watch::channel(true);
        let patience = Patience {
            confirm: DEADLINE,
            wait_for_nats: false,
            wait_for_room: false,
        };
        let submitter = Submitter::over(&client.clone().into(), connected, patience);
        submitter.submit(&job).await.unwrap();
        job.id
    }

    async fn is_asked_to_cancel(&self, id: JobId) -> bool {
        let last = json!({"last_by_subj": subjects::cancel(id)}).to_string();
        let request = self
            .worker
            .request("$JS.API.DIRECT.GET.JOBS_STATE", last.into());
        request.await.unwrap().status.is_none()
    }

    async fn record(&self, id: JobId, fields: Value) {
        put_record(&self.worker, id, fields).await;
    }

    async fn bury(&self, kind: &str, reason: &str) -> JobId {
        let id = JobId::generate();
        let message = "no such\naddress\u{1b}[31m";
        bury(&self.worker, id, kind, reason, message).await;
        id
    }
}

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
    assert!(text.contains("nobody knows"), "{text}");
    let (code, text) = desk.ask(&["info", &nobody, "--json"]).await;
    let said: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((code, said["state"].as_str()), (1, Some("unknown")));
}

#[tokio::test]
async fn a_job_is_waited_for_and_the_exit_code_says_how_it_ended() {
    let desk = Desk::new().await;
    for (state, expected) in [("succeeded", 0), ("dead", 1), ("cancelled", 1)] {
        let id = desk.submit(r#"{"kind":"mail"}"#).await;
        let mut operator = desk.start(&["wait", &id.to_string()]);
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
        let word = if state == "unknown" { "nobody" } else { state };
        assert!(text.contains(word), "{text}");
        let (code, text) = desk.ask(&["cancel", &id.to_string(), "--json"]).await;
        assert_eq!(code, expected, "{state}: {text}");
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer, json!({"id": id, "cancel": said, "state": state}));
        assert!(!desk.is_asked_to_cancel(id).await, "{state}");
    }
}

#[tokio::test]
async fn dead_letters_are_seen_to() {
    let desk = Desk::new().await;
    let (code, text) = desk.ask(&["dead", "list"]).await;
    assert_eq!((code, text.as_str()), (0, "no dead letters match"));
    let mut ids = Vec::new();
    for (kind, reason) in [
        ("mail", "permanent"),
        ("mail", "attempts_used_up"),
        ("report", "permanent"),
    ] {
        ids.push(desk.bury(kind, reason).await.to_string());
    }
    let (_, text) = desk.ask(&["dead", "list"]).await;
    assert_eq!(text.lines().count(), 3, "{text}");
    assert!(
        !text.contains('\u{1b}') && text.contains("no such"),
        "{text}"
    );
    let (_, text) = desk
        .ask(&[
            "dead",
            "list",
            "--kind",
            "mail",
            "--reason",
            "permanent",
            "--json",
        ])
        .await;
    let letter: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(letter["id"], ids[0].as_str());
    let (_, text) = desk.ask(&["dead", "list", "--limit", "2"]).await;
    assert_eq!(text.lines().count(), 2, "{text}");
    let (code, text) = desk.ask(&["dead", "show", &ids[2]]).await;
    assert_eq!(code, 0);
    assert!(
        text.contains(r#""payload":{"to":"a"}"#) && text.contains("consumer-1"),
        "{text}"
    );

    let (code, text) = desk
        .ask(&["dead", "replay", &ids[0], "--payload", r#"{"edited":true}"#])
        .await;
    assert_eq!(code, 0, "{text}");
    let last = json!({"last_by_subj": format!("jobs.durable.{}.>", ids[0])}).to_string();
    let queued = desk.worker.request("$JS.API.DIRECT.GET.JOBS", last.into());
    let queued: Value = serde_json::from_slice(&queued.await.unwrap().payload).unwrap();
    assert_eq!(queued["payload"], json!({"edited": true}));
    let (code, _) = desk.ask(&["dead", "replay", &ids[0]]).await;
    assert_eq!(code, 1, "it is gone");

    let (code, text) = desk
        .ask(&["dead", "replay", "--all", "--kind", "mail", "--rate", "100"])
        .await;
    assert_eq!((code, text.as_str()), (0, "1 replayed"));
    let (code, _) = desk.ask(&["dead", "discard", &ids[2]]).await;
    assert_eq!(code, 0);
    let (_, text) = desk.ask(&["info", &ids[2]]).await;
    let last = text.lines().last().unwrap();
    assert!(last.starts_with("discarded "), "{text}");
    let (_, text) = desk.ask(&["dead", "list"]).await;
    assert_eq!(text, "no dead letters match");
}

#[tokio::test]
async fn a_mistake_on_the_command_line_ends_with_2() {
    for args in [
        &["info"][..],
        &["info", "not-an-id"],
        &["dead"],
        &["dead", "replay"],
        &["dead", "replay", "--all", "--payload", "1"],
        &["dead", "replay", "--all", "--rate", "0"],
        &["dead", "list", "--reason", "boredom"],
        &["dead", "discard"],
    ] {
        let mut operator = Service::named("publisher").args(args).start();
        assert_eq!(operator.wait().await.code(), Some(2), "{args:?}");
    }
}
