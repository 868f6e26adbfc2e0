//! Cancels many jobs, or runs many waiting jobs now, in one request.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use client::{Filter, ManyAction, SearchText};
use common::{JobState, KindPattern, Timestamp};
use serde::Deserialize;
use utoipa::IntoParams;

use super::params::{Params, parsed};
use super::schema;
use crate::app::App;
use crate::auth::Operator;
use crate::bulk::Bounds;
use crate::http::Problem;
use crate::jobs_bulk::{self, Cancellations, Expect, JobsOutcome, JobsWork, RunsNow};

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Query {
    /// Only jobs of this kind, or of kinds that match: in a pattern a token may be `*` (any one token) and
    /// the last may be `>` (one or more tokens). One of `kind`, `state`, `since`, `until` and `text` is
    /// required.
    #[serde(default, deserialize_with = "parsed")]
    #[param(value_type = Option<String>, max_length = 128, example = "mail.*")]
    kind: Option<KindPattern>,
    /// Only jobs in this state. Jobs that have ended cannot be cancelled, and only those that are scheduled or
    /// retrying can be run now.
    #[param(value_type = Option<schema::State>)]
    state: Option<JobState>,
    /// Only jobs whose state began at this time or later.
    #[param(value_type = Option<schema::Moment>)]
    since: Option<Timestamp>,
    /// Only jobs whose state began before this time.
    #[param(value_type = Option<schema::Moment>)]
    until: Option<Timestamp>,
    /// Only jobs with this text in their payload, or in the error of an attempt; upper and lower case are
    /// the same.
    #[serde(default, deserialize_with = "parsed")]
    #[param(value_type = Option<String>, min_length = 1, max_length = 256)]
    text: Option<SearchText>,
    /// Only count the jobs, and change nothing. False if absent.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    dry_run: bool,
    /// How many jobs the client expects to match. If another number matches at the beginning, nothing is
    /// done, and the answer is 409.
    expect: Option<u64>,
}

/// Cancel many jobs
///
/// Each job that matches and has not ended, the newest first. When the answer comes, the requests to
/// cancel are stored; consumers carry them out. The request takes as long as the work, at most five
/// minutes. The work ends early, and the answer says how far it came, when the time is over, the token is
/// withdrawn, or the gateway stops; it also ends when the client disconnects.
#[utoipa::path(
    post,
    path = "/v1/jobs/cancel",
    operation_id = "cancel_jobs",
    tag = "jobs",
    params(Query),
    responses(
        (status = 200, description = "The result", body = Cancellations),
        (status = 400, description = "A wrong parameter", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Not as many jobs match as `expect` says; nothing was done", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "A limit is reached", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn cancel(
    State(app): State<App>,
    operator: Operator,
    headers: HeaderMap,
    Params(query): Params<Query>,
) -> Result<Json<Cancellations>, Problem> {
    let outcome = work(&app, operator, &headers, query, ManyAction::Cancel).await?;
    Ok(Json(outcome.into()))
}

/// Run many waiting jobs now
///
/// Each job that matches and waits for its time or for its next attempt, the newest first, is due within about
/// a second. This needs a consumer, whatever kinds it serves. Jobs that began to wait after the start are left
/// out. The request takes as long as the work, at most five minutes. The work ends early, and the answer says how
/// far it came, when the time is over, the token is withdrawn, or the gateway stops; it also ends when the client
/// disconnects.
#[utoipa::path(
    post,
    path = "/v1/jobs/run-now",
    operation_id = "run_jobs_now",
    tag = "jobs",
    params(Query),
    responses(
        (status = 200, description = "The result", body = RunsNow),
        (status = 400, description = "A wrong parameter", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Not as many jobs match as `expect` says; nothing was done", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "A limit is reached", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn run_now(
    State(app): State<App>,
    operator: Operator,
    headers: HeaderMap,
    Params(query): Params<Query>,
) -> Result<Json<RunsNow>, Problem> {
    let outcome = work(&app, operator, &headers, query, ManyAction::RunNow).await?;
    Ok(Json(outcome.into()))
}

/// Cancels the jobs that match, or runs them now.
async fn work(
    app: &App,
    operator: Operator,
    headers: &HeaderMap,
    query: Query,
    action: ManyAction,
) -> Result<JobsOutcome, Problem> {
    let filter = Filter {
        state: query.state,
        kind: query.kind,
        since: query.since,
        until: query.until,
        text: query.text,
    };
    let sound = action.check(&filter);
    sound.map_err(|(field, text)| Problem::bad(field, text))?;
    let _permit = app.limits.wait()?;
    app.check_nats()?;
    let bounds = Bounds::of_request(app, headers)?;
    let work = JobsWork {
        action,
        filter,
        dry_run: query.dry_run,
        expect: query.expect.map(Expect::Exactly),
        by: operator.name,
    };
    jobs_bulk::run(app, &work, bounds).await
}
