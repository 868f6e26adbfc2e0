//! Hands one job over, and waits for its end if that is asked for.

use std::time::Duration;

use axum::http::StatusCode;
use bootstrap::trace::{self, Span, TraceContext};
use client::{NewJob, Submitted, Waited};
use common::{JobId, JobRecord, JobState, Outcome, Status, subjects};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::debug;
use utoipa::ToSchema;

use super::schema;
use crate::app::App;
use crate::http::{Problem, ReceivedBody};

/// How long the outcome of a confirmed job is waited for if the request does not say.
const DEFAULT_WAIT: Duration = Duration::from_secs(30);

/// The pause after a failed wait for a job.
const PAUSE: Duration = Duration::from_millis(250);

/// How a job is delivered, and what is promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Delivery {
    /// The job is stored, and runs at least once, whatever crashes. A wait ends with its record.
    #[default]
    Durable,
    /// The job is not stored. The answer is its outcome; without one, submit the job again.
    Confirmed,
    /// The job is not stored. It runs at most once, and has no outcome.
    FireAndForget,
}

/// How a request wants its jobs to be handed over.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Terms {
    pub(crate) delivery: Delivery,
    /// How long to wait for the end of the job; `None` is not at all, or the default of the delivery.
    pub(crate) wait: Option<Duration>,
}

impl Terms {
    /// Whether the request waits for the end of the job.
    pub(crate) fn waits(self) -> bool {
        self.wait.is_some() || self.delivery == Delivery::Confirmed
    }
}

/// The result of handing a job over.
pub(crate) enum Answer {
    Accepted(Accepted),
    /// Another job holds the key of a unique job, which keeps it; it has not ended.
    Kept(Accepted),
    Ended(Box<Ended>),
    Outcome(Box<Outcome>),
}

/// A job that was accepted, and has not ended.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Accepted {
    /// The id of the job.
    #[schema(value_type = uuid::Uuid)]
    pub(crate) id: JobId,
    /// How the job is delivered.
    pub(crate) delivery: Delivery,
    /// Durable: whether a job with this id existed before, so that none was stored. With `on_conflict`
    /// `keep` it may be the job that holds the key.
    pub(crate) known: bool,
    /// Durable, with a wait: the state of the job after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::State>)]
    pub(crate) state: Option<JobState>,
}

/// A durable job that has ended.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Ended {
    /// Whether a job with this id existed before, so that none was stored.
    pub(crate) known: bool,
    /// The record of the job.
    #[serde(flatten)]
    #[schema(value_type = schema::Record)]
    pub(crate) record: JobRecord,
}

/// Begins the span of handing a job over, and puts its context into the headers of the job.
pub(super) fn begin(
    app: &App,
    delivery: Delivery,
    trace: Option<&TraceContext>,
    job: &mut NewJob,
) -> Span {
    let about = trace::Job {
        id: &job.id,
        kind: &job.kind,
        destination: match delivery {
            Delivery::Durable => subjects::DURABLE,
            Delivery::Confirmed | Delivery::FireAndForget => subjects::CREATE,
        },
    };
    let span = Span::send(trace, about);
    put_trace(app, &span, job);
    span
}

/// Hands a job over. During the wait, neither its bytes nor the `body` that holds them are kept.
pub(crate) async fn hand_over(
    app: &App,
    terms: Terms,
    trace: Option<&TraceContext>,
    mut job: NewJob,
    body: Option<ReceivedBody>,
) -> Result<Answer, Problem> {
    let id = job.id;
    let mut span = begin(app, terms.delivery, trace, &mut job);
    let answer = match terms.delivery {
        Delivery::Durable => durable(app, terms.wait, job, body).await,
        Delivery::Confirmed => confirmed(app, terms.wait.unwrap_or(DEFAULT_WAIT), job).await,
        Delivery::FireAndForget => fire_and_forget(app, job).await,
    };
    answer.map_err(|problem| {
        span.failed(problem.status.as_str(), &problem.detail);
        match problem.id {
            Some(_) => problem,
            None => problem.of_job(id),
        }
    })
}

async fn durable(
    app: &App,
    wait: Option<Duration>,
    job: NewJob,
    body: Option<ReceivedBody>,
) -> Result<Answer, Problem> {
    let stored = store(app, &job).await?;
    let (id, known) = match stored {
        Submitted::Stored => (job.id, false),
        Submitted::Known => (job.id, true),
        Submitted::Kept(holder) => (holder, true),
    };
    drop((job, body));
    let answer = wait_for_stored(app, wait, id, known).await;
    Ok(match (answer, stored) {
        (Answer::Accepted(accepted), Submitted::Kept(_)) => Answer::Kept(accepted),
        (answer, _) => answer,
    })
}

