//! Dead letters by what was wrong with them.

use axum::Json;
use axum::extract::State;
use client::{Which, dead_letters};
use common::{DeadReason, JobId, JobKind, Timestamp};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::params::Params;
use super::schema;
use crate::access::Reader;
use crate::app::App;
use crate::problem::Problem;

/// The most letters that are looked at for groups.
const GROUPED: usize = 10_000;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct GroupsQuery {
    /// Only those of this kind.
    #[param(value_type = Option<schema::Kind>)]
    kind: Option<JobKind>,
    /// Only those that were given up for this reason.
    #[param(value_type = Option<schema::Reason>)]
    reason: Option<DeadReason>,
}

/// Dead letters by what was wrong.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterGroups)]
pub(crate) struct Grouped {
    /// The groups, the largest first.
    groups: Vec<Group>,
    /// How many letters are in them.
    looked_at: u64,
    /// Whether these are all; if not, they are the newest.
    complete: bool,
}

/// Dead letters that failed alike.
#[derive(Serialize, ToSchema)]
#[schema(as = DeadLetterGroup)]
pub(crate) struct Group {
    /// Their kind.
    #[schema(value_type = schema::Kind)]
    kind: JobKind,
    /// Why they were given up.
    #[schema(value_type = Option<schema::Reason>)]
    reason: Option<DeadReason>,
    /// The code of the last error; empty if it is not known.
    code: String,
    /// Its message without what differs from job to job: `error` in a list, a replay, a discard.
    error: String,
    /// How many they are, of those that were looked at.
    count: u64,
    /// When the last of them was given up.
    #[schema(value_type = schema::Moment)]
    newest: Timestamp,
    /// When the first of them was given up.
    #[schema(value_type = schema::Moment)]
    oldest: Timestamp,
    /// The last of them.
    #[schema(value_type = uuid::Uuid)]
    example: JobId,
}

/// Group dead letters by their errors
///
/// The newest 10,000 are looked at.
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
    let groups = dead_letters::groups(&app.nats.client, &which, GROUPED).await?;
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
