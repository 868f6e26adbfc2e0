//! A nats-server, a gateway on it, and somebody who asks it.

use std::sync::OnceLock;

use async_nats::Client;
use common::subjects;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, Service, Signal, eventually};

/// A gateway, and where it is.
pub(crate) struct Gateway {
    pub(crate) service: Service,
    pub(crate) url: String,
    /// `host:port`.
    pub(crate) address: String,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A problem after RFC 9457, and the field it names.
    pub(crate) fn problem(&self) -> (u16, Option<String>) {
        assert_eq!(self.headers["content-type"], "application/problem+json");
        let body = self.json();
        assert_eq!(body["status"], self.status, "{self:?}");
        assert!(body["detail"].as_str().is_some_and(|text| !text.is_empty()));
        (self.status, body["field"].as_str().map(str::to_owned))
    }

    pub(crate) fn id(&self) -> String {
        self.json()["id"].as_str().unwrap().to_owned()
    }
}

/// A client that speaks HTTP.
pub(crate) fn http() -> reqwest::Client {
    static CLIENT: OnceLock<()> = OnceLock::new();
    CLIENT.get_or_init(|| {
        // Another test of the same process may have been first.
        let _ = rustls::crypto::ring::default_provider().install_default();
    });
    let client = reqwest::Client::builder()
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    client.build().unwrap()
}

/// Sends it, and reads the whole answer.
pub(crate) async fn send(request: RequestBuilder) -> Answer {
    let response = request.timeout(DEADLINE).send().await.unwrap();
    Answer {
        status: response.status().as_u16(),
        headers: response.headers().clone(),
        text: response.text().await.unwrap(),
    }
}

impl Gateway {
    pub(crate) async fn start(nats: &NatsServer) -> Self {
        Self::with(nats, &[]).await
    }

    /// A gateway on any free port of the loopback.
    pub(crate) async fn with(nats: &NatsServer, args: &[&str]) -> Self {
        Self::once_it_is("serving ", nats, args).await
    }

    /// A gateway as soon as it says so, also if there is no NATS.
    pub(crate) async fn once_it_is(state: &str, nats: &NatsServer, args: &[&str]) -> Self {
        let mut service = Service::program(env!("CARGO_BIN_EXE_gateway"))
            .envs(nats.env_for("gateway"))
            .env("GATEWAY_LISTEN", "127.0.0.1:0")
            .args(args)
            .start();
        let words = format!("{state}http");
        let line = service.wait_for_line(|line| line.contains(&words)).await;
        let at = line.find(&words).unwrap() + state.len();
        let url = line[at..].split([' ', ',']).next().unwrap().to_owned();
        let address = url.split_once("://").unwrap().1.to_owned();
        Self {
            service,
            url,
            address,
        }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        http().request(method, format!("{}{path}", self.url))
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> Answer {
        send(self.request(Method::DELETE, path)).await
    }

    /// Posts JSON.
    pub(crate) async fn post(&self, path: &str, body: &str) -> Answer {
        send(self.posting(path, body)).await
    }

    pub(crate) fn posting(&self, path: &str, body: &str) -> RequestBuilder {
        self.request(Method::POST, path)
            .header("content-type", "application/json")
            .body(body.to_owned())
    }

    pub(crate) fn putting(&self, path: &str, body: &str) -> RequestBuilder {
        self.request(Method::PUT, path)
            .header("content-type", "application/json")
            .body(body.to_owned())
    }

    /// Stops it as an operator would.
    pub(crate) async fn stop(mut self) {
        self.service.signal(Signal::SIGTERM);
        assert!(self.service.wait().await.success());
    }

    /// Waits until a job is as it should be.
    pub(crate) async fn job_is(&self, id: &str, state: &str) -> Value {
        eventually(DEADLINE, &format!("job {id} to be {state}"), async || {
            let answer = self.get(&format!("/v1/jobs/{id}")).await;
            (answer.status == 200 && answer.json()["state"] == state).then(|| answer.json())
        })
        .await
    }

    /// Submits a job that fails for good, and waits until it is dead.
    pub(crate) async fn dead_job(&self, message: &str) -> String {
        let job = json!({"kind": "fail", "payload": {"message": message, "permanent": true}});
        let answer = self.post("/v1/jobs?wait=1m", &job.to_string()).await;
        assert_eq!(
            (answer.status, &answer.json()["state"]),
            (200, &json!("dead"))
        );
        answer.id()
    }
}

/// A status service that asks five times a second.
pub(crate) fn status_service(nats: &NatsServer) -> Service {
    Service::named("status-service")
        .envs(nats.env_for("status"))
        .env("STATUS_INTERVAL", "200ms")
        .start()
}

/// A consumer that takes jobs of both lanes: it has made the streams, which it does when it starts.
pub(crate) async fn consumer(nats: &NatsServer, args: &[&str]) -> Service {
    let mut consumer = Service::named("consumer")
        .envs(nats.env_for("worker"))
        .args(args)
        .start();
    consumer
        .wait_for_line(|line| line.contains("taking jobs"))
        .await;
    let client = nats.connect_as("admin").await;
    eventually(DEADLINE, "the streams", async || {
        let streams = client::streams(&client.clone().into()).await.ok().flatten();
        streams.filter(|streams| streams.len() == 4)
    })
    .await;
    consumer
}

/// A consumer that has made the streams, and is gone: durable jobs are stored, and nobody runs
/// them.
pub(crate) async fn streams_without_consumer(nats: &NatsServer) {
    let mut consumer = consumer(nats, &[]).await;
    consumer.signal(Signal::SIGTERM);
    assert!(consumer.wait().await.success());
}

/// Answers each request on `jobs.create` with this outcome, its id filled in.
pub(crate) async fn answer_with(nats: &NatsServer, outcome: Value) -> Client {
    use futures_util::StreamExt as _;

    let client = nats.connect_as("worker").await;
    let group = subjects::WORKERS.to_owned();
    let mut messages = client
        .queue_subscribe(subjects::CREATE, group)
        .await
        .unwrap();
    // The subscription is known to the server once it has answered what came after it.
    let probe = client.request("handlers.nobody", "".into()).await;
    assert!(probe.is_err(), "somebody listens where nobody should");
    let answering = client.clone();
    tokio::spawn(async move {
        while let Some(message) = messages.next().await {
            let mut outcome = outcome.clone();
            let job: Value = serde_json::from_slice(&message.payload).unwrap();
            outcome["id"] = job["id"].clone();
            if let Some(reply) = message.reply {
                let outcome = outcome.to_string();
                answering.publish(reply, outcome.into()).await.unwrap();
            }
        }
    });
    client
}

pub(crate) fn is_success(status: u16) -> bool {
    StatusCode::from_u16(status).unwrap().is_success()
}
