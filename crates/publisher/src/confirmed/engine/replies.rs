//! Reads replies, and decides what they mean for their jobs.

use std::time::Duration;

use async_nats::{Message, StatusCode};
use tokio::time::Instant;

use super::super::failed_attempt::{FailedAttempt, FailureReason};
use super::super::pending_job::{JobRef, JobState};
use super::super::reply::Reply;
use super::super::reply_subject::parse_reply_subject;
use super::Engine;
use super::resubmit::Resubmit;

/// How long consumers may need to reconnect after the publisher has.
const RECONNECT: Duration = Duration::from_secs(10);

/// How long a consumer may take to answer on `jobs.serves.<kind>`.
const PROBE: Duration = Duration::from_secs(2);

impl Engine {
    pub(super) fn receive(&mut self, message: &Message) {
        let Some((slot, number)) = parse_reply_subject(&self.inbox, &message.subject) else {
            return;
        };
        let Some(job) = self.jobs.get_mut(slot) else {
            return;
        };
        if number <= job.serial {
            // A second reply to the job that had this slot before.
            return;
        }
        if let JobState::Probing { sequence, .. } = job.state
            && sequence == number
        {
            let why = if message.status == Some(StatusCode::NO_RESPONDERS) {
                Resubmit::Failed(FailedAttempt::because(FailureReason::NoConsumer))
            } else {
                Resubmit::NoRoom(None)
            };
            self.resubmit(slot, why);
            return;
        }
        match Reply::read(message, job.submission.id, job.attempt) {
            Reply::Final(outcome) => {
                let queue = self.queues.get(job.queue);
                queue.accepted += 1;
                queue.window.accepted();
                self.finish(slot, outcome);
            }
            // The refusal of an earlier attempt, which has timed out.
            _ if !job.state.is_sent_as(number) => {}
            Reply::NoRoom(retry_after) => {
                self.refused(slot);
                self.resubmit(slot, Resubmit::NoRoom(retry_after));
            }
            Reply::Failed(failed) => self.attempt_failed(slot, failed),
        }
    }

    /// Handles an attempt that failed. If no consumer took it, finds out first whether they are full.
    pub(super) fn attempt_failed(&mut self, slot: u16, failed: FailedAttempt) {
        if failed.reason != FailureReason::NoConsumer {
            self.unsend(slot);
            self.resubmit(slot, Resubmit::Failed(failed));
        } else if self.refused(slot) {
            // Consumers accepted other jobs meanwhile, so they are there and were full.
            self.resubmit(slot, Resubmit::NoRoom(None));
        } else if self.restored_at.is_some_and(|at| at.elapsed() < RECONNECT) {
            self.resubmit(slot, Resubmit::Outage);
        } else if let Some(job) = self.jobs.get_mut(slot) {
            let until = Instant::now() + PROBE;
            job.state = JobState::Probing { sequence: 0, until };
            let serial = job.serial;
            self.to_probe.push_back(JobRef { slot, serial });
            self.timer.set(until);
        }
    }

    /// Handles a sent job that no consumer took: its queue's window may shrink. Returns whether
    /// consumers accepted other jobs of the queue since it was sent.
    fn refused(&mut self, slot: u16) -> bool {
        let Some(unsent) = self.unsend(slot) else {
            return false;
        };
        let queue = self.queues.get(unsent.queue);
        queue.window.refused(unsent.sequence, self.sequence);
        queue.accepted != unsent.accepted_before
    }

    /// Makes a sent job a waiting one; `None` if it is not in state `Sent`.
    fn unsend(&mut self, slot: u16) -> Option<Unsent> {
        let job = self.jobs.get_mut(slot)?;
        let JobState::Sent {
            sequence,
            accepted_before,
            ..
        } = job.state
        else {
            return None;
        };
        let until = Instant::now();
        job.state = JobState::Waiting { until };
        let queue = job.queue;
        self.queues.get(queue).unanswered -= 1;
        self.queues.wake(queue);
        Some(Unsent {
            queue,
            sequence,
            accepted_before,
        })
    }
}

/// What was known of a job while it was sent.
struct Unsent {
    /// Index of its queue.
    queue: usize,
    /// Sequence number of its request.
    sequence: u64,
    /// How many jobs of its queue consumers had accepted when it was sent.
    accepted_before: u64,
}
