use anyhow::Context as _;
use common::{JobRecord, JobState, codes};
use connection::NatsClient;
use jetstream::{NotStored, batch, records};
use tracing::warn;

use super::change::{mark, now, record_of, remove};
use super::{DeadLetter, LeftAsItIs};
use crate::submit::MARGIN;

/// How long the record of a discarded job is kept: a week.
const KEPT: &str = "168h";

/// Removes a dead letter for good. The record of its job says so, and expires after a week.
///
/// First the record is marked as discarded, so that no other client replays the dead letter at the same
/// time. Then the dead letter is removed. Then the record gets its time to live. If this stops
/// half-way, the record does not expire while the dead letter exists, and another discard finishes the
/// work. So a record that is marked as discarded does not prove that the dead letter is gone.
///
/// # Errors
/// When the server does not answer in time, or another client replays or discards the dead letter at the
/// same time: [`LeftAsItIs::Busy`].
pub async fn discard(client: &NatsClient, letter: &DeadLetter) -> anyhow::Result<()> {
    let (record, at) = tokio::join!(record_of(client, letter), now(client));
    let (mut record, expected) = record?;
    if record.state != JobState::Dead || record.run != letter.run || expected == 0 {
        // The record is gone, or the job has a later run: only the dead letter has to be removed.
        return remove_letter(client, letter).await;
    }
    // An earlier discard may have stopped here.
    if !record.is_discarded() {
        let discarded = mark(at?, codes::DISCARDED, "the dead letter was discarded");
        record.failures.push(discarded);
    }
    let marked = match store(client, &record, expected, None).await {
        Ok(sequence) => sequence,
        Err(NotStored::Conflict) => return Err(LeftAsItIs::Busy(letter.id).into()),
        Err(error) => return Err(error).context("the dead letter was not discarded"),
    };
    remove_letter(client, letter).await?;
    match store(client, &record, marked, Some(KEPT)).await {
        // After a conflict, another client discards the same dead letter and does the rest.
        Ok(_) | Err(NotStored::Conflict) => {}
        // The dead letter is gone, so the discard has succeeded.
        Err(error) => warn!(
            job.id = %letter.id, %error,
            "the record of a discarded job has no time to live, so it does not expire"
        ),
    }
    Ok(())
}

async fn remove_letter(client: &NatsClient, letter: &DeadLetter) -> anyhow::Result<()> {
    let removed = remove(client, letter).await;
    removed.context("the dead letter was not removed; discard it again")
}

/// Stores the record if the last one has the expected sequence, and returns the new sequence.
async fn store(
    client: &NatsClient,
    record: &JobRecord,
    expected: u64,
    ttl: Option<&str>,
) -> Result<u64, NotStored> {
    let limit = client.max_payload().saturating_sub(MARGIN);
    let encoded = records::encode(record, limit);
    let message = records::message(record.id, encoded, expected, ttl);
    batch::store(client, vec![message]).await
}
