//! Handles jobs whose state has lasted long enough.

use common::Timestamp;
use tokio::time::Instant;
use tracing::warn;

use super::super::failed_attempt::{FailedAttempt, FailureReason};
use super::super::pending_job::{JobRef, JobState};
use super::Engine;
use super::resubmit::Resubmit;

impl Engine {
    /// Handles all jobs whose time has come, and logs how many wait because consumers are full.
    pub(super) fn handle_due(&mut self, now: Instant) {
        let mut due = Vec::new();
        let mut no_room_since = Vec::new();
        for (slot, job) in self.jobs.iter_mut() {
            match job.state.until() {
                Some(until) if until <= now => due.push(slot),
                Some(until) => self.timer.set(until),
                None => {}
            }
            if let (JobState::Ready | JobState::Waiting { .. }, Some(since)) =
                (job.state, job.no_room_since)
            {
                no_room_since.push(since);
            }
        }
        let (jobs, next) = self.saturation.due_report(now, &no_room_since);
        if jobs > 0 {
            warn!(jobs, "jobs wait: all consumers that serve them are full");
        }
        if let Some(next) = next {
            self.timer.set(next);
        }
        for slot in due {
            self.handle_due_job(slot);
        }
    }

    fn handle_due_job(&mut self, slot: u16) {
        let Some(job) = self.jobs.get_mut(slot) else {
            return;
        };
        match job.state {
            JobState::Sent { .. } => {
                self.attempt_failed(slot, FailedAttempt::because(FailureReason::TimedOut));
            }
            JobState::Probing { .. } => {
                let failed = FailedAttempt::because(FailureReason::NoConsumer);
                self.resubmit(slot, Resubmit::Failed(failed));
            }
            JobState::Ready | JobState::Waiting { .. } => {
                let deadline = job.submission.terms.deadline;
                if deadline.is_some_and(|deadline| deadline <= Timestamp::now()) {
                    self.expire(slot);
                    return;
                }
                job.state = JobState::Ready;
                let (queue, serial) = (job.queue, job.serial);
                self.queues.push_ready(queue, JobRef { slot, serial });
            }
        }
    }
}
