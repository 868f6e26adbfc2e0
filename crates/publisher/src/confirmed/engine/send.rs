//! Sends jobs, and questions about their consumers.

use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::PublishErrorKind;
use async_nats::message::OutboundMessage;
use bytes::Bytes;
use common::subjects;
use futures_util::SinkExt as _;
use tokio::time::Instant;

use super::super::pending_job::{JobRef, JobState};
use super::super::reply_subject::reply_subject;
use super::Engine;
use crate::outcome::too_large;
use crate::trace;

/// Added to a job's own `timeout` before its reply counts as lost.
const MARGIN: Duration = Duration::from_secs(5);

impl Engine {
    /// Sends questions, and ready jobs of queues whose window has room, as long as the client's
    /// send queue has room.
    pub(super) fn send_ready(&mut self, context: &mut Context<'_>) {
        let mut now = None;
        while self.connected
            && !self.closed
            && (self.queues.may_have_next() || !self.to_probe.is_empty())
        {
            match self.client.poll_ready_unpin(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    self.closed = true;
                    return;
                }
                Poll::Pending => return,
            }
            if let Some(job) = self.to_probe.pop_front() {
                self.send_question(job);
            } else if let Some((queue, job)) = self.queues.next() {
                let now = *now.get_or_insert_with(Instant::now);
                self.send_job(queue, job, now);
            }
        }
    }

    /// Sends a job. The client's send queue must have room.
    fn send_job(&mut self, queue: usize, JobRef { slot, serial }: JobRef, now: Instant) {
        let queue = self.queues.get(queue);
        let Some(job) = self.jobs.get_mut(slot) else {
            return;
        };
        if job.serial != serial || job.state != JobState::Ready {
            return;
        }
        // Read each time, because the next server may have another limit.
        let (size, limit) = (job.submission.message.len(), self.client.max_payload());
        if size > limit {
            let outcome = too_large(&job.submission, job.attempt, limit);
            self.finish(slot, outcome);
            return;
        }
        self.sequence += 1;
        let headers = trace::headers(job.attempt, &job.span, limit - size);
        let message = OutboundMessage {
            subject: queue.subject.clone(),
            reply: Some(reply_subject(&self.inbox, slot, self.sequence)),
            payload: job.submission.message.clone(),
            headers,
        };
        if let Err(error) = self.client.start_send_unpin(message) {
            if error.kind() == PublishErrorKind::MaxPayloadExceeded {
                let outcome = too_large(&job.submission, job.attempt, limit);
                self.finish(slot, outcome);
            } else {
                // The job stays pending, so `abandon` names it.
                self.closed = true;
            }
            return;
        }
        let timeout = job.submission.terms.timeout;
        let confirm_timeout = self.options.confirm_timeout;
        let until = now
            + timeout.map_or(confirm_timeout, |timeout| {
                confirm_timeout.max(timeout + MARGIN)
            });
        job.sent += 1;
        job.state = JobState::Sent {
            sequence: self.sequence,
            accepted_before: queue.accepted,
            until,
        };
        queue.unanswered += 1;
        self.timer.set(until);
    }

    /// Asks on `jobs.serves.<kind>` whether a consumer is there for a job that none took.
    fn send_question(&mut self, JobRef { slot, serial }: JobRef) {
        let Some(job) = self.jobs.get_mut(slot) else {
            return;
        };
        let JobState::Probing { sequence, .. } = &mut job.state else {
            return;
        };
        if job.serial != serial {
            return;
        }
        self.sequence += 1;
        *sequence = self.sequence;
        let question = OutboundMessage {
            subject: subjects::serves_kind(&job.submission.kind).into(),
            reply: Some(reply_subject(&self.inbox, slot, self.sequence)),
            payload: Bytes::new(),
            headers: None,
        };
        // An error needs no handling: a closed client is noticed when a job is sent, and an
        // unanswered question counts as no.
        let _ = self.client.start_send_unpin(question);
    }
}
