//! Runs one job after the other in each slot.
//!
//! The number of slots is the one bound on concurrency: a job runs in the task of its slot, and
//! a slot takes the next job from the inbox when it has settled the last one.

use std::any::Any;
use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use async_nats::Subject;
use common::{
    ConsumerState, DecodeError, Job, JobId, Outcome, OutcomeError, Status, Timestamp, WireDuration,
    codes, subjects,
};
use futures_util::FutureExt as _;
use tracing::{info, warn};

use crate::core::{Core, Served, Started, lock};
use crate::forward;
use crate::handler::{Attempt, Failure};
use crate::inbox::Delivery;
use crate::job_log::About;
use crate::registry::{CallError, Returned};
use crate::report::{Ending, KindReport};
use crate::settle::{self, attempt_of};

/// How an attempt ended.
enum Ended {
    Returned(Returned),
    InvalidPayload(String),
    Failed(Failure),
    TimedOut,
    Panicked(String),
}

/// What a call of a handler comes to, unless it is ended from outside.
type Called = Result<Result<Returned, CallError>, Box<dyn Any + Send>>;

impl From<Called> for Ended {
    fn from(called: Called) -> Self {
        match called {
            Ok(Ok(returned)) => Self::Returned(returned),
            Ok(Err(CallError::InvalidPayload(text))) => Self::InvalidPayload(text),
            Ok(Err(CallError::Failed(failure))) => Self::Failed(failure),
            Err(panic) => Self::Panicked(panic_text(&*panic)),
        }
    }
}

/// A slot, with the jobs that it took from the inbox together.
struct Slot<'a> {
    core: &'a Arc<Core>,
    number: usize,
    batch: VecDeque<Delivery>,
    /// When the last job of the batch ended, which is when the next one begins: a look at the
    /// clock costs as much as a short job.
    now: Instant,
}

/// Takes jobs from the inbox until it is closed and empty.
pub(crate) async fn work(core: Arc<Core>, number: usize) {
    let mut slot = Slot {
        core: &core,
        number,
        batch: VecDeque::new(),
        now: Instant::now(),
    };
    while core.inbox.take(&mut slot.batch).await {
        if core.state() == ConsumerState::Saturated && core.inbox.has_drained_to_half() {
            core.room.notify_one();
        }
        slot.now = Instant::now();
        while let Some(delivery) = slot.batch.pop_front() {
            slot.run(delivery).await;
            // Jobs that end at once would otherwise never let another task have the thread.
            tokio::task::coop::consume_budget().await;
        }
    }
}

/// Gives a job back that was not started when the consumer stopped.
pub(crate) async fn hand_back_unread(core: &Core, delivery: Delivery) {
    core.report.others.ended(Ending::Interrupted);
    if delivery.reply.is_some() {
        settle::hand_back_unread(core, delivery, Status::Interrupted).await;
    } else if core.log.has_room(About::Failure) {
        let job = Job::decode(&delivery.payload).ok();
        let id = job
            .as_ref()
            .and_then(|job| job.id)
            .map(tracing::field::display);
        let kind = job.as_ref().map(|job| tracing::field::display(&job.kind));
        warn!(
            job.id = id,
            job.kind = kind,
            "job lost: published without asking for an outcome, and not started within the grace period"
        );
    }
}

/// Gives up a job that runs, and tells whoever asked for its outcome.
pub(crate) async fn interrupt(core: &Core, started: Started) {
    let Started {
        id,
        served,
        attempt,
        at,
        reply,
    } = started;
    let Served { kind, report, .. } = &core.served()[served];
    report.ended(Ending::Interrupted);
    warn!(
        job.id = %id, job.kind = %kind, elapsed_ms = at.elapsed().as_millis(), told = reply.is_some(),
        "job interrupted: it did not end within the grace period"
    );
    if let Some(reply) = reply {
        settle::hand_back(core, Some(id), attempt, reply, Status::Interrupted).await;
    }
}

