//! Who is let in, and what the scopes allow.

use std::fs;
use std::io::Write as _;

use reqwest::Method;
use test_support::{DEADLINE, NatsServer, Service, eventually};

use crate::support::{Gateway, send, streams_without_consumer};

const TOKENS: &str = r#"
[[token]]
name = "looker"
token = "token-of-the-reader-1"
scopes = ["read"]

[[token]]
name = "sender"
token = "token-of-the-sender-1"
scopes = ["submit"]

[[token]]
name = "operator"
# The SHA-256 of token-of-the-operator.
sha256 = "HASH"
scopes = ["operate"]
"#;

pub(crate) fn tokens() -> tempfile::NamedTempFile {
    use sha2::{Digest as _, Sha256};

    let hash = Sha256::digest(b"token-of-the-operator");
    let hash = format!("{hash:x}");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(TOKENS.replace("HASH", &hash).as_bytes())
        .unwrap();
    file
}

#[tokio::test]
async fn each_scope_allows_what_it_says_and_nothing_else() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let file = tokens();
    let gateway = Gateway::with(&nats, &["--tokens", file.path().to_str().unwrap()]).await;
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let one = |path: &str| path.replace("{id}", id);
    let table = [
        (Method::POST, "/v1/jobs", "sender"),
        (Method::GET, "/v1/jobs", "reader"),
        (Method::GET, "/v1/jobs/{id}", "reader"),
        (Method::GET, "/v1/jobs/{id}/events", "reader"),
        (Method::DELETE, "/v1/jobs/{id}", "operator"),
        (Method::POST, "/v1/jobs/cancel", "operator"),
        (Method::POST, "/v1/jobs/run-now", "operator"),
        (Method::POST, "/v1/jobs/{id}/run-now", "operator"),
        (Method::GET, "/v1/dead-letters", "reader"),
        (Method::GET, "/v1/dead-letters/groups", "reader"),
        (Method::GET, "/v1/dead-letters/{id}", "reader"),
        (Method::GET, "/v1/dead-letters/{id}/raw", "reader"),
        (Method::POST, "/v1/dead-letters/{id}/replay", "operator"),
        (Method::DELETE, "/v1/dead-letters/{id}", "operator"),
        (Method::POST, "/v1/dead-letters/replay", "operator"),
        (Method::DELETE, "/v1/dead-letters", "operator"),
        (Method::GET, "/v1/fleet", "reader"),
        (Method::GET, "/v1/streams", "reader"),
        (Method::GET, "/v1/queues", "reader"),
        (Method::GET, "/v1/kinds", "reader"),
        (Method::POST, "/v1/kinds/mail.send/priorities", "operator"),
        (Method::POST, "/v1/kinds/mail.send/pause", "operator"),
        (Method::POST, "/v1/kinds/mail.send/resume", "operator"),
        (Method::POST, "/v1/kinds/=all/pause", "operator"),
        (Method::POST, "/v1/kinds/=all/resume", "operator"),
        (Method::GET, "/v1/schedules", "reader"),
        (Method::GET, "/v1/schedules/nightly", "reader"),
        (Method::PUT, "/v1/schedules/nightly", "operator"),
        (Method::DELETE, "/v1/schedules/nightly", "operator"),
        (Method::POST, "/v1/schedules/nightly/pause", "operator"),
        (Method::POST, "/v1/schedules/nightly/resume", "operator"),
        (Method::POST, "/v1/schedules/nightly/run", "operator"),
    ];
    let callers = [
        ("reader", "token-of-the-reader-1"),
        ("sender", "token-of-the-sender-1"),
        ("operator", "token-of-the-operator"),
    ];
    for (method, path, allowed) in table {
        for (caller, token) in callers {
            let request = gateway.request(method.clone(), &one(path));
            let status = send(request.bearer_auth(token)).await.status;
            let refused = status == 403;
            assert_eq!(
                refused,
                caller != allowed,
                "{method} {path} {caller}: {status}"
            );
            assert_ne!(status, 401);
        }
        for request in [
            gateway.request(method.clone(), &one(path)),
            gateway
                .request(method.clone(), &one(path))
                .bearer_auth("token-of-the-reader-2"),
            gateway
                .request(method.clone(), &one(path))
                .basic_auth("a", Some("b")),
        ] {
            let answer = send(request).await;
            assert_eq!(answer.problem().0, 401, "{method} {path}");
            assert!(answer.headers.contains_key("www-authenticate"));
        }
    }
    let log = gateway.service.lines();
    assert!(
        !log.iter().any(|line| line.text.contains("token-of-the")),
        "{log:?}"
    );
}

