//! Jobs from newline-delimited JSON.

use std::fs::File;
use std::io::Write as _;
use std::process::Command;

use test_support::NatsServer;

use crate::support::{AT_ONCE, Responder, bulk, file, file_of, logged, publisher, run};

#[tokio::test]
async fn a_bad_line_is_named_and_stops_nothing_else() {
    let nats = NatsServer::start().await;
    let responder = Responder::start(&nats, |request| Some(request.outcome("succeeded"))).await;
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    let lines = [
        "\u{feff}{\"kind\":\"a\"}\r",
        "",
        "not json",
        r#"{"kind":"a","prioritty":"high"}"#,
        r#"{"kind":"a..b"}"#,
        r#"{"kind":"a","run_at":"2026-01-31T09:30:00Z"}"#,
        "   \t ",
        r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","kind":"a","max_attempts":0}"#,
        r#"{"kind":"b","priority":"high"}"#,
        r#"{"kind":"a","payload":"\ud800"}"#,
        &format!(r#"{{"kind":"a","payload":{deep}}}"#),
    ];
    let (code, outcomes, publisher) = run(bulk(&nats, &lines)).await;
    assert_eq!(code, 1);
    let rows: Vec<_> = outcomes
        .iter()
        .map(|outcome| {
            let message = outcome["error"]["message"].as_str().unwrap_or_default();
            (
                outcome["line"].as_u64().unwrap(),
                outcome["status"].as_str().unwrap(),
                outcome["error"]["code"].as_str().unwrap_or_default(),
                message,
            )
        })
        .collect();
    let expected = [
        (1, "succeeded", "", ""),
        (3, "rejected", "invalid_json", "message is not JSON"),
        (4, "rejected", "invalid_job", "unknown field `prioritty`"),
        (5, "rejected", "invalid_job", "field `kind`"),
        (6, "rejected", "invalid_job", "field `run_at`"),
        (8, "rejected", "invalid_job", "field `max_attempts`"),
        (9, "succeeded", "", ""),
        (10, "rejected", "invalid_job", "field `payload`"),
        (11, "rejected", "invalid_job", "field `payload`"),
    ];
    assert_eq!(rows.len(), expected.len(), "{rows:?}");
    for (row, expected) in rows.iter().zip(expected) {
        assert_eq!((row.0, row.1, row.2), (expected.0, expected.1, expected.2));
        assert!(row.3.contains(expected.3), "{rows:?}");
    }
    assert_eq!(outcomes[5]["id"], "01890a5d-ac96-774b-bcce-b302099a8057");
    assert_eq!(
        logged(&publisher, "bad lines"),
        "bad lines lines=3-6, 8, 10-11"
    );
    let summary = logged(&publisher, "summary");
    assert!(
        summary.contains("submitted=2 succeeded=2") && summary.contains("bad_lines=7"),
        "{summary}"
    );
    assert_eq!(responder.requests().len(), 2);
}

#[tokio::test]
async fn many_bad_lines_do_not_flood_the_log() {
    let nats = NatsServer::start().await;
    let _responder = Responder::start(&nats, |request| Some(request.outcome("succeeded"))).await;
    let lines = vec!["oops"; 1_000];
    let (code, outcomes, publisher) = run(bulk(&nats, &lines)).await;
    assert_eq!((code, outcomes.len()), (1, 1_000));
    assert_eq!(logged(&publisher, "bad lines"), "bad lines lines=1-1000");
    let logs = publisher.stderr();
    assert!(logs.len() < 60, "{} lines", logs.len());
}

#[tokio::test]
async fn a_bad_line_is_not_repeated_in_the_log() {
    let nats = NatsServer::start().await;
    let _responder = Responder::start(&nats, |request| Some(request.outcome("succeeded"))).await;
    let line = format!(r#""{}SecretAtTheEnd""#, "x".repeat(400));
    let (_, outcomes, publisher) = run(bulk(&nats, &[line])).await;
    let message = outcomes[0]["error"]["message"].as_str().unwrap();
    assert!(message.contains("SecretAtTheEnd"), "{message}");
    let line = logged(&publisher, "bad line ");
    assert!(
        line.contains("invalid type: string") && line.len() < 300,
        "{line}"
    );
    let logs = publisher.stderr().join("\n");
    assert!(!logs.contains("SecretAtTheEnd"), "{logs}");
}

#[tokio::test]
async fn the_outcomes_go_to_a_file_that_is_replaced() {
    let nats = NatsServer::start().await;
    let responder = Responder::start(&nats, |request| Some(request.outcome("succeeded"))).await;
    let (_folder, input) = file_of((0..5_000).map(|_| r#"{"kind":"a"}"#.to_owned()));
    let (_other, output) = file("outcomes.ndjson");
    std::fs::write(&output, "what was there before\n".repeat(100_000)).unwrap();
    let publisher = publisher(&nats)
        .arg("--input")
        .arg(&input)
        .arg("--output")
        .arg(&output);
    let mut publisher = publisher.start();
    assert!(publisher.wait().await.success());
    let outcomes = std::fs::read_to_string(&output).unwrap();
    let mut lines: Vec<u64> = outcomes
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .map(|outcome| outcome["line"].as_u64().unwrap())
        .collect();
    lines.sort_unstable();
    assert_eq!(lines, (1..=5_000).collect::<Vec<_>>());
    assert_eq!(responder.requests().len(), 5_000);
    let progress = publisher.stdout();
    assert!(
        progress.iter().any(|line| line.contains("summary")),
        "logs stay where they were"
    );
}

#[tokio::test]
async fn jobs_that_are_written_one_by_one_are_submitted_one_by_one() {
    let nats = NatsServer::start().await;
    let responder = Responder::start(&nats, |request| Some(request.outcome("succeeded"))).await;
    let (_folder, pipe) = file("pipe");
    assert!(
        Command::new("mkfifo")
            .arg(&pipe)
            .status()
            .unwrap()
            .success()
    );
    let mut publisher = publisher(&nats).arg("--input").arg(&pipe).start();
    // Opening ends when the publisher has opened it too.
    let mut input = tokio::task::spawn_blocking(move || File::create(pipe).unwrap())
        .await
        .unwrap();
    for number in 1..=3 {
        writeln!(input, r#"{{"kind":"a"}}"#).unwrap();
        responder.asked(number).await;
    }
    drop(input);
    assert!(publisher.wait().await.success());
}

#[tokio::test]
async fn a_large_input_needs_little_memory() {
    let nats = NatsServer::start().await;
    let _responder = Responder::start(&nats, |request| Some(request.outcome("succeeded"))).await;
    let (mut lines, line) = (
        0,
        format!(r#"{{"kind":"a","payload":"{}"}}"#, "x".repeat(200_000)),
    );
    let (_folder, input) = file_of(std::iter::from_fn(|| {
        lines += 1;
        (lines <= 600).then(|| line.clone())
    }));
    let mut publisher = publisher(&nats)
        .arg("--input")
        .arg(&input)
        .args(["--in-flight", "8", "--grace", "1s"])
        .env("LOG_FORMAT", "json")
        .start();
    let mut peak = 0;
    // The last moment is when it has exited and is not waited for yet, so the figure is read as
    // long as there is one.
    while publisher
        .stdout()
        .iter()
        .all(|line| !line.contains("summary"))
    {
        let status = std::fs::read_to_string(format!("/proc/{}/status", publisher.id()));
        let kilobytes = status.ok().and_then(|status| {
            let line = status
                .lines()
                .find(|line| line.starts_with("VmHWM:"))?
                .to_owned();
            line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
        });
        peak = peak.max(kilobytes.unwrap_or_default());
        tokio::task::yield_now().await;
    }
    assert!(publisher.wait().await.success());
    assert!(
        (1..60_000).contains(&peak),
        "{peak} kB for an input of 120,000 kB"
    );
}

#[tokio::test]
async fn fire_and_forget_jobs_are_all_published_without_a_reply_subject() {
    let nats = NatsServer::start().await;
    let responder = Responder::start(&nats, |_| None).await;
    let mut lines = vec![format!(r#"{{"kind":"a",{AT_ONCE}}}"#); 20_000];
    lines.push("oops".to_owned());
    let publisher = publisher(&nats)
        .args(["--input", "-", "--delivery", "fire-and-forget"])
        .input(lines.join("\n"));
    let (code, ..) = {
        let mut publisher = publisher.start();
        let status = publisher.wait().await;
        let summary = logged(&publisher, "summary");
        assert!(
            summary.contains("submitted=20000 sent=20000 failed=0"),
            "{summary}"
        );
        (status.code(), ())
    };
    assert_eq!(code, Some(1), "there was a bad line");
    responder.asked(20_000).await;
    assert!(responder.requests().iter().all(|it| it.reply.is_none()));
}
