//! Cancels many jobs in one request.

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use client::{Canceller, Filter, Listed, ToCancel};
use common::{JobKind, JobState};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};
use utoipa::{IntoParams, ToSchema};

use super::params::Params;
use super::schema;
use crate::app::App;
use crate::auth::Operator;
use crate::bulk::Bounds;
use crate::http::Problem;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Query {
    /// Only jobs of this kind. `kind` or `state` is required.
    #[param(value_type = Option<schema::Kind>)]
    kind: Option<JobKind>,
    /// Only jobs in this state, in which a job has not ended.
    #[param(value_type = Option<schema::State>)]
    state: Option<JobState>,
    /// Only count the jobs, and change nothing. False if absent.
    #[serde(default)]
    #[param(value_type = Option<bool>)]
    dry_run: bool,
}

impl Query {
    fn filter(self) -> Result<Filter, Problem> {
        if self.kind.is_none() && self.state.is_none() {
            let text = "say which jobs by kind, by state or by both";
            return Err(Problem::bad("kind", text));
        }
        if let Some(state) = self.state.filter(|state| state.is_final()) {
            let text = format!("a job that is {state} has ended, and cannot be cancelled");
            return Err(Problem::bad("state", text));
        }
        Ok(Filter {
            state: self.state,
            kind: self.kind.map(Into::into),
            ..Filter::default()
        })
    }
}

/// The result of a request to cancel many jobs.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ManyCancellations)]
pub(crate) struct Cancellations {
    /// How many jobs matched.
    matched: usize,
    /// How many requests to cancel a job were stored; 0 with `dry_run`.
    requested: usize,
    /// How many requests to cancel a job were not stored, or may not have been.
    failed: usize,
    /// Whether all jobs that match were read. If not, send the request again to go on.
    complete: bool,
    /// The last error: why a request to cancel was not stored, or why the work ended before all jobs
    /// were read. Absent if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
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
        (status = 429, description = "A limit is reached", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn cancel(
    State(app): State<App>,
    operator: Operator,
    headers: HeaderMap,
    Params(query): Params<Query>,
) -> Result<Json<Cancellations>, Problem> {
    let dry_run = query.dry_run;
    let filter = query.filter()?;
    let _permit = app.limits.wait()?;
    app.check_nats()?;
    let mut bounds = Bounds::of_request(&app, &headers)?;
    let canceller = Canceller::new(&app.nats.client, app.nats.connected());
    let mut pages = ToCancel::new(&app.nats.client, &filter).await?;
    let mut outcome = Cancellations::default();
    loop {
        // In this order, so that no number of pages hides an end.
        let next = tokio::select! {
            biased;
            why = bounds.reached() => {
                outcome.error = why.or(outcome.error);
                break;
            }
            next = pages.next() => next,
        };
        match next {
            Ok(Some(page)) => {
                outcome.matched += page.len();
                if !dry_run {
                    ask(&canceller, page, &mut outcome).await;
                }
            }
            Ok(None) => {
                outcome.complete = true;
                break;
            }
            Err(error) if outcome.matched == 0 => return Err(error.into()),
            Err(error) => {
                outcome.error = Some(format!("the jobs cannot be listed: {error:#}"));
                break;
            }
        }
    }
    info!(
        by = %operator.name, kind = ?filter.kind, state = ?filter.state, dry_run,
        matched = outcome.matched, requested = outcome.requested, failed = outcome.failed,
        complete = outcome.complete, error = outcome.error, "asked to cancel many jobs"
    );
    Ok(Json(outcome))
}

/// Requests to cancel the jobs of a page.
async fn ask(canceller: &Canceller, page: Vec<Listed>, outcome: &mut Cancellations) {
    let refused = canceller.cancel(page.iter().map(|job| job.id)).await;
    outcome.requested += page.len() - refused.len();
    outcome.failed += refused.len();
    for (id, error) in refused {
        warn!(job.id = %id, "request to cancel not stored: {error}");
        outcome.error = Some(format!("job {id}: {error}"));
    }
}
