//! The gateway as programs and browsers ask it.

use std::collections::BTreeSet;

use bytes::Bytes;
use common::JobId;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::{Request, Response, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use test_support::{DEADLINE, eventually};
use tokio::net::TcpStream;

/// The gateway, and what it was asked for.
pub(crate) struct Web {
    address: String,
    /// Methods and routes of the API.
    asked: BTreeSet<String>,
}

impl Web {
    /// The gateway at this `host:port`.
    pub(crate) fn at(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            asked: BTreeSet::new(),
        }
    }

    /// Panics if one of the routes that the gateway describes was not asked for.
    pub(crate) async fn was_asked_for_all(&mut self) {
        let (_, document) = self.get("/openapi.json").await;
        let document: Value = serde_json::from_str(&document).unwrap();
        for (path, methods) in document["paths"].as_object().unwrap() {
            for method in methods.as_object().unwrap().keys() {
                let route = format!("{} {path}", method.to_uppercase());
                assert!(self.asked.contains(&route), "{route} was not asked for");
            }
        }
    }

    async fn send(
        &mut self,
        method: &str,
        path: &str,
        kind: &str,
        body: Bytes,
    ) -> Response<Incoming> {
        let route = path.split('?').next().unwrap().split('/');
        let mut route: Vec<_> = route
            .map(|part| {
                if part.parse::<JobId>().is_ok() {
                    "{id}"
                } else {
                    part
                }
            })
            .collect();
        match &mut route[..] {
            ["", "v1", "kinds", kind, _] if *kind != "=all" => *kind = "{kind}",
            ["", "v1", "schedules", name] | ["", "v1", "schedules", name, _] => *name = "{name}",
            _ => {}
        }
        self.asked.insert(format!("{method} {}", route.join("/")));
        let stream = TcpStream::connect(&self.address).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.address)
            .header(header::CONTENT_TYPE, kind)
            .body(Full::new(body))
            .unwrap();
        sender.send_request(request).await.unwrap()
    }

    async fn ask(&mut self, method: &str, path: &str, kind: &str, body: Bytes) -> (u16, String) {
        let answer = self.send(method, path, kind, body).await;
        let status = answer.status().as_u16();
        let body = tokio::time::timeout(2 * DEADLINE, answer.into_body().collect()).await;
        let body = body.unwrap_or_else(|_| panic!("{method} {path} does not end"));
        let body = body.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    pub(crate) async fn get(&mut self, path: &str) -> (u16, String) {
        self.ask("GET", path, "text/plain", Bytes::new()).await
    }

    pub(crate) async fn post(&mut self, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() {
            Bytes::new()
        } else {
            body.to_string().into()
        };
        let (status, answer) = self.ask("POST", path, "application/json", body).await;
        (status, serde_json::from_str(&answer).unwrap_or_default())
    }

    pub(crate) async fn put(&mut self, path: &str, body: Value) {
        let body = body.to_string().into();
        let (status, answer) = self.ask("PUT", path, "application/json", body).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
    }

    pub(crate) async fn delete(&mut self, path: &str) {
        let (status, answer) = self.ask("DELETE", path, "text/plain", Bytes::new()).await;
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
    }

    /// A form of a page, after which one is led to another. What is done with many dead letters is
    /// begun when the last such work has ended.
    pub(crate) async fn form(&mut self, path: &str, fields: &'static str) {
        eventually(DEADLINE, &format!("{path} to be done"), async || {
            let kind = "application/x-www-form-urlencoded";
            let (status, answer) = self.ask("POST", path, kind, fields.into()).await;
            assert!([303, 503].contains(&status), "{path}: {status} {answer}");
            (status == 303).then_some(())
        })
        .await;
    }

    /// Asks for something without an end, and waits for the first of it.
    pub(crate) async fn begins(&mut self, path: &str) {
        let answer = self.send("GET", path, "text/plain", Bytes::new()).await;
        let mut body = answer.into_body();
        let first = tokio::time::timeout(DEADLINE, body.frame()).await;
        first.unwrap().unwrap().unwrap();
    }

    pub(crate) async fn becomes(&mut self, id: JobId, state: &str) {
        let what = format!("job {id} to be {state}");
        eventually(DEADLINE, &what, async || {
            let (_, answer) = self.get(&format!("/v1/jobs/{id}")).await;
            let record: Value = serde_json::from_str(&answer).unwrap_or_default();
            (record["state"] == state).then_some(())
        })
        .await;
    }

    pub(crate) async fn job_after_an_outage(&mut self) {
        eventually(DEADLINE, "a job to run again", async || {
            let (status, _) = self.post("/v1/jobs?wait=5s", json!({"kind": "echo"})).await;
            (status == 200).then_some(())
        })
        .await;
    }
}
