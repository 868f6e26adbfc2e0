//! Scripted consumers, and what a publisher writes.

use std::io::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use async_nats::{Client, Message};
use bytes::Bytes;
use client::{Limits, Topology};
use common::{JobId, JobMessage, subjects};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::{DEADLINE, NatsServer, Service, ServiceBuilder, eventually};
use tokio::task::JoinHandle;

/// A backoff so short that a test need not wait for it.
pub(crate) const AT_ONCE: &str = r#""backoff":{"initial":"1ms","max":"1ms"}"#;

/// A job as it arrived.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) subject: String,
    pub(crate) reply: Option<String>,
    pub(crate) payload: Bytes,
    /// Value of the attempt header; `None` without it.
    pub(crate) attempt: Option<String>,
    /// How many requests came before it.
    pub(crate) number: usize,
}

impl Request {
    pub(crate) fn id(&self) -> JobId {
        let job = JobMessage::decode(&self.payload).expect("the publisher sends jobs");
        job.id.expect("and gives each an id")
    }

    /// The answer of a consumer.
    pub(crate) fn outcome(&self, status: &str) -> String {
        self.refusal(status, Value::Null)
    }

    /// The answer of a consumer, with this error.
    pub(crate) fn refusal(&self, status: &str, error: Value) -> String {
        let attempt: u32 = self
            .attempt
            .as_ref()
            .map_or(1, |text| text.parse().unwrap());
        let mut outcome = json!({
            "id": self.id(), "status": status, "consumer": "scripted", "attempt": attempt,
            "duration_ms": 0.5,
        });
        if status == "succeeded" {
            outcome["result"] = json!({"number": self.number});
        } else if !error.is_null() {
            outcome["error"] = error;
        }
        outcome.to_string()
    }
}

/// A member of the queue group that answers as a test says, and keeps the requests.
pub(crate) struct Responder {
    pub(crate) client: Client,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Responder {
    /// Answers each request on `jobs.create` with what `answer` returns; does not answer if that is
    /// `None`.
    pub(crate) async fn start(
        nats: &NatsServer,
        answer: impl FnMut(&Request) -> Option<String> + Send + 'static,
    ) -> Self {
        Self::on(nats, subjects::CREATE, answer).await
    }

    pub(crate) async fn on(
        nats: &NatsServer,
        subject: &'static str,
        mut answer: impl FnMut(&Request) -> Option<String> + Send + 'static,
    ) -> Self {
        let client = nats.connect_as("worker").await;
        let group = subjects::WORKERS.to_owned();
        let mut messages = client.queue_subscribe(subject, group).await.unwrap();
        // Once the server has answered a later request, it knows the subscription.
        let probe = client.request("handlers.nobody", Bytes::new()).await;
        assert!(
            probe.is_err(),
            "a subscriber on a subject that should have none"
        );
        let requests = Arc::<Mutex<Vec<Request>>>::default();
        let task = tokio::spawn({
            let (client, requests) = (client.clone(), Arc::clone(&requests));
            async move {
                while let Some(message) = messages.next().await {
                    let request = {
                        let mut requests = requests.lock().unwrap();
                        let request = read(message, requests.len());
                        requests.push(request.clone());
                        request
                    };
                    if let (Some(reply), Some(answer)) = (request.reply.clone(), answer(&request)) {
                        client.publish(reply, answer.into()).await.unwrap();
                    }
                }
            }
        });
        Self {
            client,
            requests,
            task,
        }
    }

    /// The requests so far.
    pub(crate) fn requests(&self) -> MutexGuard<'_, Vec<Request>> {
        self.requests.lock().unwrap()
    }

    /// Waits until there have been `count` requests.
    pub(crate) async fn asked(&self, count: usize) {
        eventually(DEADLINE, &format!("{count} requests"), async || {
            (self.requests().len() >= count).then_some(())
        })
        .await;
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn read(message: Message, number: usize) -> Request {
    let attempt = message
        .headers
        .as_ref()
        .and_then(|headers| headers.get(subjects::ATTEMPT_HEADER))
        .map(ToString::to_string);
    Request {
        subject: message.subject.to_string(),
        reply: message.reply.map(|reply| reply.to_string()),
        payload: message.payload,
        attempt,
        number,
    }
}

/// Makes the streams of durable jobs, as a consumer does when it starts.
pub(crate) async fn make_streams(nats: &NatsServer, limits: Limits) {
    let topology = Topology {
        limits,
        ..Topology::default()
    };
    let worker = nats.connect_as("worker").await;
    topology.ensure(&worker.into()).await.unwrap();
}

/// The publisher, ready to be started.
pub(crate) fn publisher(nats: &NatsServer) -> ServiceBuilder {
    Service::named("publisher").envs(nats.env_for("publisher"))
}

/// The publisher with jobs in bulk; it writes their outcomes to standard output.
pub(crate) fn bulk(nats: &NatsServer, lines: &[impl AsRef<str>]) -> ServiceBuilder {
    let lines: Vec<_> = lines.iter().map(AsRef::as_ref).collect();
    publisher(nats)
        .args(["--input", "-", "--output", "-"])
        .input(lines.join("\n"))
}

/// The outcomes that a publisher wrote to standard output, in the order of their lines.
pub(crate) fn outcomes(publisher: &Service) -> Vec<Value> {
    let mut outcomes: Vec<Value> = publisher
        .stdout()
        .iter()
        .map(|line| serde_json::from_str(line).expect("standard output holds outcomes only"))
        .collect();
    outcomes.sort_by_key(|outcome| outcome["line"].as_u64());
    outcomes
}

/// Runs a publisher to its end, and returns its exit code and the outcomes.
pub(crate) async fn run(publisher: ServiceBuilder) -> (i32, Vec<Value>, Service) {
    let mut publisher = publisher.start();
    let status = publisher.wait().await;
    let code = status.code().expect("the publisher exits by itself");
    (code, outcomes(&publisher), publisher)
}

/// The one log line that begins with these words, without time, level and instance.
pub(crate) fn logged(publisher: &Service, words: &str) -> String {
    let lines: Vec<_> = publisher
        .lines()
        .into_iter()
        .filter_map(|line| Some(line.text.splitn(4, [' ']).nth(3)?.trim_start().to_owned()))
        .collect();
    let found: Vec<_> = lines
        .iter()
        .filter_map(|line| line.find(words).map(|at| line[at..].to_owned()))
        .collect();
    assert_eq!(
        found.len(),
        1,
        "lines with {words:?}: {found:?} of {lines:#?}"
    );
    found[0].clone()
}

/// A folder for a test, and the path of a file in it.
pub(crate) fn file(name: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    (folder, path)
}

/// A file with these lines.
pub(crate) fn file_of(lines: impl IntoIterator<Item = String>) -> (TempDir, PathBuf) {
    let (folder, path) = file("jobs.ndjson");
    let mut writer = std::io::BufWriter::new(std::fs::File::create(&path).unwrap());
    for line in lines {
        writeln!(writer, "{line}").unwrap();
    }
    writer.flush().unwrap();
    (folder, path)
}
