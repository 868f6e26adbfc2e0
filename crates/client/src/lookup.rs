//! Looks a job up by its id.

use bytes::Bytes;
use common::{FailedAttempt, JobId, JobRecord, JobState, OutcomeError, Timestamp, codes, subjects};
use connection::NatsClient;
use jetstream::job_messages::{self, Place};
use jetstream::{StoredMessage, Stream, direct_get, records};

/// Looks up the record of a job. If the job has no record, one is made from the message in which the
/// job waits. `None` if there is neither.
///
/// # Errors
/// When the server does not answer in time.
pub async fn look_up(client: &NatsClient, id: JobId) -> anyhow::Result<Option<JobRecord>> {
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
    // The job may have been put off, started or ended since the first look, so it may have a record
    // now.
    record(client, id).await
}

/// Makes a record from the message in which a job waits.
async fn waiting(client: &NatsClient, id: JobId) -> anyhow::Result<Option<JobRecord>> {
    let found = job_messages::waiting(client, id).await?;
    Ok(found.map(|(record, _)| record))
}

/// A record as it is shown: a scheduled job whose time has passed is shown as queued.
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

/// The record of a job; `None` if it has no record yet, or no longer has one.
///
/// # Errors
/// When the server does not answer in time.
pub async fn record(client: &NatsClient, id: JobId) -> anyhow::Result<Option<JobRecord>> {
    let kept = direct_get::last(client, Stream::State, &subjects::record(id)).await?;
    Ok(kept.map(|kept| read(id, &kept)))
}

/// Reads the message that is stored as the record of a job. It may be any answer of the server: a
/// client can name the subject of a record as the reply subject of a request.
pub(crate) fn read(id: JobId, kept: &StoredMessage) -> JobRecord {
    match records::decode(id, Some(&kept.headers), &kept.payload) {
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
                        "the stored record of the job cannot be read; the next record of the job replaces it: {error}"
                    ),
                ),
            });
            record
        }
    }
}

/// The bytes of a job as they were submitted; `None` if the job has ended or its message does not
/// exist.
///
/// # Errors
/// When the server does not answer in time.
pub async fn message(client: &NatsClient, record: &JobRecord) -> anyhow::Result<Option<Bytes>> {
    if record.state.is_final() {
        return Ok(None);
    }
    for place in Place::ALL {
        let Some(message) = job_messages::read(client, record.id, place).await? else {
            continue;
        };
        // A message of an earlier run may have another payload, and is about to be removed.
        let subject = job_messages::subject_in_queue(&message);
        if subject.is_none_or(|subject| subject.run >= record.run) {
            return Ok(Some(message.payload));
        }
    }
    Ok(None)
}
