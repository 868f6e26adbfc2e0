//! Many jobs in one request.

use std::fmt;

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bootstrap::trace::TraceContext;
use bytes::Bytes;
use client::{NewJob, SubmitError};
use common::{JobId, Outcome};
use futures_util::future::try_join_all;
use futures_util::{StreamExt as _, stream};
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::hand_over::{
    Answer, Delivery, Ended, Terms, begin, hand_over, has_record, wait_for_stored,
};
use super::schema;
use super::submit::read_job;
use crate::app::App;
use crate::problem::Problem;

/// The most jobs in one request.
pub(super) const MOST: usize = 10_000;

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

/// The jobs of an array as they are written; of one that has too many, one more than there may be.
struct Jobs<'a>(Vec<&'a RawValue>);

impl<'de> Deserialize<'de> for Jobs<'de> {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        struct Elements;

        impl<'de> Visitor<'de> for Elements {
            type Value = Jobs<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of jobs")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
                let mut jobs = Vec::new();
                while jobs.len() < MOST
                    && let Some(job) = array.next_element()?
                {
                    jobs.push(job);
                }
                // What follows is passed over, so that a long array costs no memory.
                while let Some(IgnoredAny) = array.next_element()? {
                    if jobs.len() == MOST {
                        jobs.push(RawValue::NULL);
                    }
                }
                Ok(Jobs(jobs))
            }
        }

        reader.deserialize_seq(Elements)
    }
}

/// Cuts a body into jobs, without copying them.
pub(super) fn split(body: &Bytes, lines: bool) -> Result<Vec<Bytes>, Problem> {
    let too_many = || {
        let text = format!("more than {MOST} jobs, which are the most in a request");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    };
    let jobs: Vec<Bytes> = if lines {
        let lines = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let lines = lines.filter(|line| !line.is_empty()).take(MOST + 1);
        lines.map(|line| body.slice_ref(line)).collect()
    } else {
        let Jobs(array) = serde_json::from_slice(body).map_err(|error| {
            let text = format!("the body is not JSON: {error}");
            Problem::new(StatusCode::BAD_REQUEST, text)
        })?;
        if array.len() > MOST {
            return Err(too_many());
        }
        let jobs = array.iter();
        jobs.map(|job| body.slice_ref(job.get().as_bytes()))
            .collect()
    };
    if jobs.is_empty() {
        let text = "there is no job in the body";
        return Err(Problem::new(StatusCode::BAD_REQUEST, text));
    }
    if jobs.len() > MOST {
        return Err(too_many());
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
    let waits = terms.waits();
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
        Ok(job) => One::of(hand_over(app, terms, trace, job, None).await),
        Err(problem) => One::of(Err(problem)),
    };
    let jobs = stream::iter(jobs).map(one).buffered(TOGETHER);
    answer(jobs.collect().await)
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
    app.check_safety().await?;
    for some in jobs.chunks(TOGETHER) {
        let records = some.iter().map(|job| has_record(app, job));
        if try_join_all(records).await?.contains(&true) {
            return Err(SubmitError::SomeKnown.into());
        }
    }
    let begin = |job| begin(app, terms.delivery, trace, job);
    let mut spans: Vec<_> = jobs.iter_mut().map(begin).collect();
    let stored = app.submitter.submit_all(&jobs).await;
    let stored = stored.map_err(Problem::from);
    // They may have been stored after a new connection to another server.
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
    let stored = stream::iter(jobs).map(stored).buffered(TOGETHER);
    answer(stored.collect().await)
}

/// What became of all: where none was taken, the first problem, so that nobody takes it for success.
fn answer(jobs: Vec<One>) -> Result<Response, Problem> {
    let problems = || jobs.iter().filter_map(|job| job.problem.as_ref());
    let refused = problems().count();
    if refused == jobs.len()
        && let Some(first) = problems().next()
    {
        let text = format!(
            "none of {refused} jobs was taken; the first: {}",
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

#[cfg(test)]
mod tests {
    use super::*;

    fn count(body: String, lines: bool) -> Result<usize, u16> {
        let jobs = split(&body.into(), lines);
        jobs.map(|jobs| jobs.len())
            .map_err(|problem| problem.status.as_u16())
    }

    #[test]
    fn a_body_is_cut_into_no_more_jobs_than_may_be() {
        let array = |count: usize| format!("[{}]", vec!["1"; count].join(", "));
        assert_eq!(count(array(2), false), Ok(2));
        assert_eq!(count(array(MOST), false), Ok(MOST));
        assert_eq!(count(array(MOST + 1), false), Err(413));
        assert_eq!(count(array(MOST + 7), false), Err(413));
        assert_eq!(count("[1,".to_owned(), false), Err(400));
        assert_eq!(count("[] 1".to_owned(), false), Err(400));
        assert_eq!(count("\n1\n \n2\r\n".to_owned(), true), Ok(2));
        assert_eq!(count("1\n".repeat(MOST + 1), true), Err(413));
        assert_eq!(count("\n".to_owned(), true), Err(400));
    }

    #[test]
    fn jobs_are_cut_out_as_they_are_written() {
        let body = Bytes::from_static(b" [ {\"a\" : 1.50} ,\n7]");
        let jobs = split(&body, false).unwrap();
        assert_eq!(jobs, [&b"{\"a\" : 1.50}"[..], b"7"]);
    }
}
