//! Recurring schedules at a terminal.

use serde_json::{Value, json};

use crate::support::Desk;

#[tokio::test]
async fn a_schedule_is_stored_shown_paused_run_and_deleted() {
    let desk = Desk::new().await;
    let (code, text) = desk.ask(&["schedules", "list"]).await;
    assert_eq!((code, text.as_str()), (0, "there are no schedules"));
    let set = "schedules set nightly --kind report --overlap skip --catch-up 3 --time-zone Europe/Berlin --note n";
    let mut set: Vec<_> = set.split(' ').collect();
    set.extend(["--cron", "30 2 * * *", "--payload", r#"{"days": 1}"#]);
    let (code, text) = desk.ask(&set).await;
    assert_eq!(code, 0, "{text}");
    assert!(
        text.starts_with("schedule nightly is stored; its next tick is at 20"),
        "{text}"
    );
    set.extend(["--revision", "0"]);
    let told = desk.tell(&set).await;
    assert_eq!(told.code, 1);
    assert!(
        told.err
            .contains("has the revision 1, not the expected one"),
        "{}",
        told.err
    );

    let shown = desk
        .tell(&["schedules", "show", "nightly", "--json"])
        .await
        .json();
    assert_eq!(shown["schedule"]["catch_up"], json!({"all": 3}));
    assert_eq!(
        shown["schedule"]["job"],
        json!({"kind": "report", "payload": {"days": 1}})
    );
    assert_eq!(shown["upcoming"].as_array().unwrap().len(), 10);
    assert_eq!(shown["upcoming"][0], shown["next"]);
    let (_, text) = desk.ask(&["schedules", "show", "nightly"]).await;
    for expected in [
        "30 2 * * * Europe/Berlin",
        "catch up  the last 3",
        "note      n",
    ] {
        assert!(text.contains(expected), "{text}");
    }
    desk.ask(&["schedules", "pause", "nightly"]).await;
    let (_, text) = desk.ask(&["schedules", "list"]).await;
    assert!(text.contains("paused"), "{text}");
    let (code, id) = desk.ask(&["schedules", "run", "nightly"]).await;
    assert_eq!(code, 0, "{id}");
    let (code, text) = desk.ask(&["info", &id]).await;
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("report"), "{text}");
    let (code, text) = desk.ask(&["schedules", "resume", "nightly"]).await;
    assert_eq!(code, 0);
    assert!(text.contains("is resumed; its next tick"), "{text}");
    for (name, code) in [("nightly", 0), ("nightly", 1)] {
        assert_eq!(desk.ask(&["schedules", "delete", name]).await.0, code);
    }
    for command in ["show", "pause", "run"] {
        assert_eq!(
            desk.ask(&["schedules", command, "nightly"]).await.0,
            1,
            "{command}"
        );
    }
}

#[tokio::test]
async fn ticks_are_previewed_without_storing_anything() {
    let desk = Desk::new().await;
    let preview = "schedules preview --every 1h --start-at 2031-01-01T00:00:00Z --end-at 2031-01-01T01:30:00Z";
    let (code, text) = desk.ask(&preview.split(' ').collect::<Vec<_>>()).await;
    assert_eq!(
        (code, text.as_str()),
        (0, "2031-01-01T00:00:00Z\n2031-01-01T01:00:00Z")
    );
    let told = desk
        .tell(&["schedules", "preview", "--cron", "61 * * * *"])
        .await;
    assert_eq!(told.code, 1);
    assert!(told.err.contains("field `cron`"), "{}", told.err);
    for wrong in [
        &["preview"][..],
        &["preview", "a", "--every", "1s"],
        &["preview", "--every", "1s", "--time-zone", "UTC"],
    ] {
        assert_eq!(
            desk.ask(&[&["schedules"], wrong].concat()).await.0,
            2,
            "{wrong:?}"
        );
    }
    assert_eq!(
        desk.ask(&["schedules", "list"]).await.1,
        "there are no schedules"
    );
}

#[tokio::test]
async fn a_file_is_applied_and_then_changes_nothing() {
    let desk = Desk::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("schedules.toml");
    let write = |minute: u32| {
        let text = format!(
            "[schedules.one]\ncron = '{minute} 2 * * *'\njob.kind = 'a'\n[schedules.two]\nevery = '1h'\njob.kind = 'b'\n"
        );
        std::fs::write(&file, text).unwrap();
    };
    write(30);
    let path = file.to_str().unwrap();
    let told = desk.tell(&["schedules", "apply", path, "--dry-run"]).await;
    assert_eq!((told.code, told.out.as_str()), (0, "+ one\n+ two"));
    assert!(
        told.err.contains("2 schedules would change"),
        "{}",
        told.err
    );
    assert_eq!(
        desk.ask(&["schedules", "list"]).await.1,
        "there are no schedules"
    );
    assert_eq!(
        desk.ask(&["schedules", "apply", path]).await,
        (0, "+ one\n+ two".to_owned())
    );
    let told = desk.tell(&["schedules", "apply", path]).await;
    assert_eq!((told.code, told.out.as_str()), (0, ""));
    assert!(
        told.err.contains("all schedules are as declared"),
        "{}",
        told.err
    );

    desk.ask(&["schedules", "pause", "one"]).await;
    desk.ask(&["schedules", "set", "three", "--every", "1h", "--kind", "c"])
        .await;
    write(40);
    let told = desk
        .tell(&["schedules", "apply", path, "--prune", "--json"])
        .await;
    let changes: Vec<Value> = told.lines();
    assert_eq!(
        changes,
        [
            json!({"name": "one", "change": "replace", "differences": ["cron: \"30 2 * * *\" -> \"40 2 * * *\""]}),
            json!({"name": "three", "change": "delete", "differences": []}),
        ]
    );
    let one = desk
        .tell(&["schedules", "show", "one", "--json"])
        .await
        .json();
    assert_eq!(
        (&one["schedule"]["cron"], &one["schedule"]["paused"]),
        (&json!("40 2 * * *"), &json!(true))
    );
    assert_eq!(one["revision"], 3);
    assert_eq!(desk.ask(&["schedules", "show", "three"]).await.0, 1);
}
