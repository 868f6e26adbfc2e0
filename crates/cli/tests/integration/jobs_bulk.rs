//! Many jobs are cancelled, or run now, at once.

use serde_json::json;

use crate::support::{Desk, end_of, jobs};

#[tokio::test]
async fn without_a_terminal_many_jobs_are_cancelled_only_if_that_is_said() {
    // It does not even look for a server.
    let told = end_of(jobs(&["cancel", "--kind", "mail"])).await;
    assert_eq!(told.code, 2);
    for word in ["--yes", "--dry-run", "terminal"] {
        assert!(told.err.contains(word), "{}", told.err);
    }
}

#[tokio::test]
async fn jobs_are_cancelled_by_kind_and_state_and_a_rehearsal_changes_nothing() {
    let desk = Desk::new().await;
    let mut mails = Vec::new();
    for _ in 0..3 {
        mails.push(desk.submit(r#"{"kind":"mail"}"#).await);
    }
    let report = desk.submit(r#"{"kind":"report"}"#).await;
    desk.record(mails[2], json!({"kind": "mail", "state": "succeeded"}))
        .await;
    desk.record(mails[1], json!({"kind": "mail", "state": "running"}))
        .await;
    let queued = ["cancel", "--kind", "mail", "--state", "queued"];
    let (code, text) = desk.ask(&[&queued[..], &["--dry-run"]].concat()).await;
    let lines: Vec<_> = text.lines().collect();
    assert_eq!((code, lines.len()), (0, 2), "{text}");
    assert!(lines[0].contains(&mails[0].to_string()), "{text}");
    assert_eq!(lines[1], "1 job would be cancelled");
    assert!(!desk.is_asked_to_cancel(mails[0]).await);

    let (code, text) = desk.ask(&[&queued[..], &["--yes"]].concat()).await;
    assert_eq!(
        (code, text.as_str()),
        (0, "cancellation of 1 job requested")
    );
    assert!(desk.is_asked_to_cancel(mails[0]).await);
    assert!(!desk.is_asked_to_cancel(mails[1]).await);

    let told = desk
        .tell(&["cancel", "--kind", "mail", "--yes", "--json"])
        .await;
    let expected = json!({"requested": 2, "failed": 0, "complete": true});
    assert_eq!((told.code, told.json()), (0, expected));
    assert!(desk.is_asked_to_cancel(mails[1]).await);
    for other in [mails[2], report] {
        assert!(!desk.is_asked_to_cancel(other).await);
    }
    let (code, text) = desk.ask(&["cancel", "--kind", "nothing", "--yes"]).await;
    assert_eq!((code, text.as_str()), (0, "no jobs match"));
}

#[tokio::test]
async fn waiting_jobs_are_run_now_if_a_consumer_is_there() {
    let desk = Desk::new().await;
    let told = end_of(jobs(&["run-now", "--state", "queued", "--yes"])).await;
    assert_eq!(told.code, 2);
    assert!(told.err.contains("does not wait"), "{}", told.err);
    let waits = desk
        .submit(r#"{"kind":"mail","run_at":"2100-01-31T09:30:00Z"}"#)
        .await
        .to_string();
    desk.submit(r#"{"kind":"mail"}"#).await;
    let told = desk.tell(&["run-now", &waits]).await;
    assert_eq!(told.code, 1);
    assert!(told.err.contains("no consumer is there"), "{}", told.err);
    let all = ["run-now", "--kind", "mail"];
    let (code, text) = desk.ask(&[&all[..], &["--dry-run"]].concat()).await;
    assert_eq!(
        (code, text.lines().last()),
        (0, Some("1 job would run now"))
    );
    let told = desk.tell(&[&all[..], &["--yes", "--json"]].concat()).await;
    let expected = json!({"started": 0, "failed": 1, "complete": true});
    assert_eq!((told.code, told.json()), (1, expected));
    assert!(told.err.contains("may not run now"), "{}", told.err);
}
