//! Groups of dead letters with the same error.

use axum::Json;
use axum::extract::State;
use client::{Which, dead_letters};
use common::{DeadReason, JobId, JobKind, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::params::Params;
use super::schema;
use crate::app::App;
use crate::auth::Reader;
use crate::http::Problem;

/// The most dead letters that are grouped.
const MAX_GROUPED: usize = 10_000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GroupsQuery {
    /// Only dead letters of this kind.
    #[param(value_type = Option<schema::Kind>)]
    kind: Option<JobKind>,
    /// Only dead letters with this reason.
    #[param(value_type = Option<schema::Reason>)]
    reason: Option<DeadReason>,
}

/// Groups of dead letters.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterGroups)]
pub(crate) struct Grouped {
    /// The groups, the largest first.
    groups: Vec<Group>,
    /// How many dead letters were grouped.
    looked_at: u64,
    /// Whether these are all dead letters that match; if not, they are the newest.
    complete: bool,
}

/// Dead letters with the same kind, reason and error.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterGroup)]
pub(crate) struct Group {
    /// The kind of their jobs.
    #[schema(value_type = schema::Kind)]
    kind: JobKind,
    /// Why the jobs were given up.
    #[schema(value_type = Option<schema::Reason>)]
    reason: Option<DeadReason>,
    /// The code of the last error; empty if no error is known.
    code: String,
    /// The message of the last error, without numbers and ids: the parameter `error` of a list, a replay
    /// and a discard.
    error: String,
    /// How many of the grouped dead letters are in this group.
    count: u64,
    /// When the newest of them was given up.
    #[schema(value_type = schema::Moment)]
    newest: Timestamp,
    /// When the oldest of them was given up.
    #[schema(value_type = schema::Moment)]
    oldest: Timestamp,
    /// The job of the newest of them.
    #[schema(value_type = uuid::Uuid)]
    example: JobId,
}

/// Group dead letters by their errors
///
/// Only the newest 10,000 are read.
#[utoipa::path(
    get,
    path = "/v1/dead-letters/groups",
    operation_id = "group_dead_letters",
    tag = "dead letters",
    params(GroupsQuery),
    responses(
        (status = 200, description = "The groups", body = Grouped),
        (status = 400, description = "A wrong parameter", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn groups(
    State(app): State<App>,
    _reader: Reader,
    Params(query): Params<GroupsQuery>,
) -> Result<Json<Grouped>, Problem> {
    let which = Which {
        kind: query.kind,
        reason: query.reason,
        error: None,
    };
    app.check_nats()?;
    let groups = dead_letters::groups(&app.nats.client, &which, MAX_GROUPED).await?;
    let of = |group: dead_letters::Group| Group {
        kind: group.kind,
        reason: group.reason,
        code: group.code,
        error: group.message,
        count: group.count,
        newest: group.newest,
        oldest: group.oldest,
        example: group.example,
    };
    Ok(Json(Grouped {
        groups: groups.groups.into_iter().map(of).collect(),
        looked_at: groups.looked_at,
        complete: groups.complete,
    }))
}
