use std::io;
use std::time::Duration;

use bootstrap::Nats;
use tokio::time::Instant;
use tracing::info;

use super::generate::Generator;
use super::item::Item;
use super::ndjson::{JobReader, OpenInput};
use super::pace::Pace;
use crate::config::{Config, Guarantee};

/// Where jobs come from.
pub(crate) enum JobSource {
    Input {
        reader: JobReader,
        /// The path, or `standard input`.
        name: String,
        /// Length in bytes; `None` if it is not known.
        length: Option<u64>,
    },
    Generator(Generator),
    /// There are no more jobs.
    Ended,
}

impl JobSource {
    /// Starts to read the input, or to generate jobs if there is none.
    pub(crate) fn new(
        input: Option<OpenInput>,
        config: &Config,
        nats: &Nats,
    ) -> anyhow::Result<Self> {
        // A line may be longer than its message, by white space inside the job. The exact limit is
        // checked when the job is sent.
        const SLACK: usize = 1024;
        if let Some(input) = input {
            let (name, length) = (input.name.clone(), input.length);
            info!(input = %name, "reading jobs");
            let reader = input.read(
                nats.client.max_payload() + SLACK,
                config.delivery == Guarantee::Durable,
                // Reading may take any time, so only the thread's end is noticed.
                Some(nats.health.task("input", Duration::MAX)),
            )?;
            return Ok(Self::Input {
                reader,
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
        Ok(Self::Generator(Generator {
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

    /// Length of the input in bytes; `None` if it is not known, at its end, or without input.
    pub(crate) fn length(&self) -> Option<u64> {
        match self {
            Self::Input { length, .. } => *length,
            Self::Generator(_) | Self::Ended => None,
        }
    }

    /// The next item; `None` if there is none now.
    pub(crate) fn try_next(&mut self) -> io::Result<Option<Item>> {
        match self {
            Self::Input { reader, .. } => reader.try_next(),
            Self::Generator(generator) => Ok(generator.try_next().map(Item::Job)),
            Self::Ended => Ok(None),
        }
    }

    /// Waits for the next item; `None` after the last one.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Item>> {
        match self {
            Self::Input { reader, .. } => reader.next().await,
            Self::Generator(generator) => Ok(generator.next().await.map(Item::Job)),
            Self::Ended => Ok(None),
        }
    }
}
