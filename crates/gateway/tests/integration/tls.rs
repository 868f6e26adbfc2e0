//! TLS, by the gateway or by a proxy in front of it.

use std::fs;

use serde_json::json;
use test_support::{NatsServer, Service};

use crate::access::tokens;
use crate::support::{Gateway, consumer, http, send};

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
