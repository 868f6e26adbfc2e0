//! What can be said to it, and what it says of itself.

use crate::support::{end_of, jobs};

async fn help(args: &[&str]) -> String {
    let told = end_of(jobs(args).env("COLUMNS", "100")).await;
    assert_eq!(told.code, 0, "{}", told.err);
    told.out
}

#[tokio::test]
async fn the_help_documents_each_command_and_flag() {
    insta::assert_snapshot!("help", help(&["--help"]).await);
    for command in ["submit", "cancel", "list", "top"] {
        insta::assert_snapshot!(format!("help_{command}"), help(&[command, "-h"]).await);
    }
    insta::assert_snapshot!("help_dead_replay", help(&["dead", "replay", "-h"]).await);
}

#[tokio::test]
async fn it_says_its_version() {
    let version = format!("jobs {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(help(&["--version"]).await, version);
}

#[tokio::test]
async fn the_completions_of_each_shell_call_this_program() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = help(&["completions", shell]).await;
        for word in ["JOBS_COMPLETE", env!("CARGO_BIN_EXE_jobs")] {
            assert!(script.contains(word), "{shell}: {word}");
        }
    }
}

#[tokio::test]
async fn the_manual_has_a_section_for_each_command() {
    let page = help(&["man"]).await;
    assert!(page.contains(".TH jobs 1"), "{page}");
    for section in ["SUBMIT", "QUEUES", "DEAD", "DEAD REPLAY", "TOP", "MAN"] {
        let title = format!(".SH \"JOBS {section}\"");
        assert!(page.contains(&title), "{title}");
    }
    assert!(page.contains("NATS_URL"), "{page}");
}

#[tokio::test]
async fn a_mistake_on_the_command_line_ends_with_2_and_is_named() {
    for (args, word) in [
        (&[][..], "Usage"),
        (&["info"], "<ID>"),
        (&["info", "not-an-id"], "not-an-id"),
        (&["submit"], "--kind"),
        (&["submit", "--kind", "a b"], "invalid kind"),
        (&["submit", "--kind", "a", "--payload", "{"], "not JSON"),
        (
            &["submit", "--kind", "a", "--priority", "urgent"],
            "high, normal, low",
        ),
        (&["submit", "--kind", "a", "--run-at", "soon"], "RFC 3339"),
        (
            &["submit", "--kind", "a", "--max-attempts", "0"],
            "--max-attempts",
        ),
        (&["list", "--state", "bored"], "succeeded"),
        (&["cancel"], "--kind"),
        (&["cancel", "--state", "succeeded"], "retrying"),
        (&["list", "--cursor", "x"], "--cursor"),
        (&["list", "--limit", "0"], "--limit"),
        (&["top", "--interval", "1ms"], "100ms"),
        (&["dead"], "replay"),
        (&["dead", "replay"], "<ID|--all>"),
        (&["dead", "replay", "--all", "--payload", "1"], "--payload"),
        (&["dead", "replay", "--all", "--rate", "0"], "--rate"),
        (&["dead", "list", "--reason", "boredom"], "no_handler"),
        (&["dead", "discard"], "<ID|--all>"),
        (&["completions", "tcsh"], "powershell"),
    ] {
        let told = end_of(jobs(args)).await;
        assert_eq!(told.code, 2, "{args:?}: {}", told.err);
        assert!(told.err.contains(word), "{args:?}: {}", told.err);
    }
}
