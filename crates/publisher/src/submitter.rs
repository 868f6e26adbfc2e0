use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use async_nats::message::OutboundMessage;
use async_nats::{Client, HeaderMap, HeaderValue, Message, PublishErrorKind, Subject, Subscriber};
use bootstrap::Nats;
use common::subjects::ATTEMPT_HEADER;
use common::{MaxAttempts, Outcome, OutcomeError, Status, Timestamp, codes};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep};
use tracing::{info, warn};

use crate::answer::{Again, Answer, Reason, not_succeeded, own_codes};
use crate::lanes::{Lanes, Ready};
use crate::slots::Slots;
use crate::submission::Submission;

/// How a [`Submitter`] submits.
#[derive(Clone, Copy, Debug)]
pub struct SubmitOptions {
    /// How many jobs are held at the same time, waiting for an answer or for their next attempt;
    /// 1 to 65,536.
    pub in_flight: usize,
    /// How long an answer is waited for, unless the job's own time-out is longer.
    pub confirm_timeout: Duration,
    /// How often a job is submitted that does not say so itself.
    pub max_attempts: MaxAttempts,
    /// Whether a job goes to the subject of its kind, instead of the one for all kinds.
    pub by_kind: bool,
}

/// A job that was submitted, and what became of it.
#[derive(Debug)]
pub struct Finished {
    /// The job.
    pub submission: Submission,
    /// What became of it: a consumer's answer, or the publisher's own words where the consumer's
    /// name is empty.
    pub outcome: Outcome,
    /// From the hand-over to the end, with all attempts and the waits between them.
    pub elapsed: Duration,
    /// How often it was sent.
    pub sent: u32,
}

/// Submits jobs as requests, and again until they have ended: at least once, as long as it lives.
///
/// Each job keeps its id. It is submitted again, after a random part of a growing wait (the job's
/// `backoff`), when no consumer was there, when the consumer was busy or was stopped, and when no
/// answer came in time; up to its `max_attempts`, and not after its `deadline`. Any other outcome
/// is final.
///
/// Two things do not count as an attempt, because they say nothing of the job:
/// - to be refused for want of room while consumers do take jobs; a burst at a slow fleet waits for
///   its turn, and the number of jobs on the wire follows what the fleet takes;
/// - to be on the wire when the connection to NATS is lost. While it is, nothing is sent; when it
///   is back, such jobs are sent again. Consumers may not be back yet, so for ten seconds nobody
///   being there does not count either.
///
/// All answers arrive on one subscription, whose subject ends with the place and the number of what
/// was sent. So a late answer still ends its job, and no answer ends a wrong one.
///
/// The one who owns it drives it: nothing happens unless [`Submitter::drive`] or
/// [`Submitter::finished`] is awaited, and both may be dropped and called again at any time.
pub struct Submitter {
    engine: Engine,
    connected: watch::Receiver<bool>,
    /// Whether the connection is closed for good, and its changes are no longer looked at.
    closed: bool,
}

/// Everything but the watch on the connection, so that the two can be waited for side by side.
struct Engine {
    client: Client,
    answers: Subscriber,
    /// What the subjects of answers begin with, up to and with the last dot.
    inbox: String,
    options: SubmitOptions,
    jobs: Slots<Held>,
    lanes: Lanes,
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

/// A job that has not ended.
struct Held {
    submission: Submission,
    lane: usize,
    /// The clock when it was submitted; everything that was sent later in this slot is this job's.
    serial: u64,
    since: Instant,
    attempt: u32,
    sent: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is sent as soon as its lane has room and NATS is there.
    Ready,
    /// It was sent, as number `wire` of the clock, when its lane had `taken` so many jobs.
    OnTheWire {
        wire: u64,
        taken: u64,
        until: Instant,
    },
    /// It waits for its next attempt.
    Waiting { until: Instant },
}

impl Submitter {
    /// What a job may take beyond its own time-out before its answer counts as lost.
    const MARGIN: Duration = Duration::from_secs(5);
    /// How long consumers may need to find NATS again after the publisher did.
    const RETURN: Duration = Duration::from_secs(10);
    /// Jobs are looked through no more often than this.
    const LOOK: Duration = Duration::from_millis(5);
    /// What the header with the attempt may add to a message.
    const HEADER: usize = 64;

