use std::sync::Arc;
use std::time::Duration;

use common::JobKind;

use crate::lease::Lease;
use crate::settle::Settlement;

/// Runs the jobs that the lane takes.
pub trait Sink: Send + Sync + 'static {
    /// Total number of slots.
    fn capacity(&self) -> usize;

    /// Number of further jobs that it takes now.
    fn room(&self) -> usize;

    /// Takes all these jobs, even if there is no room for some. Each job is settled by
    /// [`crate::Lane::settle`], unless [`Sink::give_up_waiting`] returns it.
    fn take(&self, jobs: Vec<Arc<Lease>>);

    /// Removes and returns the jobs that have waited longer than this and were not started.
    fn give_up_waiting(&self, longer_than: Duration) -> Vec<Arc<Lease>>;

    /// Called when a job of this kind ends without a call of its handler, because its deadline had
    /// passed or because it cannot be run.
    fn refused(&self, kind: Option<&JobKind>, settlement: &Settlement);
}
