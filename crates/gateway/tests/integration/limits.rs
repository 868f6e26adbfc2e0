//! What clients may not cost.

use std::time::Duration;

use client::Topology;
use serde_json::json;
use test_support::{DEADLINE, NatsServer};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{Gateway, is_success, streams_without_consumer};

/// Sends bytes, and reads until the gateway closes the connection.
async fn raw(gateway: &Gateway, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(&gateway.address).await.unwrap();
    // The gateway may have had enough before all is sent.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(DEADLINE, stream.read_to_end(&mut answer)).await;
    let _ = read.expect("the gateway closes the connection");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_it_is_read() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::start(&nats).await;
    let job = |size: usize| json!({"kind": "echo", "payload": "x".repeat(size)}).to_string();
    // More than max_payload of the server, and more than any body may have.
    for delivery in ["durable", "confirmed", "fire-and-forget"] {
        let path = format!("/v1/jobs?delivery={delivery}");
        let answer = gateway.post(&path, &job(2 << 20)).await;
        assert_eq!(answer.problem().0, 413, "{delivery}: {answer:?}");
    }
    let head = "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let announced = format!("{head}content-length: 99999999\r\nconnection: close\r\n\r\n");
    assert!(
        raw(&gateway, announced.as_bytes())
            .await
            .starts_with("HTTP/1.1 413")
    );
    let mut chunked = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..9 {
        chunked
            .extend_from_slice(format!("{:x}\r\n{}\r\n", 1 << 20, "x".repeat(1 << 20)).as_bytes());
    }
    let answer = raw(&gateway, &chunked).await;
    // It is answered, or cut off while it still sends.
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 413"),
        "{answer}"
    );
    let headers = format!(
        "GET /v1/jobs HTTP/1.1\r\nhost: localhost\r\nx: {}\r\n\r\n",
        "x".repeat(64 << 10)
    );
    let answer = raw(&gateway, headers.as_bytes()).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
    assert!(is_success(
        gateway.post("/v1/jobs", &job(1000)).await.status
    ));
}

#[tokio::test]
async fn slow_clients_are_cut_off_and_hold_up_nobody() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::with(&nats, &["--idle", "300ms", "--connections", "4"]).await;
    let head = "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n";
    let half_a_body = format!("{head}content-length: 100\r\n\r\n{{\"kind\":");
    let cases = ["", "GET /v1/jobs HT", head, &half_a_body];
    let began = std::time::Instant::now();
    let slow = cases.iter().map(|bytes| raw(&gateway, bytes.as_bytes()));
    let all = futures_util::future::join_all(slow);
    // All places are taken, and this one is served as soon as the slow ones are cut off.
    let (answers, list) = tokio::join!(all, gateway.get("/v1/jobs"));
    assert_eq!(list.status, 200);
    assert!(answers[3].starts_with("HTTP/1.1 408"), "{answers:?}");
    assert!(
        began.elapsed() < Duration::from_secs(20),
        "{:?}",
        began.elapsed()
    );
}

/// Asks from an address of this machine on a connection of its own, and reads the whole answer.
async fn ask_from(address: &str, gateway: &Gateway, path: &str) -> String {
    let mut stream = connect_from(address, gateway).await;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

async fn connect_from(address: &str, gateway: &Gateway) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let address: std::net::IpAddr = address.parse().unwrap();
    socket.bind((address, 0).into()).unwrap();
    socket
        .connect(gateway.address.parse().unwrap())
        .await
        .unwrap()
}

#[tokio::test]
async fn the_idle_connections_of_one_peer_keep_no_other_out() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    // None of them would be cut off for being slow.
    let gateway = Gateway::with(&nats, &["--idle", "1h"]).await;
    let mut idle = Vec::new();
    for number in 0..2_100 {
        let mut stream = connect_from("127.0.0.1", &gateway).await;
        // Some say nothing, some begin a request, and some have had an answer.
        let bytes: &[u8] = match number % 3 {
            0 => b"",
            1 => b"GET /openapi.json HT",
            _ => b"HEAD /nothing HTTP/1.1\r\nhost: localhost\r\n\r\n",
        };
        // The oldest are closed meanwhile.
        let _ = stream.write_all(bytes).await;
        idle.push(stream);
    }
    for address in ["127.0.0.2", "127.0.0.1"] {
        let asking = ask_from(address, &gateway, "/v1/streams");
        let answer = tokio::time::timeout(DEADLINE, asking).await;
        let answer = answer.unwrap_or_else(|_| panic!("{address} is kept out"));
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    drop(idle);
    gateway.stop().await;
}

