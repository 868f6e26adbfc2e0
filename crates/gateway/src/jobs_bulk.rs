//! Cancels many jobs, or runs many waiting jobs now, for the API and the pages.

use std::sync::Arc;

use axum::http::StatusCode;
use client::{Filter, Listed, ManyAction, ManyJobs, ManyWorker, NatsClient};
use serde::Serialize;
use tracing::{info, warn};
use utoipa::ToSchema;

use crate::app::App;
use crate::bulk::Bounds;
use crate::http::Problem;

/// What is done with which jobs.
#[derive(Debug)]
pub(crate) struct JobsWork {
    pub(crate) action: ManyAction,
    /// Which jobs; it has passed [`ManyAction::check`].
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

/// The result of work on many jobs.
#[derive(Debug, Default)]
pub(crate) struct JobsOutcome {
    /// How many jobs matched.
    matched: usize,
    /// How many requests to cancel a job were stored, or how many jobs run now.
    pub(crate) done: usize,
    pub(crate) failed: usize,
    pub(crate) complete: bool,
    /// The last error.
    pub(crate) error: Option<String>,
}

/// The result of a request to run many jobs now.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ManyRunsNow)]
pub(crate) struct RunsNow {
    /// How many jobs matched.
    matched: usize,
    /// How many of them are due within about a second now; 0 with `dry_run`. The others, unless they failed,
    /// did not wait any more.
    started: usize,
    /// For how many jobs it is not known: send the request again.
    failed: usize,
    /// Whether all jobs that match were read. If not, send the request again to go on.
    complete: bool,
    /// The last error. Absent if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl From<JobsOutcome> for RunsNow {
    fn from(outcome: JobsOutcome) -> Self {
        Self {
            matched: outcome.matched,
            started: outcome.done,
            failed: outcome.failed,
            complete: outcome.complete,
            error: outcome.error,
        }
    }
}

/// The result of a request to cancel many jobs.
#[derive(Debug, Serialize, ToSchema)]
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

impl From<JobsOutcome> for Cancellations {
    fn from(outcome: JobsOutcome) -> Self {
        Self {
            matched: outcome.matched,
            requested: outcome.done,
            failed: outcome.failed,
            complete: outcome.complete,
            error: outcome.error,
        }
    }
}

/// How many jobs match.
pub(crate) struct Count {
    pub(crate) jobs: u64,
    /// Whether all jobs were read.
    pub(crate) complete: bool,
}

/// Counts the jobs that match and can be cancelled, or run now, to somewhat more than `most`, within these bounds.
///
/// # Errors
/// When the jobs cannot be listed.
pub(crate) async fn count(
    client: &NatsClient,
    action: ManyAction,
    filter: &Filter,
    bounds: &mut Bounds,
    most: u64,
) -> Result<Count, Problem> {
    let mut count = Count {
        jobs: 0,
        complete: false,
    };
    let mut pages = ManyJobs::new(client, action, filter).await?;
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

/// Cancels each job that matches and has not ended, or runs each now that waits for a time, the newest first;
/// with `dry_run`, only counts them.
///
/// If the work ends early, the outcome says what was done until then.
///
/// # Errors
/// When the jobs cannot be listed at the beginning, or not as many match as expected.
pub(crate) async fn run(
    app: &App,
    work: &JobsWork,
    mut bounds: Bounds,
) -> Result<JobsOutcome, Problem> {
    let client = &app.nats.client;
    // With an expectation, no more jobs are changed than were counted.
    let mut left = usize::MAX;
    if let Some(expect) = work.expect {
        let most = match expect {
            Expect::Exactly(jobs) | Expect::AtMost(jobs) => jobs,
        };
        let found = count(client, work.action, &work.filter, &mut bounds, most).await?;
        expected(expect, &found)?;
        left = usize::try_from(found.jobs).unwrap_or(usize::MAX);
    }
    let worker = ManyWorker::new(client, app.nats.connected(), work.action);
    let mut pages = ManyJobs::new(client, work.action, &work.filter).await?;
    let mut outcome = JobsOutcome::default();
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
                    apply(&worker, page, &mut outcome).await;
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
        by = %work.by, action = ?work.action, kind = ?filter.kind, state = ?filter.state, since = ?filter.since,
        until = ?filter.until, text = ?filter.text, dry_run = work.dry_run,
        matched = outcome.matched, done = outcome.done, failed = outcome.failed,
        complete = outcome.complete, error = outcome.error, "asked to cancel many jobs, or to run them now"
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

/// Cancels the jobs of a page, or runs them now.
async fn apply(worker: &ManyWorker, page: Vec<Listed>, outcome: &mut JobsOutcome) {
    let all = worker.apply(page.iter().map(|job| job.id)).await;
    outcome.done += all.done;
    outcome.failed += all.failed.len();
    for (id, error) in all.failed {
        warn!(job.id = %id, "a job was to be cancelled or run now, and may not be: {error}");
        outcome.error = Some(format!("job {id}: {error}"));
    }
}
