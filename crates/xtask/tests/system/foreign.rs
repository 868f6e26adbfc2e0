//! Programs in another language take part, as users of their own, by what `deploy/nats.conf` says.

use std::collections::BTreeSet;
use std::fs;

use common::{ConsumerState, ConsumerStatus, Outcome, Status, codes};
use test_support::{DEADLINE, NatsServer, Service, ServiceBuilder, eventually, project_root};

use crate::fixture::{Fixture, processed};
use crate::raw_client::{Login, RawClient};

const BILLING: &str = "billingPasswordOfThisTest";
const RESIZER: &str = "resizerPasswordOfThisTest";

/// A server with the users that comments of `deploy/nats.conf` propose for other programs.
async fn server() -> NatsServer {
    let configuration = fs::read_to_string(project_root().join("deploy/nats.conf")).unwrap();
    let (comments, accounts) = configuration.split_once("\naccounts {").unwrap();
    let proposed = |user: &str, password: &str| {
        let start = format!("{{ user: {user},");
        let lines = comments
            .lines()
            .map(|line| line.trim_start_matches('#'))
            .skip_while(|line| !line.contains(&start));
        let mut lines: Vec<&str> = lines.take_while(|line| !line.trim().is_empty()).collect();
        assert!(lines.len() == 3, "what is proposed for {user}: {lines:?}");
        lines.push("");
        let variable = format!("$NATS_{}_PASSWORD", user.to_uppercase());
        let lines = lines.join("\n");
        assert!(lines.contains(&variable), "{lines}");
        lines.replace(&variable, password)
    };
    let more = proposed("billing", BILLING) + &proposed("resizer", RESIZER);
    let accounts = accounts.replacen("users = [\n", &format!("users = [\n{more}"), 1);
    assert!(accounts.contains(BILLING));
    // The inbox that the comments add to what workers may publish.
    let mut lines = comments
        .lines()
        .map(|line| line.trim_start_matches('#').trim());
    let is_entry = |line: &&str| line.starts_with("\"_INBOX.") && line.ends_with(".>\"");
    let inbox = lines.find(is_entry).expect("an inbox is proposed");
    let answers = "\"_INBOX_application.>\", \"_INBOX_status.>\"";
    assert_eq!(accounts.matches(answers).count(), 1);
    let accounts = accounts.replacen(answers, &format!("{answers}, {inbox}"), 1);
    NatsServer::builder()
        .config(&format!("accounts {{{accounts}"))
        .start()
        .await
}

fn login(user: &str, password: &str) -> Login {
    Login {
        user: user.to_owned(),
        password: password.to_owned(),
    }
}

/// The script beside this file, in one of its roles.
fn client(server: &NatsServer, login: &Login, inbox_prefix: &str) -> ServiceBuilder {
    let command = test_support::python();
    let script = project_root().join("crates/xtask/tests/system/client.py");
    let mut builder = Service::program(command.get_program())
        .arg(script)
        .env("NATS_URL", server.url())
        .env("NATS_USER", &login.user)
        .env("NATS_PASSWORD", &login.password)
        .env("NATS_INBOX_PREFIX", inbox_prefix);
    for (name, value) in command.get_envs() {
        builder = builder.env(name, value.unwrap_or_default());
    }
    builder
}

fn billing(server: &NatsServer) -> ServiceBuilder {
    client(server, &login("billing", BILLING), "_INBOX.billing")
}

/// Submits jobs one after the other; what it printed, a line for each.
async fn submit(client: ServiceBuilder, jobs: &[&str]) -> Vec<String> {
    let mut client = client.arg("submit").input(jobs.join("\n")).start();
    assert_eq!(client.wait().await.code(), Some(0));
    assert_eq!(client.stdout().len(), jobs.len());
    client.stdout()
}

fn outcome(line: &str) -> Outcome {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("no outcome ({error}): {line}"))
}

