//! Simulated consumers, and the status service as a child process.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_nats::{Client, Message, RequestErrorKind};
use client::Topology;
use common::subjects::{CORE_LANE, STATUS};
use common::{
    ConsumerState, ConsumerStatus, Counts, KindStatus, LaneStatus, RunCounts, RunTime, Timestamp,
};
use futures_util::StreamExt as _;
use serde_json::Value;
use test_support::{DEADLINE, NatsServer, Service, ServiceBuilder, eventually};
use tokio::task::JoinHandle;

/// The status of a consumer that has just started.
pub(crate) fn status(name: &str) -> ConsumerStatus {
    ConsumerStatus {
        consumer: name.to_owned(),
        host: format!("host-of-{name}"),
        version: "0.1.0".to_owned(),
        started_at: timestamp("2026-01-31T09:30:00Z"),
        uptime_ms: 0,
        state: ConsumerState::Running,
        concurrency: 4,
        in_flight: 0,
        inbox: 1024,
        waiting: 0,
        received: 0,
        dropped: 0,
        unserved_kinds: Vec::new(),
        totals: Counts::default(),
        lanes: [(CORE_LANE.to_owned(), LaneStatus::default())].into(),
    }
}

pub(crate) fn timestamp(text: &str) -> Timestamp {
    text.parse().expect("a test writes it as RFC 3339 does")
}

pub(crate) fn encoded(status: &ConsumerStatus) -> Vec<u8> {
    serde_json::to_vec(status).expect("a status is always JSON")
}

pub(crate) fn processed(processed: u64) -> Counts {
    Counts {
        processed,
        succeeded: processed,
        ..Counts::default()
    }
}

/// A thousand consumers on four connections, each with what `change` makes of the status of the
/// n-th on its connection.
pub(crate) async fn thousand(
    nats: &NatsServer,
    change: impl Fn(u64, &mut ConsumerStatus),
) -> Vec<Simulated> {
    let mut consumers = Vec::new();
    for connection in 0..4 {
        let worker = nats.connect_as("worker").await;
        for n in 0..250 {
            let mut status = status(&format!("consumer-{connection}-{n}"));
            change(n, &mut status);
            consumers.push(Simulated::with(&worker, status).await);
        }
    }
    consumers
}

/// How a simulated consumer behaves when it is asked.
#[derive(Clone, Debug)]
pub(crate) enum Behaviour {
    /// It answers.
    Answer,
    /// It does not answer.
    Mute,
    /// It answers this many times.
    Repeat(usize),
    /// It answers with each of these payloads.
    Raw(Vec<Vec<u8>>),
}

