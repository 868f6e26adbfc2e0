//! The state of the connections to NATS, for health checks and metrics.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::generations::Replacement;
use crate::refusals::Refusals;

/// How old the last answer of the server may be. It is measured every two seconds.
const MAX_ANSWER_AGE: Duration = Duration::from_secs(7);

/// The state of one connection. It neither keeps the connection alive nor slows it down.
pub(crate) struct ConnectionState {
    pub(crate) purpose: String,
    up: watch::Receiver<bool>,
    /// How often the client library reported that it dropped messages.
    pub(crate) dropped: AtomicU64,
    /// How many messages arrived whose subject or headers could not be read.
    pub(crate) unreadable: Arc<AtomicU64>,
    /// Empty until there was a connection.
    pub(crate) client: OnceLock<Replacement>,
    /// When the server answered last, and the round-trip time; `None` before its first answer.
    last_answer: Mutex<Option<(Instant, Duration)>>,
    /// What the server has refused.
    pub(crate) refusals: Refusals,
    /// When the connection was lost last; `None` before the first loss.
    lost_at: Mutex<Option<tokio::time::Instant>>,
}

impl ConnectionState {
    pub(crate) fn new(purpose: &str, up: watch::Receiver<bool>) -> Self {
        Self {
            purpose: purpose.to_owned(),
            up,
            dropped: AtomicU64::new(0),
            unreadable: Arc::default(),
            client: OnceLock::new(),
            last_answer: Mutex::default(),
            refusals: Refusals::default(),
            lost_at: Mutex::default(),
        }
    }

    /// Notes that the connection is lost now.
    pub(crate) fn set_lost(&self) {
        *lock(&self.lost_at) = Some(tokio::time::Instant::now());
    }

    /// When the connection was lost last; `None` if never.
    pub(crate) fn lost_at(&self) -> Option<tokio::time::Instant> {
        *lock(&self.lost_at)
    }

    /// Notes that the server has answered now, after this round-trip time.
    pub(crate) fn set_answered(&self, round_trip: Duration) {
        *lock(&self.last_answer) = Some((Instant::now(), round_trip));
    }

    /// The round-trip time; `None` if the server has not answered lately.
    fn round_trip(&self) -> Option<Duration> {
        let (at, round_trip) = (*lock(&self.last_answer))?;
        (*self.up.borrow() && at.elapsed() < MAX_ANSWER_AGE).then_some(round_trip)
    }

    /// What is wrong with the connection; `None` if nothing is.
    fn problem(&self) -> Option<String> {
        if !*self.up.borrow() {
            return Some("not connected".to_owned());
        }
        match *lock(&self.last_answer) {
            None => Some("NATS has not answered yet".to_owned()),
            Some((at, _)) if at.elapsed() >= MAX_ANSWER_AGE => Some(format!(
                "no answer from NATS for {} s",
                at.elapsed().as_secs()
            )),
            Some(_) => None,
        }
    }

    fn reconnects(&self) -> u64 {
        let connects = self.client.get().and_then(Replacement::connects);
        connects.unwrap_or(0).saturating_sub(1)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while one of these is locked.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for ConnectionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionState")
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}

/// The states of all connections of a service that are in use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Connections(Arc<Mutex<Vec<Weak<ConnectionState>>>>);

/// The state of all connections with the same purpose.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ConnectionSummary {
    /// Whether any of them has a problem.
    pub has_problem: bool,
    /// How often they were made again.
    pub reconnects: u64,
    /// How often the client library reported that it dropped messages of a subscription.
    pub dropped: u64,
    /// Messages whose subject or headers could not be read.
    pub unreadable: u64,
    /// The longest of their round-trip times; `None` if the server has not answered lately.
    pub round_trip: Option<Duration>,
}

impl Connections {
    pub(crate) fn add(&self, connection: &Arc<ConnectionState>) {
        lock(&self.0).push(Arc::downgrade(connection));
    }

    fn in_use(&self) -> Vec<Arc<ConnectionState>> {
        let mut connections = lock(&self.0);
        connections.retain(|connection| connection.strong_count() > 0);
        connections.iter().filter_map(Weak::upgrade).collect()
    }

    /// The purpose of each connection, and what is wrong with it; `None` if nothing is.
    pub(crate) fn problems(&self) -> Vec<(String, Option<String>)> {
        let connections = self.in_use();
        let problem =
            |connection: &Arc<ConnectionState>| (connection.purpose.clone(), connection.problem());
        connections.iter().map(problem).collect()
    }

    /// The state of all connections, by their purpose.
    pub(crate) fn summaries(&self) -> BTreeMap<String, ConnectionSummary> {
        let mut summaries: BTreeMap<String, ConnectionSummary> = BTreeMap::new();
        for connection in self.in_use() {
            let summary = summaries.entry(connection.purpose.clone()).or_default();
            summary.has_problem |= connection.problem().is_some();
            summary.reconnects += connection.reconnects();
            summary.dropped += connection.dropped.load(Ordering::Relaxed);
            summary.unreadable += connection.unreadable.load(Ordering::Relaxed);
            summary.round_trip = summary.round_trip.max(connection.round_trip());
        }
        summaries
    }
}
