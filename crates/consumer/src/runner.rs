//! Runs one job after the other in each slot.
//!
//! The number of slots is the one bound on concurrency: a job runs in the task of its slot, and
//! a slot takes the next job when it has settled the last one.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bootstrap::is_unreadable;
use bootstrap::trace::Span;
use common::{
    ConsumerState, DecodeError, Job, JobId, JobKind, OutcomeError, Status, Timestamp, WireDuration,
    check_portable, codes, subjects,
};
use futures_util::FutureExt as _;
use tracing::error;
use worker::Lease;

use crate::consumer::{Consumer, Origin, Started, lock};
use crate::durable_lane;
use crate::forward::{self, Passed};
use crate::handler::{Attempt, Failure};
use crate::inbox::{CoreDelivery, Delivery, Share};
use crate::registry::{CallError, Returned};
use crate::settle::{self, Answer, Refusal, attempt_of};
use crate::trace;

/// A job that took longer keeps others that were taken with it waiting for too long.
const QUICK: Duration = Duration::from_micros(50);

/// How an attempt ended.
pub(crate) enum Ended {
    Returned(Returned),
    InvalidPayload(String),
    Failed {
        code: &'static str,
        message: String,
        retry_after: Option<Duration>,
    },
}

/// What a call of a handler comes to, unless it is ended from outside.
type Called = Result<Ended, Box<dyn Any + Send>>;

impl Ended {
    fn failed(code: &'static str, message: String) -> Self {
        Self::Failed {
            code,
            message,
            retry_after: None,
        }
    }

    fn of(called: Called) -> Self {
        called.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().copied();
            let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            let text = text.unwrap_or("it did not say why");
            Self::failed(codes::PANIC, format!("the handler panicked: {text}"))
        })
    }
}

impl From<Result<Returned, CallError>> for Ended {
    fn from(result: Result<Returned, CallError>) -> Self {
        match result {
            Ok(returned) => match returned.as_deref().map(check_portable) {
                None | Some(Ok(())) => Self::Returned(returned),
                Some(Err(error)) => {
                    let text = format!("the job ran, but its result cannot be read: {error}");
                    Self::failed(codes::RESULT_UNREADABLE, text)
                }
            },
            Err(CallError::InvalidPayload(text)) => Self::InvalidPayload(text),
            Err(CallError::Failed(failure)) => {
                let message = failure.to_string();
                match failure {
                    Failure::Permanent(_) => Self::failed(codes::PERMANENT, message),
                    Failure::Transient { retry_after, .. } => Self::Failed {
                        code: codes::TRANSIENT,
                        message,
                        retry_after,
                    },
                }
            }
        }
    }
}

/// A job that is to be run.
struct Ready<'p> {
    /// The place of its kind.
    place: usize,
    id: JobId,
    /// Which attempt it is, from 1.
    number: u32,
    job: Job<'p>,
    origin: Origin,
    span: Span,
}

/// A job that is not run here.
enum NotRun {
    /// It has ended, or was given back.
    Settled(Option<Answer>),
    /// Others may serve its kind.
    Elsewhere(Passed),
}

/// How a slot is done with a job that it ran.
enum Finished {
    /// The handler has ended, or its time has.
    Ended(Ended),
    /// Somebody cancelled the job.
    Cancelled(Arc<Lease>),
    /// The consumer stops.
    Stopped,
}

/// Waits until the job of a lease is cancelled; for ever without one: only durable jobs can be.
async fn cancelled(lease: Option<&Arc<Lease>>) -> Arc<Lease> {
    match lease {
        Some(lease) => {
            lease.cancelled.cancelled().await;
            Arc::clone(lease)
        }
        None => std::future::pending().await,
    }
}

/// Takes jobs from the inbox until it is closed and empty.
pub(crate) async fn work(consumer: Arc<Consumer>, number: usize) {
    let mut slot = Slot {
        consumer: &consumer,
        number,
        share: Share::One,
        place: 0,
        next: None,
        now: Instant::now(),
        waited: None,
    };
    // What a handler does outside of a call may panic, too: when what it holds is dropped, say.
    while let Err(panic) = AssertUnwindSafe(slot.work()).catch_unwind().await {
        error!(slot = number, "a handler panicked outside of its call");
        let started = lock(&consumer.slots[number]).started.take();
        if let Some(started) = started {
            let elapsed = started.at.elapsed();
            let answer = settle::ended(&consumer, started, elapsed, Ended::of(Err(panic)));
            settle::send(&consumer, answer).await;
        }
    }
}

/// One of the consumer's slots.
struct Slot<'a> {
    consumer: &'a Arc<Consumer>,
    number: usize,
    /// How many jobs it takes next.
    share: Share,
    /// The place of the kind that it ran last: many jobs in a row are of one kind.
    place: usize,
    /// The next job of the batch, where it was taken out with the end of the last one.
    next: Option<Delivery>,
    /// When the last job of the batch ended, which is when the next one begins: a look at the
    /// clock costs as much as a short job.
    now: Instant,
    /// How long the first job of the batch waited that says when it was made, and how many began
    /// with it: they came together, and stand for one look at the clock.
    waited: Option<(Duration, u64)>,
}

