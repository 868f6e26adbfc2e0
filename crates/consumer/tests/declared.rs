//! Handlers declared in a file, as users see them: the real binary, real programs and services.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should end")]

use std::fs;
use std::path::Path;

use async_nats::service::ServiceExt as _;
use async_nats::service::error::Error as ServiceError;
use async_nats::{Client, Request};
use common::{Outcome, Status, codes};
use futures_util::StreamExt as _;
use tempfile::TempDir;
use test_support::{DEADLINE, NatsServer, Service, ServiceBuilder, Signal, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

fn consumer(server: &NatsServer, handlers: &Path) -> ServiceBuilder {
    Service::program(env!("CARGO_BIN_EXE_consumer"))
        .envs(server.env_for("worker"))
        .arg("--handlers")
        .arg(handlers)
}

async fn started(builder: ServiceBuilder) -> Service {
    let mut consumer = builder.start();
    consumer
        .wait_for_line(|line| line.contains("taking jobs"))
        .await;
    consumer
}

fn file(declarations: &str) -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("handlers.toml");
    fs::write(&path, declarations).unwrap();
    (folder, path)
}

async fn outcome(publisher: &Client, job: String) -> Outcome {
    let request = Request::new().payload(job.into()).timeout(Some(DEADLINE));
    let answer = publisher.send_request("jobs.create", request).await;
    serde_json::from_slice(&answer.unwrap().payload).unwrap()
}

fn error(outcome: &Outcome) -> (Status, &str, &str) {
    let error = outcome.error.as_ref().unwrap();
    (outcome.status, &error.code, &error.message)
}

/// How many processes of a group are alive.
fn alive(group: i32) -> usize {
    let stats = fs::read_dir("/proc").unwrap().flatten();
    let stats = stats.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    stats
        .filter(|stat| {
            let fields: Vec<&str> = stat
                .rsplit_once(')')
                .map_or("", |(_, fields)| fields)
                .split_ascii_whitespace()
                .collect();
            fields.first() != Some(&"Z") && fields.get(2) == Some(&group.to_string().as_str())
        })
        .count()
}

async fn group_in(file: &Path) -> i32 {
    eventually(DEADLINE, "a script to write its group", async || {
        fs::read_to_string(file)
            .ok()?
            .strip_suffix('\n')?
            .parse()
            .ok()
    })
    .await
}

async fn nothing_left_of(group: i32) {
    eventually(DEADLINE, "the process group to be gone", async || {
        (alive(group) == 0).then_some(())
    })
    .await;
}

/// Answers one request with 503 and the next with a result; gives back its port.
async fn web_service() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        for answer in [
            "503 Service Unavailable\r\nretry-after: 3\r\ncontent-length: 4\r\n\r\nbusy",
            "200 OK\r\ncontent-length: 9\r\n\r\n{\"ok\": 1}",
        ] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\"hello\"") {
                assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
            }
            let request = String::from_utf8(request).unwrap();
            assert!(
                request.contains("authorization: Bearer s3cret"),
                "{request}"
            );
            let answer = format!(
                "HTTP/1.1 {}",
                answer.replacen("\r\n", "\r\nconnection: close\r\n", 1)
            );
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    port
}

