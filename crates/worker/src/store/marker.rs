//! Markers of waiting jobs. The watch for overdue jobs finds a job by its marker if the job's
//! message was lost.
//!
//! A marker is stored on `jobs.overdue.<slot>.<id>`, in the same batch as the record of the waiting
//! job. Its slot is the first quarter of a minute that begins after the job's due time and a grace.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use common::{JobId, JobSubject, Timestamp, subjects};
use jetstream::headers::{self, size_of};
use jetstream::{Message, NotStored, StoredMessage};
use tracing::debug;

use super::JobStore;
use crate::lease::Lease;

/// The length of a slot.
const SLOT: Duration = Duration::from_secs(15);

/// The least time from the due time of a job to the slot of its marker. The server fires a schedule
/// up to a quarter of a second late.
const GRACE: Duration = Duration::from_secs(5);

/// The largest job that its marker keeps, with its headers, in bytes.
const SMALL: usize = 4096;

/// The data that restores a job whose message was lost.
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

    /// The run that the job waits for; `None` if the message on the marker's subject is not a
    /// marker.
    pub(crate) fn subject(&self) -> Option<JobSubject> {
        let due = self.headers.get(subjects::DUE_HEADER)?;
        JobSubject::parse(due.as_str()).filter(|place| place.id == self.id)
    }
}

/// The first slot that begins after a time and the grace.
pub(crate) fn slot_after(time: Timestamp) -> i64 {
    slot_of(time.after(GRACE)) + 1
}

/// The slot that a time is in.
pub(crate) fn slot_of(time: Timestamp) -> i64 {
    let slot = time
        .unix_nanos()
        .div_euclid(i128::try_from(SLOT.as_nanos()).unwrap_or(i128::MAX));
    // The slot number of every time fits.
    i64::try_from(slot).unwrap_or(i64::MAX)
}

impl JobStore {
    /// Stores a marker without a record.
    pub(super) async fn mark(&self, marker: &Marker, until: Timestamp) {
        let slot = slot_after(until.max(self.clock.now()));
        if let Err(error) = self.records.store(vec![marker.message(slot)]).await {
            // Without its marker, the job is lost only if its schedule is lost as well.
            debug!(job.id = %marker.id, %error, "cannot store the marker of a waiting job");
        }
    }

    /// Whether the watch may have read a slot already, and would miss a marker that is stored there
    /// now.
    pub(super) fn is_late(&self, slot: i64) -> bool {
        slot_of(self.clock.now().after(GRACE / 2)) >= slot
    }

    /// Stores markers again, each in the given slot.
    ///
    /// # Errors
    /// When a marker is not stored.
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
