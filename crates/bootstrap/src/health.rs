//! The health check: a Unix socket that answers each connection with one line of JSON.
//!
//! It has its own thread, so that a busy service still answers. Nothing listens on a network.

use std::fmt;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use connection::Health;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::monitor::Families;

/// How long a health check waits for the answer.
const PATIENCE: Duration = Duration::from_secs(2);

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Answer {
    healthy: bool,
    reason: String,
}

fn answer(health: &Health) -> Answer {
    let readiness = health.readiness();
    Answer {
        healthy: readiness.healthy,
        reason: readiness.reason,
    }
}

/// Answers health checks on a Unix socket, on its own thread, until the process ends.
///
/// # Errors
/// When the socket cannot be created, or another process answers on it.
pub(crate) fn serve(health: &Health, path: &Path) -> anyhow::Result<()> {
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
    let health = health.clone();
    // This thread waits for connections, so no heartbeat is expected; only its panic is noticed.
    let heartbeat = health.task("health socket", Duration::MAX);
    let serve = move || {
        let _kept = heartbeat;
        for stream in listener.incoming() {
            let line = serde_json::to_string(&answer(&health)).unwrap_or_default();
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

/// The metrics of the health.
#[derive(Clone, Debug)]
pub(crate) struct HealthMetrics(pub(crate) Health);

impl Collector for HealthMetrics {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut families = Families::new(encoder);
        let ready = self.0.readiness().healthy && !self.0.is_stopping();
        families.gauge(
            "jobs_ready",
            "Whether the service is ready; /readyz has the reason",
            [([("", ""); 0], u32::from(ready))],
        )?;
        let problems = self.0.problems();
        let is_set = |problem: &Option<String>| u32::from(problem.is_some());
        families.gauge(
            "jobs_problem",
            "Whether the service has a problem in a respect, such as the storage of its server",
            problems
                .iter()
                .map(|(respect, problem)| ([("respect", *respect)], is_set(problem))),
        )?;
        let silences = self.0.silences();
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
mod tests {
    use tokio_util::sync::CancellationToken;

    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_one_that_is_in_use_is_not() {
        let folder = std::env::temp_dir().join(format!("health-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("health.sock");
        drop(UnixListener::bind(&path).unwrap());

        let health = Health::new(CancellationToken::new());
        serve(&health, &path).unwrap();
        let answer = ask(&path).unwrap();
        assert_eq!(answer.reason, "not started yet");
        assert!(!answer.healthy);
        let error = serve(&Health::default(), &path).unwrap_err();
        assert!(
            error.to_string().contains("another process answers there"),
            "{error}"
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
