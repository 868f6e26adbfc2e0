//! Replays or discards many dead letters in one request.

use std::num::NonZeroU32;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use client::Which;
use client::dead_letters::{self, Action};
use common::{DeadReason, JobKind};
use serde::Deserialize;
use utoipa::IntoParams;

use super::params::Params;
use super::schema;
use crate::app::App;
use crate::auth::Operator;
use crate::bulk::{self, Bounds, BulkOutcome, BulkWork};
use crate::http::Problem;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Query {
    /// Only dead letters of this kind.
    #[param(value_type = Option<schema::Kind>)]
    kind: Option<JobKind>,
    /// Only dead letters with this reason.
    #[param(value_type = Option<schema::Reason>)]
    reason: Option<DeadReason>,
    /// Only dead letters of the group with this `error`.
    error: Option<String>,
    /// All dead letters. Needed if no other parameter says which.
    #[serde(default)]
    all: bool,
    /// The most dead letters a second.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 100_000)]
    rate: Option<NonZeroU32>,
    /// How many dead letters the client expects to match. If another number matches at the beginning,
    /// nothing is done, and the answer is 409.
    expect: Option<u64>,
}

impl Query {
    fn which(self) -> Result<(Which, Option<NonZeroU32>), Problem> {
        let named = self.kind.is_some() || self.reason.is_some() || self.error.is_some();
        if named == self.all {
            let text = "say which dead letters by kind, reason or error, or say all=true";
            return Err(Problem::bad("all", text));
        }
        let which = Which {
            kind: self.kind,
            reason: self.reason,
            error: self.error,
        };
        bulk::check_rate(self.rate).map_err(|text| Problem::bad("rate", text))?;
        Ok((which, self.rate))
    }
}

/// Replay many dead letters
///
/// Those that match and exist at the beginning, the oldest first. The request takes as long as the work,
/// at most five minutes. The work ends early, and the answer says how far it came, when the time is
/// over, the token is withdrawn, or the gateway stops; it also ends when the client disconnects.
#[utoipa::path(
    post,
    path = "/v1/dead-letters/replay",
    operation_id = "replay_dead_letters",
    tag = "dead letters",
    params(Query),
    responses(
        (status = 200, description = "The result", body = BulkOutcome),
        (status = 400, description = "A wrong parameter", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Not as many dead letters match as `expect` says; nothing was done", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "A limit is reached", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn replay(
    State(app): State<App>,
    operator: Operator,
    headers: HeaderMap,
    Params(query): Params<Query>,
) -> Result<Json<BulkOutcome>, Problem> {
    run(&app, Action::Replay, query, operator, &headers).await
}

/// Discard many dead letters
///
/// Those that match and exist at the beginning, the oldest first. The request takes as long as the work,
/// at most five minutes. The work ends early, and the answer says how far it came, when the time is
/// over, the token is withdrawn, or the gateway stops; it also ends when the client disconnects.
#[utoipa::path(
    delete,
    path = "/v1/dead-letters",
    operation_id = "discard_dead_letters",
    tag = "dead letters",
    params(Query),
    responses(
        (status = 200, description = "The result", body = BulkOutcome),
        (status = 400, description = "A wrong parameter", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Not as many dead letters match as `expect` says; nothing was done", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "A limit is reached", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn discard(
    State(app): State<App>,
    operator: Operator,
    headers: HeaderMap,
    Params(query): Params<Query>,
) -> Result<Json<BulkOutcome>, Problem> {
    run(&app, Action::Discard, query, operator, &headers).await
}

async fn run(
    app: &App,
    action: Action,
    query: Query,
    operator: Operator,
    headers: &HeaderMap,
) -> Result<Json<BulkOutcome>, Problem> {
    let expect = query.expect;
    let (which, rate) = query.which()?;
    let _permit = app.limits.wait()?;
    app.check_nats()?;
    if let Some(expected) = expect {
        check_count(app, &which, expected).await?;
    }
    let work = BulkWork {
        action,
        which,
        rate,
        by: operator.name,
    };
    let bounds = Bounds::of_request(app, headers)?;
    bulk::run(app, &work, bounds, |_| ()).await.map(Json)
}

/// Refuses if another number of dead letters matches than the client expects.
async fn check_count(app: &App, which: &Which, expected: u64) -> Result<(), Problem> {
    let count = dead_letters::count_matching(&app.nats.client, which).await?;
    if count == expected {
        return Ok(());
    }
    let text =
        format!("nothing was done: {expected} dead letters were expected, and {count} match");
    Err(Problem::new(StatusCode::CONFLICT, text).on_field("expect"))
}
