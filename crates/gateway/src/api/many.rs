//! Many jobs in one request.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bootstrap::trace::TraceContext;
use bytes::Bytes;
use common::{JobId, Outcome};
use durable::NewJob;
use futures_util::{StreamExt as _, stream};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::hand_over::{Answer, Delivery, Ended, Terms, begin, hand_over, wait_for_stored};
use super::schema;
use super::submit::read_job;
use crate::app::App;
use crate::problem::Problem;

/// The most jobs in one request.
const MOST: usize = 10_000;

/// The most of them that are waited for.
const MOST_WAITED: usize = 100;

/// So many of them are handed over at a time: enough for a full batch of the stream.
const TOGETHER: usize = 1000;

/// What became of many jobs.
#[derive(Serialize, ToSchema)]
pub(crate) struct Many {
    /// How many were accepted, or have ended.
    accepted: usize,
    /// How many were not.
    refused: usize,
    /// What became of each, in the order of the request.
    jobs: Vec<One>,
}

/// What became of one of many jobs.
#[derive(Serialize, ToSchema)]
pub(crate) struct One {
    /// What the status would be were it alone.
    status: u16,
    /// Its id, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<uuid::Uuid>)]
    id: Option<JobId>,
    /// Durable: whether a job with this id was there before.
    #[serde(skip_serializing_if = "Option::is_none")]
    known: Option<bool>,
    /// Durable, and ended while it was waited for: its record.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<Box<Ended>>,
    /// Confirmed: its outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<schema::Outcome>)]
    outcome: Option<Box<Outcome>>,
    /// Why it was not accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<Problem>,
}

/// Cuts a body into jobs, without copying them.
pub(super) fn split(body: &Bytes, lines: bool) -> Result<Vec<Bytes>, Problem> {
    let jobs: Vec<Bytes> = if lines {
        let lines = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let lines = lines.filter(|line| !line.is_empty());
        lines.map(|line| body.slice_ref(line)).collect()
    } else {
        let array: Vec<&RawValue> = serde_json::from_slice(body).map_err(|error| {
            let text = format!("the body is not JSON: {error}");
            Problem::new(StatusCode::BAD_REQUEST, text)
        })?;
        let parts = array.iter();
        parts
            .map(|job| body.slice_ref(job.get().as_bytes()))
            .collect()
    };
    if jobs.is_empty() {
        let text = "there is no job in the body";
        return Err(Problem::new(StatusCode::BAD_REQUEST, text));
    }
    if jobs.len() > MOST {
        let text = format!("{} jobs, and {MOST} are the most in a request", jobs.len());
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, text));
    }
    Ok(jobs)
}

/// Hands them over.
pub(super) async fn submit(
    app: &App,
    terms: Terms,
    all_or_none: bool,
    jobs: Vec<Bytes>,
    trace: Option<&TraceContext>,
) -> Result<Response, Problem> {
    app.check_nats()?;
    let waits = terms.wait.is_some() || terms.delivery == Delivery::Confirmed;
    if waits && jobs.len() > MOST_WAITED {
        let text = format!("at most {MOST_WAITED} jobs of one request can be waited for");
        return Err(Problem::bad("wait", text));
    }
    let places = u32::try_from(jobs.len()).unwrap_or(u32::MAX);
    let _places = if waits {
        Some(app.limits.wait_for(places)?)
    } else {
        None
    };
    let jobs = jobs.into_iter().map(|bytes| read_job(bytes, None));
    let jobs: Vec<_> = jobs.collect();
    if all_or_none {
        return together(app, terms, trace, jobs).await;
    }
    let one = async |job: Result<NewJob, Problem>| match job {
        Ok(job) => One::of(hand_over(app, terms, trace, job).await),
        Err(problem) => One::of(Err(problem)),
    };
    let jobs = stream::iter(jobs).map(one).buffered(TOGETHER);
    Ok(answer(jobs.collect().await))
}

/// Stores all of them or none, and waits for them then.
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
    let begin = |job| begin(app, terms.delivery, trace, job);
    let spans: Vec<_> = jobs.iter_mut().map(begin).collect();
    app.submitter.submit_all(&jobs).await?;
    drop(spans);
    let stored = async |job: NewJob| {
        let answer = wait_for_stored(app, terms.wait, job.id, false).await;
        One::of(Ok(answer))
    };
    let stored = stream::iter(jobs).map(stored).buffered(TOGETHER);
    Ok(answer(stored.collect().await))
}

fn answer(jobs: Vec<One>) -> Response {
    let refused = jobs.iter().filter(|job| job.problem.is_some()).count();
    let status = if refused == 0 {
        StatusCode::ACCEPTED
    } else {
        StatusCode::MULTI_STATUS
    };
    let many = Many {
        accepted: jobs.len() - refused,
        refused,
        jobs,
    };
    (status, Json(many)).into_response()
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
