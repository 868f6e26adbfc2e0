//! Recurring schedules.

use std::collections::HashMap;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use client::schedules::{self, Expected, Schedule, ScheduleRecord};
use common::{JobId, JobState, Timestamp};
use serde::{Deserialize, Serialize};
use tracing::info;
use utoipa::{IntoParams, ToSchema};

use super::body::must_be_json;
use super::params::{Name, Params};
use super::schema;
use crate::app::App;
use crate::auth::{Operator, Reader};
use crate::http::Problem;
use crate::schedules as changes;

/// The largest body, in bytes: a job of 256 KiB, and the rest.
const MAX_BODY: usize = 300 << 10;

/// All schedules.
#[derive(Serialize, ToSchema)]
pub(crate) struct Schedules {
    /// The schedules, in the order of their names.
    schedules: Vec<View>,
    /// The names of those whose stored record cannot be read. They have no ticks until they are replaced.
    unreadable: Vec<String>,
}

/// A schedule, and how far it has come.
#[derive(Serialize, ToSchema)]
#[schema(as = ScheduleView)]
pub(crate) struct View {
    /// Its name.
    name: String,
    /// How often it was changed: 1 for a new one. It is also the `ETag`.
    revision: u64,
    /// When it was changed.
    #[schema(value_type = schema::Moment)]
    at: Timestamp,
    /// Who changed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// What is wanted.
    #[schema(value_type = schema::Schedule)]
    schedule: Schedule,
    /// The next tick; absent while the schedule is paused, and after its last tick.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Moment>)]
    next: Option<Timestamp>,
    /// The last tick, or run by hand, that has a job.
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<Last>,
    /// How many ticks had no job, because the last job had not ended or because they were missed.
    skipped: u64,
    /// The last of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Moment>)]
    last_skipped: Option<Timestamp>,
    /// The next ten ticks, also of a paused schedule. Absent in lists.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<schema::Moment>>)]
    upcoming: Option<Vec<Timestamp>>,
}

/// A tick that has a job.
#[derive(Serialize, ToSchema)]
#[schema(as = LastTick)]
pub(crate) struct Last {
    /// Its time.
    #[schema(value_type = schema::Moment)]
    tick: Timestamp,
    /// The id of its job.
    #[schema(value_type = uuid::Uuid)]
    id: JobId,
    /// The state of the job, if it has a record: a job that waits or has just begun has none, and records expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::State>)]
    state: Option<JobState>,
}

/// The ticks of a schedule that was not stored.
#[derive(Serialize, ToSchema)]
#[schema(as = SchedulePreview)]
pub(crate) struct Preview {
    /// The next ten ticks, at most.
    #[schema(value_type = Vec<schema::Moment>)]
    preview: Vec<Timestamp>,
}

/// A job that was submitted.
#[derive(Serialize, ToSchema)]
#[schema(as = ScheduleRun)]
pub(crate) struct Run {
    /// The schedule.
    name: String,
    /// The id of the job.
    #[schema(value_type = uuid::Uuid)]
    id: JobId,
}

#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Preflight {
    /// With `true`, the schedule is checked and its next ticks are returned. Nothing is stored.
    #[serde(default)]
    preview: bool,
}

impl View {
    fn of(record: ScheduleRecord, states: &HashMap<JobId, JobState>) -> Self {
        let last = record.last.map(|last| Last {
            tick: last.tick,
            id: last.id,
            state: states.get(&last.id).copied(),
        });
        Self {
            name: record.name.to_string(),
            revision: record.revision,
            at: record.at,
            by: record.by,
            schedule: record.schedule,
            next: record.next,
            last,
            skipped: record.skipped,
            last_skipped: record.last_skipped,
            upcoming: None,
        }
    }
}

/// A schedule with its next ticks, and its revision as `ETag`.
async fn shown(app: &App, status: StatusCode, record: ScheduleRecord) -> Result<Response, Problem> {
    let last = schedules::last_states(&app.nats.client, [&record]).await?;
    // A stored schedule that cannot be used has no ticks.
    let upcoming = schedules::preview(&record.schedule, Timestamp::now()).unwrap_or_default();
    let tag = format!("\"{}\"", record.revision);
    let view = View {
        upcoming: Some(upcoming),
        ..View::of(record, &last)
    };
    Ok((status, [(header::ETAG, tag)], Json(view)).into_response())
}

