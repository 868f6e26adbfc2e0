//! Arithmetic on counts, field by field.

use common::Counts;

/// The larger value of each field.
pub(crate) fn larger(a: &Counts, b: &Counts) -> Counts {
    zip(a, b, u64::max)
}

/// `a - b` in each field; zero where `b` is larger.
pub(crate) fn difference(a: &Counts, b: &Counts) -> Counts {
    zip(a, b, u64::saturating_sub)
}

/// The largest of all fields.
pub(crate) fn largest(counts: &Counts) -> u64 {
    let mut largest = 0;
    zip(counts, counts, |count, _| {
        largest = largest.max(count);
        count
    });
    largest
}

fn zip(a: &Counts, b: &Counts, mut with: impl FnMut(u64, u64) -> u64) -> Counts {
    // Every field by name, so that a new one cannot be forgotten.
    Counts {
        processed: with(a.processed, b.processed),
        succeeded: with(a.succeeded, b.succeeded),
        failed: with(a.failed, b.failed),
        rejected: with(a.rejected, b.rejected),
        expired: with(a.expired, b.expired),
        retried: with(a.retried, b.retried),
        busy: with(a.busy, b.busy),
        interrupted: with(a.interrupted, b.interrupted),
        cancelled: with(a.cancelled, b.cancelled),
    }
}
