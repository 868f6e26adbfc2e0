//! Many jobs in one request.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bootstrap::trace::TraceContext;
use bytes::Bytes;
use client::NewJob;
use common::{JobId, Outcome};
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use utoipa::ToSchema;

use super::body::read_job;
use super::hand_over::{Answer, Delivery, Ended, Terms, begin, hand_over, wait_for_stored};
use super::schema;
use crate::app::App;
use crate::http::Problem;

/// The most jobs of one request that can be waited for.
const MAX_WAITED: usize = 100;

/// How many jobs are handed over at the same time: enough for a full batch of the stream.
const CONCURRENT: usize = 1000;

/// The results of a request with many jobs.
#[derive(Serialize, ToSchema)]
pub(crate) struct Many {
    /// How many jobs were accepted, or have ended.
    accepted: usize,
    /// How many jobs were refused.
    refused: usize,
    /// The result of each job, in the order of the request.
    jobs: Vec<One>,
}

/// The result of one of many jobs.
#[derive(Serialize, ToSchema)]
pub(crate) struct One {
    /// The status that the job would get in a request of its own.
    status: u16,
    /// The id of the job, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    id: Option<JobId>,
    /// Durable: whether a job with this id existed before, so that none was stored.
    #[serde(skip_serializing_if = "Option::is_none")]
    known: Option<bool>,
    /// Durable, and ended during the wait: the record of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<Box<Ended>>,
    /// Confirmed: the outcome of the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Outcome>)]
    outcome: Option<Box<Outcome>>,
    /// Why the job was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
}

/// Hands many jobs over, and answers with the result of each.
pub(super) async fn submit(
    app: &App,
    terms: Terms,
    all_or_none: bool,
    jobs: Vec<Bytes>,
    trace: Option<&TraceContext>,
) -> Result<Response, Problem> {
    app.check_nats()?;
    let waits = terms.waits();
    if waits && jobs.len() > MAX_WAITED {
        let text = format!("at most {MAX_WAITED} jobs of one request can be waited for");
        return Err(Problem::bad("wait", text));
    }
    let permits = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
    let _permits = if waits {
        Some(app.limits.wait_for(permits)?)
    } else {
        None
    };
    let jobs = jobs.into_iter().map(|bytes| read_job(bytes, None));
    let jobs: Vec<_> = jobs.collect();
    if all_or_none {
        return together(app, terms, trace, jobs).await;
    }
    let one = async |job: Result<NewJob, Problem>| match job {
        Ok(job) => One::of(hand_over(app, terms, trace, job, None).await),
        Err(problem) => One::of(Err(problem)),
    };
    let jobs = stream::iter(jobs).map(one).buffered(CONCURRENT);
    answer(jobs.collect().await)
}

/// Stores all jobs or none, then waits for their ends if that is asked for.
async fn together(
    app: &App,
    terms: Terms,
    trace: Option<&TraceContext>,
    jobs: Vec<Result<NewJob, Problem>>,
) -> Result<Response, Problem> {
    let numbered = jobs.into_iter().enumerate().map(|(number, job)| {
        job.map_err(|mut problem| {
            let field = problem.field.take();
            let field = field.map_or(format!("[{number}]"), |field| format!("[{number}].{field}"));
            problem.on_field(field)
        })
    });
    let mut jobs: Vec<NewJob> = numbered.collect::<Result<_, _>>()?;
    app.check_safety().await?;
    let begin = |job| begin(app, terms.delivery, trace, job);
    let mut spans: Vec<_> = jobs.iter_mut().map(begin).collect();
    let stored = app.submitter.submit_all(&jobs).await;
    let stored = stored.map_err(Problem::from);
    // They may have been stored over a new connection, which leads to another server.
    let stored = match stored {
        Ok(()) => app.check_safety().await,
        Err(problem) => Err(problem),
    };
    if let Err(problem) = stored {
        for span in &mut spans {
            span.failed(problem.status.as_str(), &problem.detail);
        }
        return Err(problem);
    }
    drop(spans);
    let stored = async |job: NewJob| {
        let answer = wait_for_stored(app, terms.wait, job.id, false).await;
        One::of(Ok(answer))
    };
    let stored = stream::iter(jobs).map(stored).buffered(CONCURRENT);
    answer(stored.collect().await)
}

/// The answer. If every job was refused, it is the first problem, so that nobody takes it for success.
fn answer(jobs: Vec<One>) -> Result<Response, Problem> {
    let problems = || jobs.iter().filter_map(|job| job.problem.as_ref());
    let refused = problems().count();
    if refused == jobs.len()
        && let Some(first) = problems().next()
    {
        let text = format!(
            "none of the {refused} jobs was accepted; the first problem: {}",
            first.detail
        );
        let mut problem = first.clone();
        problem.detail = text.into();
        problem.field = problem.field.map(|field| format!("[0].{field}"));
        return Err(match problems().filter_map(Problem::wait).max() {
            Some(wait) => problem.retry_after(wait),
            None => problem,
        });
    }
    let ended = jobs.iter().all(|job| job.status == StatusCode::OK.as_u16());
    let status = match refused {
        0 if ended => StatusCode::OK,
        0 => StatusCode::ACCEPTED,
        _ => StatusCode::MULTI_STATUS,
    };
    let many = Many {
        accepted: jobs.len() - refused,
        refused,
        jobs,
    };
    Ok((status, Json(many)).into_response())
}

impl One {
    fn of(answer: Result<Answer, Problem>) -> Self {
        let mut one = Self {
            status: StatusCode::OK.as_u16(),
            id: None,
            known: None,
            record: None,
            outcome: None,
            problem: None,
        };
        match answer {
            Ok(Answer::Accepted(accepted)) => {
                one.status = StatusCode::ACCEPTED.as_u16();
                one.id = Some(accepted.id);
                one.known = (accepted.delivery == Delivery::Durable).then_some(accepted.known);
            }
            Ok(Answer::Kept(accepted)) => {
                one.id = Some(accepted.id);
                one.known = (accepted.delivery == Delivery::Durable).then_some(accepted.known);
            }
            Ok(Answer::Ended(ended)) => {
                one.id = Some(ended.record.id);
                one.known = Some(ended.known);
                one.record = Some(ended);
            }
            Ok(Answer::Outcome(outcome)) => {
                one.id = outcome.id;
                one.outcome = Some(outcome);
            }
            Err(problem) => {
                one.status = problem.status.as_u16();
                one.id = problem.id;
                one.problem = Some(problem);
            }
        }
        one
    }
}
