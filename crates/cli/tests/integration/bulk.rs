//! Many dead letters at once.

use serde_json::json;

use crate::support::{Desk, end_of, jobs};

#[tokio::test]
async fn without_a_terminal_nothing_is_done_to_many_unless_that_is_said() {
    for verb in ["replay", "discard"] {
        // It does not even look for a server.
        let told = end_of(jobs(&["dead", verb, "--all"])).await;
        assert_eq!(told.code, 2);
        for word in [verb, "--yes", "--dry-run", "terminal"] {
            assert!(told.err.contains(word), "{}", told.err);
        }
    }
}

#[tokio::test]
async fn a_rehearsal_lists_and_counts_and_changes_nothing() {
    let desk = Desk::new().await;
    let mut ids = Vec::new();
    for kind in ["mail", "report", "mail"] {
        ids.push(desk.bury(kind, "permanent").await.to_string());
    }
    let rehearsal = ["dead", "replay", "--all", "--dry-run", "--kind", "mail"];
    let (code, text) = desk.ask(&rehearsal).await;
    assert_eq!(code, 0);
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert!(
        lines[0].contains(&ids[0]) && lines[1].contains(&ids[2]),
        "{text}"
    );
    assert_eq!(lines[2], "2 dead letters would be replayed");
    let rehearsal = ["dead", "discard", "--all", "--dry-run", "--json"];
    let listed = desk.tell(&rehearsal).await.lines();
    let listed: Vec<_> = listed
        .iter()
        .map(|letter| letter["id"].as_str().unwrap())
        .collect();
    assert_eq!(listed, ids);
    assert_eq!(
        desk.tell(&["dead", "list", "--json"]).await.lines().len(),
        3
    );
}

#[tokio::test]
async fn programs_are_told_how_many_there_were() {
    let desk = Desk::new().await;
    for _ in 0..3 {
        desk.bury("mail", "permanent").await;
    }
    desk.bury("report", "permanent").await;
    let replay = [
        "dead", "replay", "--all", "--yes", "--kind", "mail", "--json",
    ];
    let told = desk.tell(&replay).await;
    let expected = json!({"replayed": 3, "already": 0, "failed": 0, "complete": true});
    assert_eq!((told.code, told.json()), (0, expected));
    let discard = ["dead", "discard", "--all", "--yes", "--json"];
    let told = desk.tell(&discard).await;
    assert_eq!(
        told.json(),
        json!({"discarded": 1, "failed": 0, "complete": true})
    );
    let (code, text) = desk.ask(&["dead", "discard", "--all", "--yes"]).await;
    assert_eq!((code, text.as_str()), (0, "no dead letters match"));
}
