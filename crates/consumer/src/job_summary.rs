//! Logs how many jobs ended, for times in which not every job has a log line.

use std::sync::Arc;
use std::time::Duration;

use bootstrap::Beat;
use common::Counts;
use tokio::time::MissedTickBehavior;
use tracing::info;

use crate::consumer::Consumer;
use crate::job_log::LINES_PER_SECOND;

/// Seconds between two summaries.
const PERIOD: u32 = 10;

/// Renews the budget of log lines each second, and logs a summary of each period in which a line
/// was suppressed.
pub(crate) async fn run(consumer: Arc<Consumer>, heartbeat: Beat) {
    let mut second = tokio::time::interval(Duration::from_secs(1));
    second.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Counts::default();
    let mut seconds = 0;
    loop {
        second.tick().await;
        heartbeat.beat();
        consumer.log.renew();
        seconds += 1;
        if seconds < PERIOD {
            continue;
        }
        seconds = 0;
        let counts = consumer.counts();
        if consumer.log.take_suppressed() {
            let (in_flight, waiting) = consumer.in_flight_and_waiting();
            info!(
                processed = counts.processed - last.processed,
                succeeded = counts.succeeded - last.succeeded,
                failed = counts.failed - last.failed,
                rejected = counts.rejected - last.rejected,
                expired = counts.expired - last.expired,
                busy = counts.busy - last.busy,
                in_flight,
                waiting,
                "jobs of the last {PERIOD} s (single jobs are logged up to {LINES_PER_SECOND} times a second)"
            );
        }
        last = counts;
    }
}
