//! `GET /v1/queues`.

use axum::Json;
use axum::extract::State;
use common::{JobKind, KindSetting, Timestamp};
use serde::Serialize;
use utoipa::ToSchema;

use super::age::age_ms;
use super::schema;
use crate::app::App;
use crate::auth::Reader;
use crate::http::Problem;

/// The queues of durable jobs.
#[derive(Serialize, ToSchema)]
#[expect(
    clippy::struct_field_names,
    reason = "the fields are named as in the answer"
)]
pub(crate) struct Queues {
    /// One queue per kind, those with the most jobs first, at most 1,000.
    queues: Vec<Queue>,
    /// How many jobs of all kinds wait for a consumer. If a stream holds more than 10,000 jobs, those
    /// that ended in the last seconds may be counted too: the number may be too large, never too
    /// small.
    waiting: u64,
    /// The pause of all kinds; absent if all kinds are not paused.
    #[serde(skip_serializing_if = "Option::is_none")]
    all_paused: Option<Paused>,
}

/// The durable jobs of one kind that wait or run.
#[derive(Serialize, ToSchema)]
pub(crate) struct Queue {
    /// The kind.
    #[schema(value_type = schema::Kind)]
    kind: JobKind,
    /// How many jobs wait for a consumer.
    waiting: u64,
    /// How many of them are of high priority, without due retries and delayed jobs; absent if none is.
    #[serde(skip_serializing_if = "is_zero")]
    waiting_high: u64,
    /// How many of them are of low priority, likewise.
    #[serde(skip_serializing_if = "is_zero")]
    waiting_low: u64,
    /// `true` if more jobs may wait: no consumer has ever served the kind, and only the oldest of more
    /// than 10,000 jobs were read. Absent otherwise.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    at_least: bool,
    /// Whether a consumer serves the kind now. `null` if that is not known: no consumer has answered
    /// within a second, or none was asked. Consumers are asked about the first 50 kinds with waiting
    /// jobs.
    served: Option<bool>,
    /// How many jobs consumers are working on.
    running: u64,
    /// How many of those were delivered more than once.
    redelivered: u64,
    /// The pause of the kind on its own; absent if there is none. While all kinds are paused, this one is, too:
    /// see `all_paused`.
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<Paused>,
    /// Since when the oldest waiting job has been waiting, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Moment>)]
    oldest: Option<Timestamp>,
    /// How long the oldest waiting job has been waiting, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    oldest_age_ms: Option<u64>,
}

#[expect(
    clippy::trivially_copy_pass_by_ref,
    reason = "serde calls it with a reference"
)]
fn is_zero(jobs: &u64) -> bool {
    *jobs == 0
}

/// The pause of a kind, or of all kinds.
#[derive(Serialize, ToSchema)]
pub(crate) struct Paused {
    /// When it ends by itself; absent if it does not.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Moment>)]
    until: Option<Timestamp>,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Who paused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    by: Option<String>,
    /// When it was paused.
    #[schema(value_type = schema::Moment)]
    since: Timestamp,
}

impl From<&KindSetting> for Paused {
    fn from(setting: &KindSetting) -> Self {
        Self {
            until: setting.paused_until,
            reason: setting.reason.clone(),
            by: setting.by.clone(),
            since: setting.at,
        }
    }
}

/// List the queues
///
/// How many durable jobs of each kind wait and run, also of kinds that no consumer has ever served or that are
/// paused.
/// The answer may be two seconds old.
#[utoipa::path(
    get,
    path = "/v1/queues",
    operation_id = "list_queues",
    tag = "system",
    responses(
        (status = 200, description = "The queues", body = Queues),
    )
)]
pub(crate) async fn queues(
    State(app): State<App>,
    _reader: Reader,
) -> Result<Json<Queues>, Problem> {
    let answer = app.queues().await?;
    let of = |queue: &client::Queue| Queue {
        kind: queue.kind.clone(),
        waiting: queue.waiting,
        waiting_high: queue.waiting_high,
        waiting_low: queue.waiting_low,
        at_least: queue.at_least,
        served: queue.served,
        running: queue.running,
        redelivered: queue.redelivered,
        paused: queue.paused.as_ref().map(Paused::from),
        oldest: queue.oldest,
        oldest_age_ms: queue.oldest.map(age_ms),
    };
    Ok(Json(Queues {
        queues: answer.queues.iter().map(of).collect(),
        waiting: answer.waiting,
        all_paused: answer.all_paused.as_ref().map(Paused::from),
    }))
}
