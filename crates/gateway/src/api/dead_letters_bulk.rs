//! Many dead letters at once.

use std::num::NonZeroU32;

use axum::Json;
use axum::extract::State;
use client::Which;
use client::dead_letters::Action;
use common::{DeadReason, JobKind};
use serde::Deserialize;
use utoipa::IntoParams;

use super::params::Params;
use super::schema;
use crate::access::Operator;
use crate::app::App;
use crate::bulk::{self, Came};
use crate::problem::Problem;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Query {
    /// Only those of this kind.
    #[param(value_type = Option<schema::Kind>)]
    kind: Option<JobKind>,
    /// Only those that were given up for this reason.
    #[param(value_type = Option<schema::Reason>)]
    reason: Option<DeadReason>,
    /// Only those of the group with this message.
    error: Option<String>,
    /// Needed where nothing else says which are meant: all of them.
    #[serde(default)]
    all: bool,
    /// So many a second, at most.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100_000)]
    rate: Option<NonZeroU32>,
}

impl Query {
    fn which(self) -> Result<(Which, Option<NonZeroU32>), Problem> {
        let named = self.kind.is_some() || self.reason.is_some() || self.error.is_some();
        if named == self.all {
            let text = "say which are meant by kind, reason or error, or that all are by all=true";
            return Err(Problem::bad("all", text));
        }
        let which = Which {
            kind: self.kind,
            reason: self.reason,
            error: self.error,
        };
        Ok((which, self.rate))
    }
}

/// Replay many dead letters
///
/// Those that are meant and are there at the beginning, the oldest first. The request lasts as long
/// as it takes, at most five minutes, and stops when its client goes.
#[utoipa::path(
    post,
    path = "/v1/dead-letters/replay",
    operation_id = "replay_dead_letters",
    tag = "dead letters",
    params(Query),
    responses(
        (status = 200, description = "What came of it", body = Came),
        (status = 400, description = "A wrong parameter", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "A limit is reached", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn replay(
    State(app): State<App>,
    operator: Operator,
    Params(query): Params<Query>,
) -> Result<Json<Came>, Problem> {
    let (which, rate) = query.which()?;
    bulk::all(&app, &which, rate, Action::Replay, &operator)
        .await
        .map(Json)
}

/// Discard many dead letters
///
/// Those that are meant and are there at the beginning, the oldest first. The request lasts as long
/// as it takes, at most five minutes, and stops when its client goes.
#[utoipa::path(
    delete,
    path = "/v1/dead-letters",
    operation_id = "discard_dead_letters",
    tag = "dead letters",
    params(Query),
    responses(
        (status = 200, description = "What came of it", body = Came),
        (status = 400, description = "A wrong parameter", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "A limit is reached", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn discard(
    State(app): State<App>,
    operator: Operator,
    Params(query): Params<Query>,
) -> Result<Json<Came>, Problem> {
    let (which, rate) = query.which()?;
    bulk::all(&app, &which, rate, Action::Discard, &operator)
        .await
        .map(Json)
}
