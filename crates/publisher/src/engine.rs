mod alarm;
mod look;
mod outage;
mod saturation;

use std::collections::VecDeque;
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::message::OutboundMessage;
use async_nats::{Message, PublishErrorKind, StatusCode};
use bootstrap::{Client, Subscriber};
use bytes::Bytes;
use common::subjects;
use common::{Outcome, OutcomeError, Status, Timestamp, codes};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::time::Instant;

use self::alarm::Alarm;
use self::saturation::Saturation;
use crate::answer::{Again, Answer, Reason, not_succeeded, too_large};
use crate::closed::ConnectionClosed;
use crate::held::{Held, State};
use crate::lanes::{Lanes, Ready};
use crate::reply_subject::{parse_reply_subject, reply_subject};
use crate::slots::Slots;
use crate::submission::Submission;
use crate::submitter::{Finished, SubmitOptions};
use crate::trace;

/// What a job may take beyond its own time-out before its answer counts as lost.
const MARGIN: Duration = Duration::from_secs(5);

/// How long consumers may need to find NATS again after the publisher did.
const RETURN: Duration = Duration::from_secs(10);

/// How long a consumer may take to say that it is there.
const PRESENCE: Duration = Duration::from_secs(2);

/// The longest wait that whoever refuses a job may ask for, if its back-off allows as much.
const LONGEST_WAIT: Duration = Duration::from_hours(24);

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
    alarm: Alarm,
    saturation: Saturation,
    closed: bool,
}

