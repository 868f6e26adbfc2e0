//! The health check: a Unix socket that answers each connection with one line of JSON.
//!
//! It has a thread of its own and no part of the async runtime, so that a service which is busy
//! still answers, and nothing listens on a network.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tracing::warn;

/// How long a health check waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of this instance's health; clones see the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Health {
    connections: Arc<Connections>,
}

#[derive(Debug, Default)]
struct Connections {
    wanted: AtomicUsize,
    up: AtomicUsize,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) healthy: bool,
    pub(crate) reason: String,
}

impl Health {
    /// A connection to NATS is needed from now on, and not there yet.
    pub(crate) fn want_connection(&self) {
        self.connections.wanted.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection to NATS was made.
    pub(crate) fn connection_up(&self) {
        self.connections.up.fetch_add(1, Ordering::Relaxed);
    }

    /// A connection to NATS was lost.
    pub(crate) fn connection_down(&self) {
        self.connections.up.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn answer(&self) -> Answer {
        let wanted = self.connections.wanted.load(Ordering::Relaxed);
        let up = self.connections.up.load(Ordering::Relaxed);
        let reason = match (wanted, up) {
            (0, _) => "not started yet".to_owned(),
            (wanted, up) => format!("{up} of {wanted} connections to NATS are up"),
        };
        Answer {
            healthy: wanted > 0 && up >= wanted,
            reason,
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
        let serve = move || {
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
mod tests {
    use super::*;

    #[test]
    fn health_follows_the_connections_and_a_stale_socket_is_replaced() {
        let folder = std::env::temp_dir().join(format!("health-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("health.sock");
        drop(UnixListener::bind(&path).unwrap());

        let health = Health::default();
        health.serve(&path).unwrap();
        assert!(!ask(&path).unwrap().healthy, "healthy before it started");
        health.want_connection();
        assert_eq!(
            ask(&path).unwrap().reason,
            "0 of 1 connections to NATS are up"
        );
        health.connection_up();
        assert!(ask(&path).unwrap().healthy);
        health.connection_down();
        assert!(!ask(&path).unwrap().healthy);

        let error = Health::default().serve(&path).unwrap_err();
        assert!(
            error.to_string().contains("another process answers there"),
            "{error}"
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
