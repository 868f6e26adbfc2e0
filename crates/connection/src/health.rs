//! Whether this program is healthy: its connections, its tasks, and problems that it has found.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::state::{ConnectionSummary, Connections};
use crate::task::Tasks;

/// The health of this instance; clones share it.
///
/// The instance is healthy if the server has answered on each connection lately, each task has sent its
/// heartbeat, and no problem is set.
#[derive(Clone, Debug, Default)]
pub struct Health {
    pub(crate) connections: Connections,
    /// Problems by respect; `None` if there was one and it is over.
    problems: Arc<Mutex<BTreeMap<&'static str, Option<String>>>>,
    pub(crate) tasks: Tasks,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one is locked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a program is healthy, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Readiness {
    /// Whether it is.
    pub healthy: bool,
    /// How many connections are up, and all problems, for people.
    pub reason: String,
}

impl Health {
    /// The health of a program that has no connection yet. Cancels `shutdown` when a supervised task
    /// fails.
    #[must_use]
    pub fn new(shutdown: CancellationToken) -> Self {
        Self {
            connections: Connections::default(),
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

    /// Whether the program is healthy now.
    #[must_use]
    pub fn readiness(&self) -> Readiness {
        let connections = self.connections.problems();
        if connections.is_empty() {
            return Readiness {
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
        Readiness {
            healthy: reasons.len() == 1,
            reason: reasons.join("; "),
        }
    }

    /// The problems by respect; `None` if there was one and it is over.
    #[must_use]
    pub fn problems(&self) -> BTreeMap<&'static str, Option<String>> {
        lock(&self.problems).clone()
    }

    /// The state of all connections, by their purpose.
    #[must_use]
    pub fn connections(&self) -> BTreeMap<String, ConnectionSummary> {
        self.connections.summaries()
    }

    /// Time since the last heartbeat, by the name of the task. Among tasks of the same name the longest
    /// counts. Tasks without expected heartbeats are left out.
    #[must_use]
    pub fn silences(&self) -> BTreeMap<Cow<'static, str>, Duration> {
        self.tasks.silences()
    }

    /// Whether the program was told to stop.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.tasks.is_stopping()
    }

    /// Which task has failed, so that the program cannot go on; `None` if it can.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.tasks.failure()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::state::ConnectionState;

    #[test]
    fn health_follows_the_connections() {
        let health = Health::new(CancellationToken::new());
        assert_eq!(health.readiness().reason, "not started yet");
        let (up, connected) = tokio::sync::watch::channel(false);
        let connection = Arc::new(ConnectionState::new("jobs", connected));
        health.connections.add(&connection);
        let answer = health.readiness();
        assert!(!answer.healthy);
        assert_eq!(
            answer.reason,
            "0 of 1 connections to NATS are up; jobs: not connected"
        );
        up.send_replace(true);
        let answer = health.readiness();
        assert!(!answer.healthy, "nothing has come back yet");
        connection.set_answered(Duration::from_millis(1));
        let answer = health.readiness();
        assert_eq!(answer.reason, "1 of 1 connections to NATS are up");
        assert!(answer.healthy);
        up.send_replace(false);
        assert!(!health.readiness().healthy);
    }

    /// An instance with one healthy connection.
    pub(crate) fn healthy() -> (
        Health,
        Arc<ConnectionState>,
        tokio::sync::watch::Sender<bool>,
    ) {
        let health = Health::new(CancellationToken::new());
        let (up, connected) = tokio::sync::watch::channel(true);
        let connection = Arc::new(ConnectionState::new("jobs", connected));
        connection.set_answered(Duration::from_millis(1));
        health.connections.add(&connection);
        (health, connection, up)
    }

    #[test]
    fn a_problem_is_reported_until_it_is_cleared() {
        let (health, _connection, _up) = healthy();
        assert!(health.set_problem("storage", Some("the disk is full".to_owned())));
        let again = health.set_problem("storage", Some("the disk is full".to_owned()));
        assert!(!again, "there is no change");
        let answer = health.readiness();
        assert!(!answer.healthy);
        assert!(
            answer.reason.ends_with("; the disk is full"),
            "{}",
            answer.reason
        );
        assert!(health.set_problem("storage", None));
        assert!(!health.set_problem("storage", None), "there is no change");
        assert!(health.readiness().healthy);
    }
}
