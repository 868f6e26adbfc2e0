//! A consumer of ours with a handler of the bench's.

use bootstrap::Context;
use clap::Parser as _;
use consumer::{Config, Registry};
use serde::Deserialize;

use super::client::terminated;
use super::job;
use super::latency::{Recorder, now};

/// Notes when the handler of each job starts, until SIGTERM.
pub(super) async fn latency_consumer() -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Stamp {
        sent_ns: u64,
    }
    let config = Config::try_parse_from(["consumer"])?;
    let context = Context::new(consumer::ABOUT, config.options.clone(), terminated()?);
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
    consumer::serve(context, config, handlers).await?;
    recorder.tell()
}
