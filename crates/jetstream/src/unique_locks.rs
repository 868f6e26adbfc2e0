//! The locks of unique jobs, in the stream of the jobs.
//!
//! A lock is stored in one atomic batch with its job, behind it. So whoever reads a lock finds its job,
//! or what became of it. A lock is only removed by its sequence, so that the lock of the next holder is
//! safe.

use std::time::Duration;

use async_nats::{HeaderMap, RequestErrorKind};
use bytes::Bytes;
use common::{JobId, KeyHolder, UniqueHash, UniqueLock, subjects};
use connection::NatsClient;

use crate::direct_get;
use crate::headers::EXPECTED_LAST;
use crate::manage;
use crate::message::Message;
use crate::request::{ApiError, unless_forbidden};
use crate::topology::Stream;

/// A lock as it is stored.
#[derive(Clone, Copy, Debug)]
pub struct StoredLock {
    /// Its sequence in the stream.
    pub sequence: u64,
    /// What it says; `None` if somebody stored other bytes there.
    pub lock: Option<UniqueLock>,
}

impl StoredLock {
    /// The job that holds the key; `None` if somebody stored other bytes there.
    #[must_use]
    pub fn holder(&self) -> Option<JobId> {
        self.lock.map(|lock| lock.job)
    }
}

/// The message of a lock. The stream refuses it, with the whole batch, if the key is held.
#[must_use]
pub fn message(hash: UniqueHash, lock: UniqueLock) -> Message {
    let mut headers = HeaderMap::new();
    headers.insert(EXPECTED_LAST, "0");
    // An id and a number can always be written as JSON.
    let payload = serde_json::to_vec(&lock).unwrap_or_default();
    Message {
        subject: subjects::unique(hash),
        headers,
        payload: payload.into(),
    }
}

/// Reads the lock of a key. The request needs no right but `$JS.API.DIRECT.GET.JOBS.jobs.unique.*`.
///
/// # Errors
/// See [`ApiError`].
pub async fn read(client: &NatsClient, hash: UniqueHash) -> Result<Option<StoredLock>, ApiError> {
    let found = direct_get::last_on(client, Stream::Jobs, &subjects::unique(hash)).await?;
    Ok(found.map(|message| StoredLock {
        sequence: message.sequence,
        lock: serde_json::from_slice(&message.payload).ok(),
    }))
}

/// Removes the lock of a key if it names this job, in this run or an earlier one. A lock that names
/// another job stays.
///
/// # Errors
/// See [`ApiError`].
pub async fn release(
    client: &NatsClient,
    hash: UniqueHash,
    job: JobId,
    run: u32,
) -> Result<(), ApiError> {
    let Some(StoredLock {
        sequence,
        lock: Some(lock),
    }) = read(client, hash).await?
    else {
        return Ok(());
    };
    if lock.job == job && lock.run <= run {
        manage::delete_message(client, Stream::Jobs, sequence).await?;
    }
    Ok(())
}

/// The key of a unique job, from the headers of its message; `None` if it has none.
#[must_use]
pub fn hash_in(headers: &HeaderMap) -> Option<UniqueHash> {
    headers.get(subjects::UNIQUE_HEADER)?.as_str().parse().ok()
}

/// Has a consumer remove the lock of a key if it is stale; returns which job holds the key then. `None`
/// if no consumer answers within `patience`, or if this user may not ask.
///
/// # Errors
/// When the connection is lost or closed.
pub async fn check(
    client: &NatsClient,
    hash: UniqueHash,
    patience: Duration,
) -> anyhow::Result<Option<KeyHolder>> {
    let subject = subjects::release(hash);
    let asking = client.request(subject.clone(), Bytes::new());
    let asking = unless_forbidden(client, &subject, tokio::time::timeout(patience, asking));
    match asking.await {
        Err(_) | Ok(Err(_)) => Ok(None),
        Ok(Ok(Ok(answer))) => Ok(serde_json::from_slice(&answer.payload).ok()),
        Ok(Ok(Err(error))) => match error.kind() {
            RequestErrorKind::NoResponders | RequestErrorKind::TimedOut => Ok(None),
            _ => Err(error.into()),
        },
    }
}
