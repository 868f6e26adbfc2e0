//! Jobs that were handed over: look one up, list them, cancel one.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use client::{Filter, Listed, Waited};
use common::{
    DeadReason, JobId, JobKind, JobRecord, JobState, OutcomeError, Timestamp, check_portable,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tracing::info;
use utoipa::{IntoParams, ToSchema};

use super::params::{Id, Params};
use super::schema;
use crate::access::{Operator, Reader};
use crate::app::App;
use crate::problem::Problem;

/// How long a cancellation is waited for, which takes a moment where there is a consumer.
const CANCELLED: Duration = Duration::from_secs(5);

/// The most jobs in a page, and how many if nothing is asked.
const MOST: usize = 200;
const USUAL: usize = 50;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct LookQuery {
    /// Also tell the job as it was submitted, until it has ended: false if absent.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    job: bool,
}

/// What is known of a job, and the job itself.
#[derive(Serialize, ToSchema)]
#[schema(as = WholeJob)]
pub(crate) struct Whole {
    /// What is known of it.
    #[serde(flatten)]
    #[schema(value_type = schema::Record)]
    record: JobRecord,
    /// The job as it was submitted, if that is asked for, it has not ended, and it is JSON, nested no
    /// deeper than a job may be and without unpaired surrogates.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    job: Option<Box<RawValue>>,
    /// The same in base64, otherwise.
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
        (status = 200, description = "What is known of it", body = Whole),
        (status = 400, description = "Not an id, or a wrong parameter", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Nobody knows it, or does not any more", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn show(
    State(app): State<App>,
    _reader: Reader,
    Id(id): Id,
    Params(query): Params<LookQuery>,
) -> Result<Json<Whole>, Problem> {
    let record = look_up(&app, id).await?;
    let message = if query.job {
        client::message(&app.nats.client, &record).await?
    } else {
        None
    };
    let (job, base64) = message.map_or((None, None), |message| as_submitted(&message));
    Ok(Json(Whole {
        record,
        job,
        base64,
    }))
}

/// A job as it was submitted: as JSON that whoever asks can read, or else in base64.
pub(super) fn as_submitted(message: &[u8]) -> (Option<Box<RawValue>>, Option<String>) {
    let job: Option<Box<RawValue>> = serde_json::from_slice(message).ok();
    // A job is one level deeper than its payload.
    let job = job.filter(|job| check_portable(job).is_ok() || common::Job::decode(message).is_ok());
    let engine = base64::engine::general_purpose::STANDARD;
    let base64 = job.is_none().then(|| engine.encode(message));
    (job, base64)
}

/// What is known of a job.
pub(super) async fn look_up(app: &App, id: JobId) -> Result<JobRecord, Problem> {
    app.check_nats()?;
    let known = client::look_up(&app.nats.client, id).await?;
    known.ok_or_else(|| {
        let text = "nobody knows this job, or does not any more; only durable jobs are kept";
        Problem::not_found(text).of_job(id)
    })
}

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only jobs in this state.
    #[param(value_type = Option<schema::State>)]
    state: Option<JobState>,
    /// Only jobs of this kind.
    #[param(value_type = Option<schema::Kind>)]
    kind: Option<JobKind>,
    /// The most jobs in the answer: 50 if absent, at most 200.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// Where to go on: `next` of the answer before.
    cursor: Option<String>,
}

/// A page of jobs.
#[derive(Serialize, ToSchema)]
pub(crate) struct Page {
    /// The jobs, those that changed last first.
    jobs: Vec<Job>,
    /// The cursor with which they go on; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// How many were looked at. With a filter a page may be short, or empty, though there are more.
    looked_at: usize,
}

/// A job in a list.
#[derive(Serialize, ToSchema)]
#[schema(as = ListedJob)]
pub(crate) struct Job {
    /// Its id.
    #[schema(value_type = uuid::Uuid)]
    id: JobId,
    /// Its kind, if it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Kind>)]
    kind: Option<JobKind>,
    /// How it is.
    #[schema(value_type = schema::State)]
    state: JobState,
    /// Since when.
    #[schema(value_type = schema::Moment)]
    at: Timestamp,
    /// The last attempt that began; 0 before the first.
    attempt: u32,
    /// The consumer that had it last.
    #[serde(skip_serializing_if = "Option::is_none")]
    consumer: Option<String>,
    /// When it runs, or runs again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Moment>)]
    next_at: Option<Timestamp>,
    /// Why it is dead.
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

/// How many entries a page has, if so many are asked for.
pub(super) fn limit(asked: Option<usize>) -> Result<usize, Problem> {
    let limit = asked.unwrap_or(USUAL);
    if (1..=MOST).contains(&limit) {
        Ok(limit)
    } else {
        Err(Problem::bad("limit", "1 to 200"))
    }
}

/// Reads a cursor.
pub(super) fn cursor<T: std::str::FromStr<Err = client::BadCursor>>(
    text: Option<&str>,
) -> Result<Option<T>, Problem> {
    text.map(str::parse)
        .transpose()
        .map_err(|error: client::BadCursor| Problem::bad("cursor", error.to_string()))
}

/// List jobs
///
/// Those that changed last first.
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
    };
    let page = client::list(&app.nats.client, &filter, cursor, limit).await?;
    Ok(Json(Page {
        jobs: page.jobs.into_iter().map(Job::from).collect(),
        next: page.next.map(|next| next.to_string()),
        looked_at: page.looked_at,
    }))
}

/// Cancel a job
///
/// In any state in which it has not ended: one that runs is dropped.
#[utoipa::path(
    delete,
    path = "/v1/jobs/{id}",
    operation_id = "cancel_job",
    tag = "jobs",
    params(("id" = uuid::Uuid, Path, description = "The job")),
    responses(
        (status = 200, description = "It is cancelled", body = schema::Record),
        (status = 202, description = "The request is stored; a consumer carries it out when one is there", body = schema::Record),
        (status = 400, description = "Not an id", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "Nobody knows it, or does not any more", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "It has ended otherwise", body = Problem, content_type = "application/problem+json"),
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
    let waited = client::wait(client, app.nats.connected(), id, CANCELLED).await;
    match waited {
        Ok(Waited::Ended(record)) => ended(*record),
        Ok(Waited::NotYet(Some(record))) => {
            Ok((StatusCode::ACCEPTED, Json(*record)).into_response())
        }
        // The request is stored, whatever is known of the job now.
        Ok(Waited::NotYet(None)) | Err(_) => {
            Ok((StatusCode::ACCEPTED, Json(before)).into_response())
        }
    }
}

fn ended(record: JobRecord) -> Result<Response, Problem> {
    if record.state == JobState::Cancelled {
        return Ok(Json(record).into_response());
    }
    let text = match record.state {
        JobState::Dead => "the job is dead: discard its dead letter instead".to_owned(),
        state => format!("the job has ended: it is {state}"),
    };
    Err(Problem::new(StatusCode::CONFLICT, text).of_job(record.id))
}