#[tokio::test]
async fn where_room_is_short_idle_connections_go_and_busy_ones_stay() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let options = [
        "--idle",
        "1h",
        "--connections",
        "4",
        "--connections-per-peer",
        "2",
    ];
    let mut gateway = Gateway::with(&nats, &options).await;
    let submitted = gateway.post("/v1/jobs", r#"{"kind":"echo"}"#).await;
    let path = format!("/v1/jobs/{}/events", submitted.id());
    // Two streams of events, which do not end, of each of two peers.
    let mut streams = Vec::new();
    let follow = async |address: &str| {
        let mut stream = connect_from(address, &gateway).await;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 200");
        stream
    };
    for _ in 0..2 {
        streams.push(follow("127.0.0.2").await);
    }
    let mut third = connect_from("127.0.0.2", &gateway).await;
    assert_eq!(
        third.read(&mut [0; 10]).await.unwrap_or(0),
        0,
        "one too many"
    );
    // An idle one of another peer, another, and one more: the first makes room for it.
    let mut idle = connect_from("127.0.0.3", &gateway).await;
    streams.push(follow("127.0.0.4").await);
    streams.push(follow("127.0.0.5").await);
    assert_eq!(idle.read(&mut [0; 10]).await.unwrap_or(0), 0, "it stayed");
    // All places are taken by streams now, which go on.
    gateway
        .service
        .wait_for_line(|line| line.contains("--connections-per-peer"))
        .await;
    let _consumer = crate::support::consumer(&nats, &[]).await;
    for mut stream in streams {
        let mut rest = String::new();
        while !rest.contains("succeeded") {
            let mut piece = [0; 4096];
            let read = tokio::time::timeout(DEADLINE, stream.read(&mut piece)).await;
            let read = read.expect("the stream goes on").unwrap();
            assert_ne!(read, 0, "a busy connection was closed: {rest}");
            rest.push_str(&String::from_utf8_lossy(&piece[..read]));
        }
    }
}

#[tokio::test]
async fn more_requests_than_may_be_are_told_which_limit_it_is() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::with(&nats, &["--requests", "1"]).await;
    let request = gateway.posting("/v1/jobs?wait=1m", r#"{"kind":"echo"}"#);
    let waiting = tokio::spawn(request.send());
    // Seen on NATS: a question to the gateway would take the only place.
    let client = nats.connect_as("gateway").await;
    test_support::eventually(DEADLINE, "the job that is waited for", async || {
        let streams = client::streams(&client.clone().into()).await.unwrap()?;
        streams
            .iter()
            .any(|stream| stream.messages > 0)
            .then_some(())
    })
    .await;
    let answer = gateway.get("/v1/streams").await;
    assert_eq!(answer.status, 429, "{answer:?}");
    assert!(answer.text.contains("--requests"), "{answer:?}");
    assert_eq!(answer.headers["retry-after"], "1");
    waiting.abort();
    test_support::eventually(DEADLINE, "the place that was left", async || {
        (gateway.get("/v1/streams").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_request_that_can_be_read_in_two_ways_is_refused() {
    let nats = NatsServer::start().await;
    let gateway = Gateway::start(&nats).await;
    for head in [
        "GET /openapi.json HTTP/1.1\r\n",
        "GET /openapi.json HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n",
        "GET http://evil.example/openapi.json HTTP/1.1\r\nhost: localhost\r\n",
    ] {
        let answer = raw(
            &gateway,
            format!("{head}connection: close\r\n\r\n").as_bytes(),
        )
        .await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{head}: {answer}");
    }
}

#[tokio::test]
async fn a_full_queue_is_said_to_be_full() {
    let nats = NatsServer::start().await;
    let worker = nats.connect_as("worker").await;
    let mut topology = Topology::default();
    topology.limits.jobs_bytes = 20_000;
    topology.ensure(&worker.clone().into()).await.unwrap();
    let gateway = Gateway::start(&nats).await;
    let jobs = vec![json!({"kind": "echo", "payload": "x".repeat(500)}); 60];
    let answer = gateway.post("/v1/jobs", &json!(jobs).to_string()).await;
    assert_eq!(answer.status, 207, "{answer:?}");
    let body = answer.json();
    let jobs = body["jobs"].as_array().unwrap();
    let full: Vec<_> = jobs.iter().filter(|job| job["status"] == 429).collect();
    assert!((1..60).contains(&full.len()), "{body}");
    let detail = full[0]["problem"]["detail"].as_str().unwrap();
    assert!(detail.contains("max_bytes"), "{detail}");
    let answer = gateway
        .post(
            "/v1/jobs",
            &json!({"kind": "echo", "payload": "x".repeat(500)}).to_string(),
        )
        .await;
    assert_eq!(answer.problem().0, 429);
    assert_eq!(answer.headers["retry-after"], "10");
}

#[tokio::test]
async fn whoever_does_not_read_the_answers_is_cut_off() {
    let nats = NatsServer::start().await;
    streams_without_consumer(&nats).await;
    let gateway = Gateway::with(&nats, &["--idle", "500ms"]).await;
    let mut stream = TcpStream::connect(&gateway.address).await.unwrap();
    // So many answers that no socket holds them, and none of them is read.
    let request = "GET /openapi.json HTTP/1.1\r\nhost: localhost\r\n\r\n".repeat(100);
    let sending = async { while stream.write_all(request.as_bytes()).await.is_ok() {} };
    tokio::time::timeout(DEADLINE, sending)
        .await
        .expect("the gateway closes the connection");
    assert_eq!(gateway.get("/v1/jobs").await.status, 200);
}
