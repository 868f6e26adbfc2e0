//! Who is let in, and what for.

use std::fs;
use std::io::Write as _;

use reqwest::Method;
use serde_json::json;
use test_support::{DEADLINE, NatsServer, Service, eventually};

use crate::support::{Gateway, consumer, http, send, streams_without_consumer};

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

fn tokens() -> tempfile::NamedTempFile {
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
async fn a_page_of_another_site_cannot_operate_it() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let job = r#"{"kind":"echo"}"#;
    let own = format!("http://{}", gateway.address);
    let cases = [
        ("origin", "http://evil.example", 403),
        ("origin", "null", 403),
        ("sec-fetch-site", "cross-site", 403),
        ("sec-fetch-site", "same-site", 403),
        ("origin", &*own, 202),
        ("sec-fetch-site", "same-origin", 202),
        // DNS rebinding: a name of theirs that leads here.
        ("host", "evil.example", 421),
        ("host", "localhost.evil.example:8080", 421),
        ("host", "localhost:8080", 202),
    ];
    for (name, value, status) in cases {
        let answer = send(gateway.posting("/v1/jobs", job).header(name, value)).await;
        assert_eq!(answer.status, status, "{name}: {value}: {answer:?}");
    }
    let rebound = gateway
        .request(Method::GET, "/v1/jobs")
        .header("host", "evil.example");
    assert_eq!(send(rebound).await.status, 421);
    for path in ["/v1/jobs", "/openapi.json", "/nothing"] {
        let answer = gateway.get(path).await;
        assert!(!answer.headers.contains_key("access-control-allow-origin"));
        let policy = answer.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none';"), "{policy}");
        for word in [
            "frame-ancestors 'none'",
            "form-action 'self'",
            "base-uri 'none'",
        ] {
            assert!(policy.contains(word), "{policy}");
        }
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(answer.headers["referrer-policy"], "same-origin");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        assert!(answer.headers.contains_key("cache-control"));
    }
}

#[tokio::test]
async fn whoever_browses_is_refused_with_a_page_and_a_program_with_a_problem() {
    let nats = NatsServer::start().await;
    let gateway = Gateway::start(&nats).await;
    let html = "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8";
    let cases = [
        (
            Method::GET,
            "/nothing",
            ("x", "y"),
            404,
            "nothing at this path",
        ),
        (
            Method::POST,
            "/nothing",
            ("x", "y"),
            404,
            "nothing at this path",
        ),
        (
            Method::POST,
            "/jobs",
            ("x", "y"),
            405,
            "does not take this method",
        ),
        (
            Method::GET,
            "/jobs",
            ("host", "evil.example"),
            421,
            "--host-names",
        ),
        (
            Method::POST,
            "/dead/replay",
            ("origin", "http://evil.example"),
            403,
            "header Origin",
        ),
    ];
    for (method, path, (name, value), status, words) in cases {
        let asking = || gateway.request(method.clone(), path).header(name, value);
        let page = send(asking().header("accept", html)).await;
        assert_eq!(page.status, status, "{path}: {page:?}");
        assert_eq!(page.headers["content-type"], "text/html; charset=utf-8");
        assert!(page.text.contains("<h1>"), "{page:?}");
        assert!(page.headers.contains_key("content-security-policy"));
        let answer = send(asking().header("accept", "*/*")).await;
        assert_eq!(answer.problem().0, status, "{path}: {answer:?}");
        for answer in [&page, &answer] {
            assert!(answer.text.contains(words), "{path}: {answer:?}");
            assert_eq!(
                answer.headers.contains_key("allow"),
                status == 405,
                "{answer:?}"
            );
        }
    }
    for (method, path) in [(Method::GET, "/v1/nothing"), (Method::DELETE, "/jobs")] {
        let answer = send(gateway.request(method, path).header("accept", html)).await;
        assert!(answer.problem().0 >= 404, "{path}: {answer:?}");
    }
}

