//! Dead letters: list them; show, replay and discard one.

use std::collections::BTreeMap;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use client::dead_letters;
use client::{DeadLetter, Replayed, Which};
use common::{DeadReason, FailedAttempt, JobId, JobKind, OutcomeError, Timestamp};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use tracing::info;
use utoipa::{IntoParams, ToSchema};

use super::body::read_object;
use super::jobs::as_submitted;
use super::params::{Id, Params, cursor, limit};
use super::schema;
use crate::app::App;
use crate::auth::{Operator, Reader};
use crate::http::Problem;

/// The bytes that a message needs beside the payload of the job.
const OVERHEAD: usize = 8 << 10;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only dead letters of this kind.
    #[param(value_type = Option<schema::Kind>)]
    kind: Option<JobKind>,
    /// Only dead letters with this reason.
    #[param(value_type = Option<schema::Reason>)]
    reason: Option<DeadReason>,
    /// Only dead letters of the group with this `error`.
    error: Option<String>,
    /// The most dead letters on the page: 50 if absent, at most 200.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// Where the page begins: `next` of the page before.
    cursor: Option<String>,
}

/// A page of dead letters.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetters)]
pub(crate) struct Page {
    /// The dead letters, the newest first.
    letters: Vec<Letter>,
    /// The cursor of the next page; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// How many dead letters were read. With a filter, a page may be short or empty although more pages
    /// follow.
    looked_at: usize,
}

/// A dead letter in a list.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub(crate) struct Letter {
    /// The id of the job.
    #[schema(value_type = uuid::Uuid)]
    id: JobId,
    /// The kind of the job.
    #[schema(value_type = schema::Kind)]
    kind: JobKind,
    /// Why the job was given up.
    #[schema(value_type = Option<schema::Reason>)]
    reason: Option<DeadReason>,
    /// When the job was given up.
    #[schema(value_type = schema::Moment)]
    at: Timestamp,
    /// How many attempts have failed.
    attempts: usize,
    /// The last error.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Error>)]
    error: Option<OutcomeError>,
    /// The size of the job in bytes.
    bytes: usize,
}

impl From<dead_letters::Summary> for Letter {
    fn from(letter: dead_letters::Summary) -> Self {
        Self {
            id: letter.id,
            kind: letter.kind,
            reason: letter.reason,
            at: letter.at,
            attempts: letter.attempts,
            error: letter.error,
            bytes: letter.size,
        }
    }
}

/// A dead letter with its job.
#[derive(Serialize, ToSchema)]
#[schema(as = WholeDeadLetter)]
pub(crate) struct Whole {
    /// What a list says of it.
    #[serde(flatten)]
    letter: Letter,
    /// The failed attempts, the oldest first.
    #[schema(value_type = Vec<schema::Attempt>)]
    failures: Vec<FailedAttempt>,
    /// The headers that the job was submitted with.
    headers: BTreeMap<String, Vec<String>>,
    /// The job as it was submitted. Only a job that every JSON parser can read: nested no deeper than a
    /// job may be, without unpaired surrogates.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    job: Option<Box<RawValue>>,
    /// The same in base64, if it is not such JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// List dead letters
///
/// The newest first.
#[utoipa::path(
    get,
    path = "/v1/dead-letters",
    operation_id = "list_dead_letters",
    tag = "dead letters",
    params(ListQuery),
    responses(
        (status = 200, description = "A page of dead letters", body = Page),
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
    let which = Which {
        kind: query.kind,
        reason: query.reason,
        error: query.error,
    };
    app.check_nats()?;
    let page = dead_letters::newest(&app.nats.client, &which, cursor, limit).await?;
    Ok(Json(Page {
        letters: page.letters.into_iter().map(Letter::from).collect(),
        next: page.next.map(|next| next.to_string()),
        looked_at: page.looked_at,
    }))
}

async fn find(app: &App, id: JobId) -> Result<DeadLetter, Problem> {
    app.check_nats()?;
    let letter = dead_letters::show(&app.nats.client, id).await?;
    letter.ok_or_else(|| {
        let text = "this job has no dead letter; it may have been replayed or discarded";
        Problem::not_found(text).of_job(id)
    })
}

/// Show a dead letter
///
/// With its failed attempts, and the job as it was submitted.
#[utoipa::path(
    get,
    path = "/v1/dead-letters/{id}",
    operation_id = "show_dead_letter",
    tag = "dead letters",
    params(("id" = uuid::Uuid, Path, description = "The job")),
    responses(
        (status = 200, description = "The dead letter", body = Whole),
        (status = 400, description = "Not an id", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such dead letter", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn show(
    State(app): State<App>,
    _reader: Reader,
    Id(id): Id,
) -> Result<Json<Whole>, Problem> {
    let letter = find(&app, id).await?;
    let (job, base64) = as_submitted(&letter.payload);
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in letter.submitted_headers() {
        headers
            .entry(name.to_owned())
            .or_default()
            .push(value.to_owned());
    }
    Ok(Json(Whole {
        headers,
        job,
        base64,
        letter: Letter::from(letter.summary()),
        failures: letter.failures,
    }))
}

/// Download a dead letter
///
/// The bytes of the job as they were submitted, as a file.
#[utoipa::path(
    get,
    path = "/v1/dead-letters/{id}/raw",
    operation_id = "download_dead_letter",
    tag = "dead letters",
    params(("id" = uuid::Uuid, Path, description = "The job")),
    responses(
        (status = 200, description = "The bytes", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 400, description = "Not an id", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such dead letter", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn raw(
    State(app): State<App>,
    _reader: Reader,
    Id(id): Id,
) -> Result<Response, Problem> {
    let letter = find(&app, id).await?;
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (
            header::CONTENT_DISPOSITION,
            format!("attachment; filename=\"{id}.bin\""),
        ),
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; sandbox; frame-ancestors 'none'".to_owned(),
        ),
    ];
    Ok((headers, letter.payload).into_response())
}

/// Changes to a job that is replayed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Edit<'a> {
    /// The new payload, any JSON; the job keeps its payload if this is absent.
    #[serde(default, borrow, deserialize_with = "also_null")]
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<&'a RawValue>,
}

