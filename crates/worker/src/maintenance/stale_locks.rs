//! Answers submitters whose job met the lock of another one: removes the lock if it is stale.
//!
//! A lock outlives its job only if somebody removed the job by hand, stored a lock without a job, or
//! runs consumers that do not know locks. Submitters must not delete messages of the queue, so they ask
//! the consumers.

use bootstrap::{Beat, NatsClient};
use bytes::Bytes;
use common::{JobId, KeyHolder, UniqueHash, subjects};
use jetstream::job_messages::{self, Place};
use jetstream::records::{self, StoredRecord};
use jetstream::{Stream, manage, unique_locks};
use tracing::{debug, info};

use super::answers::{self, Answers};

#[derive(Clone)]
pub(crate) struct StaleLocks {
    pub(crate) client: NatsClient,
}

impl StaleLocks {
    pub(crate) async fn run(self, life: Beat) {
        let client = self.client.clone();
        answers::run(self, client, life).await;
    }
}

impl Answers for StaleLocks {
    const SUBJECTS: &'static str = subjects::ALL_RELEASES;

    /// Without an answer, the submitter takes the lock as it is.
    async fn answer(&self, subject: &str) -> Option<Bytes> {
        let hash = subjects::parse_release(subject)?;
        let holder = holder(&self.client, hash)
            .await
            .inspect_err(|error| debug!("cannot look up the holder of a key: {error:#}"));
        // An id can always be written as JSON.
        let body = serde_json::to_vec(&KeyHolder {
            holder: holder.ok()?,
        });
        Some(body.unwrap_or_default().into())
    }
}

/// The job that holds a key. A stale lock is removed, and then nobody holds the key.
async fn holder(client: &NatsClient, hash: UniqueHash) -> anyhow::Result<Option<JobId>> {
    let Some(lock) = unique_locks::read(client, hash).await? else {
        return Ok(None);
    };
    let holder = lock.holder();
    if let Some(id) = holder
        && holds(client, id).await?
    {
        return Ok(holder);
    }
    manage::delete_message(client, Stream::Jobs, lock.sequence).await?;
    if let Some(id) = holder {
        info!(job.id = %id, "released the key of a job that has ended or does not exist");
    } else {
        info!("released a key whose lock was not a lock");
    }
    Ok(None)
}

/// Whether a job that a lock names has not ended.
///
/// The message of a job is stored before its lock, and stays in the queue until the job has a record.
/// The record of a job that has not ended does not expire. So the message is read first, and a job that
/// is found neither there nor by its record does not exist.
async fn holds(client: &NatsClient, id: JobId) -> anyhow::Result<bool> {
    let queued = job_messages::read(client, id, Place::Queue).await?;
    Ok(match records::one(client, id).await? {
        Some(StoredRecord {
            record: Some(record),
            ..
        }) => !record.state.is_final(),
        // Somebody has stored other bytes in place of the record.
        Some(_) => job_messages::waiting(client, id).await?.is_some(),
        None => queued.is_some(),
    })
}
