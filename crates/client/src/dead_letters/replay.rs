use anyhow::Context as _;
use bootstrap::Client;
use bytes::Bytes;
use common::{
    DeadReason, FailedAttempt, Job, JobRecord, JobState, check_portable, codes, subjects,
};
use jetstream::{Message, NotStored, batch, headers, records};

use super::change::{mark, now, record_of, remove};
use super::{DeadLetter, LeftAsItIs};
use crate::submit::MARGIN;

/// The most failures before a replay that are kept.
const MOST_ATTEMPTS: usize = 100;

/// What came of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// It is in the queue again.
    Yes,
    /// Somebody else has replayed it, or the job is not dead any more.
    Already,
}

/// Puts a dead letter into the queue again, with another payload if there is one; its attempts are
/// counted anew. However many try at the same time, it is replayed once.
///
/// First the record is changed, by whoever comes first; then the job is queued, under a subject
/// that there is once; then the letter is removed. Whoever finds a letter whose job is queued
/// already, because somebody was interrupted, does the rest.
///
/// # Errors
/// When the server does not answer in time, or the other payload does not make a job, or one that
/// is too large ([`LeftAsItIs::TooLarge`]) or that others cannot read ([`LeftAsItIs::NotPortable`]);
/// without another payload, when the bytes of the job are lost ([`LeftAsItIs::NoBytes`]).
pub async fn replay(
    client: &Client,
    letter: &DeadLetter,
    payload: Option<Bytes>,
) -> anyhow::Result<Replayed> {
    let body = match payload {
        Some(payload) => {
            let body = edited(letter, &payload)?;
            // Before anything is changed: a job whose message is refused would be queued nowhere.
            let limit = client.max_payload().saturating_sub(MARGIN);
            let size = body.len() + headers::size_of(&letter.headers);
            if size > limit {
                return Err(LeftAsItIs::TooLarge { size, limit }.into());
            }
            body
        }
        None if letter.reason == Some(DeadReason::LostSchedule) && letter.payload.is_empty() => {
            return Err(LeftAsItIs::NoBytes(letter.id).into());
        }
        None => letter.payload.clone(),
    };
    let (mut record, expected) = record_of(client, letter).await?;
    match record.state {
        JobState::Dead => {
            record.state = JobState::Queued;
            record.run += 1;
            record.attempt = 0;
            record.reason = None;
            record.consumer = None;
            record.next_at = None;
            record.at = now(client).await?;
            mark_replay(&mut record);
            record.settled_deliveries = 0;
            let record = serde_json::to_vec(&record)?.into();
            let message = records::message(letter.id, record, expected, None);
            match batch::store(client, vec![message]).await {
                Ok(_) => {}
                Err(NotStored::Conflict) => return Ok(Replayed::Already),
                Err(error) => return Err(error).context("the replay was not stored"),
            }
        }
        // Somebody else is at it, or was interrupted here.
        JobState::Queued => {}
        _ => {
            remove(client, letter).await?;
            return Ok(Replayed::Already);
        }
    }
    let message = Message {
        subject: subjects::durable_job(letter.id, letter.priority, record.run, &letter.kind),
        headers: letter.headers.clone(),
        payload: body,
    };
    match batch::store(client, vec![message]).await {
        Ok(_) => {}
        Err(NotStored::Exists) => {
            remove(client, letter).await?;
            return Ok(Replayed::Already);
        }
        Err(error) => return Err(error).context("the job was not queued; replay it again"),
    }
    remove(client, letter).await?;
    Ok(Replayed::Yes)
}

/// Keeps the attempts before a replay, and lets the next one be the first again.
fn mark_replay(record: &mut JobRecord) {
    // The whole record has to fit into a message, however often the job is replayed.
    let attempts = &mut record.failures;
    attempts.drain(..attempts.len().saturating_sub(MOST_ATTEMPTS));
    for FailedAttempt { error, .. } in attempts.iter_mut() {
        records::shorten(error, records::SHORT);
    }
    attempts.push(mark(record.at, codes::REPLAYED, "the job was replayed"));
}

/// The job with another payload; everything else that it says of itself stays.
fn edited(letter: &DeadLetter, payload: &[u8]) -> anyhow::Result<Bytes> {
    let payload: &serde_json::value::RawValue =
        serde_json::from_slice(payload).context("the payload is not JSON")?;
    check_portable(payload).map_err(LeftAsItIs::NotPortable)?;
    let job = Job::decode(&letter.payload)
        .ok()
        .filter(|job| job.kind == letter.kind);
    let job = Job {
        id: Some(letter.id),
        payload: Some(payload),
        ..job.unwrap_or_else(|| Job::new(letter.kind.clone()))
    };
    Ok(serde_json::to_vec(&job)?.into())
}
