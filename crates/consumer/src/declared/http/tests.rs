use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bootstrap::trace::TraceContext;
use common::{JobId, Timestamp};
use hmac::{Hmac, Mac as _};
use serde_json::{Value, json};
use sha2::Sha256;
use test_support::DEADLINE;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::declaration::is_same_server;
use super::*;

/// A web server of a few lines that answers each request with what `answer` makes of it, and ends
/// the connection.
struct Server {
    port: u16,
    requests: mpsc::UnboundedReceiver<String>,
}

impl Server {
    async fn start(answer: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> Self {
        Self::start_with(move |request, mut stream| {
            let answer = answer(&request);
            async move {
                // The client may close the connection when it has read enough.
                let _ = stream.write_all(&answer).await;
            }
        })
        .await
    }

    async fn start_with<F: Future<Output = ()> + Send>(
        serve: impl Fn(String, TcpStream) -> F + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, requests) = mpsc::unbounded_channel();
        let serve = Arc::new(serve);
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let (sender, serve) = (sender.clone(), Arc::clone(&serve));
                tokio::spawn(async move {
                    let request = read_request(&mut stream).await;
                    // The test may not look.
                    let _ = sender.send(request.clone());
                    serve(request, stream).await;
                });
            }
        });
        Self { port, requests }
    }

    fn handler(&self, keys: &str) -> Http {
        let declaration = format!("http = \"http://127.0.0.1:{}/hook\"\n{keys}", self.port);
        handler(&declaration)
    }
}

/// Head and body, or what came before the end.
async fn read_request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&request).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().unwrap()) {
                return text;
            }
        }
        if matches!(stream.read_buf(&mut request).await, Ok(0) | Err(_)) {
            return text;
        }
    }
}

fn answer(status: &str, headers: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
    )
    .into_bytes()
}

fn handler(declaration: &str) -> Http {
    let declaration: Declaration = toml::from_str(declaration).unwrap();
    let variables = |name: &str| match name {
        "TOKEN" => Some("s3cret".into()),
        "SECRET" => Some("s3cret-of-this-consumer-and-its-services".into()),
        _ => None,
    };
    let handler = declaration.handler("test.http".parse().unwrap(), &variables);
    handler.unwrap_or_else(|mistaken| panic!("{mistaken:?}"))
}

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn attempt() -> Attempt {
    Attempt {
        id: JobId::generate(),
        number: 4,
        timeout: DEADLINE,
        trace: TraceContext::read(PARENT, Some("vendor=1")).map(Arc::new),
        cancelled: None,
    }
}

async fn call(handler: &Http, payload: &Value) -> Result<String, Failure> {
    let payload = serde_json::value::to_raw_value(payload).unwrap();
    let call = handler.call(Some(&payload), attempt(), true);
    match timeout(DEADLINE, call).await.expect("it ends in time") {
        Ok(result) => Ok(result.map_or_else(|| "nothing".to_owned(), |it| it.get().to_owned())),
        Err(CallError::InvalidPayload(text)) => panic!("{text}"),
        Err(CallError::Failed(failure)) => {
            assert!(!failure.to_string().contains("s3cret"), "{failure}");
            Err(failure)
        }
    }
}

async fn result(handler: &Http) -> String {
    call(handler, &json!(1))
        .await
        .unwrap_or_else(|failure| panic!("{failure}"))
}

async fn failure(handler: &Http) -> (&'static str, String) {
    let failure = call(handler, &json!(1)).await.unwrap_err();
    let way = if matches!(failure, Failure::Permanent(_)) {
        "permanent"
    } else {
        "transient"
    };
    (way, failure.to_string())
}

