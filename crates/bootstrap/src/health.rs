//! The health check: a Unix socket that answers each connection with one line of JSON.
//!
//! It has its own thread, so that a busy service still answers. Nothing listens on a network.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::monitor::{Connections, Families};
use crate::task::Tasks;

/// How long a health check waits for the answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// The health of this instance; clones share it.
///
/// The instance is healthy if the server has answered on each connection lately, each task has sent its
/// heartbeat, and no problem is set.
#[derive(Clone, Debug, Default)]
pub struct Health {
    connections: Connections,
    /// Problems by respect; `None` if there was one and it is over.
    problems: Arc<Mutex<BTreeMap<&'static str, Option<String>>>>,
    pub(crate) tasks: Tasks,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one is locked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) healthy: bool,
    pub(crate) reason: String,
}

impl Health {
    /// Cancels `shutdown` when a supervised task fails.
    pub(crate) fn new(connections: Connections, shutdown: CancellationToken) -> Self {
        Self {
            connections,
            problems: Arc::default(),
            tasks: Tasks::new(shutdown),
        }
    }

    /// Sets the problem in one respect, or clears it with `None`. Returns whether there was a change
    /// from no problem to one, or from a problem to none.
    #[expect(
        clippy::must_use_candidate,
        reason = "few callers need to know whether there was a change"
    )]
    pub fn set_problem(&self, respect: &'static str, problem: Option<String>) -> bool {
        let is_set = problem.is_some();
        let before = lock(&self.problems).insert(respect, problem).flatten();
        before.is_some() != is_set
    }

    /// The problem in one respect; `None` if there is none.
    #[must_use]
    pub fn problem(&self, respect: &'static str) -> Option<String> {
        lock(&self.problems).get(respect).cloned().flatten()
    }

    pub(crate) fn answer(&self) -> Answer {
        let connections = self.connections.problems();
        if connections.is_empty() {
            return Answer {
                healthy: false,
                reason: "not started yet".to_owned(),
            };
        }
        let wanted = connections.len();
        let problems: Vec<_> = connections
            .into_iter()
            .filter_map(|(purpose, problem)| Some(format!("{purpose}: {}", problem?)))
            .collect();
        let up = wanted - problems.len();
        let mut reasons = vec![format!("{up} of {wanted} connections to NATS are up")];
        reasons.extend(problems);
        reasons.extend(self.tasks.problems());
        reasons.extend(lock(&self.problems).values().flatten().cloned());
        Answer {
            healthy: reasons.len() == 1,
            reason: reasons.join("; "),
        }
    }

    /// Answers health checks on a Unix socket, on its own thread, until the process ends.
    ///
    /// # Errors
    /// When the socket cannot be created, or another process answers on it.
    pub(crate) fn serve(&self, path: &Path) -> anyhow::Result<()> {
        let failed = || format!("cannot listen on the health socket {}", path.display());
        // The socket of a killed instance is replaced; one that another process answers on is not.
        if UnixStream::connect(path).is_ok() {
            anyhow::bail!("{}: another process answers there", failed());
        }
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(failed);
            }
            _ => {}
        }
        let listener = UnixListener::bind(path).with_context(failed)?;
        let health = self.clone();
        // This thread waits for connections, so no heartbeat is expected; only its panic is noticed.
        let heartbeat = self.task("health socket", Duration::MAX);
        let serve = move || {
            let _kept = heartbeat;
            for stream in listener.incoming() {
                let line = serde_json::to_string(&health.answer()).unwrap_or_default();
                if let Err(error) = stream.and_then(|mut stream| writeln!(stream, "{line}")) {
                    warn!(%error, "cannot answer a health check");
                }
            }
        };
        std::thread::Builder::new()
            .name("health".to_owned())
            .spawn(serve)
            .with_context(failed)?;
        Ok(())
    }
}

