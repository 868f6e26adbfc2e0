//! Lists of jobs, of queues and of consumers.

use serde_json::json;

use crate::support::Desk;

#[tokio::test]
async fn jobs_are_listed_by_state_and_kind_the_newest_first() {
    let desk = Desk::new().await;
    assert_eq!(desk.ask(&["list"]).await, (0, "no jobs match".to_owned()));
    let mail = desk.submit(r#"{"kind":"mail"}"#).await;
    let report = desk.submit(r#"{"kind":"report"}"#).await;
    desk.record(report, json!({"kind": "report", "state": "succeeded"}))
        .await;
    let listed = desk.tell(&["list", "--json"]).await.lines();
    let ids: Vec<_> = listed.iter().map(|job| &job["id"]).collect();
    assert_eq!(ids, [&json!(report), &json!(mail)]);
    assert!(listed[1].get("error").is_none(), "{listed:?}");
    let (_, text) = desk.ask(&["list", "--state", "succeeded"]).await;
    assert!(
        text.contains(&format!("{report} report succeeded")),
        "{text}"
    );
    let (_, text) = desk.ask(&["list", "--kind", "mail"]).await;
    assert!(text.contains(&format!("{mail} mail queued")), "{text}");
    assert_eq!(text.lines().count(), 1);
}

#[tokio::test]
async fn jobs_are_searched_by_pattern_time_and_text_and_the_answer_says_how_much_was_read() {
    let desk = Desk::new().await;
    let mail = desk
        .submit(r#"{"kind":"mail.send","payload":{"to":"Basel"}}"#)
        .await;
    let report = desk
        .submit(r#"{"kind":"report","payload":{"to":"Bern"}}"#)
        .await;
    for (args, found) in [
        (&["--kind", "mail.*"][..], &[mail][..]),
        (&["--kind", "*"], &[report]),
        (&["--text", "basel"], &[mail]),
        (&["--text", "basel", "--kind", "report"], &[]),
        (&["--since", "1h"], &[report, mail]),
        (&["--until", "1h"], &[]),
        (
            &["--since", "2026-01-31T09:30:00Z", "--text", " BERN "],
            &[report],
        ),
    ] {
        let told = desk.tell(&[&["list", "--json"], args].concat()).await;
        let listed = told.lines();
        let ids: Vec<_> = listed.iter().map(|job| job["id"].clone()).collect();
        let expected: Vec<_> = found.iter().map(|id| json!(id)).collect();
        assert_eq!(ids, expected, "{args:?}: {}", told.err);
        assert!(
            told.err.contains("read; there are no more"),
            "{args:?}: {}",
            told.err
        );
    }
    let told = desk.tell(&["list", "--text", "b", "--limit", "1"]).await;
    assert!(
        told.err
            .contains("1 record read; there are more: --cursor "),
        "{}",
        told.err
    );
    // A kind that does not exist is told from one without such jobs.
    let (code, text) = desk.ask(&["list", "--kind", "mali.*"]).await;
    assert_eq!(code, 0);
    assert!(text.starts_with("no kind `mali.*` was ever seen"), "{text}");
    let (_, text) = desk
        .ask(&["list", "--kind", "mail.*", "--state", "dead"])
        .await;
    assert_eq!(text, "no jobs match");
    for wrong in [["--kind", "mail*"], ["--text", " "], ["--since", "soon"]] {
        assert_eq!(desk.tell(&[&["list"][..], &wrong].concat()).await.code, 2);
    }
    let (code, text) = desk.ask(&["info", &format!(" {mail} ")]).await;
    assert_eq!(code, 0, "{text}");
}

#[tokio::test]
async fn a_list_goes_on_where_it_has_ended_or_is_whole() {
    let desk = Desk::new().await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.insert(0, desk.submit(r#"{"kind":"mail"}"#).await.to_string());
    }
    let (mut seen, mut cursor) = (Vec::new(), None);
    loop {
        let mut args = vec!["list", "--json", "--limit", "2"];
        args.extend(
            cursor
                .iter()
                .flat_map(|cursor: &String| ["--cursor", cursor]),
        );
        let told = desk.tell(&args).await;
        let ids = told.lines();
        seen.extend(ids.iter().map(|job| job["id"].as_str().unwrap().to_owned()));
        let next = told.err.split_once("there are more: --cursor ");
        cursor = next.map(|(_, cursor)| cursor.to_owned());
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(seen, ids);
    let all = desk.tell(&["list", "--json", "--all"]).await.lines();
    assert_eq!(all.len(), 5);
}

#[tokio::test]
async fn queues_say_how_many_jobs_wait_and_whether_anybody_serves_them() {
    let desk = Desk::new().await;
    let (code, text) = desk.ask(&["queues"]).await;
    assert_eq!((code, text.as_str()), (0, "0 jobs wait"));
    for kind in ["mail", "mail", "report"] {
        desk.submit(&json!({"kind": kind}).to_string()).await;
    }
    let (_, text) = desk.ask(&["queues"]).await;
    let lines: Vec<Vec<&str>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines[0], ["3", "jobs", "wait"]);
    assert_eq!(lines[1], ["KIND", "WAITING", "RUNNING", "OLDEST", "SERVED"]);
    assert_eq!(
        (lines[2][..3].to_vec(), lines[2][4]),
        (vec!["mail", "2", "0"], "no")
    );
    let queues = desk.tell(&["queues", "--json"]).await.lines();
    assert_eq!(queues.len(), 2);
    assert_eq!(
        (&queues[0]["waiting"], &queues[0]["served"]),
        (&json!(2), &json!(false))
    );
    assert!(queues[0]["oldest_age_ms"].is_u64());
}

#[tokio::test]
async fn the_fleet_is_shown_with_all_its_consumers() {
    let desk = Desk::new().await;
    let told = desk.tell(&["fleet"]).await;
    assert_eq!(told.code, 1);
    assert!(
        told.err
            .contains("jobs.fleet has no responders; start a status service"),
        "{}",
        told.err
    );
    desk.answer_for_the_fleet().await;
    let (code, text) = desk.ask(&["fleet"]).await;
    assert_eq!(code, 0);
    assert!(!text.contains('\u{1b}'), "{text}");
    for part in [
        "1 consumers answer, 1 are missing",
        "3 of 8 slots",
        "consumer-a",
        "missing",
        "3/8",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let fleet = desk.tell(&["fleet", "--json"]).await.json();
    assert_eq!(fleet["consumers"].as_array().unwrap().len(), 2);
    assert!(fleet.get("next").is_none());
    let found = desk
        .tell(&["fleet", "--json", "--search", "nobody"])
        .await
        .json();
    assert_eq!(found["consumers"], json!([]));
}

#[tokio::test]
async fn a_kind_is_paused_for_a_time_and_resumed() {
    let desk = Desk::new().await;
    let id = desk.submit(r#"{"kind":"mail.send"}"#).await;
    let pause = ["pause", "mail.send", "--for", "1h", "--reason", "the move"];
    let (code, text) = desk.ask(&pause).await;
    assert_eq!(code, 0);
    assert!(
        text.starts_with("kind mail.send is paused until "),
        "{text}"
    );
    assert!(text.ends_with("Z: the move"), "{text}");

    let queues = desk.tell(&["queues", "--json"]).await.lines();
    let paused = &queues[0]["paused"];
    assert_eq!(paused["reason"], "the move", "{queues:?}");
    assert!(paused["until"].is_string() && paused["since"].is_string());
    let (_, text) = desk.ask(&["queues"]).await;
    assert!(text.contains("no, paused until 20"), "{text}");
    let told = desk.tell(&["info", &id.to_string()]).await;
    assert!(
        told.err.contains("its kind is paused until 20"),
        "{}",
        told.err
    );
    assert!(told.err.contains("Z: the move"), "{}", told.err);

    let (code, text) = desk.ask(&["resume", "mail.send"]).await;
    assert_eq!((code, text.as_str()), (0, "kind mail.send is resumed"));
    let queues = desk.tell(&["queues", "--json"]).await.lines();
    assert!(queues[0].get("paused").is_none(), "{queues:?}");
    let told = desk.tell(&["info", &id.to_string()]).await;
    assert_eq!(told.err, "");

    // Without an end, and again: the new pause replaces the old one.
    desk.ask(&pause).await;
    let told = desk.tell(&["pause", "mail.send", "--json"]).await.json();
    assert_eq!(
        (&told["kind"], &told["paused"]),
        (&json!("mail.send"), &json!(true))
    );
    assert!(
        told.get("paused_until").is_none() && told.get("reason").is_none(),
        "{told}"
    );
    for (wrong, why) in [
        (&["pause", "mail.send", "--for", "0s"][..], "in the past"),
        (
            &["pause", "mail.send", "--reason", &"x".repeat(1001)],
            "1000 bytes",
        ),
        (&["pause", "mail send"], "mail send"),
        (&["pause"], "KIND"),
    ] {
        let told = desk.tell(wrong).await;
        assert!(told.code != 0 && told.err.contains(why), "{}", told.err);
    }
}

#[tokio::test]
async fn all_kinds_are_paused_and_resumed() {
    let desk = Desk::new().await;
    let id = desk.submit(r#"{"kind":"mail.send"}"#).await.to_string();
    let (code, text) = desk.ask(&["pause", "--all", "--reason", "the move"]).await;
    assert_eq!((code, text.as_str()), (0, "all kinds are paused: the move"));
    desk.ask(&["pause", "mail.send"]).await;

    let (_, text) = desk.ask(&["queues"]).await;
    assert!(
        text.contains("\nall kinds are paused: the move\n"),
        "{text}"
    );
    let told = desk.tell(&["info", &id]).await;
    let notes = "all kinds are paused: the move\nits kind is paused";
    assert_eq!(told.err, notes);
    let (_, text) = desk.ask(&["why", &id]).await;
    assert!(
        text.contains("all kinds are paused until somebody"),
        "{text}"
    );
    let settings = desk.tell(&["kinds", "--json"]).await.lines();
    let settings: Vec<_> = settings
        .iter()
        .map(|setting| (&setting["kind"], &setting["paused"]))
        .collect();
    let (all, mail, yes) = (json!("=all"), json!("mail.send"), json!(true));
    assert_eq!(settings, [(&all, &yes), (&mail, &yes)]);
    let (_, text) = desk.ask(&["kinds"]).await;
    assert!(text.contains("\n(all kinds)"), "{text}");

    let told = desk.tell(&["resume", "--all"]).await;
    assert_eq!(told.err, "paused on their own: mail.send");
    desk.ask(&["pause", "--all"]).await;
    let told = desk.tell(&["resume", "mail.send"]).await;
    assert_eq!(told.err, "its jobs still wait: all kinds are paused");
    let told = desk.tell(&["resume", "--all", "--json"]).await;
    assert_eq!((&told.json()["kind"], told.err.as_str()), (&all, ""));
    assert_eq!(desk.tell(&["info", &id]).await.err, "");
}

#[tokio::test]
async fn the_settings_of_kinds_are_listed_and_priorities_are_heeded() {
    let desk = Desk::new().await;
    desk.submit(r#"{"kind":"mail.send","priority":"low"}"#)
        .await;
    let (code, text) = desk.ask(&["kinds"]).await;
    assert_eq!(
        (code, text.as_str()),
        (0, "KIND  PRIORITIES  PAUSE  BY  CHANGED")
    );
    let set = ["kinds", "set", "mail.send", "--priorities", "on"];
    let (code, text) = desk.ask(&set).await;
    let said = "the priorities of kind mail.send are heeded";
    assert_eq!((code, text.as_str()), (0, said));
    desk.ask(&["pause", "report", "--reason", "the move"]).await;
    let listed = desk.tell(&["kinds", "--json"]).await.lines();
    assert_eq!(listed.len(), 2, "{listed:?}");
    assert_eq!(
        (
            &listed[0]["kind"],
            &listed[0]["priorities"],
            &listed[0]["paused"]
        ),
        (&json!("mail.send"), &json!(true), &json!(false))
    );
    let (_, text) = desk.ask(&["kinds"]).await;
    let lines: Vec<_> = text.lines().collect();
    assert!(lines[1].starts_with("mail.send  heeded      -"), "{text}");
    assert!(
        lines[2].starts_with("report     -           paused: the move"),
        "{text}"
    );
    for wrong in [
        &["kinds", "set", "mail.send"][..],
        &["kinds", "set", "mail.send", "--priorities", "off"],
    ] {
        assert_ne!(desk.tell(wrong).await.code, 0, "{wrong:?}");
    }
}