#[tokio::test]
async fn a_web_service_gets_the_payload_and_the_job_in_headers() {
    let mut server = Server::start(|_| answer("200 OK", "", "{\"id\": 7}")).await;
    let handler = server.handler(
        "method = \"PUT\"\nheaders = { Authorization = \"Bearer ${TOKEN}\", Accept = \"a/b\" }",
    );
    let attempt = attempt();
    let payload = RawValue::from_string("{\"n\": 1.50}".to_owned()).ok();
    let ends = || Timestamp::now().after(attempt.timeout);
    let earliest = ends();
    let result = handler
        .call(payload.as_deref(), attempt.clone(), true)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(result.get(), "{\"id\": 7}");
    let request = server.requests.recv().await.unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "{\"n\": 1.50}");
    let mut lines: Vec<&str> = head.lines().collect();
    assert_eq!(lines.remove(0), "PUT /hook HTTP/1.1");
    lines.sort_unstable();
    let is_answer_by = |line: &&str| line.starts_with("jobs-answer-by: ");
    let answer_by = lines.remove(lines.iter().position(is_answer_by).unwrap());
    let (_, answer_by) = answer_by.split_once(": ").unwrap();
    let answer_by: Timestamp = answer_by.parse().unwrap();
    assert!((earliest..=ends()).contains(&answer_by), "{answer_by}");
    let expected = [
        "accept: a/b".to_owned(),
        "authorization: Bearer s3cret".to_owned(),
        "content-length: 11".to_owned(),
        "content-type: application/json".to_owned(),
        format!("host: 127.0.0.1:{}", server.port),
        format!("idempotency-key: {}", attempt.id),
        "jobs-attempt: 4".to_owned(),
        "jobs-kind: test.http".to_owned(),
        format!("traceparent: {PARENT}"),
        "tracestate: vendor=1".to_owned(),
        format!("user-agent: jobs-consumer/{}", env!("CARGO_PKG_VERSION")),
    ];
    assert_eq!(lines, expected);
}

/// The header of a request, and what would be its right signature.
fn signature(request: &str) -> (String, String) {
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let header = |name: &str| {
        let start = format!("{name}: ");
        let value = head.lines().find_map(|line| line.strip_prefix(&start));
        value.unwrap_or_default().to_owned()
    };
    let (id, sent) = (header("webhook-id"), header("webhook-timestamp"));
    let job = header("idempotency-key");
    assert_eq!(id, format!("{job}_4"), "{head}");
    let age = OffsetDateTime::now_utc().unix_timestamp() - sent.parse::<i64>().unwrap();
    assert!((0..60).contains(&age), "{head}");
    let key = b"s3cret-of-this-consumer-and-its-services";
    let mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    let right = mac.chain_update(format!("{id}.{sent}.{body}")).finalize();
    let right = STANDARD.encode(right.into_bytes());
    (header("webhook-signature"), format!("v1,{right}"))
}

#[tokio::test]
async fn a_request_is_signed_with_the_declared_secret() {
    let mut server = Server::start(|_| answer("200 OK", "", "")).await;
    for method in ["POST", "GET"] {
        let keys = format!("method = \"{method}\"\nsecret = \"${{SECRET}}\"");
        result(&server.handler(&keys)).await;
        let request = server.requests.recv().await.unwrap();
        let (sent, right) = signature(&request);
        assert_eq!(sent, right, "{request}");
    }
}

#[tokio::test]
async fn get_sends_no_payload() {
    let mut server = Server::start(|_| answer("200 OK", "", "")).await;
    assert_eq!(result(&server.handler("method = \"GET\"")).await, "null");
    let request = server.requests.recv().await.unwrap();
    assert!(
        request.starts_with("GET /hook HTTP/1.1\r\n") && request.ends_with("\r\n\r\n"),
        "{request}"
    );
}

#[tokio::test]
async fn any_2xx_is_success_with_what_it_says() {
    let server = Server::start(|request| {
        let status = if request.ends_with('1') {
            "204 No Content"
        } else {
            "202 Accepted"
        };
        answer(
            status,
            "",
            if status.starts_with("204") {
                ""
            } else {
                "queued\n"
            },
        )
    })
    .await;
    assert_eq!(call(&server.handler(""), &json!(1)).await.unwrap(), "null");
    assert_eq!(
        call(&server.handler(""), &json!(2)).await.unwrap(),
        "\"queued\""
    );
    assert_eq!(
        call(&server.handler("result = \"none\""), &json!(2))
            .await
            .unwrap(),
        "nothing"
    );
    assert!(
        call(&server.handler("result = \"json\""), &json!(2))
            .await
            .is_err()
    );
}

