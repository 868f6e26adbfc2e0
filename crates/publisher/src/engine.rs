use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::message::OutboundMessage;
use async_nats::{
    Client, HeaderMap, HeaderValue, Message, PublishErrorKind, StatusCode, Subscriber,
};
use bytes::Bytes;
use common::subjects::{self, ATTEMPT_HEADER};
use common::{Outcome, OutcomeError, Status, Timestamp, codes};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::{Instant, Sleep};
use tracing::{info, warn};

use crate::answer::{Again, Answer, Reason, not_succeeded, own_codes};
use crate::held::{Held, State};
use crate::lanes::{Lanes, Ready};
use crate::reply_subject::{parse_reply_subject, reply_subject};
use crate::slots::Slots;
use crate::submission::Submission;
use crate::submitter::{Finished, SubmitOptions};

/// What a job may take beyond its own time-out before its answer counts as lost.
const MARGIN: Duration = Duration::from_secs(5);

/// How long consumers may need to find NATS again after the publisher did.
const RETURN: Duration = Duration::from_secs(10);

/// How long a consumer may take to say that it is there.
const PRESENCE: Duration = Duration::from_secs(2);

/// Jobs are looked through no more often than this.
const LOOK: Duration = Duration::from_millis(5);

/// What the header with the attempt may add to a message.
const HEADER: usize = 64;

/// The jobs that have not ended, and what is done with them; the work behind a `Submitter`.
pub(crate) struct Engine {
    client: Client,
    answers: Subscriber,
    /// What the subjects of answers begin with, up to and with the last dot.
    inbox: String,
    options: SubmitOptions,
    jobs: Slots<Held>,
    lanes: Lanes,
    /// Jobs for which is to be asked whether a consumer is there.
    questions: VecDeque<Ready>,
    finished: VecDeque<Finished>,
    /// Counts what was submitted and what was sent, in one order.
    clock: u64,
    up: bool,
    lost_at: Option<Instant>,
    returned_at: Option<Instant>,
    /// When a job waits no longer, or earlier.
    next_look: Option<Instant>,
    looked_at: Instant,
    alarm: Pin<Box<Sleep>>,
}

impl Engine {
    pub(crate) async fn new(
        client: &Client,
        up: bool,
        options: SubmitOptions,
    ) -> anyhow::Result<Self> {
        let inbox = format!("{}.", client.new_inbox());
        let answers = client.subscribe(format!("{inbox}*")).await?;
        Ok(Self {
            client: client.clone(),
            answers,
            inbox,
            options,
            jobs: Slots::new(),
            lanes: Lanes::new(options.by_kind, options.in_flight),
            questions: VecDeque::new(),
            finished: VecDeque::new(),
            clock: 0,
            up,
            lost_at: None,
            returned_at: None,
            next_look: None,
            looked_at: Instant::now(),
            alarm: Box::pin(tokio::time::sleep(Duration::ZERO)),
        })
    }

    pub(crate) fn under_way(&self) -> usize {
        self.jobs.len()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.up && self.jobs.len() < self.options.in_flight
    }

    pub(crate) fn submit(&mut self, submission: Submission) {
        self.clock += 1;
        let (serial, lane) = (self.clock, self.lanes.enter(&submission.kind));
        let slot = self.jobs.insert(Held {
            submission,
            lane,
            serial,
            since: Instant::now(),
            attempt: 1,
            sent: 0,
            state: State::Ready,
        });
        self.lanes.ready(lane, Ready { slot, serial });
    }

    pub(crate) fn take_finished(&mut self) -> Option<Finished> {
        self.finished.pop_front()
    }

    /// Ends all jobs that have not ended.
    pub(crate) fn abandon(&mut self) -> Vec<Finished> {
        let slots: Vec<u16> = self.jobs.iter_mut().map(|(slot, _)| slot).collect();
        for slot in slots {
            if let Some(held) = self.jobs.get_mut(slot) {
                let error = OutcomeError::new(
                    codes::INTERRUPTED,
                    "the publisher was stopped before the job had ended; it may still run",
                );
                let (id, attempt) = (held.submission.id, held.attempt);
                self.finish(slot, not_succeeded(id, Status::Failed, attempt, error));
            }
        }
        self.finished.drain(..).collect()
    }

