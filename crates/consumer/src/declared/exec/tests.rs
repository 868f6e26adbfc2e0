use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use common::JobId;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use test_support::{DEADLINE, eventually};

use super::declaration::PATH;
use super::*;

fn handler(declaration: &str) -> Exec {
    let declaration: Declaration = toml::from_str(declaration).unwrap();
    let kind = "test.exec".parse().unwrap();
    let variables = |name: &str| (name == "TOKEN").then(|| "passed on".into());
    let handler = declaration.handler(kind, Path::new("/"), &variables);
    handler.unwrap_or_else(|mistaken| panic!("{mistaken:?}"))
}

/// A handler that runs a script of the shell, which our own code never does.
fn script(text: &str) -> Exec {
    handler(&format!("exec = [\"sh\", \"-c\", {}]", json!(text)))
}

fn attempt() -> Attempt {
    Attempt {
        id: JobId::generate(),
        number: 2,
        timeout: DEADLINE,
        trace: None,
        cancelled: None,
    }
}

/// The result as JSON, or the way of failing and the error.
async fn run(handler: &Exec, payload: &Value) -> Result<String, (&'static str, String)> {
    let payload = serde_json::value::to_raw_value(payload).unwrap();
    let call = handler.call(Some(&payload), attempt(), true);
    match timeout(DEADLINE, call).await.expect("it ends in time") {
        Ok(result) => Ok(result.map_or_else(|| "nothing".to_owned(), |it| it.get().to_owned())),
        Err(CallError::InvalidPayload(text)) => Err(("invalid", text)),
        Err(CallError::Failed(failure)) => {
            let way = if matches!(failure, Failure::Permanent(_)) {
                "permanent"
            } else {
                "transient"
            };
            Err((way, failure.to_string()))
        }
    }
}

async fn result(handler: &Exec, payload: &Value) -> String {
    run(handler, payload)
        .await
        .unwrap_or_else(|error| panic!("{error:?}"))
}

async fn failure(handler: &Exec) -> (&'static str, String) {
    run(handler, &Value::Null).await.unwrap_err()
}

/// State and group of a process, unless it is gone altogether.
fn process(stat: &Path) -> Option<(char, i32)> {
    let stat = fs::read_to_string(stat).ok()?;
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(1)?.parse().ok()?))
}

/// How many processes of a group are alive.
fn alive(group: i32) -> usize {
    let processes = fs::read_dir("/proc").unwrap().flatten();
    let processes = processes.filter_map(|entry| process(&entry.path().join("stat")));
    processes
        .filter(|(state, its)| *its == group && *state != 'Z')
        .count()
}

/// Waits until no process of a group is alive, and its leader was reaped.
async fn gone(group: i32) {
    eventually(DEADLINE, "the process group to be gone", async || {
        let leader = process(&PathBuf::from(format!("/proc/{group}/stat")));
        (alive(group) == 0 && leader.is_none()).then_some(())
    })
    .await;
}

/// The number that a script wrote.
async fn number_in(file: &Path) -> i32 {
    eventually(DEADLINE, "the script to write its number", async || {
        let text = fs::read_to_string(file).ok()?;
        text.strip_suffix('\n')?.parse().ok()
    })
    .await
}

#[tokio::test]
async fn a_program_reads_the_payload_and_writes_the_result() {
    let payload = json!({"text": "a\nb", "number": 1.5});
    assert_eq!(
        result(&handler("exec = [\"cat\"]"), &payload).await,
        payload.to_string()
    );
    assert_eq!(result(&script("echo '[1, 2]'"), &payload).await, "[1, 2]");
    assert_eq!(result(&script("echo done"), &payload).await, "\"done\"");
    assert_eq!(result(&script(":"), &payload).await, "null");
}

#[tokio::test]
async fn a_text_is_passed_on_as_it_is() {
    let sum = handler("exec = [\"sha256sum\", \"-\"]\nstdin = \"text\"");
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(result(&sum, &json!("abc")).await, format!("\"{abc}  -\""));
    let (way, error) = failure(&sum).await;
    assert_eq!(way, "invalid");
    assert!(
        error.starts_with("field `payload`: invalid type: null, expected a string"),
        "{error}"
    );
}

#[tokio::test]
async fn a_program_that_reads_nothing_is_given_nothing() {
    let cat = handler("exec = [\"cat\"]\nstdin = \"none\"");
    assert_eq!(result(&cat, &json!([1])).await, "null");
}

#[tokio::test]
async fn a_result_is_made_only_when_it_is_wanted() {
    let echo = handler("exec = [\"echo\", \"1\"]");
    assert!(echo.call(None, attempt(), false).await.unwrap().is_none());
    assert_eq!(
        result(
            &handler("exec = [\"echo\", \"1\"]\nresult = \"none\""),
            &json!(1)
        )
        .await,
        "nothing"
    );
}

