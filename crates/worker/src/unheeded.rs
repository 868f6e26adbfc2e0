use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use common::JobKind;

/// The kinds of which this consumer got a job that is not of normal priority, while their priorities were
/// not heeded; clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Unheeded(Arc<Mutex<BTreeSet<JobKind>>>);

impl Unheeded {
    pub(crate) fn add(&self, kind: &JobKind) {
        let mut kinds = self.lock();
        if !kinds.contains(kind) {
            kinds.insert(kind.clone());
        }
    }

    pub(crate) fn kinds(&self) -> BTreeSet<JobKind> {
        self.lock().clone()
    }

    pub(crate) fn remove(&self, kind: &JobKind) {
        self.lock().remove(kind);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeSet<JobKind>> {
        // Nothing panics while it is locked.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