/// Why a job that is off the wire is submitted again.
enum NotDone {
    /// It was tried, or nobody is there to try it; that counts.
    Attempt(Again),
    /// Consumers that serve it are there, and full. They may say how long it should wait.
    NoRoom(Option<Duration>),
    /// NATS was away until a moment ago, and consumers may still look for it.
    Outage,
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
            alarm: Alarm::new(),
            saturation: Saturation::default(),
            closed: false,
        })
    }

    pub(crate) fn under_way(&self) -> usize {
        self.jobs.len()
    }

    pub(crate) fn window(&self) -> usize {
        self.lanes.window()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.up && self.jobs.len() < self.options.in_flight
    }

    pub(crate) fn submit(&mut self, submission: Submission) {
        self.clock += 1;
        let (serial, lane) = (self.clock, self.lanes.enter(&submission.kind));
        let span = trace::send(&submission, subjects::CREATE);
        let slot = self.jobs.insert(Held {
            submission,
            lane,
            serial,
            since: Instant::now(),
            attempt: 1,
            sent: 0,
            no_room_since: None,
            state: State::Ready,
            span,
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
    pub(crate) fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectionClosed>> {
        loop {
            while let Poll::Ready(answer) = self.answers.poll_next_unpin(context) {
                let Some(answer) = answer else {
                    self.closed = true;
                    break;
                };
                self.take_answer(&answer);
            }
            self.send_what_is_ready(context);
            if self.closed {
                return Poll::Ready(Err(ConnectionClosed));
            }
            if let Poll::Ready(now) = self.alarm.poll(context) {
                self.look_through(now);
                continue;
            }
            return if self.finished.is_empty() {
                Poll::Pending
            } else {
                Poll::Ready(Ok(()))
            };
        }
    }

    /// Sends questions, and jobs whose lanes have room, as long as the client's queue has room.
    fn send_what_is_ready(&mut self, context: &mut Context<'_>) {
        let mut now = None;
        while self.up && !self.closed && (self.lanes.has_next() || !self.questions.is_empty()) {
            match self.client.poll_ready_unpin(context) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => {
                    self.closed = true;
                    return;
                }
                Poll::Pending => return,
            }
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
        let headers = trace::headers(held.attempt, &held.span, limit - size);
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
                // The job is named when it is abandoned.
                self.closed = true;
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
        self.alarm.set(until);
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
            let not_done = if message.status == Some(StatusCode::NO_RESPONDERS) {
                NotDone::Attempt(Again::because(Reason::NoConsumer))
            } else {
                NotDone::NoRoom(None)
            };
            self.try_again(slot, not_done);
            return;
        }
        match Answer::read(message, held.submission.id, held.attempt) {
            Answer::Final(outcome) => {
                let lane = self.lanes.get(held.lane);
                lane.taken += 1;
                lane.window.accepted();
                self.finish(slot, outcome);
            }
            // A refusal may concern an attempt that was given up before.
            _ if !held.state.is_on_the_wire_as(number) => {}
            Answer::NoRoom(after) => {
                self.refused(slot);
                self.try_again(slot, NotDone::NoRoom(after));
            }
            Answer::Again(again) => self.not_done(slot, again),
        }
    }

    /// A job on the wire was not done, for another reason than that a consumer is full.
    fn not_done(&mut self, slot: u16, again: Again) {
        if again.reason != Reason::NoConsumer {
            self.off_the_wire(slot);
            self.try_again(slot, NotDone::Attempt(again));
        } else if self.refused(slot) {
            // Others were taken meanwhile: this one came when there was no room.
            self.try_again(slot, NotDone::NoRoom(None));
        } else if self.returned_at.is_some_and(|at| at.elapsed() < RETURN) {
            self.try_again(slot, NotDone::Outage);
        } else if let Some(held) = self.jobs.get_mut(slot) {
            let until = Instant::now() + PRESENCE;
            held.state = State::Asking { wire: 0, until };
            let serial = held.serial;
            self.questions.push_back(Ready { slot, serial });
            self.alarm.set(until);
        }
    }

    /// A job on the wire was taken by none; answers whether others were taken meanwhile.
    fn refused(&mut self, slot: u16) -> bool {
        let Some((lane, wire, taken)) = self.off_the_wire(slot) else {
            return false;
        };
        let lane = self.lanes.get(lane);
        lane.window.refused(wire, self.clock);
        lane.taken != taken
    }

    /// Takes a job off the wire; its lane, its number there, and what its lane had taken before.
    fn off_the_wire(&mut self, slot: u16) -> Option<(usize, u64, u64)> {
        let held = self.jobs.get_mut(slot)?;
        let State::OnTheWire { wire, taken, .. } = held.state else {
            return None;
        };
        let until = Instant::now();
        held.state = State::Waiting { until };
        let lane = held.lane;
        self.lanes.get(lane).on_the_wire -= 1;
        self.lanes.wake(lane);
        Some((lane, wire, taken))
    }

    /// Lets a job that is off the wire wait for its next attempt, if it has one.
    fn try_again(&mut self, slot: u16, not_done: NotDone) {
        let Some(held) = self.jobs.get_mut(slot) else {
            return;
        };
        let now = Instant::now();
        let terms = held.submission.terms;
        let attempt = held.attempt;
        held.no_room_since = match not_done {
            NotDone::NoRoom(_) => held.no_room_since.or(Some(now)),
            NotDone::Attempt(_) | NotDone::Outage => None,
        };
        let (after, counts) = match not_done {
            NotDone::Attempt(again) => {
                let max_attempts = terms.max_attempts.unwrap_or(self.options.max_attempts);
                if attempt >= max_attempts.get() {
                    let why = format!("given up after {attempt} attempts");
                    let outcome = again.given_up(held.submission.id, attempt, &why);
                    self.finish(slot, outcome);
                    return;
                }
                (again.after, true)
            }
            NotDone::NoRoom(after) => (after, false),
            NotDone::Outage => (None, false),
        };
        let backoff = terms.backoff.unwrap_or_default();
        let longest = backoff.max.get().min(LONGEST_WAIT);
        let mut wait = backoff
            .delay(attempt, rand::random())
            .max(after.unwrap_or_default().min(longest));
        if let Some(deadline) = terms.deadline {
            let left = deadline.since(Timestamp::now());
            if left.is_zero() {
                self.expire(slot);
                return;
            }
            wait = wait.min(left);
        }
        held.attempt += u32::from(counts);
        let until = now + wait;
        held.state = State::Waiting { until };
        self.alarm.set(until);
        if let Some(since) = held.no_room_since {
            self.alarm.set(since + Saturation::PERIOD);
        }
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
        trace::end(held.span, &outcome);
        self.finished.push_back(Finished {
            submission: held.submission,
            outcome,
            elapsed: held.since.elapsed(),
            sent: held.sent,
        });
    }
}
