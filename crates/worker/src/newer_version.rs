//! Jobs that only a newer consumer can read.
//!
//! While consumers are upgraded one by one, an older consumer may get a job that a newer version
//! wrote. A header of the job says so, and the older consumer puts the job off until a newer
//! consumer gets it. Meanwhile the job takes no slot and uses no attempt.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use common::{JobKind, WIRE_VERSION};
use tokio::time::Instant;
use tracing::warn;

/// The wait in the first run. It doubles with each run.
const FIRST_WAIT: Duration = Duration::from_secs(1);

/// The longest wait.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// The time between two log lines about such jobs.
const REPORT: Duration = Duration::from_secs(10);

/// How long a job is put off in its `run`-th run.
pub(crate) fn wait(run: u32) -> Duration {
    let doubled = FIRST_WAIT.saturating_mul(1 << run.saturating_sub(1).min(16));
    let wait = doubled.min(LONGEST_WAIT);
    // Jitter, so that jobs that came together do not come back together.
    wait.mul_f64(1.0 + rand::random::<f64>() / 2.0)
}

/// Logs such jobs, at most one in ten seconds.
#[derive(Debug, Default)]
pub(crate) struct Reporter(Mutex<Option<Instant>>);

impl Reporter {
    pub(crate) fn report(&self, kind: &JobKind, version: u32) {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < REPORT) {
            return;
        }
        *last = Some(Instant::now());
        warn!(
            job.kind = %kind,
            "a job needs version {version} of the wire format and this consumer reads version \
             {WIRE_VERSION}: the job waits for a newer consumer (logged at most every 10 s)"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_five_minutes() {
        for (run, seconds) in [
            (0, 1),
            (1, 1),
            (2, 2),
            (5, 16),
            (9, 256),
            (10, 300),
            (u32::MAX, 300),
        ] {
            let least = Duration::from_secs(seconds);
            assert!((least..=least * 3 / 2).contains(&wait(run)), "{run}");
        }
    }
}
