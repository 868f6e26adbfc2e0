//! Cancels many jobs, for the API and the pages.

use std::sync::Arc;

use axum::http::StatusCode;
use client::{Canceller, Filter, Listed, NatsClient, ToCancel};
use serde::Serialize;
use tracing::{info, warn};
use utoipa::ToSchema;

use crate::app::App;
use crate::bulk::Bounds;
use crate::http::Problem;

/// Which jobs are cancelled.
#[derive(Debug)]
pub(crate) struct CancelWork {
    /// Which jobs; it has passed [`check`].
    pub(crate) filter: Filter,
    /// Only count the jobs.
    pub(crate) dry_run: bool,
    /// How many jobs must match at the beginning; `None` is any number.
    pub(crate) expect: Option<Expect>,
    /// The name of the token of whoever asked for it, for the log.
    pub(crate) by: Arc<str>,
}

/// How many jobs must match at the beginning. If others do, nothing is done.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Expect {
    /// As many as this.
    Exactly(u64),
    /// As many, or fewer: jobs end while a person thinks.
    AtMost(u64),
}

/// The result of a request to cancel many jobs.
#[derive(Debug, Default, Serialize, ToSchema)]
#[schema(as = ManyCancellations)]
pub(crate) struct Cancellations {
    /// How many jobs matched.
    pub(crate) matched: usize,
    /// How many requests to cancel a job were stored; 0 with `dry_run`.
    pub(crate) requested: usize,
    /// How many requests to cancel a job were not stored, or may not have been.
    pub(crate) failed: usize,
    /// Whether all jobs that match were read. If not, send the request again to go on.
    pub(crate) complete: bool,
    /// The last error: why a request to cancel was not stored, or why the work ended before all jobs
    /// were read. Absent if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
}

/// How many jobs match.
pub(crate) struct Count {
    pub(crate) jobs: u64,
    /// Whether all jobs were read.
    pub(crate) complete: bool,
}

/// Refuses a filter that means all jobs, or only jobs that have ended.
///
/// # Errors
/// The field that is wrong, and why, in words.
pub(crate) fn check(filter: &Filter) -> Result<(), (&'static str, String)> {
    if filter.is_all() {
        let text = "say which jobs by kind, state, time or text";
        return Err(("kind", text.to_owned()));
    }
    match filter.state {
        Some(state) if state.is_final() => {
            let text = format!("a job that is {state} has ended, and cannot be cancelled");
            Err(("state", text))
        }
        _ => Ok(()),
    }
}

/// Counts the jobs that match and have not ended, to somewhat more than `most`, within these bounds.
///
/// # Errors
/// When the jobs cannot be listed.
pub(crate) async fn count(
    client: &NatsClient,
    filter: &Filter,
    bounds: &mut Bounds,
    most: u64,
) -> Result<Count, Problem> {
    let mut count = Count {
        jobs: 0,
        complete: false,
    };
    let mut pages = ToCancel::new(client, filter).await?;
    while count.jobs <= most {
        let next = tokio::select! {
            biased;
            _ = bounds.reached() => return Ok(count),
            next = pages.next() => next?,
        };
        let Some(page) = next else {
            count.complete = true;
            return Ok(count);
        };
        count.jobs += page.len() as u64;
    }
    Ok(count)
}

/// Requests to cancel each job that matches and has not ended, the newest first; with `dry_run`, only
/// counts them.
///
/// If the work ends early, the outcome says what was done until then.
///
/// # Errors
/// When the jobs cannot be listed at the beginning, or not as many match as expected.
pub(crate) async fn run(
    app: &App,
    work: &CancelWork,
    mut bounds: Bounds,
) -> Result<Cancellations, Problem> {
    let client = &app.nats.client;
    // With an expectation, no more jobs are cancelled than were counted.
    let mut left = usize::MAX;
    if let Some(expect) = work.expect {
        let most = match expect {
            Expect::Exactly(jobs) | Expect::AtMost(jobs) => jobs,
        };
        let found = count(client, &work.filter, &mut bounds, most).await?;
        expected(expect, &found)?;
        left = usize::try_from(found.jobs).unwrap_or(usize::MAX);
    }
    let canceller = Canceller::new(client, app.nats.connected());
    let mut pages = ToCancel::new(client, &work.filter).await?;
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
            Ok(Some(mut page)) => {
                if page.len() > left {
                    page.truncate(left);
                    outcome.error = Some(
                        "more jobs match by now than were counted at the beginning".to_owned(),
                    );
                }
                left -= page.len();
                outcome.matched += page.len();
                if !work.dry_run {
                    ask(&canceller, page, &mut outcome).await;
                }
            }
            Ok(None) => {
                outcome.complete = outcome.error.is_none() || left > 0;
                break;
            }
            Err(error) if outcome.matched == 0 => return Err(error.into()),
            Err(error) => {
                outcome.error = Some(format!("the jobs cannot be listed: {error:#}"));
                break;
            }
        }
    }
    let filter = &work.filter;
    info!(
        by = %work.by, kind = ?filter.kind, state = ?filter.state, since = ?filter.since,
        until = ?filter.until, text = ?filter.text, dry_run = work.dry_run,
        matched = outcome.matched, requested = outcome.requested, failed = outcome.failed,
        complete = outcome.complete, error = outcome.error, "asked to cancel many jobs"
    );
    Ok(outcome)
}

/// Refuses if other numbers of jobs match than the client expects.
fn expected(expect: Expect, found: &Count) -> Result<(), Problem> {
    let refused = |text: String| {
        let text = format!("nothing was done: {text}");
        Err(Problem::new(StatusCode::CONFLICT, text).on_field("expect"))
    };
    let (Expect::Exactly(most) | Expect::AtMost(most)) = expect;
    if found.jobs > most {
        return refused(format!("{most} jobs were expected, and more match"));
    }
    if !found.complete {
        return refused("the jobs could not be counted in time".to_owned());
    }
    match expect {
        Expect::Exactly(jobs) if jobs != found.jobs => {
            let text = format!("{jobs} jobs were expected, and {} match", found.jobs);
            refused(text)
        }
        _ => Ok(()),
    }
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
