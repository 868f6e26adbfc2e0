//! The command line at work, and what a consumer and a status service would have done.

use async_nats::Client;
use client::{NewJob, Patience, Submitter, Topology};
use common::{Fleet, JobId, Timestamp, subjects};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use test_support::{DEADLINE, NatsServer, Service, ServiceBuilder, bury, put_record};
use tokio::sync::watch;

/// What a command came to.
pub(crate) struct Told {
    pub(crate) code: i32,
    /// Standard output.
    pub(crate) out: String,
    /// Standard error.
    pub(crate) err: String,
}

impl Told {
    /// Its one line of JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {}", self.out))
    }

    /// Its lines of JSON.
    pub(crate) fn lines(&self) -> Vec<Value> {
        let lines = self.out.lines().map(serde_json::from_str);
        lines.collect::<Result<_, _>>().unwrap()
    }
}

/// The command, with nothing but these arguments.
pub(crate) fn jobs(args: &[&str]) -> ServiceBuilder {
    Service::program(env!("CARGO_BIN_EXE_jobs")).args(args)
}

pub(crate) async fn end_of(command: ServiceBuilder) -> Told {
    end(command.start()).await
}

pub(crate) async fn end(mut command: Service) -> Told {
    let code = command.wait().await.code().unwrap();
    Told {
        code,
        out: command.stdout().join("\n"),
        err: command.stderr().join("\n"),
    }
}

/// A server with the streams of durable jobs, and a person at a terminal.
pub(crate) struct Desk {
    pub(crate) nats: NatsServer,
    pub(crate) worker: Client,
}

impl Desk {
    pub(crate) async fn new() -> Self {
        let nats = NatsServer::start().await;
        let worker = nats.connect_as("worker").await;
        Topology::default()
            .ensure(&worker.clone().into())
            .await
            .unwrap();
        Self { nats, worker }
    }

    /// The command as the user of a person at a terminal.
    pub(crate) fn command(&self, args: &[&str]) -> ServiceBuilder {
        jobs(args).envs(self.nats.env_for("operator"))
    }

    pub(crate) async fn tell(&self, args: &[&str]) -> Told {
        end_of(self.command(args)).await
    }

    /// Its exit code and what it prints to standard output.
    pub(crate) async fn ask(&self, args: &[&str]) -> (i32, String) {
        let told = self.tell(args).await;
        (told.code, told.out)
    }

    pub(crate) async fn submit(&self, text: &str) -> JobId {
        let job = NewJob::decode(text.to_owned().into()).unwrap();
        let client = self.nats.connect_as("publisher").await;
        let (_up, connected) = watch::channel(true);
        let patience = Patience {
            confirm: DEADLINE,
            wait_for_nats: false,
            wait_for_room: false,
        };
        let submitter = Submitter::over(&client.clone().into(), connected, patience);
        submitter.submit(&job).await.unwrap();
        job.id
    }

    pub(crate) async fn is_asked_to_cancel(&self, id: JobId) -> bool {
        let last = json!({"last_by_subj": subjects::cancel(id)}).to_string();
        let request = self
            .worker
            .request("$JS.API.DIRECT.GET.JOBS_STATE", last.into());
        request.await.unwrap().status.is_none()
    }

    /// The job in the queue, as it was submitted; null if there is none.
    pub(crate) async fn queued(&self, id: &str) -> Value {
        let last = json!({"last_by_subj": format!("jobs.durable.{id}.>")}).to_string();
        let queued = self.worker.request("$JS.API.DIRECT.GET.JOBS", last.into());
        serde_json::from_slice(&queued.await.unwrap().payload).unwrap_or(Value::Null)
    }

    pub(crate) async fn record(&self, id: JobId, fields: Value) {
        put_record(&self.worker, id, fields).await;
    }

    pub(crate) async fn bury(&self, kind: &str, reason: &str) -> JobId {
        let id = JobId::generate();
        let message = "no such\naddress\u{1b}[31m";
        bury(&self.worker, id, kind, reason, message).await;
        id
    }

    /// Answers once on `jobs.fleet` and then again, each time with one consumer more to come.
    pub(crate) async fn answer_for_the_fleet(&self) {
        let status = self.nats.connect_as("status").await;
        let group = "status".to_owned();
        let mut questions = status
            .queue_subscribe(subjects::FLEET, group)
            .await
            .unwrap();
        status.flush().await.unwrap();
        tokio::spawn(async move {
            while let Some(question) = questions.next().await {
                let request: Value = serde_json::from_slice(&question.payload).unwrap();
                let mut fleet = fleet(request["after"].is_null());
                if request["search"] == "nobody" {
                    fleet.consumers.clear();
                    fleet.next = None;
                }
                let answer = serde_json::to_vec(&fleet).unwrap();
                let reply = question.reply.unwrap();
                status.publish(reply, answer.into()).await.unwrap();
            }
        });
    }
}

fn fleet(first: bool) -> Fleet {
    let started: Timestamp = "2026-01-31T09:30:00Z".parse().unwrap();
    let mut fleet = Fleet::new("status-1".to_owned(), started, DEADLINE);
    fleet.answering = 1;
    fleet.missing = 1;
    fleet.concurrency = 8;
    fleet.in_flight = 3;
    let (consumer, presence) = if first {
        ("consumer-a", "present")
    } else {
        ("consumer\u{1b}b", "missing")
    };
    let member = json!({
        "consumer": consumer, "host": "host", "version": "0.1.0", "started_at": started,
        "presence": presence, "state": "running", "concurrency": 8, "in_flight": 3, "waiting": 0,
        "counts": {"processed": 12, "failed": 2}, "run_ms": {"p99": 1.25},
        "answered_at": started, "took_ms": 1.0,
    });
    fleet.consumers = vec![serde_json::from_value(member).unwrap()];
    fleet.next = first.then(|| consumer.to_owned());
    fleet
}