/// A consumer that runs no jobs and answers on jobs.status, until it is dropped.
pub(crate) struct Simulated {
    client: Client,
    state: Arc<Mutex<(ConsumerStatus, Behaviour)>>,
    /// The question that it was asked last.
    last: Arc<Mutex<Option<Message>>>,
    /// How many questions it did not answer.
    unanswered: Arc<AtomicUsize>,
    /// How many questions it has handled.
    asked: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Simulated {
    pub(crate) async fn start(client: &Client, name: &str) -> Self {
        Self::with(client, status(name)).await
    }

    /// When this returns, the server knows of its subscription.
    pub(crate) async fn with(client: &Client, status: ConsumerStatus) -> Self {
        let questions = client.subscribe(STATUS).await;
        let mut questions = questions.expect("the connection is open");
        let state = Arc::new(Mutex::new((status, Behaviour::Answer)));
        let last = Arc::new(Mutex::new(None));
        let unanswered = Arc::new(AtomicUsize::new(0));
        let asked = Arc::new(AtomicUsize::new(0));
        let task = tokio::spawn({
            let (client, state) = (client.clone(), Arc::clone(&state));
            let (last, unanswered) = (Arc::clone(&last), Arc::clone(&unanswered));
            let asked = Arc::clone(&asked);
            async move {
                while let Some(question) = questions.next().await {
                    let answers = answers(&state.lock().unwrap_or_else(PoisonError::into_inner));
                    if answers.is_empty() {
                        unanswered.fetch_add(1, Ordering::Relaxed);
                    }
                    for answer in answers {
                        reply(&client, &question, answer).await;
                    }
                    asked.fetch_add(1, Ordering::Relaxed);
                    *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(question);
                }
            }
        });
        // The server handles the requests of a connection in order, so it knows the subscription
        // once it has answered this one.
        let error = client.request("handlers.nobody", "".into()).await;
        let error = error.expect_err("nobody serves this");
        assert_eq!(error.kind(), RequestErrorKind::NoResponders);
        Self {
            client: client.clone(),
            state,
            last,
            unanswered,
            asked,
            task,
        }
    }

    /// Waits until it was asked so many more times.
    pub(crate) async fn is_asked(&self, times: usize) {
        let wanted = self.asked.load(Ordering::Relaxed) + times;
        eventually(DEADLINE, "more questions", async || {
            (self.asked.load(Ordering::Relaxed) >= wanted).then_some(())
        })
        .await;
    }

    /// Waits until it was asked and did not answer.
    pub(crate) async fn ignored_a_question(&self) {
        let before = self.unanswered.load(Ordering::Relaxed);
        eventually(DEADLINE, "a question that stays unanswered", async || {
            (self.unanswered.load(Ordering::Relaxed) > before).then_some(())
        })
        .await;
    }

    /// Stops as a consumer does: sends its last status to the last question.
    pub(crate) async fn leave(self) {
        self.change(|status| status.state = ConsumerState::Draining);
        let last = self
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let status = encoded(&self.state().0);
        reply(&self.client, &last.expect("it was asked before"), status).await;
    }

    pub(crate) fn change(&self, change: impl FnOnce(&mut ConsumerStatus)) {
        change(&mut self.state().0);
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        self.state().1 = behaviour;
    }

    fn state(&self) -> MutexGuard<'_, (ConsumerStatus, Behaviour)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Simulated {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) async fn reply(client: &Client, question: &Message, answer: Vec<u8>) {
    let reply = question.reply.clone().expect("a question wants an answer");
    let sent = client.publish(reply, answer.into()).await;
    sent.expect("the connection is open");
}

fn answers((status, behaviour): &(ConsumerStatus, Behaviour)) -> Vec<Vec<u8>> {
    let answer = || encoded(status);
    match behaviour {
        Behaviour::Answer => vec![answer()],
        Behaviour::Mute => Vec::new(),
        Behaviour::Repeat(times) => vec![answer(); *times],
        Behaviour::Raw(answers) => answers.clone(),
    }
}

/// The status of a lane in which jobs of one kind ran.
pub(crate) fn lane(kind: &str, counts: Counts, p50: f64, p99: f64) -> LaneStatus {
    let run_ms = RunTime {
        p50,
        p99,
        ..RunTime::default()
    };
    let mut run_counts = RunCounts::default();
    run_counts.add(p50, counts.processed);
    let status = KindStatus {
        counts,
        run_ms,
        run_counts,
    };
    LaneStatus {
        counts,
        kinds: [(kind.to_owned(), status)].into(),
    }
}

/// Makes the streams of durable jobs, as a consumer does when it starts.
pub(crate) async fn make_streams(worker: &Client) {
    let worker = bootstrap::NatsClient::from(worker.clone());
    Topology::default().ensure(&worker).await.unwrap();
}

/// The binary of this package, with nothing to connect to.
pub(crate) fn binary() -> ServiceBuilder {
    Service::program(env!("CARGO_BIN_EXE_status-service"))
}

/// A status service that asks ten times a second and logs JSON, with a line about the fleet in each round
/// with an answer.
pub(crate) struct Watched {
    pub(crate) service: Service,
    /// How many lines `next` has passed.
    seen: usize,
}

impl Watched {
    pub(crate) fn start(nats: &NatsServer, arguments: &[&str]) -> Self {
        let service = binary()
            .envs(nats.env_for("status"))
            .env("LOG_FORMAT", "json")
            .env("STATUS_INTERVAL", "100ms")
            .env("RUST_LOG", "info,status_service::report::fleet=debug")
            .args(arguments)
            .start();
        Self { service, seen: 0 }
    }

    /// All lines that it logged so far.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let lines = self.service.stdout();
        lines
            .iter()
            .map(|line| {
                serde_json::from_str(line)
                    .unwrap_or_else(|error| panic!("a line that is not JSON: {line} ({error})"))
            })
            .collect()
    }

    /// How many lines with this message it logged so far.
    pub(crate) fn count(&self, message: &str) -> usize {
        let lines = self.lines();
        lines
            .iter()
            .filter(|line| line["message"] == message)
            .count()
    }

    /// Waits for a line with this message that is `wanted`, after the line that was returned last.
    pub(crate) async fn next(&mut self, message: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let what = format!("a line {message:?} that was asked for");
        let (at, line) = eventually(DEADLINE, &what, async || {
            let lines = self.lines().into_iter().enumerate().skip(self.seen);
            let mut lines = lines.filter(|(_, line)| line["message"] == message);
            lines.find(|(_, line)| wanted(line))
        })
        .await;
        self.seen = at + 1;
        line
    }

    /// Waits for this many more rounds with an answer.
    pub(crate) async fn rounds(&mut self, count: usize) {
        self.seen = self.lines().len();
        for _ in 0..count {
            self.next("fleet", |_| true).await;
        }
    }
}
