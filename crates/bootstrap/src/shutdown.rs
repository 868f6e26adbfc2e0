//! SIGTERM and SIGINT as a token that is passed to whoever has to stop.

use std::time::Duration;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::health::Health;

/// How long is left after the second signal to end what must not outlive the process.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// Cancels `shutdown` on the first SIGTERM or SIGINT; on the second one `hurry`, and shortly after
/// ends the process.
///
/// # Errors
/// When the signals cannot be caught.
pub(crate) fn on_signal(
    health: &Health,
    shutdown: CancellationToken,
    hurry: CancellationToken,
) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    tokio::spawn(health.supervise("signals", async move |mut life| {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 143),
                _ = interrupt.recv() => ("SIGINT", 130),
            }
        };
        let (name, _) = life.during(Duration::MAX, next()).await;
        info!(signal = name, "stopping");
        shutdown.cancel();
        let (name, code) = next().await;
        warn!(signal = name, "giving up what runs, on the second signal");
        hurry.cancel();
        tokio::time::sleep(LAST_MOMENT).await;
        std::process::exit(code);
    }));
    Ok(())
}
