//! Bytes that nobody should send, from somebody who may submit jobs.

use std::time::Duration;

use common::JobId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::ledger::Kind;

/// How long the server may take to answer.
const ANSWER: Duration = Duration::from_secs(3);

/// Sends it all to the server on this port.
pub(super) async fn send(port: u16, user: &str, password: &str) -> std::io::Result<()> {
    let mut stranger = TcpStream::connect(("127.0.0.1", port)).await?;
    stranger
        .write_all(b"\x16\x03\x01 this is no NATS \0\xff\r\n")
        .await?;
    drop(stranger);

    let mut connection = TcpStream::connect(("127.0.0.1", port)).await?;
    let login = serde_json::json!({
        "verbose": false, "pedantic": false, "headers": true, "user": user, "pass": password,
    });
    let mut bytes = format!("CONNECT {login}\r\n").into_bytes();
    for message in messages() {
        bytes.extend(message);
    }
    bytes.extend(b"PING\r\n");
    connection.write_all(&bytes).await?;
    // It takes commands in order, so its answer to the last one is the end.
    let mut answer = Vec::new();
    let all = async {
        let mut buffer = [0; 4096];
        while !answer.windows(4).any(|part| part == b"PONG") {
            match connection.read(&mut buffer).await? {
                0 => break,
                length => answer.extend_from_slice(&buffer[..length]),
            }
        }
        Ok(())
    };
    timeout(ANSWER, all).await.unwrap_or(Ok(()))
}

fn messages() -> Vec<Vec<u8>> {
    let kind = Kind::Quick.name();
    let id = JobId::generate();
    let job = |id: JobId| format!(r#"{{"id":"{id}","kind":"{kind}"}}"#).into_bytes();
    let deep = [[b'['; 200], [b']'; 200]].concat();
    vec![
        // No jobs.
        publish("jobs.create", "", b"{"),
        publish("jobs.create", "", b"\0\xff\xfe"),
        publish("jobs.create", "", &deep),
        publish("jobs.create", "", br#"{"kind":"nobody.serves.this"}"#),
        publish(&queued(JobId::generate()), "", b"no job"),
        publish(&queued(JobId::generate()), "", b""),
        publish(&queued(JobId::generate()), "", &deep),
        // Not the job that the subject names.
        publish(&queued(JobId::generate()), "", &job(id)),
        // Subjects that are none of a job.
        publish(&format!("jobs.durable.x.y.z.{kind}"), "", &job(id)),
        publish(&format!("jobs.durable.{id}.urgent.1.{kind}"), "", &job(id)),
        // Headers that the client library cannot read: they end the connection of whoever gets them.
        publish("jobs.create", "a: b\rc\r\n", b"{}"),
        publish(&queued(JobId::generate()), "a: b\rc\r\n", b"{}"),
        publish(&queued(JobId::generate()), "no colon\r\n", b"{}"),
    ]
}

fn queued(id: JobId) -> String {
    format!("jobs.durable.{id}.normal.1.{}", Kind::Quick.name())
}

fn publish(subject: &str, headers: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = if headers.is_empty() {
        format!("PUB {subject} {}\r\n", payload.len()).into_bytes()
    } else {
        let headers = format!("NATS/1.0\r\n{headers}\r\n");
        let total = headers.len() + payload.len();
        format!("HPUB {subject} {} {total}\r\n{headers}", headers.len()).into_bytes()
    };
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(b"\r\n");
    bytes
}
