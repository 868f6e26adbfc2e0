//! The health check: a Unix socket that answers each connection with one line of JSON.
//!
//! It has a thread of its own and no part of the async runtime, so that a service which is busy
//! still answers, and nothing listens on a network.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::monitor::Links;

/// How long a health check waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is known of this instance's health; clones see the same.
///
/// It is healthy if the server has answered on each connection lately, each task has given a sign of
/// life, and nobody reports a problem.
#[derive(Clone, Debug, Default)]
pub struct Health {
    links: Links,
    problems: Arc<Mutex<BTreeMap<&'static str, String>>>,
    tasks: Arc<Mutex<Vec<Arc<Task>>>>,
}

/// A task that has to give signs of life.
#[derive(Debug)]
struct Task {
    name: &'static str,
    /// The longest time between two of them.
    limit: Duration,
    began: Instant,
    /// When it gave the last one, in milliseconds since it began.
    last: AtomicU64,
    panicked: AtomicBool,
}

/// Gives signs of life for a task. When it is dropped, nobody waits for more, unless the task panics.
#[derive(Debug)]
pub struct Beat {
    task: Arc<Task>,
    tasks: Arc<Mutex<Vec<Arc<Task>>>>,
}

impl Beat {
    /// The task is alive.
    pub fn beat(&self) {
        let since = self.task.began.elapsed().as_millis();
        let since = u64::try_from(since).unwrap_or(u64::MAX);
        self.task.last.store(since, Ordering::Relaxed);
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.task.panicked.store(true, Ordering::Relaxed);
        } else {
            lock(&self.tasks).retain(|task| !Arc::ptr_eq(task, &self.task));
        }
    }
}

impl Task {
    fn problem(&self) -> Option<String> {
        if self.panicked.load(Ordering::Relaxed) {
            return Some(format!("the task \"{}\" has panicked", self.name));
        }
        let last = Duration::from_millis(self.last.load(Ordering::Relaxed));
        let silent = self.began.elapsed().saturating_sub(last);
        (silent > self.limit).then(|| {
            let seconds = silent.as_secs();
            format!("the task \"{}\" stands still for {seconds} s", self.name)
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one is locked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub(crate) healthy: bool,
    pub(crate) reason: String,
}

impl Health {
    pub(crate) fn new(links: Links) -> Self {
        Self {
            links,
            ..Self::default()
        }
    }

    /// Says what is wrong in one respect, or with `None` that nothing is any more.
    pub fn set_problem(&self, respect: &'static str, problem: Option<String>) {
        let mut problems = lock(&self.problems);
        match problem {
            Some(problem) => problems.insert(respect, problem),
            None => problems.remove(respect),
        };
    }

    /// Waits from now on for signs of life of a task, at least one in each `limit`.
    #[must_use]
    pub fn task(&self, name: &'static str, limit: Duration) -> Beat {
        let task = Arc::new(Task {
            name,
            limit,
            began: Instant::now(),
            last: AtomicU64::new(0),
            panicked: AtomicBool::new(false),
        });
        lock(&self.tasks).push(Arc::clone(&task));
        Beat {
            task,
            tasks: Arc::clone(&self.tasks),
        }
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
        reasons.extend(lock(&self.tasks).iter().filter_map(|task| task.problem()));
        reasons.extend(lock(&self.problems).values().cloned());
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
    use crate::monitor::Link;

    #[test]
    fn health_follows_the_connections_and_a_stale_socket_is_replaced() {
        let folder = std::env::temp_dir().join(format!("health-{}", uuid::Uuid::now_v7()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("health.sock");
        drop(UnixListener::bind(&path).unwrap());

        let links = Links::default();
        let health = Health::new(links.clone());
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
    fn well() -> (Health, Arc<Link>, tokio::sync::watch::Sender<bool>) {
        let links = Links::default();
        let (up, connected) = tokio::sync::watch::channel(true);
        let link = Arc::new(Link::new("jobs", connected));
        link.answered(Duration::from_millis(1));
        links.add(&link);
        (Health::new(links), link, up)
    }

    #[test]
    fn a_task_that_stands_still_or_panics_is_named_and_one_that_has_ended_is_not() {
        let (health, _link, _up) = well();
        let ended = health.task("ended", Duration::ZERO);
        let alive = health.task("alive", Duration::from_hours(1));
        alive.beat();
        drop(ended);
        assert!(health.answer().healthy, "{}", health.answer().reason);
        let silent = health.task("silent", Duration::ZERO);
        std::thread::sleep(Duration::from_millis(2));
        let answer = health.answer();
        assert!(!answer.healthy);
        assert!(
            answer
                .reason
                .contains("the task \"silent\" stands still for 0 s"),
            "{}",
            answer.reason
        );
        drop(silent);
        let beat = health.task("panicking", Duration::from_hours(1));
        let panicked = std::thread::spawn(move || {
            let _beat = beat;
            panic!("on purpose");
        });
        panicked.join().unwrap_err();
        let reason = health.answer().reason;
        assert!(
            reason.contains("the task \"panicking\" has panicked"),
            "{reason}"
        );
    }

    #[test]
    fn a_problem_is_told_until_it_is_over() {
        let (health, _link, _up) = well();
        health.set_problem("storage", Some("the disk is full".to_owned()));
        let answer = health.answer();
        assert!(!answer.healthy);
        assert!(
            answer.reason.ends_with("; the disk is full"),
            "{}",
            answer.reason
        );
        health.set_problem("storage", None);
        assert!(health.answer().healthy);
    }
}
