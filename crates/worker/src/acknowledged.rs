use std::sync::{Arc, Mutex, PoisonError};

use common::JobKind;

use crate::queues::Queue;

/// A message that this consumer has acknowledged.
#[derive(Debug)]
pub(crate) struct Acknowledged {
    pub(crate) queue: Arc<Queue<JobKind>>,
    pub(crate) sequence: u64,
    /// The number of the connection on which it was acknowledged.
    pub(crate) connection: u64,
}

/// The messages that were acknowledged and are not purged yet.
#[derive(Debug, Default)]
pub(crate) struct AcknowledgedList(Mutex<Vec<Acknowledged>>);

impl AcknowledgedList {
    pub(crate) fn push(&self, acknowledged: Acknowledged) {
        self.lock().push(acknowledged);
    }

    /// Empties the list and returns its messages.
    pub(crate) fn take(&self) -> Vec<Acknowledged> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Acknowledged>> {
        // Nothing panics while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
