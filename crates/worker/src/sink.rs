use std::sync::Arc;
use std::time::Duration;

use common::JobKind;

use crate::lease::Lease;
use crate::settle::Settlement;

/// Who runs the jobs that the lane takes.
pub trait Sink: Send + Sync + 'static {
    /// Total number of slots.
    fn capacity(&self) -> usize;

    /// Number of further jobs that it takes now.
    fn room(&self) -> usize;

    /// Takes jobs, also if there are more than there is room for: each of them is settled by
    /// [`crate::Lane::settle`] in the end.
    fn take(&self, jobs: Vec<Arc<Lease>>);

    /// Gives jobs back that have waited for longer than this and were not started.
    fn give_up_waiting(&self, longer_than: Duration) -> Vec<Arc<Lease>>;

    /// A job of this kind ended here without its handler being called: its deadline had passed, or
    /// it could not be run at all.
    fn refused(&self, kind: Option<&JobKind>, settlement: &Settlement);
}