/// Why a job is not run, and never will be.
pub(crate) struct Refusal {
    status: Status,
    ending: Ending,
    error: OutcomeError,
}

impl Refusal {
    pub(crate) fn rejected(code: &'static str, message: String) -> Self {
        Self {
            status: Status::Rejected,
            ending: Ending::Rejected,
            error: OutcomeError::new(code, message),
        }
    }
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
            ending: Ending::Expired,
            error,
        });
    }
    let run_at = job.run_at.filter(|run_at| *run_at > now)?;
    let message =
        format!("field `run_at`: {run_at} is to come, and on this subject a job cannot wait");
    Some(Refusal::rejected(codes::INVALID_JOB, message))
}

pub(crate) async fn refuse(
    core: &Core,
    report: &KindReport,
    (id, attempt): (Option<JobId>, u32),
    reply: Option<Subject>,
    refusal: Refusal,
) {
    report.ended(refusal.ending);
    if core.log.has_room(About::Failure) {
        let id = id.map(tracing::field::display);
        // The text repeats parts of the message, whoever sent it: so it is logged escaped.
        warn!(job.id = id, code = %refusal.error.code, error = ?refusal.error.message, "job {}", refusal.status);
    }
    let Some(reply) = reply else { return };
    let outcome = Outcome {
        id,
        status: refusal.status,
        consumer: core.instance.clone(),
        attempt,
        result: None,
        error: Some(refusal.error),
        duration_ms: 0.0,
    };
    settle::answer(core, reply, outcome).await;
}

