//! Durable jobs: look one up, list them, cancel one, run a waiting one now.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use client::{Filter, Listed, RunNow, SearchText, Waited, dead_letters};
use common::{
    DeadReason, JobId, JobKind, JobRecord, JobState, KindPattern, OutcomeError, Timestamp,
    check_portable,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::info;
use utoipa::{IntoParams, ToSchema};

use super::params::{Id, Params, cursor, limit, parsed};
use super::schema;
use crate::app::App;
use crate::auth::{Operator, Reader};
use crate::http::Problem;

/// How long a cancellation is waited for. With a consumer, it takes a moment.
const CANCEL_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LookQuery {
    /// Whether to include the job as it was submitted, if it has not ended. False if absent. The record
    /// of a job that has ended includes it anyway, as far as the consumers keep it.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    job: bool,
}

/// The record of a job, and the job itself.
#[derive(Serialize, ToSchema)]
#[schema(as = WholeJob)]
pub(crate) struct Whole {
    /// The record of the job.
    #[serde(flatten)]
    #[schema(value_type = schema::Record)]
    record: JobRecord,
    /// Whether the dead letter of the job exists: if so, it can be replayed or discarded. Absent if the
    /// job is not dead, or NATS did not answer in time.
    #[serde(skip_serializing_if = "Option::is_none")]
    dead_letter: Option<bool>,
    /// The message in base64, if it is asked for and no JSON that every parser can read: nested deeper
    /// than a job may be, or with unpaired surrogates.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// Look a job up
///
/// Its state, its result, and its failed attempts with their errors and times.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}",
    operation_id = "show_job",
    tag = "jobs",
    params(("id" = uuid::Uuid, Path, description = "The job"), LookQuery),
    responses(
        (status = 200, description = "The record of the job", body = Whole),
        (status = 400, description = "Not an id, or a wrong parameter", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The job is not known, or not any more", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn show(
    State(app): State<App>,
    _reader: Reader,
    Id(id): Id,
    Params(query): Params<LookQuery>,
) -> Result<Json<Whole>, Problem> {
    let mut record = look_up(&app, id).await?;
    let message = if query.job {
        client::message(&app.nats.client, &record).await?
    } else {
        None
    };
    let (job, base64) = message.map_or((None, None), |message| as_submitted(&message));
    record.job = record.job.or(job);
    Ok(Json(Whole {
        dead_letter: has_dead_letter(&app, &record).await,
        record,
        base64,
    }))
}

/// Why a job has not ended.
#[derive(Serialize, ToSchema)]
#[schema(as = WhyOfJob)]
pub(crate) struct Why {
    /// The job.
    #[schema(value_type = uuid::Uuid)]
    id: JobId,
    /// The state of the job.
    #[schema(value_type = schema::State)]
    state: JobState,
    /// The most important reason first; empty if the job has ended, or is about to run. A dead job may have a
    /// reason why it cannot be replayed.
    reasons: Vec<WhyReason>,
}

/// A reason why a job has not ended.
#[derive(Serialize, ToSchema)]
#[schema(as = ReasonOfJob)]
pub(crate) struct WhyReason {
    /// A word for programs: `cancel_requested`, `running`, `scheduled`, `retrying`, `all_paused`, `paused`,
    /// `no_consumer`, `newer_version`, `behind`, `delivered`, `key_held` or `unreadable`; later versions may have
    /// more.
    reason: &'static str,
    /// A sentence for people.
    text: String,
    /// When the reason ends by itself; absent if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Moment>)]
    until: Option<Timestamp>,
    /// How many jobs of its kind are in front of it, if that is the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    jobs_in_front: Option<u64>,
    /// The other job that holds the key of the job, if that is the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    holder: Option<JobId>,
}

/// Say why a job has not ended
///
/// Its kind may be paused, no consumer may serve it, it may wait for its time or for other jobs of its kind.
#[utoipa::path(
    get,
    path = "/v1/jobs/{id}/why",
    operation_id = "why_job",
    tag = "jobs",
    params(("id" = uuid::Uuid, Path, description = "The job")),
    responses(
        (status = 200, description = "The state of the job, and the reasons", body = Why),
        (status = 400, description = "Not an id", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The job is not known, or not any more", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn why(
    State(app): State<App>,
    _reader: Reader,
    Id(id): Id,
) -> Result<Json<Why>, Problem> {
    app.check_nats()?;
    let found = client::why(&app.nats.client, id).await?;
    let client::Why { state, reasons } = found.ok_or_else(|| unknown(id))?;
    let reasons = reasons.iter().map(|reason| WhyReason {
        reason: reason.name(),
        text: reason.to_string(),
        until: reason.until(),
        jobs_in_front: reason.jobs_in_front(),
        holder: reason.key_holder(),
    });
    Ok(Json(Why {
        id,
        state,
        reasons: reasons.collect(),
    }))
}

/// Whether the dead letter of a job exists; `None` if the job is not dead, or that is not known.
async fn has_dead_letter(app: &App, record: &JobRecord) -> Option<bool> {
    if record.state != JobState::Dead {
        return None;
    }
    dead_letters::exists(&app.nats.client, record.id).await.ok()
}

/// A job as it was submitted: as JSON that every parser can read, or else in base64.
pub(super) fn as_submitted(message: &[u8]) -> (Option<Box<RawValue>>, Option<String>) {
    let job: Option<Box<RawValue>> = serde_json::from_slice(message).ok();
    // A job is one level deeper than its payload.
    let job = job
        .filter(|job| check_portable(job).is_ok() || common::JobMessage::decode(message).is_ok());
    let engine = base64::engine::general_purpose::STANDARD;
    let base64 = job.is_none().then(|| engine.encode(message));
    (job, base64)
}

/// The record of a job.
///
/// # Errors
/// When NATS does not answer, or the job is not known.
pub(super) async fn look_up(app: &App, id: JobId) -> Result<JobRecord, Problem> {
    app.check_nats()?;
    let known = client::look_up(&app.nats.client, id).await?;
    known.ok_or_else(|| unknown(id))
}

fn unknown(id: JobId) -> Problem {
    let text = "this job is not known, or not any more; only durable jobs are stored";
    Problem::not_found(text).of_job(id)
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only jobs in this state.
    #[param(value_type = Option<schema::State>)]
    state: Option<JobState>,
    /// Only jobs of this kind, or of kinds that match: in a pattern a token may be `*` (any one token) and
    /// the last may be `>` (one or more tokens).
    #[serde(default, deserialize_with = "parsed")]
    #[param(value_type = Option<String>, max_length = 128, example = "mail.*")]
    kind: Option<KindPattern>,
    /// Only jobs whose state began at this time or later. The state of a job that has ended began when it
    /// ended.
    #[param(value_type = Option<schema::Moment>)]
    since: Option<Timestamp>,
    /// Only jobs whose state began before this time.
    #[param(value_type = Option<schema::Moment>)]
    until: Option<Timestamp>,
    /// Only jobs with this text in their payload, or in the error of an attempt; upper and lower case are
    /// the same. The payload of a job that has ended is searched if its record keeps it.
    #[serde(default, deserialize_with = "parsed")]
    #[param(value_type = Option<String>, min_length = 1, max_length = 256)]
    text: Option<SearchText>,
    /// The most jobs on the page: 50 if absent, at most 200.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<String>,
}

/// A page of jobs.
#[derive(Serialize, ToSchema)]
pub(crate) struct Page {
    /// The jobs, the last changed first.
    jobs: Vec<Job>,
    /// The cursor of the next page; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// How many jobs were read. With a filter, a page may be short or empty although more pages follow.
    looked_at: usize,
    /// Whether the kind that was asked for is known: a consumer has served it, or a job has it. Present
    /// if the whole list is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    kind_known: Option<bool>,
}

/// A job in a list.
#[derive(Serialize, ToSchema)]
#[schema(as = ListedJob)]
pub(crate) struct Job {
    /// The id of the job.
    #[schema(value_type = uuid::Uuid)]
    id: JobId,
    /// Its kind; absent if it cannot be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Kind>)]
    kind: Option<JobKind>,
    /// Its state.
    #[schema(value_type = schema::State)]
    state: JobState,
    /// Since when it has been in this state.
    #[schema(value_type = schema::Moment)]
    at: Timestamp,
    /// The number of the last attempt; 0 before the first.
    attempt: u32,
    /// The consumer of the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    consumer: Option<String>,
    /// When the next attempt begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Moment>)]
    next_at: Option<Timestamp>,
    /// Why it was given up.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Reason>)]
    reason: Option<DeadReason>,
    /// Its last error.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Error>)]
    error: Option<OutcomeError>,
    /// How long the last attempt ran, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    duration_ms: Option<f64>,
}

impl From<Listed> for Job {
    fn from(job: Listed) -> Self {
        Self {
            id: job.id,
            kind: job.kind,
            state: job.state,
            at: job.at,
            attempt: job.attempt,
            consumer: job.consumer,
            next_at: job.next_at,
            reason: job.reason,
            error: job.error,
            duration_ms: job.duration_ms,
        }
    }
}

/// List jobs
///
/// The last changed first. A page reads a bounded number of jobs, and says how many it has read
/// (`looked_at`). There are more if it has `next`.
#[utoipa::path(
    get,
    path = "/v1/jobs",
    operation_id = "list_jobs",
    tag = "jobs",
    params(ListQuery),
    responses(
        (status = 200, description = "A page of jobs", body = Page),
        (status = 400, description = "A wrong parameter", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    _reader: Reader,
    Params(query): Params<ListQuery>,
) -> Result<Json<Page>, Problem> {
    let limit = limit(query.limit)?;
    let cursor = cursor(query.cursor.as_deref())?;
    app.check_nats()?;
    let filter = Filter {
        state: query.state,
        kind: query.kind,
        since: query.since,
        until: query.until,
        text: query.text,
    };
    let client = &app.nats.client;
    let page = client::list(client, &filter, cursor, limit).await?;
    let empty = cursor.is_none() && page.jobs.is_empty() && page.next.is_none();
    let kind_known = match &filter.kind {
        Some(kind) if empty => Some(client::is_known_kind(client, kind).await?),
        _ => None,
    };
    Ok(Json(Page {
        kind_known,
        jobs: page.jobs.into_iter().map(Job::from).collect(),
        next: page.next.map(|next| next.to_string()),
        looked_at: page.looked_at,
    }))
}

/// Cancel a job
///
/// A job that has not ended is cancelled, also while it runs.
#[utoipa::path(
    delete,
    path = "/v1/jobs/{id}",
    operation_id = "cancel_job",
    tag = "jobs",
    params(("id" = uuid::Uuid, Path, description = "The job")),
    responses(
        (status = 200, description = "The job is cancelled", body = schema::Record),
        (status = 202, description = "The request is stored; the next consumer carries it out", body = schema::Record),
        (status = 400, description = "Not an id", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The job is not known, or not any more", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The job has ended in another way", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn cancel(
    State(app): State<App>,
    operator: Operator,
    Id(id): Id,
) -> Result<Response, Problem> {
    let before = look_up(&app, id).await?;
    if before.state.is_final() {
        return ended(before);
    }
    let client = &app.nats.client;
    client::cancel(client, id).await?;
    info!(job.id = %id, by = %operator.name, "asked to cancel a job");
    let waited = client::wait(client, app.nats.connected(), id, CANCEL_WAIT).await;
    match waited {
        Ok(Waited::Ended(record)) => ended(*record),
        Ok(Waited::NotYet(Some(record))) => {
            Ok((StatusCode::ACCEPTED, Json(*record)).into_response())
        }
        // The request is stored, even if the job cannot be looked up now.
        Ok(Waited::NotYet(None)) | Err(_) => {
            Ok((StatusCode::ACCEPTED, Json(before)).into_response())
        }
    }
}

/// Run a waiting job now
///
/// A job that waits for its time or for its next attempt is due within about a second. This needs a consumer,
/// whatever kinds it serves. A job of a paused kind still waits for the end of the pause.
#[utoipa::path(
    post,
    path = "/v1/jobs/{id}/run-now",
    operation_id = "run_job_now",
    tag = "jobs",
    params(("id" = uuid::Uuid, Path, description = "The job")),
    responses(
        (status = 200, description = "The job is due within about a second", body = schema::Record),
        (status = 400, description = "Not an id", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The job is not known, or not any more", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The job does not wait for a time: it is in the queue, runs or has ended", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn run_now(
    State(app): State<App>,
    operator: Operator,
    Id(id): Id,
) -> Result<Json<JobRecord>, Problem> {
    let before = look_up(&app, id).await?;
    let asked = client::run_now(&app.nats.client, id).await;
    let result = asked.map_err(|error| {
        let text = format!("it is not known whether the job runs now: {error}");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, text).of_job(id)
    })?;
    info!(job.id = %id, by = %operator.name, ?result, "asked to run a job now");
    if result == RunNow::NotWaiting {
        let text = format!("the job does not wait for a time: it is {}", before.state);
        return Err(Problem::new(StatusCode::CONFLICT, text).of_job(id));
    }
    look_up(&app, id).await.map(Json)
}

fn ended(record: JobRecord) -> Result<Response, Problem> {
    if record.state == JobState::Cancelled {
        return Ok(Json(record).into_response());
    }
    let text = match record.state {
        JobState::Dead if record.is_discarded() => "the job is dead and discarded".to_owned(),
        JobState::Dead => "the job is dead: discard its dead letter instead".to_owned(),
        state => format!("the job has ended: it is {state}"),
    };
    Err(Problem::new(StatusCode::CONFLICT, text).of_job(record.id))
}