/// Waits for a job that is stored. A wait that fails is no error: the job need not be submitted again.
pub(super) async fn wait_for_stored(
    app: &App,
    wait: Option<Duration>,
    id: JobId,
    known: bool,
) -> Answer {
    let Some(patience) = wait else {
        return accepted(id, known, None);
    };
    let waiting = wait_until(app, id, Instant::now() + patience);
    match app.context.shutdown.run_until_cancelled(waiting).await {
        Some(Waited::Ended(record)) => Answer::Ended(Box::new(Ended {
            known,
            record: *record,
        })),
        Some(Waited::NotYet(record)) => accepted(id, known, record.map(|record| record.state)),
        None => accepted(id, known, None),
    }
}

/// Waits for a job until a time. A wait that fails is repeated: NATS may be away, or the streams are
/// just being created.
async fn wait_until(app: &App, id: JobId, until: Instant) -> Waited {
    loop {
        let left = until.saturating_duration_since(Instant::now());
        match client::wait(&app.nats.client, app.nats.connected(), id, left).await {
            Ok(waited) => return waited,
            Err(error) => debug!(job.id = %id, "cannot wait for the job: {error:#}"),
        }
        if until <= Instant::now() + PAUSE {
            return Waited::NotYet(None);
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Stores a job, unless it is known or another job holds its key.
async fn store(app: &App, job: &NewJob) -> Result<Submitted, Problem> {
    app.check_nats()?;
    app.check_safety().await?;
    let submitted = app.submitter.submit(job).await?;
    // It may have been stored over a new connection, which leads to another server.
    app.check_safety().await?;
    if submitted == Submitted::Known {
        check_request(app, job).await?;
    }
    Ok(submitted)
}

/// Refuses a request whose idempotency key was used for another request, as the IETF draft asks.
async fn check_request(app: &App, job: &NewJob) -> Result<(), Problem> {
    let Some(hash) = job.headers.get(subjects::REQUEST_HEADER) else {
        return Ok(());
    };
    let record = client::look_up(&app.nats.client, job.id).await?;
    match record.and_then(|record| record.request) {
        Some(known) if known != hash.as_str() => {
            let text = "this key was used for another request: use a new key for a new request";
            let problem = Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text);
            Err(problem.on_field("Idempotency-Key"))
        }
        _ => Ok(()),
    }
}

fn accepted(id: JobId, known: bool, state: Option<JobState>) -> Answer {
    Answer::Accepted(Accepted {
        id,
        delivery: Delivery::Durable,
        known,
        state,
    })
}

async fn confirmed(app: &App, patience: Duration, job: NewJob) -> Result<Answer, Problem> {
    app.check_nats()?;
    let asking = client::request(&app.nats.client, app.nats.connected(), job, patience);
    let outcome = app.context.shutdown.run_until_cancelled(asking).await;
    let outcome = outcome.ok_or_else(|| {
        Problem::away(
            "the gateway is stopping: the job may have run; submit it again if it may run twice",
        )
    })??;
    if outcome.status.invites_another_attempt() {
        return Err(refused(&outcome));
    }
    Ok(Answer::Outcome(Box::new(outcome)))
}

/// The problem of a job that has no final outcome: the consumers were full, or one of them stopped.
fn refused(outcome: &Outcome) -> Problem {
    let what = match outcome.status {
        Status::Busy => "the consumers are full",
        _ => "the consumer stopped before the job was done",
    };
    let error = outcome.error.as_ref();
    let problem = match error {
        Some(error) => Problem::away(format!("{what}: {}", error.message)),
        None => Problem::away(what),
    };
    match error.and_then(|error| error.retry_after_ms) {
        Some(wait) => problem.retry_after(Duration::from_millis(wait)),
        None => problem,
    }
}

async fn fire_and_forget(app: &App, job: NewJob) -> Result<Answer, Problem> {
    app.check_nats()?;
    let (id, client) = (job.id, &app.nats.client);
    client::publish(client, job).await?;
    let flushed = client.flush().await;
    flushed.map_err(|error| Problem::away(format!("not sent: {error}")))?;
    Ok(Answer::Accepted(Accepted {
        id,
        delivery: Delivery::FireAndForget,
        known: false,
        state: None,
    }))
}

/// Puts the trace context into the headers of a job, if both fit into a message.
fn put_trace(app: &App, span: &Span, job: &mut NewJob) {
    /// The bytes that a message with headers needs beside the job and the values.
    const OVERHEAD: usize = 64;
    if let Some(context) = span.context() {
        let room = app.nats.client.max_payload();
        if job.payload.len() + context.size() + OVERHEAD <= room {
            context.put_into(&mut job.headers);
        }
    }
}
