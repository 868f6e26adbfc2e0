use common::{JobId, subjects};
use connection::NatsClient;
use jetstream::{Stream, direct_get};

use super::DeadLetter;
use super::failures::add_failures;

/// The dead letter of a job.
///
/// # Errors
/// When the server does not answer in time.
pub async fn show(client: &NatsClient, id: JobId) -> anyhow::Result<Option<DeadLetter>> {
    let kept = direct_get::last(client, Stream::State, &subjects::dead_of_job(id)).await?;
    let mut letter = kept.and_then(DeadLetter::of);
    add_failures(client, letter.as_mut_slice()).await?;
    Ok(letter)
}

/// Whether the job has a dead letter. The record does not say so: a discard may have stopped after it
/// marked the record and before it removed the dead letter.
///
/// # Errors
/// When the server does not answer in time.
pub async fn exists(client: &NatsClient, id: JobId) -> anyhow::Result<bool> {
    let stored = direct_get::last(client, Stream::State, &subjects::dead_of_job(id)).await?;
    Ok(stored.is_some())
}
