//! A whole system for a test: NATS, consumers, a status service, and the gateway before them.

use async_nats::HeaderMap;
use common::{JobId, Priority, subjects};
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, Service, eventually};

pub(crate) struct System {
    /// Ended before their server, when this is dropped.
    _services: Vec<Service>,
    pub(crate) nats: NatsServer,
    /// Where the gateway serves.
    pub(crate) base: String,
    http: reqwest::Client,
}

/// A client for HTTP.
pub(crate) fn http() -> reqwest::Client {
    // It wants to know who would do TLS, also where nobody does.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

impl System {
    /// With so many consumers.
    pub(crate) async fn start(consumers: usize) -> Self {
        let nats = NatsServer::start().await;
        let mut services = Vec::new();
        for number in 1..=consumers {
            let mut consumer = Service::named("consumer")
                .envs(nats.env_for("worker"))
                .env("CONSUMER_INSTANCE", format!("consumer-{number}"))
                .env("CONSUMER_CONCURRENCY", "4")
                .start();
            consumer
                .wait_for_line(|line| line.contains("taking jobs"))
                .await;
            services.push(consumer);
        }
        services.push(
            Service::named("status-service")
                .envs(nats.env_for("status"))
                .env("STATUS_INTERVAL", "500ms")
                .start(),
        );
        let (gateway, base) = Self::gateway(&nats, &[]).await;
        services.push(gateway);
        Self {
            _services: services,
            nats,
            base,
            http: http(),
        }
    }

    /// A gateway, and where it serves.
    pub(crate) async fn gateway(nats: &NatsServer, arguments: &[&str]) -> (Service, String) {
        let mut gateway = Service::program(env!("CARGO_BIN_EXE_gateway"))
            .envs(nats.env_for("gateway"))
            .args(["--listen", "127.0.0.1:0"])
            .args(arguments)
            .start();
        let line = gateway
            .wait_for_line(|line| line.contains("serving http://"))
            .await;
        let base = line.split("serving ").nth(1).unwrap();
        let base = base.split_whitespace().next().unwrap().to_owned();
        (gateway, base)
    }

    /// Submits a durable job, and gives its id.
    pub(crate) async fn submit(&self, job: &Value) -> String {
        let request = self.http.post(format!("{}/v1/jobs", self.base));
        let request = request.header("content-type", "application/json");
        let answer = request.body(job.to_string()).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), 202, "{job}");
        let answer: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        answer["id"].as_str().unwrap().to_owned()
    }

    /// Submits a durable job over NATS with a header, and gives its id.
    pub(crate) async fn submit_with_header(&self, job: &Value, name: &str, value: &str) -> String {
        let id = JobId::generate();
        let kind = job["kind"].as_str().unwrap().parse().unwrap();
        let subject = subjects::durable_job(id, Priority::default(), 1, &kind);
        let mut headers = HeaderMap::new();
        headers.insert(name, value);
        let mut job = job.clone();
        job["id"] = json!(id);
        let publisher = self.nats.connect_as("publisher").await;
        let answer = publisher.request_with_headers(subject, headers, job.to_string().into());
        let answer: Value = serde_json::from_slice(&answer.await.unwrap().payload).unwrap();
        assert!(answer["seq"].is_u64(), "{answer}");
        id.to_string()
    }

    /// Submits many durable jobs at once.
    pub(crate) async fn submit_all(&self, jobs: &[Value]) {
        let request = self.http.post(format!("{}/v1/jobs", self.base));
        let request = request.header("content-type", "application/json");
        let answer = request.body(json!(jobs).to_string()).send().await.unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }

    /// A page of the gateway, as it is sent.
    pub(crate) async fn html(&self, path: &str) -> String {
        let answer = self.http.get(format!("{}{path}", self.base)).send().await;
        answer.unwrap().text().await.unwrap()
    }

    /// Waits until a job is in a state.
    pub(crate) async fn wait_for(&self, id: &str, state: &str) -> Value {
        let what = format!("job {id} to be {state}");
        eventually(DEADLINE, &what, async || {
            let record = self.html(&format!("/v1/jobs/{id}")).await;
            let record: Value = serde_json::from_str(&record).ok()?;
            (record["state"] == state).then_some(record)
        })
        .await
    }

    /// A job whose payload its handler does not take, once it is among the dead letters.
    pub(crate) async fn dead_letter(&self) -> String {
        let job = json!({"kind": "sleep", "payload": {"ms": "soon"}});
        let id = self.submit(&job).await;
        self.wait_for(&id, "dead").await;
        id
    }
}