#[tokio::test]
async fn the_dashboard_lets_those_act_who_may_and_from_its_own_pages_only() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let file = tokens();
    let gateway = Gateway::with(&nats, &["--tokens", file.path().to_str().unwrap()]).await;
    let id = "01890a5d-ac96-774b-bcce-b302099a8057";
    let ask = |method: &Method, path: &str| {
        let request = gateway.request(method.clone(), &path.replace("{id}", id));
        let form = "application/x-www-form-urlencoded";
        request
            .header("content-type", form)
            .body("kind=nothing&rate=1")
    };
    let table = [
        (Method::POST, "/jobs/{id}/cancel", "operator"),
        (Method::POST, "/jobs/{id}/run-now", "operator"),
        (Method::POST, "/jobs/run-now", "operator"),
        (Method::POST, "/kinds/mail.send/priorities", "operator"),
        (Method::POST, "/kinds/mail.send/pause", "operator"),
        (Method::POST, "/kinds/mail.send/resume", "operator"),
        (Method::POST, "/kinds/=all/pause", "operator"),
        (Method::POST, "/kinds/=all/resume", "operator"),
        (Method::POST, "/schedules/nightly/pause", "operator"),
        (Method::POST, "/schedules/nightly/resume", "operator"),
        (Method::POST, "/schedules/nightly/run", "operator"),
        (Method::POST, "/schedules/nightly/delete", "operator"),
        (Method::GET, "/schedules", "reader"),
        (Method::POST, "/dead/{id}/replay", "operator"),
        (Method::POST, "/dead/{id}/discard", "operator"),
        (Method::POST, "/dead/stop", "operator"),
        (Method::POST, "/dead/replay", "operator"),
        (Method::POST, "/dead/discard", "operator"),
        (Method::GET, "/dead/replay", "operator"),
        (Method::GET, "/dead/discard", "operator"),
        (Method::GET, "/", "reader"),
        (Method::GET, "/consumers", "reader"),
        (Method::GET, "/jobs", "reader"),
        (Method::GET, "/jobs/{id}", "reader"),
        (Method::GET, "/dead", "reader"),
        (Method::GET, "/dead/{id}", "reader"),
        (Method::GET, "/live", "reader"),
    ];
    let callers = [
        ("reader", "token-of-the-reader-1"),
        ("sender", "token-of-the-sender-1"),
        ("operator", "token-of-the-operator"),
    ];
    for (method, path, allowed) in table {
        for (caller, token) in callers {
            // A stream has no end: its status is enough.
            let request = ask(&method, path).bearer_auth(token);
            let status = request.send().await.unwrap().status();
            let refused = status == 403;
            assert_eq!(
                refused,
                caller != allowed,
                "{method} {path} {caller}: {status}"
            );
            assert_ne!(status, 401);
        }
        for request in [
            ask(&method, path),
            ask(&method, path).bearer_auth("token-of-the-reader-2"),
        ] {
            let answer = send(request).await;
            let to_sign_in = answer.status == 303 && answer.headers["location"] == "/sign-in";
            assert!(
                answer.status == 401 || to_sign_in,
                "{method} {path}: {answer:?}"
            );
        }
        if method == Method::POST {
            for (name, value) in [
                ("origin", "http://evil.example"),
                ("origin", "null"),
                ("sec-fetch-site", "cross-site"),
                ("sec-fetch-site", "same-site"),
            ] {
                let request = ask(&method, path).bearer_auth("token-of-the-operator");
                let status = send(request.header(name, value)).await.status;
                assert_eq!(status, 403, "{path} {name}: {value}");
            }
        }
    }
    let log = gateway.service.lines();
    let by = log.iter().any(|line| {
        line.text.contains("asked that a job be cancelled") && line.text.contains("operator")
    });
    assert!(by, "{log:?}");
}

