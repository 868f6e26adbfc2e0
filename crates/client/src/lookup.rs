//! Looks a job up by its id.

use bootstrap::Client;
use bytes::Bytes;
use common::{FailedAttempt, JobId, JobRecord, JobState, OutcomeError, Timestamp, codes, subjects};
use jetstream::job_messages::{self, Place};
use jetstream::{StoredMessage, Stream, direct_get};

/// What is known of a job: its record, or one made of the message that it still is. `None` if
/// nobody knows it, or does not any more.
///
/// # Errors
/// When the server does not answer in time.
pub async fn look_up(client: &Client, id: JobId) -> anyhow::Result<Option<JobRecord>> {
    if let Some(mut record) = record(client, id).await? {
        if record.state == JobState::Unreadable
            && let Some(waiting) = waiting(client, id).await?
        {
            record.kind = waiting.kind;
            record.run = waiting.run;
        }
        return Ok(Some(record));
    }
    if let Some(record) = waiting(client, id).await? {
        return Ok(Some(record));
    }
    // It may have been put off, begun to run, or ended, since its record was looked for.
    record(client, id).await
}

/// Makes a record of the message of a job that has none.
async fn waiting(client: &Client, id: JobId) -> anyhow::Result<Option<JobRecord>> {
    let found = job_messages::waiting(client, id).await?;
    Ok(found.map(|(record, _)| record))
}

/// How a record is to be shown: a job that was put off until a time that has passed waits for a
/// consumer.
pub(crate) fn as_of_now(mut record: JobRecord) -> JobRecord {
    if record.state == JobState::Scheduled
        && let Some(due) = record.next_at
        && due <= Timestamp::now()
    {
        record.state = JobState::Queued;
        record.at = due;
        record.next_at = None;
    }
    record
}

/// The record of a job: `None` if it has none yet, or none any more.
///
/// # Errors
/// When the server does not answer in time.
pub async fn record(client: &Client, id: JobId) -> anyhow::Result<Option<JobRecord>> {
    let kept = direct_get::last(client, Stream::State, &subjects::state(id)).await?;
    Ok(kept.map(|kept| read(id, &kept)))
}

/// What a message says that is stored as the record of a job. Any answer of the server may be: it
/// goes wherever whoever asked has said.
pub(crate) fn read(id: JobId, kept: &StoredMessage) -> JobRecord {
    match serde_json::from_slice(&kept.payload) {
        Ok(record) => as_of_now(record),
        Err(error) => {
            let mut record = JobRecord::new(id, None, JobState::Unreadable, kept.at);
            record.failures.push(FailedAttempt {
                attempt: 0,
                consumer: None,
                at: kept.at,
                error: OutcomeError::new(
                    codes::UNREADABLE_RECORD,
                    format!(
                        "what is stored as the record of the job cannot be read; the next record of the job replaces it: {error}"
                    ),
                ),
            });
            record
        }
    }
}

/// The bytes of a job as they were submitted, if it has not ended and the message that it waits or
/// runs in is there.
///
/// # Errors
/// When the server does not answer in time.
pub async fn message(client: &Client, record: &JobRecord) -> anyhow::Result<Option<Bytes>> {
    if record.state.is_final() {
        return Ok(None);
    }
    for place in Place::ALL {
        let Some(message) = job_messages::read(client, record.id, place).await? else {
            continue;
        };
        // One of an earlier run may have had another payload, and is about to be removed.
        let subject = job_messages::subject_in_queue(&message);
        if subject.is_none_or(|subject| subject.run >= record.run) {
            return Ok(Some(message.payload));
        }
    }
    Ok(None)
}
