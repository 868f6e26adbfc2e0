//! The connections to NATS, as a scrape sees them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tokio::sync::watch;

use super::Families;
use crate::nats::Replacement;

/// How old the last answer of the server may be: several times as old as it is where all is well.
const FRESH: Duration = Duration::from_secs(7);

/// One connection, which this neither keeps alive nor slows down.
pub(crate) struct Link {
    pub(crate) purpose: String,
    up: watch::Receiver<bool>,
    /// How often the client library said that it dropped messages.
    pub(crate) dropped: AtomicU64,
    /// How many messages arrived that could not be read as they were.
    pub(crate) unreadable: Arc<AtomicU64>,
    /// As soon as there was a connection.
    pub(crate) client: OnceLock<Replacement>,
    /// When the server answered last, and how long that took.
    answered: Mutex<Option<(Instant, Duration)>>,
    /// When the connection was lost last.
    lost: Mutex<Option<tokio::time::Instant>>,
}

impl Link {
    pub(crate) fn new(purpose: &str, up: watch::Receiver<bool>) -> Self {
        Self {
            purpose: purpose.to_owned(),
            up,
            dropped: AtomicU64::new(0),
            unreadable: Arc::default(),
            client: OnceLock::new(),
            answered: Mutex::default(),
            lost: Mutex::default(),
        }
    }

    /// The connection is lost now.
    pub(crate) fn is_lost(&self) {
        let now = tokio::time::Instant::now();
        // Nothing panics while it is locked.
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(now);
    }

    /// When the connection was lost last.
    pub(crate) fn lost(&self) -> Option<tokio::time::Instant> {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The server has answered, so long after it was asked.
    pub(crate) fn answered(&self, after: Duration) {
        *self.last() = Some((Instant::now(), after));
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Duration)>> {
        // Nothing panics while it is locked.
        self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far away the server is, if it has answered lately.
    fn round_trip(&self) -> Option<Duration> {
        let (at, round_trip) = (*self.last())?;
        (*self.up.borrow() && at.elapsed() < FRESH).then_some(round_trip)
    }

    /// What is wrong with it.
    fn problem(&self) -> Option<String> {
        if !*self.up.borrow() {
            return Some("not connected".to_owned());
        }
        match *self.last() {
            None => Some("NATS has not answered yet".to_owned()),
            Some((at, _)) if at.elapsed() >= FRESH => Some(format!(
                "no answer of NATS for {} s",
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

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("purpose", &self.purpose)
            .finish_non_exhaustive()
    }
}

/// All connections of a service that are in use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Links(Arc<Mutex<Vec<Weak<Link>>>>);

/// What is told of the connections with one purpose.
#[derive(Debug, Default)]
struct Told {
    down: bool,
    reconnects: u64,
    dropped: u64,
    unreadable: u64,
    round_trip: Option<Duration>,
}

impl Links {
    pub(crate) fn add(&self, link: &Arc<Link>) {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        links.push(Arc::downgrade(link));
    }

    fn alive(&self) -> Vec<Arc<Link>> {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|link| link.strong_count() > 0);
        links.iter().filter_map(Weak::upgrade).collect()
    }

    /// The purpose of each connection, and what is wrong with it.
    pub(crate) fn states(&self) -> Vec<(String, Option<String>)> {
        let links = self.alive();
        let state = |link: &Arc<Link>| (link.purpose.clone(), link.problem());
        links.iter().map(state).collect()
    }
}

impl Collector for Links {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut told: BTreeMap<String, Told> = BTreeMap::new();
        for link in self.alive() {
            let told = told.entry(link.purpose.clone()).or_default();
            told.down |= link.problem().is_some();
            told.reconnects += link.reconnects();
            told.dropped += link.dropped.load(Ordering::Relaxed);
            told.unreadable += link.unreadable.load(Ordering::Relaxed);
            told.round_trip = told.round_trip.max(link.round_trip());
        }
        let each = || {
            told.iter()
                .map(|(purpose, told)| ([("connection", purpose.as_str())], told))
        };
        let mut families = Families::new(encoder);
        families.gauge(
            "jobs_nats_connected",
            "Whether the connection to NATS is up and the server has answered on it within 7 s",
            each().map(|(labels, told)| (labels, u32::from(!told.down))),
        )?;
        families.gauge(
            "jobs_nats_round_trip_seconds",
            "Time to the NATS server and back, measured every 2 s; absent while it does not answer",
            each().filter_map(|(labels, told)| Some((labels, told.round_trip?.as_secs_f64()))),
        )?;
        families.counter(
            "jobs_nats_reconnects_total",
            "How often the connection to NATS was made again",
            each().map(|(labels, told)| (labels, told.reconnects)),
        )?;
        families.counter(
            "jobs_nats_dropped_messages_total",
            "How often the NATS client reported that it dropped messages of a subscription",
            each().map(|(labels, told)| (labels, told.dropped)),
        )?;
        families.counter(
            "jobs_nats_unreadable_messages_total",
            "Messages whose subject or headers could not be read, and that were passed on without them",
            each().map(|(labels, told)| (labels, told.unreadable)),
        )
    }
}
