use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use worker::{Lane, Lease, Settlement};

use crate::counters::LaneCounters;

/// The durable jobs that this consumer holds, and the lane that settles them.
pub(crate) struct DurableJobs {
    /// Empty until the lane has started; it stays empty without JetStream.
    lane: OnceLock<Lane>,
    /// Durable jobs that wait here or run.
    held: AtomicUsize,
    pub(crate) counters: LaneCounters,
}

impl DurableJobs {
    pub(crate) fn new(counters: LaneCounters) -> Self {
        Self {
            lane: OnceLock::new(),
            held: AtomicUsize::new(0),
            counters,
        }
    }

    /// `None` until the lane has started, and without JetStream.
    pub(crate) fn lane(&self) -> Option<&Lane> {
        self.lane.get()
    }

    pub(super) fn set_lane(&self, lane: Lane) {
        self.lane.get_or_init(|| lane);
    }

    pub(super) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    pub(super) fn add_held(&self, jobs: usize) {
        self.held.fetch_add(jobs, Ordering::AcqRel);
    }

    pub(super) fn remove_held(&self, jobs: usize) {
        self.held.fetch_sub(jobs, Ordering::AcqRel);
    }

    /// Releases the key of a job before it starts; false if the job must not start.
    pub(crate) async fn release_key(&self, lease: &Lease) -> bool {
        match self.lane.get() {
            Some(lane) => lane.release_key(lease).await,
            None => false,
        }
    }

    /// Settles a job that this consumer holds.
    pub(super) fn settle(&self, lease: Arc<Lease>, settlement: Settlement) {
        self.remove_held(1);
        if let Some(lane) = self.lane.get() {
            lane.settle(lease, settlement);
            lane.room_changed();
        }
    }
}