#[tokio::test]
async fn the_exit_code_says_what_became_of_the_job() {
    for (code, way) in [
        (1, "permanent"),
        (2, "permanent"),
        (75, "transient"),
        (255, "permanent"),
    ] {
        let (actual, error) = failure(&script(&format!("exit {code}"))).await;
        assert_eq!((actual, error), (way, format!("sh: exit status: {code}")));
    }
    let codes = "success-codes = [3, 75]\ntransient-codes = [1]";
    let exit = |code| {
        handler(&format!(
            "exec = [\"sh\", \"-c\", \"echo ok; exit {code}\"]\n{codes}"
        ))
    };
    assert_eq!(result(&exit(3), &Value::Null).await, "\"ok\"");
    assert_eq!(result(&exit(75), &Value::Null).await, "\"ok\"");
    assert_eq!(failure(&exit(1)).await.0, "transient");
    assert_eq!(failure(&exit(0)).await.0, "permanent");
}

#[tokio::test]
async fn a_program_that_was_killed_may_do_better_next_time() {
    let (way, error) = failure(&script("kill -9 $$")).await;
    assert_eq!(
        (way, error.as_str()),
        ("transient", "sh: signal: 9 (SIGKILL)")
    );
}

#[tokio::test]
async fn the_end_of_standard_error_explains_a_failure() {
    let noisy = "i=0; while [ $i -lt 3000 ]; do echo noise >&2; i=$((i+1)); done; \
                 printf 'disk \\033[31mfull\\n2026-01-01 INFO forged line' >&2; exit 1";
    let (way, error) = failure(&script(noisy)).await;
    assert_eq!(way, "permanent");
    assert!(error.starts_with("sh: exit status: 1: …"), "{error}");
    assert!(
        error.ends_with("noise | disk \u{fffd}[31mfull | 2026-01-01 INFO forged line"),
        "{error}"
    );
    assert!(error.len() < 4096, "{} bytes", error.len());
}

#[tokio::test]
async fn output_over_the_limit_ends_the_program() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("group");
    let text = format!("echo $$ > {}; exec yes", file.display());
    let yes = handler(&format!(
        "exec = [\"sh\", \"-c\", {}]\nmax-output = \"64KiB\"",
        json!(text)
    ));
    let (way, error) = failure(&yes).await;
    assert_eq!(way, "permanent");
    assert_eq!(
        error,
        "sh: standard output is over the limit of 64KiB (`max-output`); the program was killed"
    );
    gone(number_in(&file).await).await;
}

#[tokio::test]
async fn output_up_to_the_limit_is_taken() {
    let text = |bytes| {
        let text = json!(format!("yes | tr -d '\\n' | head -c {bytes}"));
        handler(&format!(
            "exec = [\"sh\", \"-c\", {text}]\nmax-output = \"100KiB\""
        ))
    };
    assert_eq!(result(&text(102_400), &Value::Null).await.len(), 102_402);
    assert_eq!(failure(&text(102_401)).await.0, "permanent");
}

#[tokio::test]
async fn binary_output_is_a_failure_that_says_so() {
    let (way, error) = failure(&script(
        "head -c 4096 /dev/urandom; head -c 100 /dev/urandom >&2",
    ))
    .await;
    assert_eq!(way, "permanent");
    assert!(
        error.starts_with("standard output is not UTF-8 text"),
        "{error}"
    );
}

#[tokio::test]
async fn a_program_need_not_read_its_input() {
    let large = json!("x".repeat(1 << 20));
    assert_eq!(result(&script("echo done"), &large).await, "\"done\"");
    assert_eq!(
        result(&script("exec <&-; echo done"), &large).await,
        "\"done\""
    );
    assert_eq!(result(&script("head -c 3"), &large).await, "\"\\\"xx\"");
    // It is read while the output is: neither waits for the other.
    assert_eq!(
        result(&handler("exec = [\"cat\"]\nmax-output = \"2MiB\""), &large).await,
        large.to_string()
    );
}

#[tokio::test]
async fn a_program_that_closes_its_pipes_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("late");
    let text = format!(
        "exec <&- >&- 2>&-; sleep 0.3; touch {}; exit 75",
        file.display()
    );
    assert_eq!(failure(&script(&text)).await.0, "transient");
    assert!(file.exists());
}

#[tokio::test]
async fn what_a_program_leaves_behind_is_killed() {
    // The first keeps the output open, the second does not.
    for keeping in ["", " >/dev/null 2>&1 </dev/null"] {
        let text = format!("sleep 1000{keeping} & echo $$");
        let group: i32 = result(&script(&text), &Value::Null).await.parse().unwrap();
        gone(group).await;
    }
}

