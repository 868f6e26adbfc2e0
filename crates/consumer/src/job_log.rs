//! A line for each job while people can read them, and sums when they cannot.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bootstrap::Beat;
use common::Counts;
use tokio::time::MissedTickBehavior;
use tracing::info;

use crate::consumer::Consumer;

/// Lines about single jobs in one second; the jobs beyond are only counted.
const LINES_PER_SECOND: u32 = 10;

/// How often sums are logged while not every job has a line.
const SUM_EVERY: u32 = 10;

/// Decides which jobs get a line.
#[derive(Debug, Default)]
pub(crate) struct JobLog {
    lines: [AtomicU32; 3],
    muted: AtomicU32,
}

/// What a line is about; each has a budget of its own, so that none drowns the others.
#[derive(Clone, Copy, Debug)]
pub(crate) enum About {
    Success,
    Failure,
    /// Leaving the queue group and joining it again.
    Membership,
}

impl JobLog {
    /// Whether there may be one more line in this second.
    pub(crate) fn has_room(&self, about: About) -> bool {
        let lines = &self.lines[about as usize];
        // One load for the many; the few that come close to the bound may overshoot it a little.
        if lines.load(Ordering::Relaxed) < LINES_PER_SECOND {
            lines.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        if self.muted.load(Ordering::Relaxed) == 0 {
            self.muted.store(1, Ordering::Relaxed);
        }
        false
    }
}

/// Renews the budget each second, and logs the sums of times with more jobs than lines.
pub(crate) async fn sum_up(consumer: Arc<Consumer>, life: Beat) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = Counts::default();
    let mut seconds = 0;
    loop {
        second.tick().await;
        life.beat();
        for lines in &consumer.log.lines {
            lines.store(0, Ordering::Relaxed);
        }
        seconds += 1;
        if seconds < SUM_EVERY {
            continue;
        }
        seconds = 0;
        let counts = consumer.counts();
        if consumer.log.muted.swap(0, Ordering::Relaxed) != 0 {
            let (in_flight, waiting) = consumer.in_flight_and_waiting();
            info!(
                processed = counts.processed - told.processed,
                succeeded = counts.succeeded - told.succeeded,
                failed = counts.failed - told.failed,
                rejected = counts.rejected - told.rejected,
                expired = counts.expired - told.expired,
                busy = counts.busy - told.busy,
                in_flight,
                waiting,
                "jobs of the last {SUM_EVERY} s (at most {LINES_PER_SECOND} a second have a line of their own)"
            );
        }
        told = counts;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_keep_their_lines_when_successes_have_used_theirs_up() {
        let log = JobLog::default();
        let lines = (0..1000).filter(|_| log.has_room(About::Success)).count();
        assert_eq!(lines, LINES_PER_SECOND as usize);
        assert!(log.has_room(About::Failure));
    }
}
