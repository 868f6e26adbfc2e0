use tokio_util::sync::CancellationToken;

/// Does work of which nothing is left when it is interrupted.
pub(crate) async fn until(
    stop: &CancellationToken,
    work: impl Future<Output = anyhow::Result<bool>>,
) -> anyhow::Result<bool> {
    let done = stop.run_until_cancelled(work).await;
    done.unwrap_or(Ok(false))
}
