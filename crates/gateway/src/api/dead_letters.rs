//! Dead letters: jobs that were given up.

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

use super::jobs::{as_submitted, cursor, limit};
use super::params::{Id, Params};
use super::schema;
use super::submit::media_type;
use crate::access::{Operator, Reader};
use crate::app::App;
use crate::problem::Problem;

/// What a job has beside its payload, at most.
const AROUND: usize = 8 << 10;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct ListQuery {
    /// Only those of this kind.
    #[param(value_type = Option<schema::Kind>)]
    kind: Option<JobKind>,
    /// Only those that were given up for this reason.
    #[param(value_type = Option<schema::Reason>)]
    reason: Option<DeadReason>,
    /// Only those of the group with this message.
    error: Option<String>,
    /// The most letters in the answer: 50 if absent, at most 200.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<usize>,
    /// Where to go on: `next` of the answer before.
    cursor: Option<String>,
}

/// A page of dead letters.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetters)]
pub(crate) struct Page {
    /// The letters, the newest first.
    letters: Vec<Letter>,
    /// The cursor with which they go on; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
    /// How many were looked at. With a filter a page may be short, or empty, though there are more.
    looked_at: usize,
}

/// A dead letter in a list.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetter)]
pub(crate) struct Letter {
    /// The job.
    #[schema(value_type = uuid::Uuid)]
    id: JobId,
    /// Its kind.
    #[schema(value_type = schema::Kind)]
    kind: JobKind,
    /// Why it was given up.
    #[schema(value_type = Option<schema::Reason>)]
    reason: Option<DeadReason>,
    /// When.
    #[schema(value_type = schema::Moment)]
    at: Timestamp,
    /// How many attempts failed.
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

/// A dead letter with all that it holds.
#[derive(Serialize, ToSchema)]
#[schema(as = WholeDeadLetter)]
pub(crate) struct Whole {
    /// What is in the list, too.
    #[serde(flatten)]
    letter: Letter,
    /// The failed attempts, the oldest first.
    #[schema(value_type = Vec<schema::Attempt>)]
    failures: Vec<FailedAttempt>,
    /// The headers that it was submitted with.
    headers: BTreeMap<String, Vec<String>>,
    /// The job as it was submitted, if it is JSON, nested no deeper than a job may be and without
    /// unpaired surrogates.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<serde_json::Value>)]
    job: Option<Box<RawValue>>,
    /// The job as it was submitted in base64, otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
}

/// List dead letters
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
        let text = "there is no dead letter of this job; it may have been replayed or discarded";
        Problem::not_found(text).of_job(id)
    })
}

/// Show a dead letter
#[utoipa::path(
    get,
    path = "/v1/dead-letters/{id}",
    operation_id = "show_dead_letter",
    tag = "dead letters",
    params(("id" = uuid::Uuid, Path, description = "The job")),
    responses(
        (status = 200, description = "The letter", body = Whole),
        (status = 400, description = "Not an id", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none", body = Problem, content_type = "application/problem+json"),
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

/// The bytes of a dead letter
///
/// As they were submitted, to be saved and not to be shown.
#[utoipa::path(
    get,
    path = "/v1/dead-letters/{id}/raw",
    operation_id = "download_dead_letter",
    tag = "dead letters",
    params(("id" = uuid::Uuid, Path, description = "The job")),
    responses(
        (status = 200, description = "The bytes", body = Vec<u8>, content_type = "application/octet-stream"),
        (status = 400, description = "Not an id", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none", body = Problem, content_type = "application/problem+json"),
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

/// What a job is replayed with.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Edit<'a> {
    /// Another payload, any JSON; the job keeps its own if this is absent.
    #[serde(default, borrow, deserialize_with = "also_null")]
    #[schema(value_type = Option<serde_json::Value>)]
    payload: Option<&'a RawValue>,
}

/// `null` is a payload, too.
fn also_null<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(reader).map(Some)
}

/// A dead letter that was replayed.
#[derive(Serialize, ToSchema)]
#[schema(as = ReplayedDeadLetter)]
pub(crate) struct Requeued {
    /// The job, which is in the queue again.
    #[schema(value_type = uuid::Uuid)]
    id: JobId,
}

/// Replay a dead letter
///
/// Puts the job into the queue again, with another payload if there is one in the body.
#[utoipa::path(
    post,
    path = "/v1/dead-letters/{id}/replay",
    operation_id = "replay_dead_letter",
    tag = "dead letters",
    params(("id" = uuid::Uuid, Path, description = "The job")),
    request_body(content = Edit<'_>, content_type = "application/json"),
    responses(
        (status = 202, description = "It is in the queue again", body = Requeued,
            headers(("Location" = String, description = "Where it can be seen"))),
        (status = 400, description = "Not an id, or not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none", body = Problem, content_type = "application/problem+json"),
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
    let most = app.nats.client.max_payload().saturating_sub(AROUND);
    let body = app.limits.read(&headers, body, most).await?;
    let payload = edit(&headers, &body.bytes)?;
    let edited = payload.is_some();
    let letter = find(&app, id).await?;
    let shared = app.clone();
    let replaying = async move {
        let replayed = dead_letters::replay(&shared.nats.client, &letter, payload).await;
        shared.letters_changed();
        Ok(replayed?)
    };
    match app.finish(replaying).await? {
        Replayed::Yes => {
            info!(job.id = %id, by = %operator.name, edited, "replayed a dead letter");
            let place = [(header::LOCATION, format!("/v1/jobs/{id}"))];
            Ok((StatusCode::ACCEPTED, place, Json(Requeued { id })).into_response())
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
    if !media_type(headers).eq_ignore_ascii_case("application/json") {
        let text = "Content-Type must be application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text).on_field("Content-Type"));
    }
    // A derived reader would take the payload from an array, too, and an empty one for none.
    if body.trim_ascii_start().first() == Some(&b'[') {
        let text = "the body is an array, and not {\"payload\": …}";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text));
    }
    let edit: Edit<'_> = serde_json::from_slice(body).map_err(|error| {
        let status = if error.is_data() {
            StatusCode::UNPROCESSABLE_ENTITY
        } else {
            StatusCode::BAD_REQUEST
        };
        Problem::new(
            status,
            format!("the body is not {{\"payload\": …}}: {error}"),
        )
    })?;
    Ok(edit
        .payload
        .map(|payload| body.slice_ref(payload.get().as_bytes())))
}

/// Discard a dead letter
///
/// Removes it for good; the record of its job stays for a week.
#[utoipa::path(
    delete,
    path = "/v1/dead-letters/{id}",
    operation_id = "discard_dead_letter",
    tag = "dead letters",
    params(("id" = uuid::Uuid, Path, description = "The job")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 400, description = "Not an id", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Somebody else is at it", body = Problem, content_type = "application/problem+json"),
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
        shared.letters_changed();
        Ok(discarded?)
    };
    app.finish(discarding).await?;
    info!(job.id = %id, by = %operator.name, "discarded a dead letter");
    Ok(StatusCode::NO_CONTENT)
}
