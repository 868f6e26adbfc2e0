//! Numbers as log lines show them.

use std::time::Duration;

/// Milliseconds, rounded to one decimal.
pub(super) fn milliseconds(duration: Duration) -> f64 {
    tenths(duration.as_secs_f64() * 1_000.0)
}

/// Seconds, rounded to one decimal.
pub(super) fn seconds(duration: Duration) -> f64 {
    tenths(duration.as_secs_f64())
}

/// The number, rounded to one decimal.
pub(super) fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}
