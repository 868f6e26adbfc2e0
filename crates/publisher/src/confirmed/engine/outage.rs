//! Keeps jobs while NATS is away.

use tokio::time::Instant;
use tracing::{info, warn};

use super::super::pending_job::{JobRef, JobState};
use super::Engine;

impl Engine {
    /// Handles a change of the connection. Only the last of several changes is seen: connected after
    /// connected means that the connection was lost in between.
    pub(in crate::confirmed) fn connection_changed(&mut self, connected: bool) {
        if self.connected {
            self.connection_lost();
        }
        if connected {
            self.connection_restored();
        }
    }

    /// Makes all jobs without a reply ready again, in the order in which they were sent.
    fn connection_lost(&mut self) {
        self.connected = false;
        self.lost_at = Some(Instant::now());
        let mut unanswered = Vec::new();
        for (slot, job) in self.jobs.iter_mut() {
            if let JobState::Sent { sequence, .. } | JobState::Probing { sequence, .. } = job.state
            {
                job.state = JobState::Ready;
                let serial = job.serial;
                unanswered.push((sequence, job.queue, JobRef { slot, serial }));
            }
        }
        unanswered.sort_unstable_by_key(|&(sequence, ..)| sequence);
        self.to_probe.clear();
        self.queues.clear_unanswered();
        for (_, queue, job) in unanswered {
            self.queues.push_ready(queue, job);
        }
        warn!(
            jobs = self.jobs.len(),
            "jobs are kept until NATS is back, and no new ones are taken"
        );
    }

    fn connection_restored(&mut self) {
        self.connected = true;
        if let Some(lost_at) = self.lost_at.take() {
            self.restored_at = Some(Instant::now());
            info!(
                jobs = self.jobs.len(),
                away_s = (lost_at.elapsed().as_secs_f64() * 1e3).round() / 1e3,
                "going on with the jobs that were kept"
            );
        }
    }
}