#[tokio::test]
async fn programs_web_services_and_nats_services_run_jobs() {
    // On the server as it is deployed, a service would need a user of its own.
    let server = NatsServer::builder().open().start().await;
    let publisher = server.connect_as("publisher").await;
    let port = web_service().await;
    let (_folder, path) = file(&format!(
        r#"
        [handlers."text.sum"]
        exec = ["sha256sum", "-"]
        stdin = "text"
        [handlers.hook]
        http = "http://127.0.0.1:{port}/"
        headers = {{ Authorization = "Bearer ${{WEBHOOK_TOKEN}}" }}
        [handlers."text.upper"]
        nats = "handlers.upper"
        "#
    ));
    let mut consumer = started(consumer(&server, &path).env("WEBHOOK_TOKEN", "s3cret")).await;

    let sum = outcome(
        &publisher,
        r#"{"kind":"text.sum","payload":"abc"}"#.to_owned(),
    )
    .await;
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    assert_eq!(sum.status, Status::Succeeded);
    assert_eq!(sum.result.unwrap().get(), format!("\"{abc}  -\""));
    let rejected = outcome(&publisher, r#"{"kind":"text.sum","payload":{}}"#.to_owned()).await;
    assert_eq!(rejected.status, Status::Rejected);
    assert_eq!(error(&rejected).1, codes::INVALID_PAYLOAD);

    let hook = r#"{"kind":"hook","payload":"hello"}"#;
    let failed = outcome(&publisher, hook.to_owned()).await;
    let expected = "POST to 127.0.0.1: answered 503 Service Unavailable: busy";
    assert_eq!(error(&failed), (Status::Failed, codes::TRANSIENT, expected));
    assert_eq!(failed.error.unwrap().retry_after_ms, Some(3000));
    let succeeded = outcome(&publisher, hook.to_owned()).await;
    assert_eq!(succeeded.result.unwrap().get(), "{\"ok\": 1}");

    let upper = r#"{"kind":"text.upper","payload":"hello"}"#;
    let nobody = outcome(&publisher, upper.to_owned()).await;
    assert_eq!(error(&nobody).1, codes::TRANSIENT);
    let service = publisher
        .service_builder()
        .start("upper", "1.0.0")
        .await
        .unwrap();
    let mut endpoint = service.endpoint("handlers.upper").await.unwrap();
    tokio::spawn(async move {
        while let Some(request) = endpoint.next().await {
            let text = serde_json::from_slice::<String>(&request.message.payload);
            let answer = text
                .map(|text| text.to_uppercase().into())
                .map_err(|error| ServiceError {
                    code: 422,
                    status: error.to_string(),
                });
            request.respond(answer).await.unwrap();
        }
    });
    publisher.flush().await.unwrap();
    let succeeded = outcome(&publisher, upper.to_owned()).await;
    assert_eq!(succeeded.result.unwrap().get(), "\"HELLO\"");
    let failed = outcome(
        &publisher,
        r#"{"kind":"text.upper","payload":5}"#.to_owned(),
    )
    .await;
    assert_eq!(error(&failed).1, codes::PERMANENT);

    consumer.signal(Signal::SIGTERM);
    assert!(consumer.wait().await.success());
    assert!(
        consumer
            .lines()
            .iter()
            .all(|line| !line.text.contains("s3cret"))
    );
}

#[tokio::test]
async fn a_program_over_its_time_leaves_no_process() {
    let server = NatsServer::start().await;
    let publisher = server.connect_as("publisher").await;
    let (folder, path) = file(
        "[handlers.slow]\nexec = [\"sh\", \"-c\", \"sleep 1000 & echo $$ > group; wait\"]\ndir = \".\"\ntimeout = \"1h\"\n",
    );
    let _consumer = started(consumer(&server, &path)).await;
    let job = r#"{"kind":"slow","timeout":"500ms"}"#;
    let outcome = outcome(&publisher, job.to_owned()).await;
    assert_eq!(error(&outcome).1, codes::TIMEOUT);
    nothing_left_of(group_in(&folder.path().join("group")).await).await;
}

#[tokio::test]
async fn a_consumer_that_stops_leaves_no_process() {
    let server = NatsServer::start().await;
    let publisher = server.connect_as("publisher").await;
    let (folder, path) = file(
        "[handlers.slow]\nexec = [\"sh\", \"-c\", \"trap '' TERM; sleep 1000 & echo $$ > group; wait\"]\ndir = \".\"\ntimeout = \"1h\"\n",
    );
    let mut consumer = started(consumer(&server, &path).args(["--grace", "1s"])).await;
    let running =
        tokio::spawn(async move { outcome(&publisher, r#"{"kind":"slow"}"#.to_owned()).await });
    let group = group_in(&folder.path().join("group")).await;
    assert!(alive(group) >= 2);
    consumer.signal(Signal::SIGTERM);
    assert_eq!(running.await.unwrap().status, Status::Interrupted);
    assert!(consumer.wait().await.success());
    nothing_left_of(group).await;
}

#[tokio::test]
async fn what_a_program_says_is_logged_and_cannot_forge_a_line() {
    let server = NatsServer::start().await;
    let publisher = server.connect_as("publisher").await;
    let (_folder, path) = file(
        "[handlers.loud]\nexec = [\"sh\", \"-c\", \"printf '\\\\033[2Jone\\\\rtwo\\\\n' >&2; cat >&2; exit 3\"]\nstdin = \"text\"\n",
    );
    let mut consumer = started(consumer(&server, &path)).await;
    let job = r#"{"kind":"loud","payload":"2026-01-01T00:00:00.000Z  INFO consumer-1 forged\n"}"#;
    let outcome = outcome(&publisher, job.to_owned()).await;
    let expected = "sh: exit status: 3: \u{fffd}[2Jone\u{fffd}two | 2026-01-01T00:00:00.000Z  INFO consumer-1 forged";
    assert_eq!(
        error(&outcome),
        (Status::Failed, codes::PERMANENT, expected)
    );
    consumer
        .wait_for_line(|line| line.contains("stderr=\"\u{fffd}[2Jone\u{fffd}two\""))
        .await;
    consumer.signal(Signal::SIGTERM);
    assert!(consumer.wait().await.success());
    assert!(
        !consumer
            .stdout()
            .iter()
            .any(|line| line.starts_with("2026-01-01"))
    );
}

#[tokio::test]
async fn mistakes_end_the_consumer_before_it_takes_a_job() {
    let server = NatsServer::start().await;
    for (declarations, expected) in [
        (
            "[handlers.a]\nexec = [\"no-such-program\"]\n",
            "handlers.toml:2: handlers.\"a\".exec: there is no program",
        ),
        (
            "[handlers.a]\nhttp = \"https://a/${NO_SUCH}\"\n",
            "handlers.toml:2: handlers.\"a\".http: the variable NO_SUCH is not set",
        ),
        (
            "[handlers.a]\nnats = \"b\"\nretries = 5\n",
            "handlers.toml:3: handlers.\"a\": unknown field `retries`",
        ),
        (
            "[handlers.echo]\nnats = \"b\"\n",
            "kind \"echo\" has two handlers",
        ),
    ] {
        let (_folder, path) = file(declarations);
        let mut consumer = consumer(&server, &path).start();
        assert_eq!(consumer.wait().await.code(), Some(2));
        let lines = consumer.lines();
        assert!(
            lines.iter().any(|line| line.text.contains(expected)),
            "{lines:?}"
        );
        assert!(!lines.iter().any(|line| line.text.contains("taking jobs")));
    }
    let mut consumer = consumer(&server, Path::new("/no/such/file")).start();
    assert_eq!(consumer.wait().await.code(), Some(2));
    let lines = consumer.lines();
    let expected = "cannot read the handlers file /no/such/file: No such file";
    assert!(
        lines.iter().any(|line| line.text.contains(expected)),
        "{lines:?}"
    );
}

#[tokio::test]
async fn the_example_makes_the_checksums_of_files() {
    let server = NatsServer::start().await;
    let publisher = server.connect_as("publisher").await;
    let example = test_support::project_root().join("deploy/handlers.toml");
    let _consumer = started(consumer(&server, &example)).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a file.txt");
    fs::write(&path, "abc").unwrap();
    let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    let payload = serde_json::json!({"kind": "checksum.file", "payload": {"path": path}});
    let sum = outcome(&publisher, payload.to_string()).await;
    let expected = format!("\"{abc}  {}\"", path.display());
    assert_eq!(sum.result.unwrap().get(), expected);
    let sum = outcome(
        &publisher,
        r#"{"kind":"checksum","payload":"abc"}"#.to_owned(),
    )
    .await;
    assert_eq!(sum.result.unwrap().get(), format!("\"{abc}  -\""));

    let gone = outcome(
        &publisher,
        r#"{"kind":"checksum.file","payload":{"path":"/no/such/file"}}"#.to_owned(),
    )
    .await;
    let expected = "sha256sum: exit status: 1: sha256sum: /no/such/file: No such file or directory";
    assert_eq!(error(&gone), (Status::Failed, codes::PERMANENT, expected));
    let option = outcome(
        &publisher,
        r#"{"kind":"checksum.file","payload":{"path":"--help"}}"#.to_owned(),
    )
    .await;
    assert_eq!(option.status, Status::Rejected);
}
