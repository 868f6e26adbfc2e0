mod due;
mod outage;
mod replies;
mod resubmit;
mod saturation;
mod send;
mod timer;

use std::collections::VecDeque;
use std::task::{Context, Poll};

use bootstrap::{NatsClient, Subscriber};
use common::{Outcome, OutcomeError, Status, codes, subjects};
use futures_util::StreamExt as _;
use tokio::time::Instant;

use self::saturation::Saturation;
use self::timer::Timer;
use super::finished::Finished;
use super::options::ConfirmedOptions;
use super::pending_job::{JobRef, JobState, PendingJob};
use super::slots::Slots;
use super::subject_queues::SubjectQueues;
use crate::connection_closed::ConnectionClosed;
use crate::outcome::unsuccessful;
use crate::submission::Submission;
use crate::trace;

/// All pending jobs, and everything that happens to them; the work behind a
/// [`ConfirmedSubmitter`](super::ConfirmedSubmitter).
pub(super) struct Engine {
    client: NatsClient,
    replies: Subscriber,
    /// What reply subjects begin with, up to and including the last dot.
    inbox: String,
    options: ConfirmedOptions,
    jobs: Slots<PendingJob>,
    queues: SubjectQueues,
    /// Jobs for which the consumers of their kind are to be asked whether they are there.
    to_probe: VecDeque<JobRef>,
    finished: VecDeque<Finished>,
    /// Numbers submissions and sent messages in one sequence.
    sequence: u64,
    connected: bool,
    lost_at: Option<Instant>,
    restored_at: Option<Instant>,
    timer: Timer,
    saturation: Saturation,
    /// Whether the connection is closed for good.
    closed: bool,
}

impl Engine {
    pub(super) async fn new(
        client: &NatsClient,
        connected: bool,
        options: ConfirmedOptions,
    ) -> anyhow::Result<Self> {
        let inbox = format!("{}.", client.new_inbox());
        let replies = client.subscribe(format!("{inbox}*")).await?;
        Ok(Self {
            client: client.clone(),
            replies,
            inbox,
            options,
            jobs: Slots::new(),
            queues: SubjectQueues::new(options.by_kind, options.in_flight),
            to_probe: VecDeque::new(),
            finished: VecDeque::new(),
            sequence: 0,
            connected,
            lost_at: None,
            restored_at: None,
            timer: Timer::new(),
            saturation: Saturation::default(),
            closed: false,
        })
    }

    pub(super) fn under_way(&self) -> usize {
        self.jobs.len()
    }

    pub(super) fn window(&self) -> usize {
        self.queues.window()
    }

    pub(super) fn has_room(&self) -> bool {
        self.connected && self.jobs.len() < self.options.in_flight
    }

    pub(super) fn submit(&mut self, submission: Submission) {
        self.sequence += 1;
        let (serial, queue) = (self.sequence, self.queues.enter(&submission.kind));
        let span = trace::send(&submission, subjects::CREATE);
        let slot = self.jobs.insert(PendingJob {
            submission,
            queue,
            serial,
            submitted_at: Instant::now(),
            attempt: 1,
            sent: 0,
            no_room_since: None,
            state: JobState::Ready,
            span,
        });
        self.queues.push_ready(queue, JobRef { slot, serial });
    }

    pub(super) fn take_finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }

    /// Ends all pending jobs as interrupted, and returns them.
    pub(super) fn abandon(&mut self) -> Vec<Finished> {
        let slots: Vec<u16> = self.jobs.iter_mut().map(|(slot, _)| slot).collect();
        for slot in slots {
            if let Some(job) = self.jobs.get_mut(slot) {
                let error = OutcomeError::new(
                    codes::INTERRUPTED,
                    "the publisher was stopped before the job had ended; it may still run",
                );
                let (id, attempt) = (job.submission.id, job.attempt);
                self.finish(slot, unsuccessful(id, Status::Failed, attempt, error));
            }
        }
        self.finished.drain(..).collect()
    }

    /// Does what can be done without waiting; ready when a job has ended.
    pub(super) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectionClosed>> {
        loop {
            while let Poll::Ready(reply) = self.replies.poll_next_unpin(context) {
                let Some(reply) = reply else {
                    self.closed = true;
                    break;
                };
                self.receive(&reply);
            }
            self.send_ready(context);
            if self.closed {
                return Poll::Ready(Err(ConnectionClosed));
            }
            if let Poll::Ready(now) = self.timer.poll(context) {
                self.handle_due(now);
                continue;
            }
            return if self.finished.is_empty() {
                Poll::Pending
            } else {
                Poll::Ready(Ok(()))
            };
        }
    }

    /// Ends a job.
    fn finish(&mut self, slot: u16, outcome: Outcome) {
        let Some(job) = self.jobs.remove(slot) else {
            return;
        };
        if matches!(job.state, JobState::Sent { .. }) {
            self.queues.get(job.queue).unanswered -= 1;
        }
        self.queues.leave(job.queue, &job.submission.kind);
        trace::end(job.span, &outcome);
        self.finished.push_back(Finished {
            submission: job.submission,
            outcome,
            elapsed: job.submitted_at.elapsed(),
            sent: job.sent,
        });
    }
}
