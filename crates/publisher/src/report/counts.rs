use std::time::Duration;

/// Numbers of jobs and lines since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) submitted: u64,
    /// Published without a reply subject.
    pub(super) sent: u64,
    /// Durable jobs that are stored now.
    pub(super) stored: u64,
    /// Durable jobs whose id was stored before, or whose key another job holds (`on_conflict` `keep`).
    pub(super) known: u64,
    pub(super) succeeded: u64,
    pub(super) failed: u64,
    pub(super) rejected: u64,
    pub(super) expired: u64,
    /// Given up when the publisher had to stop.
    pub(super) given_up: u64,
    /// How many times jobs that are done were sent.
    pub(super) attempts: u64,
    /// The same without the first time of each job.
    pub(super) resubmitted: u64,
    pub(super) bad_lines: u64,
}

impl Counts {
    /// Jobs whose result is known.
    pub(super) fn done(&self) -> u64 {
        self.sent + self.stored + self.known + self.succeeded + self.not_succeeded()
    }

    /// Jobs that did not succeed, or were not stored or sent.
    pub(super) fn not_succeeded(&self) -> u64 {
        self.failed + self.rejected + self.expired + self.given_up
    }
}

/// Jobs per second, rounded to a whole number, or to one decimal below 100.
pub(super) fn per_second(jobs: u64, elapsed: Duration) -> f64 {
    let rate = jobs as f64 / elapsed.as_secs_f64().max(1e-9);
    if rate < 100.0 {
        (rate * 10.0).round() / 10.0
    } else {
        rate.round()
    }
}
