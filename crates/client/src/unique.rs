//! Unique jobs: the lock that is stored with a job, and who holds a key.

use std::time::Duration;

use async_nats::HeaderMap;
use common::{JobId, JobKind, UniqueHash, UniqueKey, UniqueLock, subjects};
use connection::NatsClient;
use jetstream::{Message, unique_locks};
use sha2::{Digest as _, Sha256};

use crate::job::NewJob;

/// How long a consumer may take to look whether a lock is stale.
const PATIENCE: Duration = Duration::from_secs(2);

/// The first version of the wire format with unique jobs.
const KNOWS_LOCKS: u32 = 2;

/// Who holds the key of a job.
pub(crate) enum Holder {
    /// The job itself: an earlier submission stored it.
    This,
    /// Another job.
    Other(JobId),
    /// Nobody.
    Nobody,
    /// Nobody any longer: a consumer has just removed a stale lock.
    Released,
}

/// What stands for a kind and a key. Programs in other languages make it in the same way.
pub(crate) fn hash(kind: &JobKind, key: &UniqueKey) -> UniqueHash {
    let mut hash = Sha256::new();
    // A kind has no NUL, so no two pairs are the same bytes.
    hash.update(kind.as_str());
    hash.update(b"\0");
    hash.update(key.as_str());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    bytes.into()
}

/// What stands for the key of a job; `None` if the job is not unique.
pub(crate) fn hash_of(job: &NewJob) -> Option<UniqueHash> {
    let unique = job.unique.as_ref()?;
    Some(hash(&job.kind, &unique.key))
}

/// The lock of a job in its first run.
pub(crate) fn lock(hash: UniqueHash, job: JobId) -> Message {
    unique_locks::message(hash, UniqueLock { job, run: 1 })
}

/// Adds the headers of a unique job: its lock, and the version of the wire format that knows locks.
pub(crate) fn mark(headers: &mut HeaderMap, hash: UniqueHash) {
    headers.insert(subjects::UNIQUE_HEADER, hash.to_string());
    headers.insert(subjects::REQUIRES_HEADER, KNOWS_LOCKS.to_string());
}

/// Looks up who holds a key. If it is another job, a consumer is asked to remove a stale lock. If no
/// consumer answers, the lock counts as it is.
///
/// # Errors
/// When the server does not answer in time, or the lock is none and no consumer removes it.
pub(crate) async fn holder(
    client: &NatsClient,
    hash: UniqueHash,
    id: JobId,
) -> anyhow::Result<Holder> {
    let Some(lock) = unique_locks::read(client, hash).await? else {
        return Ok(Holder::Nobody);
    };
    let of = |holder| {
        if holder == id {
            Holder::This
        } else {
            Holder::Other(holder)
        }
    };
    if lock.holder() == Some(id) {
        return Ok(Holder::This);
    }
    match (
        unique_locks::check(client, hash, PATIENCE).await?,
        lock.holder(),
    ) {
        (Some(answer), _) => Ok(answer.holder.map_or(Holder::Released, of)),
        (None, Some(holder)) => Ok(Holder::Other(holder)),
        (None, None) => {
            anyhow::bail!(
                "the message on {} is not a lock, and no consumer has removed it",
                subjects::unique(hash)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_kind_and_a_key_never_changes() {
        let of = |kind: &str, key: &str| hash(&kind.parse().unwrap(), &key.parse().unwrap());
        // printf 'mail.send\0user-7' | sha256sum | cut -c 1-32
        assert_eq!(
            of("mail.send", "user-7").to_string(),
            "f88d853f919d11de8c90509952d55db9"
        );
        assert_ne!(of("a", "bc"), of("ab", "c"));
    }
}
