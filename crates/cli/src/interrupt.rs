use tokio_util::sync::CancellationToken;

/// Runs work until it ends or `stop` is cancelled, and returns false if it was cancelled. The work must
/// leave nothing unfinished behind when it is dropped.
pub(crate) async fn until(
    stop: &CancellationToken,
    work: impl Future<Output = anyhow::Result<bool>>,
) -> anyhow::Result<bool> {
    let done = stop.run_until_cancelled(work).await;
    done.unwrap_or(Ok(false))
}
