use std::io;
use std::time::Duration;

use bootstrap::Nats;
use tokio::time::Instant;
use tracing::info;

use crate::config::{Config, Guarantee};
use crate::input::{Input, Item, Source};
use crate::pace::Pace;
use crate::schedule::Schedule;

/// Where jobs come from.
pub(crate) enum Jobs {
    Input {
        input: Input,
        name: String,
        length: Option<u64>,
    },
    Schedule(Schedule),
    Ended,
}

impl Jobs {
    pub(crate) fn new(
        source: Option<Source>,
        config: &Config,
        nats: &Nats,
    ) -> anyhow::Result<Self> {
        // An id and a time of creation may come in addition, and white space fall away.
        const SLACK: usize = 1024;
        if let Some(source) = source {
            let (name, length) = (source.name.clone(), source.length);
            info!(input = %name, "reading jobs");
            let input = source.read(
                nats.client.max_payload() + SLACK,
                config.delivery == Guarantee::Durable,
                // It waits for whoever writes jobs, so its end alone is noticed.
                Some(nats.health.task("input", Duration::MAX)),
            )?;
            return Ok(Self::Input {
                input,
                name,
                length,
            });
        }
        let now = Instant::now();
        let pace = match config.rate {
            Some(rate) => Pace::at_rate(rate, now),
            None => Pace::every(config.interval, now),
        };
        info!(job.kind = %config.kind, count = config.count, "making jobs");
        Ok(Self::Schedule(Schedule {
            pace,
            remaining: config.count,
            kind: config.kind.clone(),
            payload: config.payload.0.clone(),
            timeout: config.timeout,
            deadline: config.deadline.map(common::WireDuration::get),
            priority: config.priority,
            delay: config.delay.map(common::WireDuration::get),
        }))
    }

    /// The next one if there is one now.
    pub(crate) fn try_next(&mut self) -> io::Result<Option<Item>> {
        match self {
            Self::Input { input, .. } => input.try_next(),
            Self::Schedule(schedule) => Ok(schedule.try_next().map(Item::Job)),
            Self::Ended => Ok(None),
        }
    }

    /// The next one as soon as there is one; none after the last.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Item>> {
        match self {
            Self::Input { input, .. } => input.next().await,
            Self::Schedule(schedule) => Ok(schedule.next().await.map(Item::Job)),
            Self::Ended => Ok(None),
        }
    }
}