    /// Prepares to submit over a connection.
    ///
    /// # Errors
    /// When the connection is closed.
    ///
    /// # Panics
    /// When `in_flight` is not 1 to 65,536.
    pub async fn new(nats: &Nats, options: SubmitOptions) -> anyhow::Result<Self> {
        assert!(
            (1..=Slots::<Held>::MAX).contains(&options.in_flight),
            "in_flight is out of bounds"
        );
        let mut connected = nats.connected();
        let up = *connected.borrow_and_update();
        let inbox = format!("{}.", nats.client.new_inbox());
        let answers = nats.client.subscribe(format!("{inbox}*")).await?;
        Ok(Self {
            engine: Engine {
                client: nats.client.clone(),
                answers,
                inbox,
                options,
                jobs: Slots::new(),
                lanes: Lanes::new(options.by_kind, options.in_flight),
                finished: VecDeque::new(),
                clock: 0,
                up,
                lost_at: None,
                returned_at: None,
                next_look: None,
                looked_at: Instant::now(),
                alarm: Box::pin(tokio::time::sleep(Duration::ZERO)),
            },
            connected,
            closed: false,
        })
    }

    /// How many jobs have not ended.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.engine.jobs.len()
    }

    /// Whether one more job can be submitted: there are fewer than `in_flight` under way, and NATS
    /// is there.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.engine.up && self.engine.jobs.len() < self.engine.options.in_flight
    }

    /// Submits a job; it is sent when this is driven next.
    ///
    /// Without NATS this works too, so a caller need not look at [`Submitter::has_room`] if it
    /// keeps to the number of jobs by itself.
    ///
    /// # Panics
    /// When 65,536 jobs are under way.
    pub fn submit(&mut self, submission: Submission) {
        let engine = &mut self.engine;
        engine.clock += 1;
        let (serial, lane) = (engine.clock, engine.lanes.enter(&submission.kind));
        let slot = engine.jobs.insert(Held {
            submission,
            lane,
            serial,
            since: Instant::now(),
            attempt: 1,
            sent: 0,
            state: State::Ready,
        });
        engine.lanes.ready(lane, Ready { slot, serial });
    }

    /// The next job that has ended, if there is one already.
    pub fn take_finished(&mut self) -> Option<Finished> {
        self.engine.finished.pop_front()
    }

    /// Sends what may be sent and reads what was answered, until a job has ended, or the
    /// connection was lost or is back.
    pub async fn drive(&mut self) {
        let (engine, connected) = (&mut self.engine, &mut self.connected);
        tokio::select! {
            biased;
            changed = connected.changed(), if !self.closed => {
                self.closed = changed.is_err();
                let up = *connected.borrow_and_update() && !self.closed;
                engine.connection_changed(up);
            }
            () = std::future::poll_fn(|context| engine.poll(context)) => {}
        }
    }

    /// The next job that has ended, as soon as there is one; waits for ever if none is under way.
    pub async fn finished(&mut self) -> Finished {
        loop {
            if let Some(finished) = self.take_finished() {
                return finished;
            }
            self.drive().await;
        }
    }

    /// Lets go of all jobs that have not ended, and names them. What a consumer has of them it
    /// still does.
    pub fn abandon(&mut self) -> Vec<Finished> {
        let engine = &mut self.engine;
        let slots: Vec<u16> = engine.jobs.iter_mut().map(|(slot, _)| slot).collect();
        for slot in slots {
            if let Some(held) = engine.jobs.get_mut(slot) {
                let again = Again::because(Reason::Interrupted);
                let (id, attempt) = (held.submission.id, held.attempt);
                let again = Again {
                    message: Some("the publisher was stopped before the job had ended".to_owned()),
                    ..again
                };
                engine.finish(slot, again.given_up(id, attempt, "it may still run"));
            }
        }
        engine.finished.drain(..).collect()
    }
}