impl Slot<'_> {
    async fn run(&mut self, mut delivery: Delivery) {
        let core = self.core;
        let draining = core.state() == ConsumerState::Draining;
        if draining && (delivery.reply.is_some() || core.hard_stop.is_cancelled()) {
            return hand_back_unread(core, delivery).await;
        }
        let attempt = attempt_of(delivery.headers.as_deref());
        let payload = std::mem::take(&mut delivery.payload);
        let job = match Job::decode(&payload) {
            Ok(job) => job,
            Err(error) => {
                let (why, id) = match &error {
                    DecodeError::NotJson(_) => (codes::INVALID_JSON, None),
                    DecodeError::NotAJob { id, .. } => (codes::INVALID_JOB, *id),
                };
                let refusal = Refusal::rejected(why, error.to_string());
                let others = &core.report.others;
                return refuse(core, others, (id, attempt), delivery.reply, refusal).await;
            }
        };
        let place = core.place_of(&job.kind);
        if delivery.on.is_some() && delivery.on != place {
            let on = delivery
                .on
                .map(|on| subjects::create_kind(&core.served()[on].kind));
            let on = on.unwrap_or_default();
            let text = format!(
                "field `kind`: a job of kind \"{}\" came on the subject {on}",
                job.kind
            );
            let refusal = Refusal::rejected(codes::KIND_MISMATCH, text);
            let others = &core.report.others;
            return refuse(core, others, (job.id, attempt), delivery.reply, refusal).await;
        }
        let Some(place) = place else {
            let Job {
                id, kind, timeout, ..
            } = job;
            delivery.payload = payload;
            let job = forward::Passed {
                id,
                kind,
                timeout,
                attempt,
            };
            return forward::pass_on(core, delivery, job).await;
        };
        if let Some(refusal) = untimely(&job) {
            let report = &core.served()[place].report;
            return refuse(core, report, (job.id, attempt), delivery.reply, refusal).await;
        }
        self.execute(place, &job, attempt, delivery.reply).await;
    }

    async fn execute(&mut self, place: usize, job: &Job<'_>, number: u32, reply: Option<Subject>) {
        let core = self.core;
        let served = &core.served()[place];
        let id = job.id.unwrap_or_else(JobId::generate);
        let timeout = job.timeout.map(WireDuration::get);
        let timeout = timeout
            .or_else(|| served.handler.timeout())
            .unwrap_or(core.timeout);
        let wanted = reply.is_some();
        if number > 1 {
            served.report.retried();
        }
        let at = self.now;
        let slot = &core.slots[self.number];
        *lock(slot) = Some(Started {
            id,
            served: place,
            attempt: number,
            at,
            reply,
        });

        let attempt = Attempt {
            id,
            number,
            timeout,
        };
        // The handler may panic before there is a future, too.
        let call = async { served.handler.call(job.payload, attempt, wanted).await };
        let mut call = pin!(AssertUnwindSafe(call).catch_unwind());
        // Many jobs end at the first poll; only the others need to hear of time and shutdown, and
        // must not keep the rest of the batch from other slots.
        let ended = match futures_util::poll!(call.as_mut()) {
            Poll::Ready(result) => Some(Ended::from(result)),
            Poll::Pending => {
                core.inbox.give_back(&mut self.batch);
                tokio::select! {
                    biased;
                    result = tokio::time::timeout(timeout, call) => {
                        Some(result.map_or(Ended::TimedOut, Ended::from))
                    }
                    () = core.hard_stop.cancelled() => None,
                }
            }
        };
        self.now = Instant::now();
        // Whoever empties the slot settles the job: if it is empty, shutdown has done so already.
        let started = lock(slot).take();
        match (started, ended) {
            (None, _) => {}
            (Some(started), None) => interrupt(core, started).await,
            (Some(started), Some(ended)) => {
                settle(core, started, self.now - at, timeout, ended).await;
                if wanted {
                    self.now = Instant::now();
                }
            }
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!(
        "the handler panicked: {}",
        text.unwrap_or("it did not say why")
    )
}

async fn settle(core: &Core, started: Started, elapsed: Duration, timeout: Duration, ended: Ended) {
    let Started {
        id,
        served,
        attempt,
        reply,
        ..
    } = started;
    let Served { kind, report, .. } = &core.served()[served];
    let failed = |code, message| {
        (
            Status::Failed,
            Ending::Failed,
            None,
            Some(OutcomeError::new(code, message)),
        )
    };
    let (status, ending, result, error) = match ended {
        Ended::Returned(result) => (Status::Succeeded, Ending::Succeeded, result, None),
        Ended::InvalidPayload(text) => {
            let error = OutcomeError::new(codes::INVALID_PAYLOAD, text);
            (Status::Rejected, Ending::Rejected, None, Some(error))
        }
        Ended::Failed(failure) => {
            let message = failure.to_string();
            match failure {
                Failure::Permanent(_) => failed(codes::PERMANENT, message),
                Failure::Transient { retry_after, .. } => {
                    let mut error = OutcomeError::new(codes::TRANSIENT, message);
                    error.retry_after_ms =
                        retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX));
                    (Status::Failed, Ending::Failed, None, Some(error))
                }
            }
        }
        Ended::TimedOut => {
            let timeout = humantime::format_duration(timeout);
            failed(
                codes::TIMEOUT,
                format!("the attempt took longer than its time-out of {timeout}"),
            )
        }
        Ended::Panicked(text) => failed(codes::PANIC, text),
    };
    report.ended(ending);
    report.ran(elapsed);
    let duration_ms = (elapsed.as_secs_f64() * 1e6).round() / 1e3;
    let about = if error.is_none() {
        About::Success
    } else {
        About::Failure
    };
    if core.log.has_room(about) {
        match &error {
            None => {
                info!(job.id = %id, job.kind = %kind, attempt, elapsed_ms = duration_ms, "job {status}");
            }
            Some(error) => warn!(
                job.id = %id, job.kind = %kind, attempt, elapsed_ms = duration_ms,
                code = %error.code, error = ?error.message, "job {status}"
            ),
        }
    }
    if let Some(reply) = reply {
        let consumer = core.instance.clone();
        let outcome = Outcome {
            id: Some(id),
            status,
            consumer,
            attempt,
            result,
            error,
            duration_ms,
        };
        settle::answer(core, reply, outcome).await;
    }
}