#[tokio::test]
async fn forms_are_small_and_say_what_they_mean() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let file = tokens();
    let gateway = Gateway::with(&nats, &["--tokens", file.path().to_str().unwrap()]).await;
    let post = async |path: &str, form: String| {
        let request = gateway.request(Method::POST, path).body(form);
        let request = request.bearer_auth("token-of-the-operator");
        let form = "application/x-www-form-urlencoded";
        send(request.header("content-type", form)).await.status
    };
    let long = |bytes| format!("token={}", "a".repeat(bytes));
    assert_eq!(post("/sign-in", long(100)).await, 401);
    assert_eq!(post("/sign-in", long(4 << 10)).await, 413);
    let letter = "/dead/01890a5d-ac96-774b-bcce-b302099a8057/replay";
    let payload = |bytes| format!("payload={}", "1".repeat(bytes));
    assert_eq!(post(letter, payload(3 << 20)).await, 303);
    let long = format!("all=true&kind={}", "a".repeat(4 << 10));
    assert_eq!(post("/dead/discard", long).await, 413);
    for path in ["/dead/discard", "/dead/replay"] {
        for form in ["rate=1", "", "kindd=echo&rate=1", "all=true&rate=100001"] {
            assert_eq!(post(path, form.to_owned()).await, 400, "{path} {form}");
        }
    }
    assert_eq!(post("/dead/discard", "all=true".to_owned()).await, 303);
}

#[tokio::test]
async fn tokens_are_read_again_and_a_file_that_is_wrong_changes_nothing() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let file = tokens();
    let mut gateway = Gateway::with(&nats, &["--tokens", file.path().to_str().unwrap()]).await;
    fs::write(file.path(), "[[token]]\nname = 1\n").unwrap();
    gateway
        .service
        .wait_for_line(|line| line.contains("the tokens stay as they were"))
        .await;
    let ask = |token: &str| send(gateway.request(Method::GET, "/v1/jobs").bearer_auth(token));
    assert_eq!(ask("token-of-the-reader-1").await.status, 200);
    let rotated =
        "[[token]]\nname = \"new\"\ntoken = \"token-of-the-reader-2\"\nscopes = [\"read\"]\n";
    fs::write(file.path(), rotated).unwrap();
    eventually(DEADLINE, "the new token", async || {
        (ask("token-of-the-reader-2").await.status == 200).then_some(())
    })
    .await;
    assert_eq!(ask("token-of-the-reader-1").await.status, 401);
}

#[tokio::test]
async fn it_does_not_open_itself_to_others_by_mistake() {
    let nats = NatsServer::start().await;
    let start = |args: &[&str]| {
        Service::program(env!("CARGO_BIN_EXE_gateway"))
            .envs(nats.env_for("gateway"))
            .args(args)
            .start()
    };
    let mut refused = start(&["--listen", "0.0.0.0:0"]);
    assert_eq!(refused.wait().await.code(), Some(2));
    let text = refused.stdout().join("\n");
    for word in ["--tokens", "--allow-anyone", "GATEWAY_LISTEN"] {
        assert!(text.contains(word), "{text}");
    }
    let mut allowed = start(&["--listen", "0.0.0.0:0", "--allow-anyone"]);
    allowed
        .wait_for_line(|line| line.contains("everybody who reaches this address"))
        .await;
    allowed
        .wait_for_line(|line| line.contains("serving http://"))
        .await;
    // A container listens on all its addresses, and is published on one of its host's.
    for (published, warns) in [("127.0.0.1", false), ("192.0.2.1", true)] {
        let anyone = ["--listen", "0.0.0.0:0", "--allow-anyone"];
        let mut published = start(&[&anyone[..], &["--published-on", published]].concat());
        published
            .wait_for_line(|line| line.contains("serving http://"))
            .await;
        let log = published.stdout().join("\n");
        assert_eq!(
            log.contains("everybody who reaches this address"),
            warns,
            "{log}"
        );
        assert_eq!(log.contains("published on loopback only"), !warns, "{log}");
    }
    let mut loopback = start(&["--listen", "127.0.0.1:0"]);
    loopback
        .wait_for_line(|line| line.contains("only this machine is served"))
        .await;
    let mut missing = start(&["--tokens", "/no/such/file"]);
    assert_eq!(missing.wait().await.code(), Some(2));
    assert!(missing.stdout().join("\n").contains("/no/such/file"));
}
