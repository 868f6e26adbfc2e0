//! What a refused request is answered: other sites, wrong paths, missing rights.

use std::io::Write as _;

use reqwest::Method;
use test_support::NatsServer;

use crate::support::{Gateway, send, streams_without_consumer};

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