impl Slot<'_> {
    async fn work(&mut self) {
        let consumer = self.consumer;
        let state = &consumer.slots[self.number];
        loop {
            while let Some(delivery) = self.next.take().or_else(|| lock(state).batch.pop_front()) {
                self.run(delivery).await;
                // Jobs that end at once would otherwise never let another task have the thread.
                tokio::task::coop::consume_budget().await;
            }
            self.count_waits();
            let Some(batch) = consumer.inbox.take(self.share).await else {
                return;
            };
            lock(state).batch = batch;
            if consumer.state() == ConsumerState::Saturated && consumer.inbox.has_drained_to_half()
            {
                consumer.room.notify_one();
            }
            self.now = Instant::now();
        }
    }

    async fn run(&mut self, delivery: Delivery) {
        let consumer = self.consumer;
        if consumer.state() == ConsumerState::Draining
            && (!delivery.is_plain() || consumer.hard_stop.is_cancelled())
        {
            let interrupted = settle::not_started(consumer, delivery);
            return settle::send(consumer, interrupted).await;
        }
        let (mut core, payload);
        let read = match delivery {
            Delivery::Core(delivery) => {
                core = delivery;
                payload = std::mem::take(&mut core.payload);
                self.read(&mut core, &payload)
            }
            Delivery::Durable(lease) => {
                core = CoreDelivery::default();
                payload = lease.payload.clone();
                self.read_durable(lease, &payload)
            }
        };
        match read {
            Ok(ready) => self.execute(ready).await,
            Err(NotRun::Settled(answer)) => settle::send(consumer, answer).await,
            Err(NotRun::Elsewhere(job)) => {
                core.payload = payload;
                // Seldom, and large: the future of a slot has room for all that it awaits.
                Box::pin(forward::pass_on(consumer, core, job)).await;
            }
        }
    }

    /// Reads a job of `jobs.create` or of the subject of its kind, and refuses what cannot be run.
    fn read<'p>(
        &mut self,
        delivery: &mut CoreDelivery,
        payload: &'p [u8],
    ) -> Result<Ready<'p>, NotRun> {
        let consumer = self.consumer;
        let number = attempt_of(delivery.headers.as_deref());
        let others = &consumer.report.others;
        let refuse = |report, id, reply, refusal| {
            let answer = settle::refuse(consumer, report, (id, number), reply, refusal);
            Err(NotRun::Settled(answer))
        };
        if is_unreadable(delivery.headers.as_deref()) {
            let text = "the headers of the message, or its subject, cannot be read";
            let refusal = Refusal::rejected(codes::UNREADABLE_HEADERS, text.to_owned());
            return refuse(others, None, delivery.reply.take(), refusal);
        }
        let job = match Job::decode(payload) {
            Ok(job) => job,
            Err(error) => {
                let (why, id) = match &error {
                    DecodeError::NotJson(_) => (codes::INVALID_JSON, None),
                    DecodeError::NotAJob { id, .. } => (codes::INVALID_JOB, *id),
                };
                let refusal = Refusal::rejected(why, error.to_string());
                return refuse(others, id, delivery.reply.take(), refusal);
            }
        };
        let place = self.place_of(&job.kind);
        // A job goes one step at most: on the subject of a kind it is run, or refused.
        if let Some(on) = delivery.on
            && place != Some(on)
        {
            let subject = subjects::create_kind(&consumer.served()[on].kind);
            let text = format!(
                "field `kind`: a job of kind \"{}\" came on the subject {subject}",
                job.kind
            );
            let refusal = Refusal::rejected(codes::KIND_MISMATCH, text);
            return refuse(others, job.id, delivery.reply.take(), refusal);
        }
        let Some(place) = place else {
            return Err(NotRun::Elsewhere(Passed {
                id: job.id,
                kind: job.kind,
                timeout: job.timeout,
                attempt: number,
            }));
        };
        let id = job.id.unwrap_or_else(JobId::generate);
        if let Some(refusal) = untimely(&job) {
            let report = &consumer.served()[place].report;
            return refuse(report, Some(id), delivery.reply.take(), refusal);
        }
        Ok(Ready {
            place,
            id,
            number,
            origin: Origin::Core {
                reply: delivery.reply.take(),
            },
            span: trace::process(delivery.headers.as_deref(), (id, number), &job, None),
            job,
        })
    }

    /// Reads a job of the durable lane: it is a good one, and its time has come.
    fn read_durable<'p>(
        &mut self,
        lease: Arc<Lease>,
        payload: &'p [u8],
    ) -> Result<Ready<'p>, NotRun> {
        let consumer = self.consumer;
        let place = self.place_of(&lease.kind);
        let (Ok(job), Some(place)) = (Job::decode(payload), place) else {
            durable_lane::no_handler(consumer, lease);
            return Err(NotRun::Settled(None));
        };
        let (id, number) = (lease.id, lease.attempt);
        Ok(Ready {
            place,
            id,
            number,
            span: trace::process(lease.headers.as_ref(), (id, number), &job, Some(&lease)),
            origin: Origin::Durable(lease),
            job,
        })
    }

    /// The place of a kind among those that are served: first looked for where the last one was.
    fn place_of(&mut self, kind: &JobKind) -> Option<usize> {
        let last = self.consumer.served().get(self.place);
        if last.is_none_or(|served| served.kind != *kind) {
            self.place = self.consumer.place_of(kind)?;
        }
        Some(self.place)
    }

    /// A job that was made at this time will be run.
    fn begins(&mut self, created_at: Option<Timestamp>) {
        if let Some((_, jobs)) = &mut self.waited {
            *jobs += 1;
        } else if let Some(created_at) = created_at {
            self.waited = Some((Timestamp::now().since(created_at), 1));
        }
    }

    fn count_waits(&mut self) {
        if let Some((wait, jobs)) = self.waited.take() {
            self.consumer.waits.add(wait, jobs);
        }
    }

    async fn execute(&mut self, ready: Ready<'_>) {
        let consumer = self.consumer;
        let Ready {
            place,
            id,
            number,
            job,
            origin,
            span,
        } = ready;
        let served = &consumer.served()[place];
        let timeout = job.timeout.map_or(served.timeout, WireDuration::get);
        let lease = origin.lease().cloned();
        if lease.is_none() {
            self.begins(job.created_at);
        }
        let wanted = origin.wants_outcome();
        if number > 1 {
            consumer.report_of(place, lease.is_some()).retried();
        }
        if let Some(lease) = &lease {
            lease.start();
        }
        let attempt = Attempt {
            id,
            number,
            timeout,
            trace: span.context().map(Arc::new),
            cancelled: lease.as_ref().map(|lease| lease.cancelled.clone()),
        };
        let at = self.now;
        let state = &consumer.slots[self.number];
        lock(state).started = Some(Started {
            id,
            served: place,
            attempt: number,
            at,
            origin,
            span,
        });

        // What the handler holds is gone when the job is settled: a program that was given up is
        // killed before anybody is told so.
        let finished = {
            // The handler may panic before there is a future, and in the text of its error.
            let call =
                async { Ended::from(served.handler.call(job.payload, attempt, wanted).await) };
            let mut call = pin!(AssertUnwindSafe(call).catch_unwind());
            // Many jobs end at the first poll; only the others need to hear of time and shutdown,
            // and must not keep the rest of the batch from other slots.
            match futures_util::poll!(call.as_mut()) {
                Poll::Ready(called) => Finished::Ended(Ended::of(called)),
                Poll::Pending => {
                    let batch = std::mem::take(&mut lock(state).batch);
                    consumer.give_back(batch);
                    self.count_waits();
                    tokio::select! {
                        biased;
                        called = tokio::time::timeout(timeout, call) => {
                            Finished::Ended(called.map_or_else(|_| timed_out(timeout), Ended::of))
                        }
                        lease = cancelled(lease.as_ref()) => Finished::Cancelled(lease),
                        () = consumer.hard_stop.cancelled() => Finished::Stopped,
                    }
                }
            }
        };
        self.now = Instant::now();
        let elapsed = self.now - at;
        self.share = if elapsed < QUICK {
            Share::Fair
        } else {
            Share::One
        };
        let (started, batch) = {
            let mut state = lock(state);
            let slow = self.share == Share::One && !state.batch.is_empty();
            if !slow {
                self.next = state.batch.pop_front();
            }
            (
                state.started.take(),
                slow.then(|| std::mem::take(&mut state.batch)),
            )
        };
        if let Some(batch) = batch {
            consumer.give_back(batch);
        }
        // Whoever empties the slot settles the job: if it is empty, shutdown has done so already.
        let Some(started) = started else { return };
        let answer = match finished {
            Finished::Ended(ended) => settle::ended(consumer, started, elapsed, ended),
            Finished::Cancelled(lease) => {
                durable_lane::cancelled(consumer, place, (lease, started.span), elapsed);
                None
            }
            Finished::Stopped => settle::interrupted(consumer, started),
        };
        if wanted {
            settle::send(consumer, answer).await;
            self.now = Instant::now();
        }
    }
}

fn timed_out(timeout: Duration) -> Ended {
    let timeout = humantime::format_duration(timeout);
    Ended::failed(
        codes::TIMEOUT,
        format!("the attempt took longer than its time-out of {timeout}"),
    )
}

/// A job whose time has passed, or has not come.
fn untimely(job: &Job<'_>) -> Option<Refusal> {
    if job.deadline.is_none() && job.run_at.is_none() {
        return None;
    }
    let now = Timestamp::now();
    if let Some(deadline) = job.deadline.filter(|deadline| *deadline < now) {
        let message = format!("field `deadline`: {deadline} has passed");
        let error = OutcomeError::new(codes::EXPIRED, message);
        return Some(Refusal {
            status: Status::Expired,
            error,
        });
    }
    let run_at = job.run_at.filter(|run_at| *run_at > now)?;
    let message =
        format!("field `run_at`: {run_at} is to come, and on this subject a job cannot wait");
    Some(Refusal::rejected(codes::INVALID_JOB, message))
}
