//! Lets jobs wait for their next attempt.

use std::time::Duration;

use common::{OutcomeError, Status, Timestamp, codes};
use tokio::time::Instant;

use super::super::failed_attempt::FailedAttempt;
use super::super::pending_job::JobState;
use super::Engine;
use super::saturation::Saturation;
use crate::outcome::unsuccessful;

/// The longest wait that a consumer may ask for, if the job's `backoff` allows as much.
const LONGEST_WAIT: Duration = Duration::from_hours(24);

/// Why a job is sent again. Only a failed attempt counts towards `max_attempts`.
pub(super) enum Resubmit {
    /// The attempt failed, or no consumer is there.
    Failed(FailedAttempt),
    /// Consumers that serve the job are there, and full. They may say how long to wait.
    NoRoom(Option<Duration>),
    /// NATS was away until a moment ago, and consumers may not have reconnected yet.
    Outage,
}

impl Engine {
    /// Lets a job wait for its next attempt; ends it if it has none left.
    pub(super) fn resubmit(&mut self, slot: u16, why: Resubmit) {
        let Some(job) = self.jobs.get_mut(slot) else {
            return;
        };
        let now = Instant::now();
        let terms = job.submission.terms;
        let attempt = job.attempt;
        job.no_room_since = match why {
            Resubmit::NoRoom(_) => job.no_room_since.or(Some(now)),
            Resubmit::Failed(_) | Resubmit::Outage => None,
        };
        let (retry_after, counts) = match why {
            Resubmit::Failed(failed) => {
                let max_attempts = terms.max_attempts.unwrap_or(self.options.max_attempts);
                if attempt >= max_attempts.get() {
                    let why = format!("given up after {attempt} attempts");
                    let outcome = failed.into_outcome(job.submission.id, attempt, &why);
                    self.finish(slot, outcome);
                    return;
                }
                (failed.retry_after, true)
            }
            Resubmit::NoRoom(retry_after) => (retry_after, false),
            Resubmit::Outage => (None, false),
        };
        let backoff = terms.backoff.unwrap_or_default();
        let longest = backoff.max.get().min(LONGEST_WAIT);
        let mut wait = backoff
            .delay(attempt, rand::random())
            .max(retry_after.unwrap_or_default().min(longest));
        if let Some(deadline) = terms.deadline {
            let left = deadline.since(Timestamp::now());
            if left.is_zero() {
                self.expire(slot);
                return;
            }
            wait = wait.min(left);
        }
        job.attempt += u32::from(counts);
        let until = now + wait;
        job.state = JobState::Waiting { until };
        self.timer.set(until);
        if let Some(since) = job.no_room_since {
            self.timer.set(since + Saturation::PERIOD);
        }
    }

    /// Ends a job whose deadline has passed.
    pub(super) fn expire(&mut self, slot: u16) {
        if let Some(job) = self.jobs.get_mut(slot) {
            let error = OutcomeError::new(
                codes::EXPIRED,
                format!("the deadline passed after {} attempts", job.attempt),
            );
            let outcome = unsuccessful(job.submission.id, Status::Expired, job.attempt, error);
            self.finish(slot, outcome);
        }
    }
}