/// Reads `null` as a payload.
fn also_null<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(reader).map(Some)
}

/// A dead letter that was replayed.
#[derive(Serialize, ToSchema)]
#[schema(as = ReplayedDeadLetter)]
pub(crate) struct Requeued {
    /// The job, which is queued again.
    #[schema(value_type = uuid::Uuid)]
    id: JobId,
}

/// Replay a dead letter
///
/// Queues the job again, with another payload if the body has one.
#[utoipa::path(
    post,
    path = "/v1/dead-letters/{id}/replay",
    operation_id = "replay_dead_letter",
    tag = "dead letters",
    params(("id" = uuid::Uuid, Path, description = "The job")),
    request_body(content = Edit<'_>, content_type = "application/json"),
    responses(
        (status = 202, description = "The job is queued again", body = Requeued,
            headers(("Location" = String, description = "The path of the job"))),
        (status = 400, description = "Not an id, or not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such dead letter", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Somebody else has replayed it", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The payload is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not an object, an unknown field, or a payload that is nested deeper than 128 levels or has an unpaired surrogate", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn replay(
    State(app): State<App>,
    operator: Operator,
    Id(id): Id,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let max = app.nats.client.max_payload().saturating_sub(OVERHEAD);
    let body = app.limits.read(&headers, body, max).await?;
    let payload = edit(&headers, &body.bytes)?;
    let edited = payload.is_some();
    let letter = find(&app, id).await?;
    let shared = app.clone();
    let replaying = async move {
        let replayed = dead_letters::replay(&shared.nats.client, &letter, payload).await;
        shared.dead_letters_changed();
        Ok(replayed?)
    };
    match app.finish(replaying).await? {
        Replayed::Yes => {
            info!(job.id = %id, by = %operator.name, edited, "replayed a dead letter");
            let location = [(header::LOCATION, format!("/v1/jobs/{id}"))];
            Ok((StatusCode::ACCEPTED, location, Json(Requeued { id })).into_response())
        }
        Replayed::Already => {
            let text = "somebody else has replayed it, or the job is not dead any more";
            Err(Problem::new(StatusCode::CONFLICT, text).of_job(id))
        }
    }
}

fn edit(headers: &HeaderMap, body: &Bytes) -> Result<Option<Bytes>, Problem> {
    if body.is_empty() {
        return Ok(None);
    }
    let (shape, wrong) = ("{\"payload\": …}", "the body is not {\"payload\": …}");
    let edit: Edit<'_> = read_object(headers, body, shape, wrong)?;
    Ok(edit
        .payload
        .map(|payload| body.slice_ref(payload.get().as_bytes())))
}

/// Discard a dead letter
///
/// Removes it for good. The record of its job stays for a week. If this fails half-way, send it again.
#[utoipa::path(
    delete,
    path = "/v1/dead-letters/{id}",
    operation_id = "discard_dead_letter",
    tag = "dead letters",
    params(("id" = uuid::Uuid, Path, description = "The job")),
    responses(
        (status = 204, description = "The dead letter is removed"),
        (status = 400, description = "Not an id", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such dead letter", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Somebody else replays or discards it at the same time", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn discard(
    State(app): State<App>,
    operator: Operator,
    Id(id): Id,
) -> Result<StatusCode, Problem> {
    let letter = find(&app, id).await?;
    let shared = app.clone();
    let discarding = async move {
        let discarded = dead_letters::discard(&shared.nats.client, &letter).await;
        shared.dead_letters_changed();
        Ok(discarded?)
    };
    app.finish(discarding).await?;
    info!(job.id = %id, by = %operator.name, "discarded a dead letter");
    Ok(StatusCode::NO_CONTENT)
}
