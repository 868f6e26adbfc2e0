//! The health check: a Unix socket that answers each connection with one line of JSON.
//!
//! It has a thread of its own and no part of the async runtime, so that a service which is busy
//! still answers, and nothing listens on a network.

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

use crate::monitor::{Families, Links};
use crate::task::Tasks;

/// How long a health check waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of this instance's health; clones see the same.
///
/// It is healthy if the server has answered on each connection lately, each task has given a sign of
/// life, and nobody reports a problem.
#[derive(Clone, Debug, Default)]
pub struct Health {
    links: Links,
    /// By their respect; nothing where one is over.
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
    /// Cancels `shutdown` when a task that the service cannot do without has ended.
    pub(crate) fn new(links: Links, shutdown: CancellationToken) -> Self {
        Self {
            links,
            problems: Arc::default(),
            tasks: Tasks::new(shutdown),
        }
    }

    /// Says what is wrong in one respect, or with `None` that nothing is any more. Returns whether
    /// that is news: the respect had no problem before, or had one.
    #[expect(
        clippy::must_use_candidate,
        reason = "whether it is news matters to few"
    )]
    pub fn set_problem(&self, respect: &'static str, problem: Option<String>) -> bool {
        let is_one = problem.is_some();
        let before = lock(&self.problems).insert(respect, problem).flatten();
        before.is_some() != is_one
    }

    /// What is wrong in one respect.
    #[must_use]
    pub fn problem(&self, respect: &'static str) -> Option<String> {
        lock(&self.problems).get(respect).cloned().flatten()
    }

    pub(crate) fn answer(&self) -> Answer {
        let links = self.links.states();
        if links.is_empty() {
            return Answer {
                healthy: false,
                reason: "not started yet".to_owned(),
            };
        }
        let wanted = links.len();
        let problems: Vec<_> = links
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

    /// Answers health checks on a Unix socket, on a thread of its own, until the process ends.
    ///
    /// # Errors
    /// When there can be no socket at the path.
    pub(crate) fn serve(&self, path: &Path) -> anyhow::Result<()> {
        let failed = || format!("cannot listen on the health socket {}", path.display());
        // A socket that a killed instance left behind would be in the way; one that somebody
        // still answers on is not ours to take.
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
        // It waits for whoever asks, so its end alone is noticed.
        let beat = self.task("health socket", Duration::MAX);
        let serve = move || {
            let _kept = beat;
            for stream in listener.incoming() {
                let line = serde_json::to_string(&health.answer()).unwrap_or_default();
                if let Err(error) = stream.and_then(|mut stream| writeln!(stream, "{line}")) {
                    warn!(%error, "a health check was not answered");
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
            "Whether the service is ready, as /readyz says with the reason",
            [([("", ""); 0], u32::from(ready))],
        )?;
        let problems = lock(&self.problems).clone();
        let is_one = |problem: &Option<String>| u32::from(problem.is_some());
        families.gauge(
            "jobs_problem",
            "Whether the service has a problem in a respect, such as the storage of its server",
            problems
                .iter()
                .map(|(respect, problem)| ([("respect", *respect)], is_one(problem))),
        )?;
        let silences = self.tasks.silences();
        families.gauge(
            "jobs_task_silent_seconds",
            "Time since a task of the service gave its last sign of life",
            silences
                .iter()
                .map(|(task, silent)| ([("task", task.as_ref())], silent.as_secs_f64())),
        )
    }
}

/// The command `healthcheck`: asks the instance behind a socket and says what it answers.
pub(crate) fn check(path: Option<&Path>, variable: &str) -> ExitCode {
    let Some(path) = path else {
        eprintln!("error: no socket to ask: set --health-socket or {variable}");
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
    serde_json::from_str(&line).context("the answer is not understood")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::monitor::Link;

    #[test]
    fn health_follows_the_connections_and_a_stale_socket_is_replaced() {
        let folder = std::env::temp_dir().join(format!("health-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("health.sock");
        drop(UnixListener::bind(&path).unwrap());

        let links = Links::default();
        let health = Health::new(links.clone(), CancellationToken::new());
        health.serve(&path).unwrap();
        assert_eq!(ask(&path).unwrap().reason, "not started yet");
        let (up, connected) = tokio::sync::watch::channel(false);
        let link = Arc::new(Link::new("jobs", connected));
        links.add(&link);
        let answer = ask(&path).unwrap();
        assert!(!answer.healthy);
        assert_eq!(
            answer.reason,
            "0 of 1 connections to NATS are up; jobs: not connected"
        );
        up.send_replace(true);
        let answer = ask(&path).unwrap();
        assert!(!answer.healthy, "nothing has come back yet");
        link.answered(Duration::from_millis(1));
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

    /// An instance whose connection is well.
    pub(crate) fn well() -> (Health, Arc<Link>, tokio::sync::watch::Sender<bool>) {
        let links = Links::default();
        let (up, connected) = tokio::sync::watch::channel(true);
        let link = Arc::new(Link::new("jobs", connected));
        link.answered(Duration::from_millis(1));
        links.add(&link);
        (Health::new(links, CancellationToken::new()), link, up)
    }

    #[test]
    fn a_problem_is_told_until_it_is_over() {
        let (health, _link, _up) = well();
        assert!(health.set_problem("storage", Some("the disk is full".to_owned())));
        let again = health.set_problem("storage", Some("the disk is full".to_owned()));
        assert!(!again, "it is no news");
        let answer = health.answer();
        assert!(!answer.healthy);
        assert!(
            answer.reason.ends_with("; the disk is full"),
            "{}",
            answer.reason
        );
        assert!(health.set_problem("storage", None));
        assert!(!health.set_problem("storage", None), "it is no news");
        assert!(health.answer().healthy);
    }
}
