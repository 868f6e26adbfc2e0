use anyhow::Context as _;
use bytes::Bytes;
use common::{
    DeadReason, FailedAttempt, JobMessage, JobRecord, JobState, UniqueHash, UniqueLock,
    check_portable, codes, subjects,
};
use connection::NatsClient;
use jetstream::{Message, NotStored, batch, headers, records, unique_locks};

use super::change::{mark, now, record_of, remove};
use super::{DeadLetter, LeftAsItIs};
use crate::submit::MARGIN;
use crate::unique::{self, Holder};

/// How many failures from before a replay the record keeps at most.
const MOST_ATTEMPTS: usize = 100;

/// The result of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// The job is in the queue again.
    Yes,
    /// Another client has replayed it, or the job is no longer dead.
    Already,
}

/// Puts the job of a dead letter into the queue again, with a new payload if there is one. Its attempts
/// are counted from 1 again. If several clients replay it at the same time, the job is queued once.
///
/// First the record is changed, which only one client can do. Then the job is queued, under a subject
/// that the stream accepts once. Then the dead letter is removed. If a client stops half-way, the next
/// replay does the remaining steps.
///
/// A unique job takes its key again together with its place in the queue. If another job holds the key,
/// the dead letter stays as it is ([`LeftAsItIs::KeyHeld`]).
///
/// # Errors
/// When the server does not answer in time. With a new payload: when it is not JSON, when the job is too
/// large with it ([`LeftAsItIs::TooLarge`]), or when other libraries cannot read it
/// ([`LeftAsItIs::NotPortable`]). Without one: when the bytes of the job are lost
/// ([`LeftAsItIs::NoBytes`]).
pub async fn replay(
    client: &NatsClient,
    letter: &DeadLetter,
    payload: Option<Bytes>,
) -> anyhow::Result<Replayed> {
    let body = match payload {
        Some(payload) => {
            let body = edited(letter, &payload)?;
            // Checked before the record is changed: otherwise a job that the server refuses would be
            // marked as queued, but not be in the queue.
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
    let key = unique_locks::hash_in(&letter.headers);
    if let Some(hash) = key {
        refuse_if_held(client, letter, hash).await?;
    }
    let (mut record, expected) = record_of(client, letter).await?;
    let dead = record.clone();
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
        // Another client is replaying it, or stopped after the step above.
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
    let stored = match key {
        None => batch::store(client, vec![message]).await,
        Some(hash) => store_unique(client, letter, message, hash, (dead, record)).await?,
    };
    match stored {
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

/// Refuses a replay if another job holds the key of the job.
async fn refuse_if_held(
    client: &NatsClient,
    letter: &DeadLetter,
    hash: UniqueHash,
) -> anyhow::Result<()> {
    match unique::holder(client, hash, letter.id).await? {
        Holder::Other(holder) => Err(LeftAsItIs::KeyHeld {
            id: letter.id,
            holder,
        }
        .into()),
        Holder::This | Holder::Nobody | Holder::Released => Ok(()),
    }
}

/// Queues a unique job and takes its key in one batch. If another job has taken the key since the record
/// was changed from `dead` to `queued`, the record is changed back.
async fn store_unique(
    client: &NatsClient,
    letter: &DeadLetter,
    message: Message,
    hash: UniqueHash,
    (dead, queued): (JobRecord, JobRecord),
) -> anyhow::Result<Result<u64, NotStored>> {
    let lock = UniqueLock {
        job: letter.id,
        run: queued.run,
    };
    let entry = vec![message.clone(), unique_locks::message(hash, lock)];
    match batch::store(client, entry).await {
        Err(NotStored::Exists | NotStored::Conflict) => {}
        result => return Ok(result),
    }
    let Err(held) = refuse_if_held(client, letter, hash).await else {
        // Another replay has stored both. Or the lock is still that of the last run, or was just
        // released: the job must be queued all the same, because its record says so.
        return Ok(batch::store(client, vec![message]).await);
    };
    // If another replay has queued the job meanwhile, its record may have changed, and stays.
    let (now, expected) = record_of(client, letter).await?;
    if now.state == JobState::Queued && now.run == queued.run && dead.state == JobState::Dead {
        let record = serde_json::to_vec(&dead)?.into();
        let record = records::message(letter.id, record, expected, None);
        match batch::store(client, vec![record]).await {
            Ok(_) | Err(NotStored::Conflict) => {}
            Err(error) => return Err(error).context("the replay was not taken back"),
        }
    }
    Err(held)
}

/// Keeps the failures from before a replay, and adds a mark: the next attempt is number 1 again.
fn mark_replay(record: &mut JobRecord) {
    // The whole record has to fit into a message, however often the job is replayed.
    let attempts = &mut record.failures;
    attempts.drain(..attempts.len().saturating_sub(MOST_ATTEMPTS));
    for FailedAttempt { error, .. } in attempts.iter_mut() {
        records::shorten(error, records::SHORT);
    }
    attempts.push(mark(record.at, codes::REPLAYED, "the job was replayed"));
}

/// The job with a new payload; its other fields stay the same.
fn edited(letter: &DeadLetter, payload: &[u8]) -> anyhow::Result<Bytes> {
    let payload: &serde_json::value::RawValue =
        serde_json::from_slice(payload).context("the payload is not JSON")?;
    check_portable(payload).map_err(LeftAsItIs::NotPortable)?;
    let job = JobMessage::decode(&letter.payload)
        .ok()
        .filter(|job| job.kind == letter.kind);
    let job = JobMessage {
        id: Some(letter.id),
        payload: Some(payload),
        ..job.unwrap_or_else(|| JobMessage::new(letter.kind.clone()))
    };
    Ok(serde_json::to_vec(&job)?.into())
}