#[tokio::test]
async fn what_is_written_shortly_after_the_exit_is_taken() {
    let text = "(sleep 0.1; echo late) & echo early";
    assert_eq!(
        result(&script(text), &Value::Null).await,
        "\"early\\nlate\""
    );
}

#[tokio::test]
async fn a_process_that_left_the_group_holds_nothing_up() {
    let text = result(&script("setsid sleep 1000 & echo $!"), &Value::Null).await;
    let escaped = text.parse().ok().and_then(Pid::from_raw).unwrap();
    kill_process(escaped, Signal::KILL).expect("it is still there");
}

#[tokio::test]
async fn an_attempt_that_is_given_up_leaves_no_process() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("group");
    let text = format!(
        "trap '' TERM; sleep 1000 & (sleep 1000 & sleep 1000) & echo $$ > {}; wait",
        file.display()
    );
    let handler = script(&text);
    let mut call = handler.call(None, attempt(), true);
    let group = tokio::select! {
        _ = &mut call => panic!("it ended by itself"),
        group = number_in(&file) => group,
    };
    assert!(alive(group) >= 2);
    drop(call);
    gone(group).await;
}

#[tokio::test]
async fn a_program_has_no_variables_but_those_that_are_listed() {
    let env = handler("exec = [\"env\"]\nenv = [\"TOKEN\", \"MODE=fast\"]");
    let attempt = attempt();
    let payload = env
        .call(None, attempt.clone(), true)
        .await
        .unwrap()
        .unwrap();
    let lines: String = serde_json::from_str(payload.get()).unwrap();
    let lines: BTreeSet<&str> = lines.lines().collect();
    let id = format!("JOB_ID={}", attempt.id);
    let path = format!("PATH={PATH}");
    let expected = [
        "JOB_ATTEMPT=2",
        &id,
        "JOB_KIND=test.exec",
        "MODE=fast",
        &path,
        "TOKEN=passed on",
    ];
    assert_eq!(lines, expected.into());
}

#[tokio::test]
async fn a_program_runs_in_its_folder_and_may_be_named_relative_to_the_file() {
    assert_eq!(
        result(&handler("exec = [\"pwd\"]"), &Value::Null).await,
        "\"/\""
    );
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("inner")).unwrap();
    std::os::unix::fs::symlink("/bin/pwd", dir.path().join("tool")).unwrap();
    let declaration: Declaration = toml::from_str("exec = [\"./tool\"]\ndir = \"inner\"").unwrap();
    let handler = declaration
        .handler("test".parse().unwrap(), dir.path(), &|_| None)
        .unwrap();
    let inner = dir.path().canonicalize().unwrap().join("inner");
    assert_eq!(
        result(&handler, &Value::Null).await,
        format!("\"{}\"", inner.display())
    );
}

#[tokio::test]
async fn a_field_of_the_payload_is_one_argument_whatever_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let odd = dir.path().join("a b; $(touch pwned) \"'*\n.txt");
    fs::write(&odd, "abc").unwrap();
    let count = handler("exec = [\"wc\", \"-c\", \"--\", \"{payload.path}\"]\nstdin = \"none\"");
    let text = result(&count, &json!({"path": odd})).await;
    assert!(text.starts_with("\"3 "), "{text}");
    for payload in [
        json!({}),
        json!({"path": ["a"]}),
        json!({"path": "--help"}),
        json!(7),
    ] {
        let (way, error) = run(&count, &payload).await.unwrap_err();
        assert_eq!(way, "invalid");
        assert!(error.starts_with("field `payload.path`"), "{error}");
    }
}

#[tokio::test]
async fn an_argument_that_is_too_long_is_too_long_every_time() {
    let echo = handler("exec = [\"echo\", \"{payload}\"]");
    let (way, error) = run(&echo, &json!("x".repeat(200_000))).await.unwrap_err();
    assert_eq!(way, "permanent");
    assert!(error.starts_with("cannot start /"), "{error}");
}

#[tokio::test]
async fn a_program_that_is_gone_may_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let tool = dir.path().join("tool");
    std::os::unix::fs::symlink("/bin/true", &tool).unwrap();
    let handler = handler(&format!("exec = [{}]", json!(tool)));
    fs::remove_file(&tool).unwrap();
    let (way, error) = failure(&handler).await;
    assert_eq!(way, "transient");
    assert!(
        error.starts_with(&format!("cannot start {}: No such file", tool.display())),
        "{error}"
    );
    std::os::unix::fs::symlink("/bin/true", &tool).unwrap();
    assert_eq!(result(&handler, &Value::Null).await, "null");
}

#[tokio::test]
async fn many_programs_at_a_time_all_end_and_are_reaped() {
    let handler = script("echo $$");
    let calls = (0..40).map(|_| handler.call(None, attempt(), true));
    for result in futures_util::future::join_all(calls).await {
        gone(result.unwrap().unwrap().get().parse().unwrap()).await;
    }
}
