use std::time::{Duration, Instant};

use bootstrap::{Nats, NatsClient};
use client::WriteHealth;
use tracing::debug;

use super::backlog::backlog;
use super::depth::Depth;
use crate::metrics::Metrics;

/// How often dead letters are counted. The server has to go through all subjects for that.
const COUNT_INTERVAL: Duration = Duration::from_secs(30);

/// How often the jobs of each kind are counted. The server has to go through all durable consumers for that.
const BACKLOG_INTERVAL: Duration = Duration::from_secs(10);

/// How often the server is asked whether it can store ...
const WRITE_HEALTH_INTERVAL: Duration = Duration::from_secs(5);

/// ... and how often if its configuration does not allow the question.
const UNKNOWN_WRITE_HEALTH_INTERVAL: Duration = Duration::from_mins(1);

/// Watches what the server stores of durable jobs, for log lines and metrics.
pub(crate) struct DurableJobs {
    metrics: Metrics,
    /// The depth that was logged last; `None` if it was not known.
    depth: Option<Depth>,
    /// When dead letters were counted; `None` if they are to be counted with the next update.
    counted_at: Option<Instant>,
    /// The same for the jobs of each kind.
    backlog_at: Option<Instant>,
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
            backlog_at: None,
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
                (values.backlog, values.dead_letters) = (None, None);
                (self.counted_at, self.backlog_at) = (None, None);
                return;
            }
        }
        let storage = client::storage(client).await.unwrap_or_else(|error| {
            debug!("cannot see how much is stored: {error:#}");
            None
        });
        self.metrics.values().storage = storage;
        let is_over = |at: Option<Instant>, interval| at.is_none_or(|at| at.elapsed() >= interval);
        if is_over(self.backlog_at, BACKLOG_INTERVAL) {
            self.count_backlog(client).await;
        }
        if is_over(self.counted_at, COUNT_INTERVAL) {
            self.count_dead_letters(client).await;
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

    /// Counts the jobs of each kind that wait or run.
    async fn count_backlog(&mut self, client: &NatsClient) {
        // Also after an error, so that a server that does not answer is not asked more often.
        self.backlog_at = Some(Instant::now());
        let backlog = backlog(client).await.unwrap_or_else(|error| {
            debug!("cannot see how many durable jobs of each kind there are: {error:#}");
            None
        });
        self.metrics.values().backlog = backlog;
    }

    async fn count_dead_letters(&mut self, client: &NatsClient) {
        self.counted_at = Some(Instant::now());
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
        self.metrics.values().dead_letters = dead_letters;
    }
}
