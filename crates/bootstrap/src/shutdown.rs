//! SIGTERM and SIGINT as a token that is passed to whoever has to stop.

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Cancels the token on the first SIGTERM or SIGINT; the second one ends the process.
///
/// # Errors
/// When the signals cannot be caught.
pub(crate) fn on_signal(shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot catch SIGINT")?;
    tokio::spawn(async move {
        let mut next = async || {
            tokio::select! {
                _ = terminate.recv() => ("SIGTERM", 143),
                _ = interrupt.recv() => ("SIGINT", 130),
            }
        };
        let (name, _) = next().await;
        info!(signal = name, "stopping");
        shutdown.cancel();
        let (name, code) = next().await;
        warn!(signal = name, "stopping at once, on the second signal");
        std::process::exit(code);
    });
    Ok(())
}
