//! Pauses and resumes a kind or all kinds, has the priorities of a kind heeded, and lists the settings.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use client::kinds::PauseEnd;
use common::{JobKind, KindSetting, Timestamp, WireDuration};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::body::read_object;
use super::params::Kind;
use super::schema;
use crate::app::App;
use crate::auth::{Operator, Reader};
use crate::http::Problem;
use crate::kind_settings;

/// The largest body, in bytes.
const MAX_BODY: usize = 16 << 10;

/// How a kind is paused, or all kinds are.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = PauseOfKind)]
pub(crate) struct Pause {
    /// How long the pause is. Without `for` and `until`, it lasts until somebody resumes the kind or all kinds.
    #[serde(default, rename = "for")]
    #[schema(value_type = Option<schema::Duration>)]
    length: Option<WireDuration>,
    /// When the pause ends by itself.
    #[serde(default)]
    #[schema(value_type = Option<schema::Moment>)]
    until: Option<Timestamp>,
    /// Why, for people; at most 1,000 bytes.
    #[serde(default)]
    reason: Option<String>,
}

/// The setting of a kind.
#[derive(Serialize, ToSchema)]
#[schema(as = SettingOfKind)]
pub(crate) struct Setting {
    /// The kind.
    #[schema(value_type = schema::Kind)]
    kind: JobKind,
    /// Whether it is paused.
    paused: bool,
    /// When the pause ends by itself; absent if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Moment>)]
    paused_until: Option<Timestamp>,
    /// Why it is paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Whether its priorities are heeded.
    priorities: bool,
    /// Who changed the setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// When it was changed.
    #[schema(value_type = schema::Moment)]
    at: Timestamp,
}

impl Setting {
    fn of(kind: JobKind, setting: KindSetting) -> Self {
        Self {
            kind,
            paused: setting.paused,
            paused_until: setting.paused_until,
            reason: setting.reason,
            priorities: setting.priorities,
            by: setting.by,
            at: setting.at,
        }
    }
}

/// The setting of all kinds, also of those that are created later.
#[derive(Serialize, ToSchema)]
#[schema(as = SettingOfAllKinds)]
pub(crate) struct AllKinds {
    /// Whether all kinds are paused. While they are not, a kind may still be paused on its own.
    paused: bool,
    /// When the pause ends by itself; absent if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Moment>)]
    paused_until: Option<Timestamp>,
    /// Why they are paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Who changed the setting.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// When it was changed.
    #[schema(value_type = schema::Moment)]
    at: Timestamp,
}

impl From<KindSetting> for AllKinds {
    fn from(setting: KindSetting) -> Self {
        Self {
            paused: setting.paused,
            paused_until: setting.paused_until,
            reason: setting.reason,
            by: setting.by,
            at: setting.at,
        }
    }
}

/// The settings of kinds.
#[derive(Serialize, ToSchema)]
#[schema(as = SettingsOfKinds)]
pub(crate) struct Settings {
    /// The settings, in the order of their kinds. The priorities of a kind without one are not heeded, and it is
    /// paused only if all kinds are.
    kinds: Vec<Setting>,
    /// The setting of all kinds; absent if there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    all: Option<AllKinds>,
}

/// List the settings of kinds
///
/// Only kinds that have a setting of their own are listed.
#[utoipa::path(
    get,
    path = "/v1/kinds",
    operation_id = "list_kinds",
    tag = "system",
    responses(
        (status = 200, description = "The settings", body = Settings),
    )
)]
pub(crate) async fn list(
    State(app): State<App>,
    _reader: Reader,
) -> Result<Json<Settings>, Problem> {
    app.check_nats()?;
    let client = &app.nats.client;
    let kinds = client::kinds::list(client).await?;
    let kinds = kinds
        .into_iter()
        .map(|(kind, setting)| Setting::of(kind, setting));
    Ok(Json(Settings {
        kinds: kinds.collect(),
        all: client::kinds::get_all(client).await?.map(AllKinds::from),
    }))
}

