//! A nats-server, services on it, and what became of the jobs that they were given.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::time::Duration;

use client::{Job, Options};
use common::{ConsumerStatus, JobId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tempfile::TempDir;
use test_support::{DEADLINE, NatsServer, Service, ServiceBuilder, Signal, eventually};

pub(crate) use crate::observer::processed;
use crate::observer::{Observer, Statuses};

/// A job of the built-in kind `sleep`, as a type.
#[derive(Serialize, Deserialize)]
pub(crate) struct Sleep {
    pub(crate) ms: u64,
}

impl Job for Sleep {
    const KIND: &'static str = "sleep";
    type Output = ();
}

pub(crate) struct Fixture {
    pub(crate) server: NatsServer,
    observer: Observer,
    folder: TempDir,
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        Self::on(NatsServer::start().await).await
    }

    pub(crate) async fn on(server: NatsServer) -> Self {
        let observer = Observer(server.connect_as("status").await);
        let folder = tempfile::tempdir().unwrap();
        Self {
            server,
            observer,
            folder,
        }
    }

    /// A consumer that takes jobs, four at a time unless told otherwise.
    pub(crate) async fn consumer(&self, name: &str, arguments: &[&str]) -> Service {
        let mut consumer = Service::named("consumer")
            .envs(self.server.env_for("worker"))
            .env("CONSUMER_INSTANCE", name)
            .env("CONSUMER_CONCURRENCY", "4")
            .args(arguments)
            .start();
        consumer
            .wait_for_line(|line| line.contains("taking jobs"))
            .await;
        consumer
    }

    /// A gateway, and its `host:port`.
    pub(crate) async fn gateway(&self) -> (Service, String) {
        let mut gateway = Service::named("gateway")
            .envs(self.server.env_for("gateway"))
            .args(["--listen", "127.0.0.1:0"])
            .start();
        let line = gateway
            .wait_for_line(|line| line.contains("serving http://"))
            .await;
        let address = line.split_once("http://").unwrap().1;
        let address = address.split([' ', '/']).next().unwrap().to_owned();
        (gateway, address)
    }

    /// The options with which a program connects as this user.
    pub(crate) fn options(&self, user: &str) -> Options {
        let env = self.server.env_for(user);
        let variable = |name: &str| {
            let found = env.iter().find(|(variable, _)| variable == name);
            found.map(|(_, value)| value.clone())
        };
        Options::from_variables(variable).unwrap()
    }

    /// A publisher that logs JSON.
    pub(crate) fn publisher(&self) -> ServiceBuilder {
        Service::named("publisher")
            .envs(self.server.env_for("publisher"))
            .env("LOG_FORMAT", "json")
    }

    /// A status service that asks five times a second and logs JSON.
    pub(crate) fn status_service(&self, arguments: &[&str]) -> Service {
        Service::named("status-service")
            .envs(self.server.env_for("status"))
            .env("LOG_FORMAT", "json")
            .env("STATUS_INTERVAL", "200ms")
            .args(arguments)
            .start()
    }

    /// A publisher that is given these jobs as a file, and writes their outcomes to another.
    pub(crate) fn bulk(&self, jobs: impl IntoIterator<Item = Value>, arguments: &[&str]) -> Bulk {
        let input = self.folder.path().join("jobs.ndjson");
        let output = self.folder.path().join("outcomes.ndjson");
        let mut file = BufWriter::new(File::create(&input).unwrap());
        let mut ids = Vec::new();
        for mut job in jobs {
            let id = JobId::generate();
            job["id"] = json!(id);
            writeln!(file, "{job}").unwrap();
            ids.push(id.to_string());
        }
        file.flush().unwrap();
        let publisher = self
            .publisher()
            .arg("--input")
            .arg(&input)
            .arg("--output")
            .arg(&output)
            .args(arguments)
            .start();
        Bulk {
            publisher,
            ids,
            output,
        }
    }

    /// A file that declares handlers.
    pub(crate) fn handlers(&self, declarations: &str) -> String {
        let path = self.folder.path().join("handlers.toml");
        fs::write(&path, declarations).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// What each consumer says of itself, by its name, once so many answer.
    pub(crate) async fn statuses(&self, count: usize) -> Statuses {
        self.observer.statuses(count, |_| true).await
    }

    /// What a consumer says of itself, once it is as wanted.
    pub(crate) async fn status_of(
        &self,
        name: &str,
        wanted: impl Fn(&ConsumerStatus) -> bool,
    ) -> ConsumerStatus {
        let what = format!("a status of {name} that was asked for");
        eventually(DEADLINE, &what, async || {
            let mut statuses = self.observer.ask(usize::MAX).await;
            statuses.remove(name).filter(|status| wanted(status))
        })
        .await
    }
}

/// A job that takes so many milliseconds.
pub(crate) fn sleep(ms: u64) -> Value {
    json!({"kind": "sleep", "payload": {"ms": ms}})
}

/// What a service that logs JSON said with this message.
pub(crate) fn said(service: &Service, message: &str) -> Vec<Value> {
    let lines = service.stdout();
    let lines = lines.iter().map(|line| {
        serde_json::from_str::<Value>(line)
            .unwrap_or_else(|error| panic!("a line that is not JSON: {line} ({error})"))
    });
    lines.filter(|line| line["message"] == message).collect()
}

/// Waits until a service that logs JSON has said this, as wanted.
pub(crate) async fn says(
    service: &Service,
    message: &str,
    wanted: impl Fn(&Value) -> bool,
) -> Value {
    let what = format!("a line {message:?} that was asked for");
    eventually(DEADLINE, &what, async || {
        said(service, message).into_iter().find(|line| wanted(line))
    })
    .await
}

/// Ends a service as `docker stop` does; it must say that it succeeded.
pub(crate) async fn stop(service: &mut Service) {
    service.signal(Signal::SIGTERM);
    assert_eq!(service.wait().await.code(), Some(0));
}

/// The most memory that a process had so far, in MB.
pub(crate) fn peak_memory_mb(service: &Service) -> Option<u64> {
    memory_mb(service.id(), "VmHWM:")
}

/// What the system says of a process's memory under a name of proc(5), in MB.
pub(crate) fn memory_mb(process: u32, name: &str) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024 / 1_000_000)
}