#[tokio::test]
async fn a_page_that_refuses_escapes_what_it_names() {
    let nats = NatsServer::start().await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let tokens = "[[token]]\nname = \"<script>alert(1)</script>\"\ntoken = \"token-of-the-sender-1\"\nscopes = [\"submit\"]\n";
    file.write_all(tokens.as_bytes()).unwrap();
    let gateway = Gateway::with(&nats, &["--tokens", file.path().to_str().unwrap()]).await;
    let asking = |method| {
        gateway
            .request(method, "/dead/replay")
            .header("accept", "text/html")
    };
    let asking_as = |path| {
        let request = gateway
            .request(Method::GET, path)
            .header("accept", "text/html");
        send(request.bearer_auth("token-of-the-sender-1"))
    };
    let answer = asking_as("/jobs").await;
    assert_eq!(answer.status, 403);
    assert!(answer.text.contains("lacks the scope `read`"), "{answer:?}");
    assert!(!answer.text.contains("<script>alert"), "{answer:?}");
    // Whoever has not signed in is asked to, also after a form.
    for (method, place) in [
        (Method::GET, "/sign-in?to=/dead/replay"),
        (Method::POST, "/sign-in"),
    ] {
        let answer = send(asking(method)).await;
        assert_eq!(
            (answer.status, answer.headers["location"].to_str().unwrap()),
            (303, place)
        );
    }
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
    let mut loopback = start(&["--listen", "127.0.0.1:0"]);
    loopback
        .wait_for_line(|line| line.contains("serving this machine only"))
        .await;
    let mut missing = start(&["--tokens", "/no/such/file"]);
    assert_eq!(missing.wait().await.code(), Some(2));
    assert!(missing.stdout().join("\n").contains("/no/such/file"));
}

#[tokio::test]
async fn behind_tls_the_cookie_is_for_tls_only_and_only_the_operator_says_so() {
    let nats = NatsServer::start().await;
    let file = tokens();
    let path = file.path().to_str().unwrap();
    let args = ["--tokens", path, "--listen", "0.0.0.0:0"];
    for (more, secure) in [(&["--behind-tls"][..], true), (&[], false)] {
        let args: Vec<&str> = [&args, more].concat();
        let gateway = Gateway::with(&nats, &args).await;
        let port = gateway.address.rsplit(':').next().unwrap();
        let signing_in = http()
            .post(format!("http://127.0.0.1:{port}/sign-in"))
            .header("host", "jobs.example")
            .header("origin", "https://jobs.example")
            .header("x-forwarded-proto", "https")
            .header("content-type", "application/x-www-form-urlencoded")
            .body("token=token-of-the-reader-1");
        let answer = send(signing_in).await;
        assert_eq!(answer.status, 303, "{answer:?}");
        let cookie = answer.headers["set-cookie"].to_str().unwrap();
        assert_eq!(cookie.contains("; Secure"), secure, "{cookie}");
        let warned = gateway.service.lines();
        let warned = warned
            .iter()
            .any(|line| line.text.contains("travel unencrypted"));
        assert_eq!(warned, !secure);
    }
}

#[tokio::test]
async fn it_speaks_tls() {
    let nats = NatsServer::start().await;
    let _consumer = consumer(&nats, &[]).await;
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (
        folder.path().join("cert.pem"),
        folder.path().join("key.pem"),
    );
    fs::write(&cert, made.cert.pem()).unwrap();
    fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let (cert, key) = (cert.to_str().unwrap(), key.to_str().unwrap());
    let gateway = Gateway::with(&nats, &["--tls-cert", cert, "--tls-key", key]).await;
    assert!(gateway.url.starts_with("https://"));
    let _provider = http();
    let trusted = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([trusted])
        .no_proxy();
    let client = client.build().unwrap();
    let port = gateway.address.rsplit(':').next().unwrap();
    let url = format!("https://localhost:{port}/v1/jobs?wait=1m");
    let request = client.post(&url).header("content-type", "application/json");
    let answer = send(request.body(json!({"kind": "echo"}).to_string())).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    // Without TLS nothing is told.
    let plain = http()
        .get(format!("http://localhost:{port}/v1/jobs"))
        .send()
        .await;
    assert!(plain.is_err());
    let mut wrong = Service::program(env!("CARGO_BIN_EXE_gateway"))
        .args(["--tls-cert", cert, "--tls-key", cert])
        .start();
    assert_eq!(wrong.wait().await.code(), Some(2));
}
