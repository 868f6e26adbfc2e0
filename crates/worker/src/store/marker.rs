//! The markers of jobs that wait: what the watch for overdue jobs finds them by.
//!
//! A marker is stored on `jobs.overdue.<slot>.<id>` in the batch that puts the job off, the slot being
//! a quarter of a minute after the job's time.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use common::{JobId, JobSubject, Timestamp, subjects};
use jetstream::headers::{self, size_of};
use jetstream::{Message, NotStored, StoredMessage};
use tracing::debug;

use super::JobStore;
use crate::lease::Lease;

/// How long a slot is.
const SLOT: Duration = Duration::from_secs(15);

/// How long after its time a job is looked at, at the earliest: a schedule is up to a quarter of a
/// second late.
const GRACE: Duration = Duration::from_secs(5);

/// The most bytes of a job, with its headers, that are kept in its marker.
const SMALL: usize = 4096;

/// What is needed to bring a job back whose message is lost.
#[derive(Clone, Debug)]
pub(crate) struct Marker {
    pub(crate) id: JobId,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
}

impl Marker {
    /// The marker of a job that waits for a run.
    pub(crate) fn of(lease: &Lease, run: u32) -> Self {
        let mut headers = headers::submitted(lease.headers.as_ref());
        let mut payload = lease.payload.clone();
        if size_of(&headers) + payload.len() > SMALL {
            (headers, payload) = (HeaderMap::new(), Bytes::new());
        }
        let due = subjects::due_job(lease.id, lease.priority, run, &lease.kind);
        headers.insert(subjects::DUE_HEADER, due);
        Self {
            id: lease.id,
            headers,
            payload,
        }
    }

    pub(crate) fn message(&self, slot: i64) -> Message {
        Message {
            subject: subjects::overdue(slot, self.id),
            headers: self.headers.clone(),
            payload: self.payload.clone(),
        }
    }

    pub(crate) fn read(kept: StoredMessage) -> Option<Self> {
        Some(Self {
            id: subjects::parse_overdue(&kept.subject)?.1,
            headers: kept.headers,
            payload: kept.payload,
        })
    }

    /// The run that the job waits for, as far as the marker says it: anything may be stored in its
    /// place.
    pub(crate) fn subject(&self) -> Option<JobSubject> {
        let due = self.headers.get(subjects::DUE_HEADER)?;
        JobSubject::parse(due.as_str()).filter(|place| place.id == self.id)
    }
}

/// The first slot that begins after a time, and after the grace.
pub(crate) fn slot_after(time: Timestamp) -> i64 {
    slot_of(time.after(GRACE)) + 1
}

/// The slot that is on.
pub(crate) fn slot_of(time: Timestamp) -> i64 {
    let slot = time
        .unix_nanos()
        .div_euclid(i128::try_from(SLOT.as_nanos()).unwrap_or(i128::MAX));
    // No time has so many.
    i64::try_from(slot).unwrap_or(i64::MAX)
}

impl JobStore {
    /// Stores a marker by itself.
    pub(super) async fn mark(&self, marker: &Marker, until: Timestamp) {
        let slot = slot_after(until.max(self.clock.now()));
        if let Err(error) = self.records.store(vec![marker.message(slot)]).await {
            // Only a job whose schedule is lost as well is not found now.
            debug!(job.id = %marker.id, %error, "a marker of a job that waits cannot be stored");
        }
    }

    /// Whether a slot may have been read already when a marker in it is stored now.
    pub(super) fn is_late(&self, slot: i64) -> bool {
        slot_of(self.clock.now().after(GRACE / 2)) >= slot
    }

    /// Stores markers anew, each in its slot.
    ///
    /// # Errors
    /// When one of them is not stored.
    pub(crate) async fn store_markers(
        &self,
        markers: impl IntoIterator<Item = (Marker, i64)>,
    ) -> Result<(), NotStored> {
        let stored = markers
            .into_iter()
            .map(|(marker, slot)| self.records.store(vec![marker.message(slot)]));
        for stored in futures_util::future::join_all(stored).await {
            stored?;
        }
        Ok(())
    }
}
