//! Consumers of ours with handlers of the bench's.

use std::time::{Duration, Instant};

use bootstrap::Context;
use clap::Parser as _;
use consumer::{Config, Registry};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::client::terminated;
use super::job;
use super::latency::{Recorder, now};

/// Notes when the handler of each job starts, until SIGTERM.
pub(super) async fn latency_consumer() -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Stamp {
        sent_ns: u64,
    }
    let recorder = Recorder::new();
    let handlers = Registry::new().with_fn(job::STAMPED, {
        let recorder = recorder.clone();
        move |stamp: Stamp| {
            let recorder = recorder.clone();
            async move {
                recorder.record(stamp.sent_ns, now());
                Ok(())
            }
        }
    });
    serve(handlers).await?;
    recorder.tell()
}

/// Runs jobs that compute for a millisecond, until SIGTERM.
pub(super) async fn busy_consumer() -> anyhow::Result<()> {
    let handlers = Registry::new().with_fn(job::BUSY, async |_: IgnoredAny| {
        tokio::task::spawn_blocking(|| {
            let start = Instant::now();
            while start.elapsed() < Duration::from_millis(1) {}
        })
        .await?;
        Ok(())
    });
    serve(handlers).await
}

/// What the binary does, with its defaults.
async fn serve(handlers: Registry) -> anyhow::Result<()> {
    let config = Config::try_parse_from(["consumer"])?;
    let context = Context::new(consumer::ABOUT, config.options.clone(), terminated()?);
    consumer::serve(context, config, handlers).await
}
