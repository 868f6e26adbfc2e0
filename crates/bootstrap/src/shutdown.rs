//! SIGTERM and SIGINT as cancellation tokens.

use std::time::Duration;

use anyhow::Context as _;
use connection::Health;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long the process lives after the second signal, to kill programs that must not outlive it.
const LAST_MOMENT: Duration = Duration::from_secs(1);

/// Cancels `shutdown` on the first SIGTERM or SIGINT. Cancels `hurry` on the second one, and ends the
/// process one second later.
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
    tokio::spawn(health.supervise("signals", async move |mut heartbeat| {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 143),
                _ = interrupt.recv() => ("SIGINT", 130),
            }
        };
        let (name, _) = heartbeat.during(Duration::MAX, next()).await;
        info!(signal = name, "stopping");
        shutdown.cancel();
        let (name, code) = next().await;
        warn!(signal = name, "second signal: giving up running work");
        hurry.cancel();
        tokio::time::sleep(LAST_MOMENT).await;
        std::process::exit(code);
    }));
    Ok(())
}
