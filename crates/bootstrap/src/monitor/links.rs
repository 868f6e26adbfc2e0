//! The connections to NATS, as a scrape sees them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_nats::Client;
use futures_util::future::join_all;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tokio::sync::watch;

use super::Families;
use crate::nats;

/// How long a scrape waits for NATS.
const PATIENCE: Duration = Duration::from_millis(500);

/// One connection, which this neither keeps alive nor slows down.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) purpose: String,
    pub(crate) up: watch::Receiver<bool>,
    /// How often the client library said that it dropped messages.
    pub(crate) dropped: AtomicU64,
    /// As soon as there was a connection.
    pub(crate) client: OnceLock<Client>,
    /// What the last scrape measured.
    round_trip: Mutex<Option<Duration>>,
}

impl Link {
    pub(crate) fn new(purpose: &str, up: watch::Receiver<bool>) -> Self {
        Self {
            purpose: purpose.to_owned(),
            up,
            dropped: AtomicU64::new(0),
            client: OnceLock::new(),
            round_trip: Mutex::default(),
        }
    }

    async fn measure(&self) {
        let mut measured = None;
        if let Some(client) = self.client.get().filter(|_| *self.up.borrow()) {
            let asked = Instant::now();
            let answer = nats::round_trip(client, PATIENCE).await;
            measured = answer.is_ok().then(|| asked.elapsed());
        }
        *self
            .round_trip
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = measured;
    }

    fn reconnects(&self) -> u64 {
        let connects = |client: &Client| client.statistics().connects.load(Ordering::Relaxed);
        self.client.get().map_or(0, connects).saturating_sub(1)
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

    /// Measures how far away NATS is: once a scrape, and never for a job.
    pub(crate) async fn measure(&self) {
        let links = self.alive();
        join_all(links.iter().map(|link| link.measure())).await;
    }
}

impl Collector for Links {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut told: BTreeMap<String, Told> = BTreeMap::new();
        for link in self.alive() {
            let told = told.entry(link.purpose.clone()).or_default();
            told.down |= !*link.up.borrow();
            told.reconnects += link.reconnects();
            told.dropped += link.dropped.load(Ordering::Relaxed);
            let measured = *link
                .round_trip
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            told.round_trip = told.round_trip.max(measured);
        }
        let each = || {
            told.iter()
                .map(|(purpose, told)| ([("connection", purpose.as_str())], told))
        };
        let mut families = Families::new(encoder);
        families.gauge(
            "jobs_nats_connected",
            "Whether the connection to NATS is up",
            each().map(|(labels, told)| (labels, u32::from(!told.down))),
        )?;
        families.gauge(
            "jobs_nats_round_trip_seconds",
            "Time to the NATS server and back, measured by this scrape; absent without an answer within half a second",
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
        )
    }
}
