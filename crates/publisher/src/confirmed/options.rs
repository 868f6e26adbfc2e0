use std::time::Duration;

use common::MaxAttempts;

/// How a [`ConfirmedSubmitter`](crate::ConfirmedSubmitter) submits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ConfirmedOptions {
    /// The most jobs that have not ended, whether they wait for a reply or for their next attempt;
    /// 1 to 65,536.
    pub in_flight: usize,
    /// How long to wait for a reply before the job is sent again. A job whose own `timeout` plus 5 s
    /// is longer waits that long.
    pub confirm_timeout: Duration,
    /// The most attempts of a job that has no `max_attempts` of its own.
    pub max_attempts: MaxAttempts,
    /// Whether jobs go to `jobs.create.<kind>` instead of `jobs.create`.
    pub by_kind: bool,
}