impl Collector for Health {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families::new(encoder);
        let ready = self.answer().healthy && !self.tasks.is_stopping();
        families.gauge(
            "jobs_ready",
            "Whether the service is ready; /readyz has the reason",
            [([("", ""); 0], u32::from(ready))],
        )?;
        let problems = lock(&self.problems).clone();
        let is_set = |problem: &Option<String>| u32::from(problem.is_some());
        families.gauge(
            "jobs_problem",
            "Whether the service has a problem in a respect, such as the storage of its server",
            problems
                .iter()
                .map(|(respect, problem)| ([("respect", *respect)], is_set(problem))),
        )?;
        let silences = self.tasks.silences();
        families.gauge(
            "jobs_task_silent_seconds",
            "Time since the last heartbeat of a task",
            silences
                .iter()
                .map(|(task, silent)| ([("task", task.as_ref())], silent.as_secs_f64())),
        )
    }
}

/// The command `healthcheck`: asks the instance behind a socket and prints its answer.
pub(crate) fn check(path: Option<&Path>, variable: &str) -> ExitCode {
    let Some(path) = path else {
        eprintln!("error: no health socket: set --health-socket or {variable}");
        return ExitCode::from(2);
    };
    match ask(path) {
        Ok(answer) => {
            println!("{}", answer.reason);
            if answer.healthy {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            }
        }
        Err(error) => {
            println!(
                "no answer on the health socket {}: {error:#}",
                path.display()
            );
            ExitCode::FAILURE
        }
    }
}

fn ask(path: &Path) -> anyhow::Result<Answer> {
    let stream = UnixStream::connect(path)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    serde_json::from_str(&line).context("cannot read the answer")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::monitor::ConnectionState;

    #[test]
    fn health_follows_the_connections_and_a_stale_socket_is_replaced() {
        let folder = std::env::temp_dir().join(format!("health-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("health.sock");
        drop(UnixListener::bind(&path).unwrap());

        let connections = Connections::default();
        let health = Health::new(connections.clone(), CancellationToken::new());
        health.serve(&path).unwrap();
        assert_eq!(ask(&path).unwrap().reason, "not started yet");
        let (up, connected) = tokio::sync::watch::channel(false);
        let connection = Arc::new(ConnectionState::new("jobs", connected));
        connections.add(&connection);
        let answer = ask(&path).unwrap();
        assert!(!answer.healthy);
        assert_eq!(
            answer.reason,
            "0 of 1 connections to NATS are up; jobs: not connected"
        );
        up.send_replace(true);
        let answer = ask(&path).unwrap();
        assert!(!answer.healthy, "nothing has come back yet");
        connection.set_answered(Duration::from_millis(1));
        let answer = ask(&path).unwrap();
        assert_eq!(answer.reason, "1 of 1 connections to NATS are up");
        assert!(answer.healthy);
        up.send_replace(false);
        assert!(!ask(&path).unwrap().healthy);

        let error = Health::default().serve(&path).unwrap_err();
        assert!(
            error.to_string().contains("another process answers there"),
            "{error}"
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }

    /// An instance with one healthy connection.
    pub(crate) fn healthy() -> (
        Health,
        Arc<ConnectionState>,
        tokio::sync::watch::Sender<bool>,
    ) {
        let connections = Connections::default();
        let (up, connected) = tokio::sync::watch::channel(true);
        let connection = Arc::new(ConnectionState::new("jobs", connected));
        connection.set_answered(Duration::from_millis(1));
        connections.add(&connection);
        (
            Health::new(connections, CancellationToken::new()),
            connection,
            up,
        )
    }

    #[test]
    fn a_problem_is_reported_until_it_is_cleared() {
        let (health, _connection, _up) = healthy();
        assert!(health.set_problem("storage", Some("the disk is full".to_owned())));
        let again = health.set_problem("storage", Some("the disk is full".to_owned()));
        assert!(!again, "there is no change");
        let answer = health.answer();
        assert!(!answer.healthy);
        assert!(
            answer.reason.ends_with("; the disk is full"),
            "{}",
            answer.reason
        );
        assert!(health.set_problem("storage", None));
        assert!(!health.set_problem("storage", None), "there is no change");
        assert!(health.answer().healthy);
    }
}
