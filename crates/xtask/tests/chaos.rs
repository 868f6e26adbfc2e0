//! A short run of the chaos suite, with other jobs and faults at each commit:
//! `cargo test --package xtask --test chaos -- --ignored`.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use test_support::project_root;

/// Enough for some ten faults. With all that comes after them, the test takes a minute and a half.
const SECONDS: &str = "20";

/// Runs `cargo xtask chaos`.
fn chaos(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xtask"));
    command.arg("chaos").args(arguments).output().unwrap()
}

/// The seed of this commit; 1 outside of a repository.
fn seed() -> String {
    let mut git = Command::new("git");
    let commit = git
        .args(["rev-parse", "HEAD"])
        .current_dir(project_root())
        .output();
    let commit = commit
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| String::from_utf8(output.stdout).ok());
    let first = commit.as_deref().and_then(|commit| commit.get(..8));
    let seed = first.and_then(|digits| u64::from_str_radix(digits, 16).ok());
    seed.unwrap_or(1).to_string()
}

/// The history without the records of one job that succeeded: it looks as if that job was lost.
fn without_a_job(history: &str) -> (String, String) {
    let event = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap();
    let lost = history
        .lines()
        .map(event)
        .find(|event| event["event"] == "record" && event["state"] == "succeeded");
    let lost = lost.expect("a job succeeded")["id"].clone();
    let rest = history.split_inclusive('\n').filter(|line| {
        let event = event(line);
        event["event"] != "record" || event["id"] != lost
    });
    (rest.collect(), lost.as_str().unwrap().to_owned())
}

fn file(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
#[ignore = "takes two minutes, and needs a machine that is not busy"]
fn a_run_keeps_all_promises_and_a_forged_history_of_it_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let history = folder.path().join("history.ndjson");
    let seed = seed();
    let arguments = ["--seed", &seed, "--seconds", SECONDS];
    let run = chaos(&[&arguments[..], &["--history", file(&history)]].concat());
    let out = String::from_utf8_lossy(&run.stdout);
    println!("{out}");
    if !run.status.success() {
        let logs = fs::read_to_string(history.with_extension("log"));
        println!("{}", logs.unwrap_or_default());
        panic!(
            "the run with seed {seed} failed: {}",
            String::from_utf8_lossy(&run.stderr)
        );
    }
    assert!(out.contains("were lost on purpose"), "{out}");

    let again = chaos(&["--check", file(&history)]);
    assert!(again.status.success());
    let verdict = String::from_utf8_lossy(&again.stdout);
    assert!(!verdict.is_empty() && out.contains(&*verdict), "{verdict}");

    let (forged, lost) = without_a_job(&fs::read_to_string(&history).unwrap());
    fs::write(&history, forged).unwrap();
    let checked = chaos(&["--check", file(&history)]);
    assert_eq!(checked.status.code(), Some(1));
    let verdict = String::from_utf8_lossy(&checked.stdout);
    assert!(verdict.contains(&lost), "{verdict}");
}
