use std::sync::atomic::{AtomicU64, Ordering};

use bootstrap::{Times, Waits};

/// Counters of durable jobs in one consumer, except how the jobs ended.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    redelivered: AtomicU64,
    dead_letters: AtomicU64,
    restored: AtomicU64,
    lost: AtomicU64,
    newer_version: AtomicU64,
    pub(crate) waits: Waits,
}

/// The counters of the lane in one consumer since its start, except how its jobs ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Redeliveries of messages.
    pub redelivered: u64,
    /// Dead letters that were stored.
    pub dead_letters: u64,
    /// Waiting jobs whose message was lost and that were scheduled again.
    pub restored: u64,
    /// Waiting jobs whose message was lost and that ended as dead letters.
    pub lost: u64,
    /// Deliveries of jobs that only a newer consumer can read.
    pub newer_version: u64,
    /// How long jobs waited: from the time when the server stored the message in the queue until
    /// its first delivery.
    pub waits: Times,
}

impl Counters {
    pub(crate) fn redelivered(&self) {
        self.redelivered.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn dead_letter(&self) {
        self.dead_letters.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn overdue(&self, restored: usize, lost: usize) {
        self.restored.fetch_add(restored as u64, Ordering::Relaxed);
        self.lost.fetch_add(lost as u64, Ordering::Relaxed);
    }

    pub(crate) fn newer_version(&self) {
        self.newer_version.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn figures(&self) -> Figures {
        Figures {
            redelivered: self.redelivered.load(Ordering::Relaxed),
            dead_letters: self.dead_letters.load(Ordering::Relaxed),
            restored: self.restored.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
            newer_version: self.newer_version.load(Ordering::Relaxed),
            waits: self.waits.times(),
        }
    }
}
