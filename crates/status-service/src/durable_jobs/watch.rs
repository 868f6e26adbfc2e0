use std::time::{Duration, Instant};

use bootstrap::{Nats, NatsClient};
use client::WriteHealth;
use tracing::debug;

use super::depth::Depth;
use super::pending_scheduled::pending_scheduled;
use crate::metrics::Metrics;

/// How often dead letters and due scheduled jobs are counted. The server has to go through all subjects
/// and durable consumers for that.
const COUNT_INTERVAL: Duration = Duration::from_secs(30);

/// How often the server is asked whether it can store ...
const WRITE_HEALTH_INTERVAL: Duration = Duration::from_secs(5);

/// ... and how often if its configuration does not allow the question.
const UNKNOWN_WRITE_HEALTH_INTERVAL: Duration = Duration::from_mins(1);

/// Watches what the server stores of durable jobs, for log lines and metrics.
pub(crate) struct DurableJobs {
    metrics: Metrics,
    /// The depth that was logged last; `None` if it was not known.
    depth: Option<Depth>,
    /// When dead letters and due scheduled jobs were counted; `None` if they are to be counted with
    /// the next update.
    counted_at: Option<Instant>,
    /// When the server was asked whether it can store, and how long not to ask again; `None` before
    /// the first time.
    write_health_asked: Option<(Instant, Duration)>,
}

impl DurableJobs {
    pub(crate) fn new(metrics: Metrics) -> Self {
        Self {
            metrics,
            depth: None,
            counted_at: None,
            write_health_asked: None,
        }
    }

    /// Asks the server for all numbers, and logs the number of jobs if it has changed.
    pub(crate) async fn update(&mut self, nats: &Nats) {
        let client = &nats.client;
        self.check_write_health(nats).await;
        match client::streams(client).await {
            Ok(streams) => {
                let streams = streams.unwrap_or_default();
                let depth = Depth::of(&streams);
                if let Some(depth) = depth
                    && self.depth != Some(depth)
                {
                    depth.log();
                }
                self.depth = depth;
                self.metrics.values().streams = streams;
            }
            Err(error) => {
                debug!("cannot see how many durable jobs there are: {error:#}");
                let mut values = self.metrics.values();
                (values.streams, values.storage) = (Vec::new(), None);
                (values.pending_scheduled, values.dead_letters) = (None, None);
                self.counted_at = None;
                return;
            }
        }
        let storage = client::storage(client).await.unwrap_or_else(|error| {
            debug!("cannot see how much is stored: {error:#}");
            None
        });
        self.metrics.values().storage = storage;
        if self
            .counted_at
            .is_none_or(|at| at.elapsed() >= COUNT_INTERVAL)
        {
            self.count(client).await;
        }
    }

    /// Asks the server whether it can store, if the last time is long enough ago.
    async fn check_write_health(&mut self, nats: &Nats) {
        if self
            .write_health_asked
            .is_some_and(|(at, interval)| at.elapsed() < interval)
        {
            return;
        }
        let interval = match client::check_write_health(&nats.client, &nats.health).await {
            Ok(WriteHealth::Works | WriteHealth::Stopped(_)) => WRITE_HEALTH_INTERVAL,
            Ok(WriteHealth::Unknown) => UNKNOWN_WRITE_HEALTH_INTERVAL,
            Err(error) => {
                debug!("cannot see whether the server stores: {error:#}");
                if nats.health.problem("storage").is_some() {
                    WRITE_HEALTH_INTERVAL
                } else {
                    UNKNOWN_WRITE_HEALTH_INTERVAL
                }
            }
        };
        self.write_health_asked = Some((Instant::now(), interval));
    }

    /// Counts dead letters and due scheduled jobs.
    async fn count(&mut self, client: &NatsClient) {
        // Also after an error, so that a server that does not answer is not asked more often.
        self.counted_at = Some(Instant::now());
        let pending_scheduled = pending_scheduled(client).await.unwrap_or_else(|error| {
            debug!("cannot see for how many durable jobs the time has come: {error:#}");
            None
        });
        let dead_letters = match client::count_dead_letters(client).await {
            Ok(dead_letters) => {
                // There is no stream of dead letters yet; there may be one soon.
                if dead_letters.is_none() {
                    self.counted_at = None;
                }
                dead_letters
            }
            Err(error) => {
                debug!("cannot see how many dead letters there are: {error:#}");
                None
            }
        };
        let mut values = self.metrics.values();
        (values.pending_scheduled, values.dead_letters) = (pending_scheduled, dead_letters);
    }
}
