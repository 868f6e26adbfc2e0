//! Releases the keys of unique jobs.

use async_nats::HeaderMap;
use common::{JobId, UniqueHash};
use jetstream::unique_locks;

use super::{JobStore, RETRY};
use crate::lease::Lease;

impl JobStore {
    /// Releases the key of a job, if it holds one, and then acknowledges its message. Without an
    /// acknowledgement, because the lane ends first, the next delivery does both.
    pub(crate) async fn release_and_ack(&self, lease: &Lease) {
        if self.release(lease).await {
            self.ack(lease).await;
        }
    }

    /// Releases the key of a job, and repeats this until the server confirms it; false if the lane ends
    /// first. A job that is not unique has no header, so nothing is done for it.
    async fn release(&self, lease: &Lease) -> bool {
        let Some(hash) = key_of(lease) else {
            return true;
        };
        loop {
            match unique_locks::release(&self.client, hash, lease.id, lease.run).await {
                Ok(()) => return true,
                Err(error) => self.warn("cannot release a key, trying again", lease, &error),
            }
            if self.pause(RETRY).await {
                return false;
            }
        }
    }

    /// Releases the key of a job that was cancelled, given the headers of one of its messages.
    ///
    /// # Errors
    /// When the server does not confirm it.
    pub(crate) async fn release_cancelled(
        &self,
        id: JobId,
        headers: &HeaderMap,
    ) -> anyhow::Result<()> {
        if let Some(hash) = unique_locks::hash_in(headers) {
            unique_locks::release(&self.client, hash, id, u32::MAX).await?;
        }
        Ok(())
    }
}

/// What stands for the key of a job; `None` if the job is not unique.
pub(crate) fn key_of(lease: &Lease) -> Option<UniqueHash> {
    lease.headers.as_ref().and_then(unique_locks::hash_in)
}
