//! Dead letters, one by one and in lists.

use common::JobId;
use serde_json::{Value, json};
use test_support::{put, put_record};

use crate::support::Desk;

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
    let queued = desk.queued(&ids[0]).await;
    assert_eq!(queued["payload"], json!({"edited": true}));
    let (code, _) = desk.ask(&["dead", "replay", &ids[0]]).await;
    assert_eq!(code, 1, "it is gone");

    let (code, text) = desk
        .ask(&[
            "dead", "replay", "--all", "--yes", "--kind", "mail", "--rate", "100",
        ])
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
async fn dead_letters_are_grouped_by_what_was_wrong_and_a_group_can_be_listed() {
    let desk = Desk::new().await;
    for (kind, reason) in [
        ("mail", "permanent"),
        ("mail", "permanent"),
        ("report", "permanent"),
    ] {
        desk.bury(kind, reason).await;
    }
    let (code, text) = desk.ask(&["dead", "groups"]).await;
    assert_eq!(code, 0);
    assert!(
        text.starts_with("2 mail permanent: no such\\naddress"),
        "{text}"
    );
    let groups = desk
        .tell(&["dead", "groups", "--json", "--kind", "mail"])
        .await;
    let group = groups.json();
    assert_eq!(group["count"], 2);
    let error = group["error"].as_str().unwrap();
    let listed = ["dead", "list", "--json", "--kind", "mail", "--error", error];
    assert_eq!(desk.tell(&listed).await.lines().len(), 2);
    let other = ["dead", "list", "--error", "something else"];
    assert_eq!(desk.ask(&other).await.1, "no dead letters match");
}

#[tokio::test]
async fn a_replay_is_shown_as_a_mark_and_not_as_an_attempt() {
    let desk = Desk::new().await;
    let id = JobId::generate();
    let at = "2026-01-31T09:30:00Z";
    let failures = json!([
        {"attempt": 1, "consumer": "a", "at": at, "error": {"code": "transient", "message": "away"}},
        {"attempt": 0, "at": at, "error": {"code": "replayed", "message": "the job was replayed"}},
        {"attempt": 1, "consumer": "b", "at": at, "error": {"code": "permanent", "message": "gone"}},
    ]);
    let fields =
        json!({"kind": "mail", "state": "dead", "reason": "permanent", "failures": failures});
    put_record(&desk.worker, id, fields).await;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("Jobs-Reason", "permanent");
    headers.insert("Jobs-Failures", failures.to_string());
    let subject = format!("jobs.dead.{id}.mail");
    put(
        &desk.worker,
        subject,
        headers,
        r#"{"kind":"mail"}"#.to_owned(),
    )
    .await;
    for command in [&["dead", "show"][..], &["info"]] {
        let (code, text) = desk.ask(&[command, &[&id.to_string()]].concat()).await;
        assert_eq!(code, 0);
        let marks = text
            .lines()
            .filter(|line| line.trim_start().starts_with("replayed "));
        assert_eq!(marks.count(), 1, "{text}");
        assert!(!text.contains("attempt 0"), "{text}");
        assert!(text.contains("on b: permanent: gone"), "{text}");
    }
}

#[tokio::test]
async fn what_is_done_with_one_dead_letter_is_told_to_programs_and_rehearsed() {
    let desk = Desk::new().await;
    let id = desk.bury("mail", "permanent").await;
    let text = id.to_string();
    let (code, said) = desk.ask(&["dead", "discard", &text, "--dry-run"]).await;
    assert_eq!(code, 0);
    assert!(
        said.ends_with(&format!("job {id} would be discarded")),
        "{said}"
    );
    let replayed = desk.tell(&["dead", "replay", &text, "--json"]).await;
    assert_eq!(replayed.json(), json!({"id": id, "replayed": true}));
    let gone = desk.tell(&["dead", "discard", &text, "--json"]).await;
    assert_eq!(
        (gone.code, gone.json()),
        (1, json!({"id": id, "dead": false}))
    );
}