#[tokio::test]
async fn a_python_program_submits_jobs_and_asks_all_consumers_how_they_are() {
    let fixture = Fixture::on(server().await).await;
    let submitted = submit(billing(&fixture.server), &[r#"{"kind": "echo"}"#]).await;
    assert_eq!(submitted, [r#""nobody is there""#]);

    let _one = fixture.consumer("one", &[]).await;
    let _two = fixture.consumer("two", &[]).await;
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let jobs = [
        &format!(r#"{{"id": "{id}", "kind": "echo", "payload": {{"grüße": [1, 2.50, null]}}}}"#),
        r#"{"kind": "sha256", "payload": {"text": "abc"}}"#,
        r#"{"kind": "fail", "payload": {"message": "no", "permanent": true}}"#,
        r#"{"kind": "nobody.serves"}"#,
        r#"{"kind": "echo", "timeout": 30}"#,
        "no JSON at all",
    ];
    let submitted = submit(billing(&fixture.server), &jobs).await;
    let outcomes: Vec<Outcome> = submitted.iter().map(|line| outcome(line)).collect();
    let told: Vec<_> = outcomes
        .iter()
        .map(|it| (it.status, it.error.as_ref().map_or("", |error| &error.code)))
        .collect();
    assert_eq!(
        told,
        [
            (Status::Succeeded, ""),
            (Status::Succeeded, ""),
            (Status::Failed, codes::PERMANENT),
            (Status::Rejected, codes::UNKNOWN_KIND),
            (Status::Rejected, codes::INVALID_JOB),
            (Status::Rejected, codes::INVALID_JSON),
        ]
    );
    assert_eq!(outcomes[0].id, id.parse().ok());
    let echo: serde_json::Value =
        serde_json::from_str(outcomes[0].result.as_ref().unwrap().get()).unwrap();
    assert_eq!(echo, serde_json::json!({"grüße": [1, 2.50, null]}));
    let hash = outcomes[1].result.as_ref().unwrap().get();
    assert!(hash.contains("ba7816bf8f01cfea414140de5dae2223"), "{hash}");
    // The client said for each which attempt it is.
    let attempts: Vec<_> = outcomes.iter().map(|outcome| outcome.attempt).collect();
    assert_eq!(attempts, [1, 2, 3, 4, 5, 6]);

    let mut publish = billing(&fixture.server)
        .arg("publish")
        .input("{\"kind\": \"echo\"}\n".repeat(20))
        .start();
    assert_eq!(publish.wait().await.code(), Some(0));
    let all = jobs.len() as u64 + 20;
    eventually(DEADLINE, "all jobs to be done", async || {
        let statuses = fixture.statuses(2).await;
        (processed(statuses.values()) == all).then_some(())
    })
    .await;

    let status = Login::of(&fixture.server, "status");
    let mut gather = client(&fixture.server, &status, "_INBOX_status")
        .args(["gather", "2"])
        .start();
    assert_eq!(gather.wait().await.code(), Some(0));
    let answers = gather.stdout();
    let answers: Vec<ConsumerStatus> = answers
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let names: BTreeSet<&str> = answers.iter().map(|it| &*it.consumer).collect();
    assert_eq!(names, BTreeSet::from(["one", "two"]));
    assert_eq!(processed(&answers), all);
    assert!(
        answers
            .iter()
            .all(|it| it.state == ConsumerState::Running && it.waiting == 0)
    );
}

#[tokio::test]
async fn a_python_program_runs_the_jobs_of_a_nats_handler() {
    let fixture = Fixture::on(server().await).await;
    let handlers = fixture.handlers(
        r#"
        [handlers."image.resize"]
        nats = "handlers.resize"
        "#,
    );
    let _consumer = fixture.consumer("one", &["--handlers", &handlers]).await;
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let good = format!(r#"{{"id": "{id}", "kind": "image.resize", "payload": {{"width": 640}}}}"#);
    let bad = r#"{"kind": "image.resize", "payload": {}}"#;

    let submitted = submit(billing(&fixture.server), &[&good]).await;
    let without = outcome(&submitted[0]);
    let error = without.error.expect("nobody serves the subject yet");
    assert_eq!(
        (without.status, &*error.code),
        (Status::Failed, codes::TRANSIENT)
    );
    assert!(error.message.contains("handlers.resize"), "{error:?}");

    let mut service = client(
        &fixture.server,
        &login("resizer", RESIZER),
        // It asks nothing, so it listens on none.
        "_INBOX.resizer",
    )
    .arg("resize")
    .start();
    service.wait_for_line(|line| line == "serving").await;
    let submitted = submit(billing(&fixture.server), &[&good, bad]).await;
    let (good, bad) = (outcome(&submitted[0]), outcome(&submitted[1]));
    assert_eq!(good.status, Status::Succeeded);
    let result: serde_json::Value = serde_json::from_str(good.result.unwrap().get()).unwrap();
    assert_eq!(
        result,
        serde_json::json!({"width": 320, "job": id, "attempt": "1"})
    );
    let error = bad.error.expect("the service refuses this");
    assert_eq!(
        (bad.status, &*error.code),
        (Status::Failed, codes::PERMANENT)
    );
    assert!(error.message.contains("no width"), "{error:?}");
}

#[tokio::test]
async fn the_users_proposed_for_other_programs_may_do_no_more_than_they_need() {
    let server = server().await;
    let violation = |what: &str, subject: &str| {
        vec![format!("Permissions Violation for {what} to \"{subject}\"")]
    };
    let mut billing = RawClient::log_in(&server, Some(&login("billing", BILLING))).unwrap();
    for subject in ["jobs.create", "jobs.create.mail.send", "_INBOX.billing.a"] {
        let complaints = billing.complaints(&format!("PUB {subject} 0\r\n\r\n"));
        assert!(complaints.is_empty(), "{complaints:?}");
    }
    for subject in [
        "jobs.status",
        "_INBOX_publisher.a",
        "_INBOX.other.a",
        "handlers.resize",
    ] {
        let complaints = billing.complaints(&format!("PUB {subject} 0\r\n\r\n"));
        assert_eq!(complaints, violation("Publish", subject));
    }
    for subject in [
        "jobs.create",
        "_INBOX.>",
        "_INBOX_publisher.>",
        "_INBOX.other.>",
    ] {
        let complaints = billing.complaints(&format!("SUB {subject} 1\r\n"));
        assert_eq!(complaints, violation("Subscription", subject));
    }

    let mut resizer = RawClient::log_in(&server, Some(&login("resizer", RESIZER))).unwrap();
    let complaints = resizer.complaints("SUB handlers.resize 1\r\n");
    assert!(complaints.is_empty(), "{complaints:?}");
    for subject in [
        "handlers.>",
        "handlers.other",
        "jobs.create",
        "_INBOX_worker.>",
    ] {
        let complaints = resizer.complaints(&format!("SUB {subject} 2\r\n"));
        assert_eq!(complaints, violation("Subscription", subject));
    }
    for subject in ["jobs.create", "jobs.status", "_INBOX_publisher.a"] {
        let complaints = resizer.complaints(&format!("PUB {subject} 0\r\n\r\n"));
        assert_eq!(complaints, violation("Publish", subject));
    }
}