#[tokio::test]
async fn the_status_says_whether_a_repetition_may_help() {
    let server = Server::start(|request| {
        let status = request.rsplit_once("\r\n\r\n").unwrap().1;
        answer(&format!("{status} Reason"), "", "no\x1b room\n")
    })
    .await;
    let handler = server.handler("");
    for (status, way) in [
        (400, "permanent"),
        (401, "permanent"),
        (404, "permanent"),
        (408, "transient"),
        (410, "permanent"),
        (422, "permanent"),
        (425, "transient"),
        (429, "transient"),
        (500, "transient"),
        (502, "transient"),
        (503, "transient"),
        (599, "transient"),
    ] {
        let failure = call(&handler, &json!(status)).await.unwrap_err();
        assert_eq!(
            matches!(failure, Failure::Transient { .. }),
            way == "transient",
            "{status}"
        );
        let error = failure.to_string();
        assert!(
            error.starts_with(&format!("POST to 127.0.0.1: answered {status}")),
            "{error}"
        );
        assert!(error.ends_with(": no\u{fffd} room"), "{error}");
    }
}

#[tokio::test]
async fn a_server_says_when_to_come_back() {
    let server = Server::start(|request| {
        let value = request.rsplit_once("\r\n\r\n").unwrap().1.trim_matches('"');
        answer(
            "429 Too Many Requests",
            &format!("retry-after: {value}\r\n"),
            "",
        )
    })
    .await;
    for (value, expected) in [
        ("7", Some(7)),
        ("Sun, 06 Nov 1994 08:49:37 GMT", Some(0)),
        ("soon", None),
    ] {
        let failure = call(&server.handler(""), &json!(value)).await.unwrap_err();
        let Failure::Transient { retry_after, error } = failure else {
            panic!("{failure}")
        };
        assert_eq!(retry_after, expected.map(Duration::from_secs));
        assert_eq!(
            error.to_string(),
            "POST to 127.0.0.1: answered 429 Too Many Requests"
        );
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_unless_it_was_allowed() {
    let mut server = Server::start(|request| match request.split(' ').nth(1).unwrap() {
        "/hook" => answer("307 Temporary Redirect", "location: /s3cret\r\n", ""),
        _ => answer("200 OK", "", request.rsplit_once("\r\n\r\n").unwrap().1),
    })
    .await;
    let (way, error) = failure(&server.handler("")).await;
    assert_eq!(way, "permanent");
    let expected = "POST to 127.0.0.1: answered 307 Temporary Redirect, a redirect to 127.0.0.1 that was not followed: \
                    `redirects` allows them to the same server only";
    assert_eq!(error, expected);
    assert!(
        server
            .requests
            .recv()
            .await
            .unwrap()
            .starts_with("POST /hook")
    );
    assert!(server.requests.try_recv().is_err());
    assert_eq!(
        call(&server.handler("redirects = 1"), &json!({"a": 1}))
            .await
            .unwrap(),
        "{\"a\":1}"
    );
}

#[tokio::test]
async fn redirects_that_go_in_a_circle_come_to_an_end() {
    let mut server =
        Server::start(|_| answer("307 Temporary Redirect", "location: /hook\r\n", "")).await;
    assert_eq!(
        failure(&server.handler("redirects = 3")).await.0,
        "permanent"
    );
    let mut requests = 0;
    while server.requests.try_recv().is_ok() {
        requests += 1;
    }
    assert_eq!(requests, 4);
}

#[tokio::test]
async fn no_redirect_leads_to_another_server() {
    let mut other = Server::start(|_| answer("200 OK", "", "")).await;
    let location = format!("location: http://127.0.0.1:{}/\r\n", other.port);
    let server = Server::start(move |_| answer("307 Temporary Redirect", &location, "")).await;
    assert_eq!(
        failure(&server.handler("redirects = 10")).await.0,
        "permanent"
    );
    assert!(other.requests.try_recv().is_err());
}

#[test]
fn a_server_may_send_on_to_its_safer_self() {
    let same = |from: &str, to: &str| is_same_server(&from.parse().unwrap(), &to.parse().unwrap());
    assert!(same("http://a/x", "http://a:80/y"));
    assert!(same("http://a/x", "https://a/x"));
    assert!(!same("https://a/x", "http://a/x"));
    assert!(!same("http://a:8080/x", "https://a/x"));
    assert!(!same("http://a/x", "http://169.254.169.254/x"));
    assert!(!same("https://a/x", "https://b.a/x"));
}

#[tokio::test]
async fn an_answer_over_the_limit_is_not_read_to_its_end() {
    let server = Server::start_with(|_, mut stream| async move {
        let _ = stream
            .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
        while stream.write_all(chunk.as_bytes()).await.is_ok() {}
    })
    .await;
    let (way, error) = failure(&server.handler("max-output = \"64KiB\"")).await;
    assert_eq!(way, "permanent");
    assert_eq!(
        error,
        "POST to 127.0.0.1: the response is over the limit of 64KiB (`max-output`)"
    );
}

#[tokio::test]
async fn an_endless_explanation_is_cut() {
    let server = Server::start_with(|_, mut stream| async move {
        let _ = stream
            .write_all(b"HTTP/1.1 404 Not Found\r\ntransfer-encoding: chunked\r\n\r\n")
            .await;
        let chunk = format!("1000\r\n{}\r\n", "x".repeat(0x1000));
        while stream.write_all(chunk.as_bytes()).await.is_ok() {}
    })
    .await;
    let (way, error) = failure(&server.handler("")).await;
    assert_eq!(way, "permanent");
    assert!(
        error.ends_with("xxx…") && error.len() < 2 * EXCERPT,
        "{error}"
    );
}

#[tokio::test]
async fn a_failure_is_known_although_its_explanation_never_ends() {
    let server = Server::start_with(|_, mut stream| async move {
        let head = b"HTTP/1.1 404 Not Found\r\ncontent-length: 10\r\n\r\ngone";
        stream.write_all(head).await.unwrap();
        let _ = stream.read(&mut [0]).await;
    })
    .await;
    let failure = failure(&server.handler("")).await;
    assert_eq!(
        failure,
        (
            "permanent",
            "POST to 127.0.0.1: answered 404 Not Found: gone".to_owned()
        )
    );
}

#[tokio::test]
async fn a_call_that_is_given_up_hangs_up() {
    let (sender, mut hung_up) = mpsc::unbounded_channel();
    let mut server = Server::start_with(move |_, mut stream| {
        let sender = sender.clone();
        async move {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nslow")
                .await
                .unwrap();
            // Returns when the other side has closed.
            let _ = stream.read(&mut [0]).await;
            let _ = sender.send(());
        }
    })
    .await;
    let handler = server.handler("timeout = \"200ms\"");
    assert_eq!(handler.timeout(), Some(Duration::from_millis(200)));
    tokio::select! {
        _ = handler.call(None, attempt(), true) => panic!("it ended by itself"),
        _ = server.requests.recv() => {}
    }
    timeout(DEADLINE, hung_up.recv()).await.unwrap();
}

#[tokio::test]
async fn a_connection_that_breaks_may_hold_next_time() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let refused = handler(&format!("http = \"http://{nobody}/${{TOKEN}}\""));
    let (way, error) = failure(&refused).await;
    assert_eq!(way, "transient");
    assert!(
        error.starts_with("POST to 127.0.0.1: ") && error.contains("Connection refused"),
        "{error}"
    );

    for broken in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        "\x16\x03\x01 not HTTP\r\n\r\n",
        "",
    ] {
        let server = Server::start(move |_| broken.into()).await;
        assert_eq!(
            failure(&server.handler("")).await.0,
            "transient",
            "{broken:?}"
        );
    }
}

#[tokio::test]
async fn tls_is_spoken_where_the_url_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let handler = handler(&format!("http = \"https://127.0.0.1:{port}/\""));
    let first_byte = async {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.read_u8().await.unwrap()
    };
    let (failure, first_byte) = tokio::join!(failure(&handler), first_byte);
    assert_eq!(failure.0, "transient");
    assert_eq!(first_byte, 22, "it is no handshake");
}