    /// Does what can be done now; ready when a job has ended.
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            while let Poll::Ready(Some(answer)) = self.answers.poll_next_unpin(context) {
                self.take_answer(&answer);
            }
            self.send_what_is_ready(context);
            if let Some(next_look) = self.next_look {
                let next_look = next_look.max(self.looked_at + LOOK);
                if self.alarm.deadline() != next_look {
                    self.alarm.as_mut().reset(next_look);
                }
                if self.alarm.as_mut().poll(context).is_ready() {
                    self.look_through(Instant::now());
                    continue;
                }
            }
            return if self.finished.is_empty() {
                Poll::Pending
            } else {
                Poll::Ready(())
            };
        }
    }

    /// Sends questions, and jobs whose lanes have room, as long as the client's queue has room.
    fn send_what_is_ready(&mut self, context: &mut Context<'_>) {
        let mut now = None;
        while self.up && (self.lanes.has_next() || !self.questions.is_empty()) {
            // The queue is full, or the client is closed and nothing will ever be sent.
            let Poll::Ready(Ok(())) = self.client.poll_ready_unpin(context) else {
                return;
            };
            if let Some(job) = self.questions.pop_front() {
                self.send_question(job);
            } else if let Some((lane, job)) = self.lanes.next() {
                let now = *now.get_or_insert_with(Instant::now);
                self.send(lane, job, now);
            }
        }
    }

    /// Sends a job; the client's queue has room.
    fn send(&mut self, lane: usize, job: Ready, now: Instant) {
        let lane = self.lanes.get(lane);
        let Some(held) = self.jobs.get_mut(job.slot) else {
            return;
        };
        if held.serial != job.serial || held.state != State::Ready {
            return;
        }
        // Asked each time: the connection may have moved to a server with another limit.
        let (size, limit) = (held.submission.message.len(), self.client.max_payload());
        if size > limit {
            let outcome = too_large(&held.submission, held.attempt, limit);
            self.finish(job.slot, outcome);
            return;
        }
        self.clock += 1;
        let headers = (held.attempt > 1 && size + HEADER <= limit).then(|| {
            let mut headers = HeaderMap::new();
            headers.insert(ATTEMPT_HEADER, HeaderValue::from(held.attempt));
            headers
        });
        let message = OutboundMessage {
            subject: lane.subject.clone(),
            reply: Some(reply_subject(&self.inbox, job.slot, self.clock)),
            payload: held.submission.message.clone(),
            headers,
        };
        if let Err(error) = self.client.start_send_unpin(message) {
            if error.kind() == PublishErrorKind::MaxPayloadExceeded {
                let outcome = too_large(&held.submission, held.attempt, limit);
                self.finish(job.slot, outcome);
            } else {
                // The client is closed for good. The job is named when it is abandoned.
                self.up = false;
            }
            return;
        }
        let timeout = held.submission.terms.timeout;
        let confirm_timeout = self.options.confirm_timeout;
        let until = now
            + timeout.map_or(confirm_timeout, |timeout| {
                confirm_timeout.max(timeout + MARGIN)
            });
        held.sent += 1;
        held.state = State::OnTheWire {
            wire: self.clock,
            taken: lane.taken,
            until,
        };
        lane.on_the_wire += 1;
        self.look_at(until);
    }

    /// Asks whether a consumer is there for a job that nobody took: they may all be full.
    fn send_question(&mut self, job: Ready) {
        let Some(held) = self.jobs.get_mut(job.slot) else {
            return;
        };
        let State::Asking { wire, .. } = &mut held.state else {
            return;
        };
        if held.serial != job.serial {
            return;
        }
        self.clock += 1;
        *wire = self.clock;
        let question = OutboundMessage {
            subject: subjects::serves_kind(&held.submission.kind).into(),
            reply: Some(reply_subject(&self.inbox, job.slot, self.clock)),
            payload: Bytes::new(),
            headers: None,
        };
        // A closed client is noticed when a job is sent; a question that stays unanswered is one
        // that was answered with no.
        let _ = self.client.start_send_unpin(question);
    }

    fn take_answer(&mut self, message: &Message) {
        let Some((slot, number)) = parse_reply_subject(&self.inbox, &message.subject) else {
            return;
        };
        let Some(held) = self.jobs.get_mut(slot) else {
            return;
        };
        if number <= held.serial {
            // The slot's last job was answered more than once.
            return;
        }
        if let State::Asking { wire, .. } = held.state
            && wire == number
        {
            let nobody = message.status == Some(StatusCode::NO_RESPONDERS);
            self.try_again(slot, Again::because(Reason::NoConsumer), nobody);
            return;
        }
        match Answer::read(message, held.submission.id, held.attempt) {
            Answer::Final(outcome) => {
                let lane = self.lanes.get(held.lane);
                lane.taken += 1;
                lane.window.accepted();
                self.finish(slot, outcome);
            }
            Answer::Again(again) => match held.state {
                State::OnTheWire { wire, .. } if wire == number => self.not_done(slot, again),
                // It concerns an attempt that was given up before.
                _ => {}
            },
        }
    }

    /// A job on the wire was not done; decides whether that counts as an attempt.
    fn not_done(&mut self, slot: u16, again: Again) {
        let Some(held) = self.jobs.get_mut(slot) else {
            return;
        };
        let State::OnTheWire { wire, taken, .. } = held.state else {
            return;
        };
        let now = Instant::now();
        held.state = State::Waiting { until: now };
        let serial = held.serial;
        let (lane_number, lane) = (held.lane, self.lanes.get(held.lane));
        lane.on_the_wire -= 1;
        let counts = match again.reason {
            Reason::TimedOut | Reason::Interrupted => true,
            Reason::Busy | Reason::NoConsumer => {
                lane.window.refused(wire, self.clock);
                // Where others were taken meanwhile, this one came when there was no room.
                lane.taken == taken
            }
        };
        self.lanes.wake(lane_number);
        if again.reason != Reason::NoConsumer || !counts {
            self.try_again(slot, again, counts);
        } else if self.returned_at.is_some_and(|at| at.elapsed() < RETURN) {
            self.try_again(slot, again, false);
        } else if let Some(held) = self.jobs.get_mut(slot) {
            let until = now + PRESENCE;
            held.state = State::Asking { wire: 0, until };
            self.questions.push_back(Ready { slot, serial });
            self.look_at(until);
        }
    }

    /// Lets a job that is off the wire wait for its next attempt, if it has one.
    fn try_again(&mut self, slot: u16, again: Again, counts: bool) {
        let Some(held) = self.jobs.get_mut(slot) else {
            return;
        };
        let terms = held.submission.terms;
        let max_attempts = terms.max_attempts.unwrap_or(self.options.max_attempts);
        if counts && held.attempt >= max_attempts.get() {
            let (id, attempt) = (held.submission.id, held.attempt);
            let why = format!("given up after {attempt} attempts");
            self.finish(slot, again.given_up(id, attempt, &why));
            return;
        }
        let backoff = terms.backoff.unwrap_or_default();
        let mut wait = backoff.delay(held.attempt, rand::random());
        if let Some(after) = again.after {
            wait = wait.max(after);
        }
        if let Some(deadline) = terms.deadline {
            let left = deadline.since(Timestamp::now());
            if left.is_zero() {
                self.expire(slot);
                return;
            }
            wait = wait.min(left);
        }
        held.attempt += u32::from(counts);
        let until = Instant::now() + wait;
        held.state = State::Waiting { until };
        self.look_at(until);
    }

    /// Finds the jobs that have waited long enough.
    fn look_through(&mut self, now: Instant) {
        let mut due = Vec::new();
        let mut next_look = None;
        for (slot, held) in self.jobs.iter_mut() {
            match held.state.until() {
                Some(until) if until <= now => due.push(slot),
                Some(until) => {
                    next_look = Some(next_look.map_or(until, |next: Instant| next.min(until)));
                }
                None => {}
            }
        }
        self.next_look = next_look;
        self.looked_at = now;
        for slot in due {
            let Some(held) = self.jobs.get_mut(slot) else {
                continue;
            };
            match held.state {
                State::OnTheWire { .. } => {
                    self.not_done(slot, Again::because(Reason::TimedOut));
                }
                State::Asking { .. } => {
                    self.try_again(slot, Again::because(Reason::NoConsumer), true);
                }
                State::Ready | State::Waiting { .. } => {
                    let deadline = held.submission.terms.deadline;
                    if deadline.is_some_and(|deadline| deadline <= Timestamp::now()) {
                        self.expire(slot);
                        continue;
                    }
                    held.state = State::Ready;
                    let (lane, serial) = (held.lane, held.serial);
                    self.lanes.ready(lane, Ready { slot, serial });
                }
            }
        }
    }

    fn look_at(&mut self, moment: Instant) {
        self.next_look = Some(self.next_look.map_or(moment, |next| next.min(moment)));
    }

    fn expire(&mut self, slot: u16) {
        if let Some(held) = self.jobs.get_mut(slot) {
            let error = OutcomeError::new(
                codes::EXPIRED,
                format!("the deadline passed after {} attempts", held.attempt),
            );
            let outcome = not_succeeded(held.submission.id, Status::Expired, held.attempt, error);
            self.finish(slot, outcome);
        }
    }

    fn finish(&mut self, slot: u16, outcome: Outcome) {
        let Some(held) = self.jobs.remove(slot) else {
            return;
        };
        if matches!(held.state, State::OnTheWire { .. }) {
            self.lanes.get(held.lane).on_the_wire -= 1;
        }
        self.lanes.leave(held.lane, &held.submission.kind);
        self.finished.push_back(Finished {
            submission: held.submission,
            outcome,
            elapsed: held.since.elapsed(),
            sent: held.sent,
        });
    }

    pub(crate) fn connection_changed(&mut self, up: bool) {
        // Of several changes only the last is seen: up after up means that it was lost in between.
        if self.up {
            self.lost();
        }
        if up {
            self.back();
        }
    }

    fn lost(&mut self) {
        self.up = false;
        self.lost_at = Some(Instant::now());
        let mut again = Vec::new();
        for (slot, held) in self.jobs.iter_mut() {
            if let State::OnTheWire { wire, .. } | State::Asking { wire, .. } = held.state {
                held.state = State::Ready;
                let serial = held.serial;
                again.push((wire, held.lane, Ready { slot, serial }));
            }
        }
        again.sort_unstable_by_key(|&(wire, ..)| wire);
        self.questions.clear();
        self.lanes.clear_the_wire();
        for (_, lane, job) in again {
            self.lanes.ready(lane, job);
        }
        warn!(
            jobs = self.jobs.len(),
            "jobs are kept until NATS is back, and no new ones are taken"
        );
    }

    fn back(&mut self) {
        self.up = true;
        if let Some(lost_at) = self.lost_at.take() {
            self.returned_at = Some(Instant::now());
            info!(
                jobs = self.jobs.len(),
                away_s = (lost_at.elapsed().as_secs_f64() * 1e3).round() / 1e3,
                "going on with the jobs that were kept"
            );
        }
    }
}

/// What becomes of a job whose message the server would not take.
pub(crate) fn too_large(submission: &Submission, attempt: u32, limit: usize) -> Outcome {
    let error = OutcomeError::new(
        own_codes::TOO_LARGE,
        format!(
            "the message has {} bytes, and the server takes {limit} (max_payload)",
            submission.message.len()
        ),
    );
    not_succeeded(submission.id, Status::Failed, attempt, error)
}
