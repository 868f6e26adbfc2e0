//! Runs one job after the other in each slot.
//!
//! The number of slots is the one bound on concurrency: a job runs in the task of its slot, and
//! a slot takes the next job from the inbox when it has settled the last one.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use async_nats::{Message, Subject};
use common::{
    ConsumerState, DecodeError, Job, JobId, Outcome, OutcomeError, Status, Timestamp, codes,
    subjects,
};
use futures_util::FutureExt as _;
use tracing::{info, warn};

use crate::core::{Core, Served, Started, lock};
use crate::forward;
use crate::handler::{Attempt, Failure};
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

/// Takes jobs from the inbox until it is closed and empty.
pub(crate) async fn work(core: Arc<Core>, slot: usize) {
    while let Ok(message) = core.inbox.recv().await {
        if core.state() == ConsumerState::Saturated && core.has_drained_to_half() {
            core.room.notify_one();
        }
        run(&core, slot, message).await;
        // Jobs that end at once would otherwise never let another task have the thread.
        tokio::task::coop::consume_budget().await;
    }
}

async fn run(core: &Arc<Core>, slot: usize, message: Message) {
    let reply = core.reply_of(&message);
    if core.state() == ConsumerState::Draining && (reply.is_some() || core.hard_stop.is_cancelled())
    {
        return hand_back_unread(core, &message).await;
    }
    let attempt = attempt_of(message.headers.as_ref());
    let job = match Job::decode(&message.payload) {
        Ok(job) => job,
        Err(error) => {
            let (why, id) = match &error {
                DecodeError::NotJson(_) => (codes::INVALID_JSON, None),
                DecodeError::NotAJob { id, .. } => (codes::INVALID_JOB, *id),
            };
            let refusal = Refusal::rejected(why, error.to_string());
            return refuse(core, &core.report.others, (id, attempt), reply, refusal).await;
        }
    };
    if let Some(kind) = subjects::kind_of(&message.subject)
        && kind != job.kind.as_str()
    {
        let text = format!(
            "field `kind`: a job of kind \"{}\" came on the subject {}",
            job.kind, message.subject
        );
        let refusal = Refusal::rejected(codes::KIND_MISMATCH, text);
        return refuse(core, &core.report.others, (job.id, attempt), reply, refusal).await;
    }
    let Some(served) = core.served(&job.kind) else {
        let (id, kind, timeout) = (job.id, job.kind.clone(), job.timeout);
        return forward::pass_on(
            core,
            message,
            reply,
            forward::Passed {
                id,
                kind,
                timeout,
                attempt,
            },
        )
        .await;
    };
    if let Some(refusal) = untimely(&job) {
        return refuse(core, &served.report, (job.id, attempt), reply, refusal).await;
    }
    execute(core, slot, served, &job, attempt, reply).await;
}

/// Gives a job back that was not started when the consumer stopped.
pub(crate) async fn hand_back_unread(core: &Core, message: &Message) {
    core.report.others.ended(Ending::Interrupted);
    if let Some(reply) = core.reply_of(message) {
        settle::hand_back_unread(core, message, reply, Status::Interrupted).await;
    } else if core.log.has_room(false) {
        let job = Job::decode(&message.payload).ok();
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
        kind,
        attempt,
        at,
        reply,
        report,
    } = started;
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
    if core.log.has_room(false) {
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

async fn execute(
    core: &Core,
    slot: usize,
    served: &Served,
    job: &Job<'_>,
    number: u32,
    reply: Option<Subject>,
) {
    let id = job.id.unwrap_or_else(JobId::generate);
    let timeout = job.timeout.map(common::WireDuration::get);
    let timeout = timeout
        .or_else(|| served.handler.timeout())
        .unwrap_or(core.timeout);
    let wanted = reply.is_some();
    if number > 1 {
        served.report.retried();
    }
    let at = Instant::now();
    let report = Arc::clone(&served.report);
    *lock(&core.slots[slot]) = Some(Started {
        id,
        kind: Arc::clone(&served.kind),
        attempt: number,
        at,
        reply,
        report,
    });

    let payload = job.payload.map(ToOwned::to_owned);
    let attempt = Attempt {
        id,
        number,
        timeout,
    };
    let call = async { served.handler.call(payload, attempt, wanted).await };
    let mut call = pin!(AssertUnwindSafe(call).catch_unwind());
    // Many jobs end at the first poll; only the others need to hear of time and shutdown.
    let ended = match futures_util::poll!(call.as_mut()) {
        Poll::Ready(result) => Some(Ended::from(result)),
        Poll::Pending => tokio::select! {
            biased;
            result = tokio::time::timeout_at((at + timeout).into(), call) => {
                Some(result.map_or(Ended::TimedOut, Ended::from))
            }
            () = core.hard_stop.cancelled() => None,
        },
    };
    // Whoever empties the slot settles the job: if it is empty, shutdown has done so already.
    let started = lock(&core.slots[slot]).take();
    match (started, ended) {
        (None, _) => {}
        (Some(started), None) => interrupt(core, started).await,
        (Some(started), Some(ended)) => settle(core, started, timeout, ended).await,
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

async fn settle(core: &Core, started: Started, timeout: Duration, ended: Ended) {
    let Started {
        id,
        kind,
        attempt,
        at,
        reply,
        report,
    } = started;
    let elapsed = at.elapsed();
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
    if core.log.has_room(status == Status::Succeeded) {
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
