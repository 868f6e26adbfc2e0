use bootstrap::Client;
use common::{JobId, subjects};
use jetstream::{Stream, direct_get};

use super::DeadLetter;
use super::failures::add_failures;

/// The dead letter of a job.
///
/// # Errors
/// When the server does not answer in time.
pub async fn show(client: &Client, id: JobId) -> anyhow::Result<Option<DeadLetter>> {
    let kept = direct_get::last(client, Stream::State, &subjects::dead_of_job(id)).await?;
    let mut letter = kept.and_then(DeadLetter::of);
    add_failures(client, letter.as_mut_slice()).await?;
    Ok(letter)
}

/// Whether the job has a dead letter. Its record does not tell: a discard may have stopped between the
/// record and the dead letter.
///
/// # Errors
/// When the server does not answer in time.
pub async fn exists(client: &Client, id: JobId) -> anyhow::Result<bool> {
    let stored = direct_get::last(client, Stream::State, &subjects::dead_of_job(id)).await?;
    Ok(stored.is_some())
}