/// A publisher in the middle of a file of jobs.
pub(crate) struct Bulk {
    pub(crate) publisher: Service,
    pub(crate) ids: Vec<String>,
    output: PathBuf,
}

/// What became of a file of jobs.
pub(crate) struct Ended {
    pub(crate) publisher: Service,
    /// The publisher's own summary.
    pub(crate) summary: Value,
    /// The outcomes in the order of the jobs.
    pub(crate) outcomes: Vec<Value>,
}

impl Bulk {
    /// Waits for the end of a run in which every job has to succeed: exit code 0, each id once
    /// among the outcomes, and the same numbers in the summary.
    pub(crate) async fn all_succeed(mut self, deadline: Duration) -> Ended {
        let status = self.publisher.wait_within(deadline).await;
        assert_eq!(status.code(), Some(0));
        let summary = said(&self.publisher, "summary").remove(0);
        let jobs = self.ids.len();
        assert_eq!(
            (&summary["submitted"], &summary["succeeded"]),
            (&jobs.into(), &jobs.into()),
            "{summary}"
        );
        for other in ["failed", "rejected", "expired", "given_up", "bad_lines"] {
            assert_eq!(summary[other], 0, "{summary}");
        }
        let outcomes = fs::read_to_string(&self.output).unwrap();
        let mut by_id = BTreeMap::new();
        for outcome in outcomes.lines() {
            let outcome: Value = serde_json::from_str(outcome).unwrap();
            assert_eq!(outcome["status"], "succeeded", "{outcome}");
            let id = outcome["id"].as_str().unwrap().to_owned();
            let twin = by_id.insert(id, outcome);
            assert!(twin.is_none(), "a job with two outcomes: {twin:?}");
        }
        let outcomes: Vec<Value> = self
            .ids
            .iter()
            .map(|id| by_id.remove(id).expect("each job has an outcome"))
            .collect();
        assert!(by_id.is_empty(), "outcomes of no job: {by_id:?}");
        Ended {
            publisher: self.publisher,
            summary,
            outcomes,
        }
    }
}

impl Ended {
    /// How many jobs a consumer had the last word on.
    pub(crate) fn by(&self, consumer: &str) -> usize {
        let outcomes = self.outcomes.iter();
        outcomes
            .filter(|outcome| outcome["consumer"] == consumer)
            .count()
    }
}