/// Heed the priorities of a kind
///
/// Consumers also do this by themselves when they get the first job of the kind that is not of normal
/// priority. It is not undone.
#[utoipa::path(
    post,
    path = "/v1/kinds/{kind}/priorities",
    operation_id = "heed_priorities_of_kind",
    tag = "system",
    params(("kind" = schema::Kind, Path, description = "The kind")),
    responses(
        (status = 200, description = "The priorities of the kind are heeded, or will be within some seconds", body = Setting),
        (status = 400, description = "Not a kind", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn heed_priorities(
    State(app): State<App>,
    operator: Operator,
    Kind(kind): Kind,
) -> Result<Json<Setting>, Problem> {
    let setting = kind_settings::heed_priorities(&app, &operator, &kind).await??;
    Ok(Json(Setting::of(kind, setting)))
}

/// Pause a kind
///
/// Durable jobs of the kind are accepted, and none of them is started, until the time that was given, or
/// until the kind is resumed. Jobs that run end normally. A second pause replaces the first one.
#[utoipa::path(
    post,
    path = "/v1/kinds/{kind}/pause",
    operation_id = "pause_kind",
    tag = "system",
    params(("kind" = schema::Kind, Path, description = "The kind")),
    request_body(content = Pause, content_type = "application/json"),
    responses(
        (status = 200, description = "The kind is paused", body = Setting),
        (status = 400, description = "Not a kind, or not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not an object, an unknown field, an end in the past, or a reason that is too long", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn pause(
    State(app): State<App>,
    operator: Operator,
    Kind(kind): Kind,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Setting>, Problem> {
    let (end, reason) = wanted(&app, &headers, body).await?;
    let setting = kind_settings::pause(&app, &operator, Some(&kind), end, reason).await??;
    Ok(Json(Setting::of(kind, setting)))
}

/// Pause all kinds
///
/// No durable job is started, of whatever kind, also of kinds that are created later, until the time that was
/// given, or until all kinds are resumed. Jobs are accepted, and those that run end normally.
#[utoipa::path(
    post,
    path = "/v1/kinds/=all/pause",
    operation_id = "pause_all_kinds",
    tag = "system",
    request_body(content = Pause, content_type = "application/json"),
    responses(
        (status = 200, description = "All kinds are paused", body = AllKinds),
        (status = 400, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Not JSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not an object, an unknown field, an end in the past, or a reason that is too long", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn pause_all(
    State(app): State<App>,
    operator: Operator,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<AllKinds>, Problem> {
    let (end, reason) = wanted(&app, &headers, body).await?;
    let setting = kind_settings::pause(&app, &operator, None, end, reason).await??;
    Ok(Json(setting.into()))
}

/// The end and the reason that the body asks for.
async fn wanted(
    app: &App,
    headers: &HeaderMap,
    body: Body,
) -> Result<(PauseEnd, Option<String>), Problem> {
    let body = app.limits.read(headers, body, MAX_BODY).await?;
    let asked = if body.bytes.is_empty() {
        Pause::default()
    } else {
        read_object(headers, &body.bytes, "an object", "the body cannot be read")?
    };
    let end = match (asked.length, asked.until) {
        (None, None) => PauseEnd::Resumed,
        (Some(length), None) => PauseEnd::After(length.get()),
        (None, Some(until)) => PauseEnd::At(until),
        (Some(_), Some(_)) => {
            let text = "give either `for` or `until`";
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text).on_field("until"));
        }
    };
    Ok((end, asked.reason))
}

/// Resume a kind
///
/// Its waiting jobs are run, unless all kinds are paused. A kind that is not paused stays as it is.
#[utoipa::path(
    post,
    path = "/v1/kinds/{kind}/resume",
    operation_id = "resume_kind",
    tag = "system",
    params(("kind" = schema::Kind, Path, description = "The kind")),
    responses(
        (status = 200, description = "The kind is not paused on its own", body = Setting),
        (status = 400, description = "Not a kind", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn resume(
    State(app): State<App>,
    operator: Operator,
    Kind(kind): Kind,
) -> Result<Json<Setting>, Problem> {
    let setting = kind_settings::resume(&app, &operator, Some(&kind)).await??;
    Ok(Json(Setting::of(kind, setting)))
}

/// Resume all kinds
///
/// Their waiting jobs are run. Kinds that are paused on their own stay paused.
#[utoipa::path(
    post,
    path = "/v1/kinds/=all/resume",
    operation_id = "resume_all_kinds",
    tag = "system",
    responses(
        (status = 200, description = "Only kinds that are paused on their own are still paused", body = AllKinds),
    )
)]
pub(crate) async fn resume_all(
    State(app): State<App>,
    operator: Operator,
) -> Result<Json<AllKinds>, Problem> {
    let setting = kind_settings::resume(&app, &operator, None).await??;
    Ok(Json(setting.into()))
}
