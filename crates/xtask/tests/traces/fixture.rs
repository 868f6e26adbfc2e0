//! A nats-server, a collector, and services that send spans to it or do not.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;
use test_support::{DEADLINE, NatsServer, Service, ServiceBuilder, Signal, eventually};

use crate::collector::Collector;

/// The first attempt fails and may be repeated, the second one is the last, unless there is a file
/// `good`. Each says in which trace it is.
const HANDLERS: &str = r#"
    [handlers.traced]
    exec = ["sh", "-c", 'echo "$JOB_ATTEMPT $TRACEPARENT $TRACESTATE" >> said; test -e good || exit $((76 - JOB_ATTEMPT))']
    dir = "."
    [handlers.slow]
    exec = ["sleep", "1000"]
"#;

pub(crate) struct Fixture {
    pub(crate) server: NatsServer,
    pub(crate) collector: Collector,
    folder: TempDir,
}

impl Fixture {
    pub(crate) async fn start() -> Self {
        let (server, collector) = (NatsServer::start().await, Collector::start().await);
        let folder = tempfile::tempdir().unwrap();
        let hook = format!(
            "[handlers.hook]\nhttp = \"{}/hook\"\n",
            collector.endpoint()
        );
        let handlers = format!("{HANDLERS}\n{hook}");
        fs::write(folder.path().join("handlers.toml"), handlers).unwrap();
        Self {
            server,
            collector,
            folder,
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// From now on attempts succeed.
    pub(crate) fn become_good(&self) {
        fs::write(self.file("good"), "").unwrap();
    }

    /// What attempts have said so far: their number, `traceparent` and `tracestate`.
    pub(crate) fn said(&self) -> Vec<String> {
        let said = fs::read_to_string(self.file("said")).unwrap_or_default();
        said.lines()
            .map(|line| line.trim_end().to_owned())
            .collect()
    }

    /// Waits until so many attempts have begun.
    pub(crate) async fn attempts(&self, count: usize) -> Vec<String> {
        eventually(DEADLINE, &format!("{count} attempts"), async || {
            let said = self.said();
            (said.len() >= count).then_some(said)
        })
        .await
    }

    /// A consumer that takes jobs of both lanes.
    pub(crate) async fn consumer(&self, arguments: &[&str]) -> Service {
        let mut consumer = Service::named("consumer")
            .envs(self.server.env_for("worker"))
            .arg("--handlers")
            .arg(self.file("handlers.toml"))
            .args(arguments)
            .start();
        for line in ["taking jobs", "taking durable jobs"] {
            consumer.wait_for_line(|text| text.contains(line)).await;
        }
        consumer
    }

    /// A consumer that records traces.
    pub(crate) async fn recording_consumer(&self) -> Service {
        self.consumer(&["--otlp-endpoint", &self.collector.endpoint()])
            .await
    }

    /// A gateway that records traces, and where it serves.
    pub(crate) async fn recording_gateway(&self) -> (Service, String) {
        let mut gateway = Service::named("gateway")
            .envs(self.server.env_for("gateway"))
            .args(["--listen", "127.0.0.1:0"])
            .args(["--otlp-endpoint", &self.collector.endpoint()])
            .start();
        let serving = |line: &str| line.contains("serving http://");
        let line = gateway.wait_for_line(serving).await;
        let address = line.split_once("serving http://").unwrap().1;
        let address = address.split([' ', '/']).next().unwrap().to_owned();
        (gateway, address)
    }

    pub(crate) fn publisher(&self) -> ServiceBuilder {
        Service::named("publisher").envs(self.server.env_for("publisher"))
    }

    /// Hands over one job, and records that.
    pub(crate) async fn publish_recorded(&self, arguments: &[&str]) {
        let publisher = self.publisher().args(["--count", "1"]);
        let endpoint = self.collector.endpoint();
        let recorded = publisher.args(["--otlp-endpoint", &endpoint]);
        let status = recorded.args(arguments).start().wait().await;
        assert!(status.success(), "{status}");
    }

    /// Waits until a durable job has ended, without success.
    pub(crate) async fn ends(&self, id: &str) {
        let wait = Service::named("jobs").envs(self.server.env_for("operator"));
        let status = wait.args(["wait", id]).start().wait().await;
        assert_eq!(status.code(), Some(1));
    }

    /// Puts a dead letter back into the queue, as soon as there is one.
    pub(crate) async fn replay(&self, id: &str) {
        eventually(DEADLINE, "a dead letter to replay", async || {
            let replay = Service::named("jobs").envs(self.server.env_for("operator"));
            let mut replay = replay.args(["dead", "replay", id]).start();
            replay.wait().await.success().then_some(())
        })
        .await;
    }
}

/// Stops a service; it has sent its spans when it is gone.
pub(crate) async fn stop(mut service: Service) -> Service {
    service.signal(Signal::SIGTERM);
    assert!(service.wait().await.success());
    service
}
