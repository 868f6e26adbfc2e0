//! Asks `jobs.status` from a process of its own, and notes how long answers take.

use std::time::{Duration, Instant};

use anyhow::ensure;
use bytes::Bytes;
use clap::Args;
use common::subjects;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::time::{MissedTickBehavior, interval};

use super::client::{connect, tell, terminated};

/// Asks until SIGTERM.
#[derive(Args)]
pub(super) struct StatusProbe {
    #[arg(long)]
    every_ms: u64,
}

/// Quantiles of times, in nanoseconds.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Quantiles {
    pub(super) count: u64,
    pub(super) p50: u64,
    pub(super) p99: u64,
    pub(super) max: u64,
}

impl Quantiles {
    pub(super) fn of(times: &Histogram<u64>) -> Self {
        Self {
            count: times.len(),
            p50: times.value_at_quantile(0.5),
            p99: times.value_at_quantile(0.99),
            max: times.max(),
        }
    }
}

/// For times in nanoseconds, exact to 0.1 %.
pub(super) fn histogram() -> Histogram<u64> {
    Histogram::new(3).expect("three significant digits are allowed")
}

/// What a probe saw.
#[derive(Serialize, Deserialize)]
pub(super) struct Seen {
    /// Answers of the consumer.
    pub(super) status: Quantiles,
    /// Answers of the server alone, which is on the way to the consumer and back.
    pub(super) server: Quantiles,
}

/// Nobody takes this, and the server says so at once.
const NOBODY: &str = "$SRV.PING.nobody";

impl StatusProbe {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let terminated = terminated()?;
        let client = connect().await?;
        let (mut status, mut server) = (histogram(), histogram());
        let mut tick = interval(Duration::from_millis(self.every_ms));
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while terminated.run_until_cancelled(tick.tick()).await.is_some() {
            let start = Instant::now();
            client.request(subjects::STATUS, Bytes::new()).await?;
            let asked = Instant::now();
            let nobody = client.request(NOBODY, Bytes::new()).await;
            ensure!(nobody.is_err(), "somebody answers on {NOBODY}");
            let answered = Instant::now();
            status.record(u64::try_from((asked - start).as_nanos())?)?;
            server.record(u64::try_from((answered - asked).as_nanos())?)?;
        }
        tell(&Seen {
            status: Quantiles::of(&status),
            server: Quantiles::of(&server),
        })
    }
}
