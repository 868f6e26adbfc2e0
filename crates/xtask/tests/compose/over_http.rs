//! What README.md does with curl, and what its reader does in the browser: over HTTP, from outside
//! of the containers.

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1;
use hyper::{Method, Request, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use test_support::{DEADLINE, eventually};
use tokio::net::TcpStream;

use crate::project::Project;

/// The gateway of a project.
pub(crate) struct Gateway(String);

impl Gateway {
    pub(crate) fn of(project: &Project) -> Self {
        Self(format!("127.0.0.1:{}", project.gateway_port))
    }

    /// The status of an answer, and its body.
    async fn ask(&self, method: Method, path: &str, body: Option<Value>) -> (u16, String) {
        let stream = TcpStream::connect(&self.0).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.0)
            .header(header::CONTENT_TYPE, "application/json")
            .body(Full::new(
                body.map_or_else(Bytes::new, |body| body.to_string().into()),
            ))
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    /// The same, for an answer in JSON.
    pub(crate) async fn json(
        &self,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (u16, Value) {
        let (status, body) = self.ask(method, path, body).await;
        let value = serde_json::from_str(&body);
        (
            status,
            value.unwrap_or_else(|error| panic!("{error}: {body}")),
        )
    }
}

/// Submits jobs and sees what becomes of them; how many were processed.
pub(crate) async fn run(project: &Project) -> u64 {
    let gateway = Gateway::of(project);

    let job = json!({"kind": "sha256", "payload": {"text": "abc"}});
    let (status, ended) = gateway
        .json(Method::POST, "/v1/jobs?wait=30s", Some(job))
        .await;
    assert_eq!(
        (status, &ended["state"]),
        (200, &json!("succeeded")),
        "{ended}"
    );
    let path = format!("/v1/jobs/{}", ended["id"].as_str().unwrap());
    let (status, record) = gateway.json(Method::GET, &path, None).await;
    assert_eq!(
        (status, &record["result"]),
        (200, &ended["result"]),
        "{record}"
    );

    // One with a mistake in its payload is found, corrected and replayed.
    let job = json!({"kind": "sha256", "payload": {"txt": "abc"}});
    let (status, dead) = gateway
        .json(Method::POST, "/v1/jobs?wait=30s", Some(job))
        .await;
    assert_eq!((status, &dead["state"]), (200, &json!("dead")), "{dead}");
    let id = dead["id"].as_str().unwrap();
    let (_, page) = gateway.ask(Method::GET, &format!("/dead/{id}"), None).await;
    assert!(page.contains(id) && page.contains("txt"), "{page}");
    let replay = format!("/v1/dead-letters/{id}/replay");
    let corrected = json!({"payload": {"text": "abc"}});
    let (status, answer) = gateway.ask(Method::POST, &replay, Some(corrected)).await;
    assert!(status < 300, "{status} {answer}");
    eventually(DEADLINE, "a replayed job that succeeded", async || {
        let (_, record) = gateway
            .json(Method::GET, &format!("/v1/jobs/{id}"), None)
            .await;
        (record["state"] == "succeeded").then_some(())
    })
    .await;

    // Whoever looks in a browser sees the fleet.
    let fleet = eventually(DEADLINE, "a fleet of four", async || {
        let (_, fleet) = gateway.json(Method::GET, "/v1/fleet", None).await;
        (fleet["answering"] == 4).then_some(fleet)
    })
    .await;
    let consumer = fleet["consumers"][0]["consumer"].as_str().unwrap();
    let (status, page) = gateway.ask(Method::GET, "/consumers", None).await;
    assert_eq!(status, 200);
    assert!(page.contains(consumer), "{page}");
    3
}