impl Engine {
    /// Does what can be done now; ready when a job has ended.
    fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            while let Poll::Ready(Some(answer)) = self.answers.poll_next_unpin(context) {
                self.take_answer(&answer);
            }
            self.send_ready(context);
            if let Some(next_look) = self.next_look {
                let next_look = next_look.max(self.looked_at + Submitter::LOOK);
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

    /// Sends jobs as long as their lanes and the client's queue have room.
    fn send_ready(&mut self, context: &mut Context<'_>) {
        let mut now = None;
        while self.up && self.lanes.has_next() {
            // The queue is full, or the client is closed and nothing will ever be sent.
            let Poll::Ready(Ok(())) = self.client.poll_ready_unpin(context) else {
                return;
            };
            let Some((lane, job)) = self.lanes.next() else {
                return;
            };
            let now = *now.get_or_insert_with(Instant::now);
            self.send(lane, job, now);
        }
    }

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
        let headers = (held.attempt > 1 && size + Submitter::HEADER <= limit).then(|| {
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
        let wait = timeout.map_or(self.options.confirm_timeout, |timeout| {
            self.options
                .confirm_timeout
                .max(timeout + Submitter::MARGIN)
        });
        let until = now + wait;
        held.sent += 1;
        held.state = State::OnTheWire {
            wire: self.clock,
            taken: lane.taken,
            until,
        };
        lane.on_the_wire += 1;
        self.look_at(until);
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
        match Answer::read(message, held.submission.id, held.attempt) {
            Answer::Final(outcome) => {
                let lane = self.lanes.get(held.lane);
                lane.taken += 1;
                lane.window.accepted();
                self.finish(slot, outcome);
            }
            Answer::Again(again) => match held.state {
                State::OnTheWire { wire, .. } if wire == number => {
                    self.refused(slot, again);
                }
                // It concerns an attempt that was given up before.
                _ => {}
            },
        }
    }

    /// A job on the wire was not done.
    fn refused(&mut self, slot: u16, again: Again) {
        let Some(held) = self.jobs.get_mut(slot) else {
            return;
        };
        let State::OnTheWire { wire, taken, .. } = held.state else {
            return;
        };
        // What comes next is decided below; in any case it is off the wire.
        let now = Instant::now();
        held.state = State::Waiting { until: now };
        let lane = self.lanes.get(held.lane);
        lane.on_the_wire -= 1;
        let counts = match again.reason {
            Reason::TimedOut | Reason::Interrupted => true,
            Reason::Busy | Reason::NoConsumer => {
                lane.window.refused(wire, self.clock);
                let returning = self
                    .returned_at
                    .is_some_and(|at| at.elapsed() < Submitter::RETURN);
                lane.taken == taken && !(returning && again.reason == Reason::NoConsumer)
            }
        };
        self.lanes.wake(held.lane);
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
        let until = now + wait;
        held.state = State::Waiting { until };
        self.look_at(until);
    }

    /// Finds the jobs that have waited long enough.
    fn look_through(&mut self, now: Instant) {
        let mut due = Vec::new();
        let mut next_look = None;
        for (slot, held) in self.jobs.iter_mut() {
            match held.state {
                State::Ready => {}
                State::OnTheWire { until, .. } | State::Waiting { until } if until <= now => {
                    due.push(slot);
                }
                State::OnTheWire { until, .. } | State::Waiting { until } => {
                    next_look = Some(next_look.map_or(until, |next: Instant| next.min(until)));
                }
            }
        }
        self.next_look = next_look;
        self.looked_at = now;
        for slot in due {
            let Some(held) = self.jobs.get_mut(slot) else {
                continue;
            };
            if matches!(held.state, State::OnTheWire { .. }) {
                self.refused(slot, Again::because(Reason::TimedOut));
                continue;
            }
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

    fn connection_changed(&mut self, up: bool) {
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
            if let State::OnTheWire { wire, .. } = held.state {
                held.state = State::Ready;
                again.push((
                    wire,
                    held.lane,
                    Ready {
                        slot,
                        serial: held.serial,
                    },
                ));
            }
        }
        again.sort_unstable_by_key(|&(wire, ..)| wire);
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

/// Where the answer to number `wire` of the clock goes: one token, so that one subscription gets
/// all of them.
fn reply_subject(inbox: &str, slot: u16, wire: u64) -> Subject {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let token = (u64::from(slot) << 48) | (wire & WIRE_MASK);
    let mut subject = String::with_capacity(inbox.len() + 16);
    subject.push_str(inbox);
    for shift in (0..16).rev() {
        let digit = (token >> (shift * 4)) & 0xf;
        subject.push(char::from(DIGITS[digit as usize]));
    }
    subject.into()
}

fn parse_reply_subject(inbox: &str, subject: &str) -> Option<(u16, u64)> {
    let token = u64::from_str_radix(subject.strip_prefix(inbox)?, 16).ok()?;
    Some((u16::try_from(token >> 48).ok()?, token & WIRE_MASK))
}

/// A million jobs a second reach the end of it after nine years.
const WIRE_MASK: u64 = (1 << 48) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_subject_of_an_answer_leads_back_to_its_job() {
        for (slot, wire) in [(0, 1), (u16::MAX, WIRE_MASK), (4711, 123_456_789)] {
            let subject = reply_subject("_INBOX.x.", slot, wire);
            assert_eq!(subject.len(), "_INBOX.x.".len() + 16);
            assert_eq!(
                parse_reply_subject("_INBOX.x.", &subject),
                Some((slot, wire))
            );
        }
        for other in ["_INBOX.y.0", "_INBOX.x.", "_INBOX.x.zz", "_INBOX.x.1.2", ""] {
            assert_eq!(parse_reply_subject("_INBOX.x.", other), None, "{other}");
        }
    }
}
