//! What replay and discard share.

use common::{FailedAttempt, JobRecord, JobState, OutcomeError, Timestamp, subjects};
use connection::NatsClient;
use jetstream::{ServerClock, Stream, direct_get, manage, records};

use super::DeadLetter;

/// Reads the record of the job of a dead letter, and the sequence of the record. If the record is
/// missing or cannot be read, a new one is made from the dead letter.
pub(crate) async fn record_of(
    client: &NatsClient,
    letter: &DeadLetter,
) -> anyhow::Result<(JobRecord, u64)> {
    let kept = direct_get::last(client, Stream::State, &subjects::record(letter.id)).await?;
    let sequence = kept.as_ref().map_or(0, |kept| kept.sequence);
    let record =
        kept.and_then(|kept| records::decode(letter.id, Some(&kept.headers), &kept.payload).ok());
    let record = record.unwrap_or_else(|| {
        let kind = Some(letter.kind.clone());
        let mut record = JobRecord::new(letter.id, kind, JobState::Dead, letter.at);
        record.run = letter.run;
        record.reason = letter.reason;
        record.failures.clone_from(&letter.failures);
        record
    });
    Ok((record, sequence))
}

/// A mark among the failed attempts: the dead letter was replayed or discarded.
pub(super) fn mark(at: Timestamp, code: &'static str, message: &str) -> FailedAttempt {
    FailedAttempt {
        attempt: 0,
        consumer: None,
        at,
        error: OutcomeError::new(code, message),
    }
}

/// The time of the NATS server.
pub(super) async fn now(client: &NatsClient) -> anyhow::Result<Timestamp> {
    let clock = ServerClock::default();
    clock.read(client).await?;
    Ok(clock.now())
}

/// Removes a dead letter and changes nothing else.
pub(super) async fn remove(client: &NatsClient, letter: &DeadLetter) -> anyhow::Result<()> {
    Ok(manage::delete_message(client, Stream::State, letter.sequence).await?)
}
