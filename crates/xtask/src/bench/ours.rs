//! Consumers of ours with handlers of the bench's.

use std::iter;

use bootstrap::Context;
use clap::{Args, Parser as _};
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
    serve(handlers, &[]).await?;
    recorder.tell()
}

/// Runs jobs that compute, so many at a time, until SIGTERM.
#[derive(Args)]
pub(super) struct BusyConsumer {
    #[arg(long)]
    computing: usize,
}

impl BusyConsumer {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let handlers = Registry::new().with_fn(job::BUSY, async |_: IgnoredAny| {
            tokio::task::spawn_blocking(job::compute).await?;
            Ok(())
        });
        serve(handlers, &["--concurrency", &self.computing.to_string()]).await
    }
}

/// What the binary does, without its logs.
async fn serve(handlers: Registry, flags: &[&str]) -> anyhow::Result<()> {
    let config = Config::try_parse_from(iter::once(&"consumer").chain(flags))?;
    let context = Context::new(consumer::ABOUT, config.options.clone(), terminated()?);
    consumer::serve(context, config, handlers).await
}