/// List the schedules
///
/// All recurring schedules, with their next ticks and how the last ones ended.
#[utoipa::path(
    get,
    path = "/v1/schedules",
    operation_id = "list_schedules",
    tag = "schedules",
    responses(
        (status = 200, description = "The schedules", body = Schedules),
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    _reader: Reader,
) -> Result<Json<Schedules>, Problem> {
    app.check_nats()?;
    let client = &app.nats.client;
    let all = schedules::list(client).await?;
    let records = all.iter().filter_map(|(_, stored)| stored.record.as_ref());
    let states = schedules::last_states(client, records).await?;
    let mut answer = Schedules {
        schedules: Vec::new(),
        unreadable: Vec::new(),
    };
    for (name, stored) in all {
        match stored.record {
            Some(record) => answer.schedules.push(View::of(record, &states)),
            None => answer.unreadable.push(name.to_string()),
        }
    }
    Ok(Json(answer))
}

/// Look up a schedule
#[utoipa::path(
    get,
    path = "/v1/schedules/{name}",
    operation_id = "get_schedule",
    tag = "schedules",
    params(("name" = schema::ScheduleName, Path, description = "The schedule")),
    responses(
        (status = 200, description = "The schedule", body = View, headers(("ETag" = String, description = "Its revision"))),
        (status = 400, description = "Not the name of a schedule", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "What is stored cannot be read", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn show(
    State(app): State<App>,
    _reader: Reader,
    Name(name): Name,
) -> Result<Response, Problem> {
    app.check_nats()?;
    match schedules::get(&app.nats.client, &name).await? {
        Some(record) => shown(&app, StatusCode::OK, record).await,
        None => Err(Problem::from(&schedules::Refused::Unknown(name))),
    }
}

/// Create or replace a schedule
///
/// With `If-Match`, only if the schedule has this revision; with `If-None-Match: *`, only if there is none. With
/// `?preview=true`, it is checked, and its next ticks are returned; nothing is stored.
#[utoipa::path(
    put,
    path = "/v1/schedules/{name}",
    operation_id = "put_schedule",
    tag = "schedules",
    params(
        ("name" = schema::ScheduleName, Path, description = "The schedule"),
        ("If-Match" = Option<String>, Header, description = "The `ETag` of the schedule that is replaced"),
        ("If-None-Match" = Option<String>, Header, description = "`*` if there must be none"),
        Preflight,
    ),
    request_body(content = schema::Schedule, content_type = "application/json"),
    responses(
        (status = 200, description = "The schedule is replaced; or a preview", body = schema::ViewOrPreview, headers(("ETag" = String, description = "Its revision"))),
        (status = 201, description = "The schedule is created", body = View, headers(("ETag" = String, description = "Its revision"))),
        (status = 400, description = "Not the name of a schedule, or a wrong header", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "Another revision than the expected one is there", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "The schedule cannot be used", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn put(
    State(app): State<App>,
    operator: Operator,
    Name(name): Name,
    Params(Preflight { preview }): Params<Preflight>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let body = app.limits.read(&headers, body, MAX_BODY).await?;
    must_be_json(&headers)?;
    let schedule = Schedule::decode(&body.bytes).map_err(|error| Problem::from(&error))?;
    let expected = expected(&headers)?;
    if preview {
        let preview = schedules::preview(&schedule, Timestamp::now());
        let preview = preview.map_err(|error| Problem::from(&error))?;
        return Ok(Json(Preview { preview }).into_response());
    }
    app.check_nats()?;
    let (shared, of, by) = (app.clone(), name.clone(), operator.name.to_string());
    let storing = async move {
        let client = &shared.nats.client;
        Ok(schedules::put(client, &of, &schedule, expected, Some(by)).await?)
    };
    let record = app.finish(storing).await?;
    info!(schedule = %name, by = %operator.name, revision = record.revision, "stored a schedule");
    let status = if record.revision == 1 {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    shown(&app, status, record).await
}

/// Which schedule the headers expect.
fn expected(headers: &HeaderMap) -> Result<Expected, Problem> {
    let only = |name: &'static str| {
        let mut values = headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (value, None) => Ok(value.map(|value| value.to_str().unwrap_or_default())),
            _ => Err(Problem::bad(name, "the header is given more than once")),
        }
    };
    match (only("if-match")?, only("if-none-match")?) {
        (None, None) => Ok(Expected::Anything),
        (None, Some("*")) => Ok(Expected::Nothing),
        (Some(tag), None) => {
            let revision = tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
            let revision = revision.and_then(|revision| revision.parse().ok());
            revision.map(Expected::Revision).ok_or_else(|| {
                Problem::bad(
                    "If-Match",
                    "one ETag of a schedule is expected, such as \"3\"",
                )
            })
        }
        (None, Some(_)) => Err(Problem::bad("If-None-Match", "only * is taken")),
        (Some(_), Some(_)) => Err(Problem::bad(
            "If-None-Match",
            "give either If-Match or If-None-Match",
        )),
    }
}

/// Delete a schedule
///
/// Its jobs stay. With `If-Match`, only if the schedule has this revision.
#[utoipa::path(
    delete,
    path = "/v1/schedules/{name}",
    operation_id = "delete_schedule",
    tag = "schedules",
    params(
        ("name" = schema::ScheduleName, Path, description = "The schedule"),
        ("If-Match" = Option<String>, Header, description = "The `ETag` of the schedule"),
    ),
    responses(
        (status = 204, description = "It is deleted"),
        (status = 400, description = "Not the name of a schedule, or a wrong header", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "Another revision than the expected one is there", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn delete(
    State(app): State<App>,
    operator: Operator,
    Name(name): Name,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let expected = expected(&headers)?;
    changes::delete(&app, &operator, &name, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Pause a schedule
///
/// It has no ticks until it is resumed, and these are not caught up.
#[utoipa::path(
    post,
    path = "/v1/schedules/{name}/pause",
    operation_id = "pause_schedule",
    tag = "schedules",
    params(("name" = schema::ScheduleName, Path, description = "The schedule")),
    responses(
        (status = 200, description = "It is paused", body = View, headers(("ETag" = String, description = "Its revision"))),
        (status = 400, description = "Not the name of a schedule", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "What is stored cannot be read", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn pause(
    State(app): State<App>,
    operator: Operator,
    Name(name): Name,
) -> Result<Response, Problem> {
    let record = changes::set_paused(&app, &operator, &name, true).await?;
    shown(&app, StatusCode::OK, record).await
}

/// Resume a schedule
///
/// A schedule that is not paused stays as it is, but for its revision.
#[utoipa::path(
    post,
    path = "/v1/schedules/{name}/resume",
    operation_id = "resume_schedule",
    tag = "schedules",
    params(("name" = schema::ScheduleName, Path, description = "The schedule")),
    responses(
        (status = 200, description = "It is not paused", body = View, headers(("ETag" = String, description = "Its revision"))),
        (status = 400, description = "Not the name of a schedule", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "What is stored cannot be read", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn resume(
    State(app): State<App>,
    operator: Operator,
    Name(name): Name,
) -> Result<Response, Problem> {
    let record = changes::set_paused(&app, &operator, &name, false).await?;
    shown(&app, StatusCode::OK, record).await
}

/// Run a schedule now
///
/// Submits one job of the schedule, also of one that is paused, whatever its last job does.
#[utoipa::path(
    post,
    path = "/v1/schedules/{name}/run",
    operation_id = "run_schedule",
    tag = "schedules",
    params(("name" = schema::ScheduleName, Path, description = "The schedule")),
    responses(
        (status = 202, description = "The job is submitted", body = Run),
        (status = 400, description = "Not the name of a schedule", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is none", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "What is stored cannot be read", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn run(
    State(app): State<App>,
    operator: Operator,
    Name(name): Name,
) -> Result<(StatusCode, Json<Run>), Problem> {
    let id = changes::run_now(&app, &operator, &name).await?;
    let name = name.to_string();
    Ok((StatusCode::ACCEPTED, Json(Run { name, id })))
}
