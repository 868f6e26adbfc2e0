//! Completion in bash, as its user sees it.

use serde_json::json;
use test_support::{Service, bury, put_record};

use crate::support::{Desk, Told, end_of, jobs};

/// What bash offers for the last of these words.
async fn offered(desk: &Desk, words: &[&str]) -> Vec<String> {
    const COMPLETE: &str = r#"
        eval "$("$JOBS" completions bash)"
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMP_TYPE=9
        _clap_complete_jobs jobs "${COMP_WORDS[COMP_CWORD]}"
        printf '%s\n' "${COMPREPLY[@]}"
    "#;
    let bash = Service::program("/bin/bash")
        .args(["-c", COMPLETE, "bash", "jobs"])
        .args(words)
        .env("JOBS", env!("CARGO_BIN_EXE_jobs"))
        .envs(desk.nats.env_for("operator"));
    let Told { code, out, err } = end_of(bash).await;
    assert_eq!((code, err.as_str()), (0, ""), "{out}");
    let lines = out.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn kinds_and_ids_are_offered_where_a_command_takes_them() {
    let desk = Desk::new().await;
    let queued = desk.submit(r#"{"kind":"mail.send"}"#).await.to_string();
    desk.submit(r#"{"kind":"report"}"#).await;
    let dead = common::JobId::generate().to_string();
    bury(&desk.worker, &dead, "mail.send", "permanent", "no").await;
    let ended = common::JobId::generate().to_string();
    put_record(&desk.worker, &ended, json!({"state": "succeeded"})).await;

    let of = async |words: &[&str]| offered(&desk, words).await;
    assert_eq!(of(&["que"]).await, ["queues"]);
    assert!(of(&["list", "--"]).await.contains(&"--state".to_owned()));
    assert_eq!(of(&["list", "--kind", "ma"]).await, ["mail.send"]);
    assert_eq!(of(&["submit", "--kind", "re"]).await, ["report"]);
    for command in ["info", "wait", "cancel"] {
        let ids = of(&[command, ""]).await;
        for id in [&queued, &dead, &ended] {
            assert!(ids.contains(id), "{command}: {ids:?}");
        }
    }
    assert_eq!(of(&["info", &queued[..30]]).await, [queued.as_str()]);
    let flags = |word: &String| word.starts_with("--");
    let mut words = of(&["dead", "show", ""]).await;
    words.retain(|word| !flags(word));
    assert_eq!(words, [dead.as_str()]);
    // A new job has a new id.
    assert!(of(&["submit", "--id", ""]).await.iter().all(flags));
}

#[tokio::test]
async fn without_nats_nothing_is_offered_and_nothing_is_printed() {
    let script = "JOBS_COMPLETE=bash _CLAP_COMPLETE_INDEX=2 exec \"$0\" -- jobs info ''";
    let bash = Service::program("/bin/bash")
        .args(["-c", script, env!("CARGO_BIN_EXE_jobs")])
        .env("NATS_URL", "nats://127.0.0.1:1");
    let Told { code, out, err } = end_of(bash).await;
    assert_eq!((code, err.as_str()), (0, ""));
    assert!(out.contains("--json") && !out.contains("error"), "{out}");
    assert_eq!(end_of(jobs(&["completions", "tcsh"])).await.code, 2);
}
