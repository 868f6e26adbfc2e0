//! `POST /v1/jobs`.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bootstrap::trace::TraceContext;
use common::WireDuration;
use serde::Deserialize;
use utoipa::IntoParams;

use super::body::{idempotency_key, is_ndjson, read_job, split};
use super::hand_over::{Accepted, Answer, Delivery, Terms, hand_over};
use super::many::{self, Many};
use super::params::Params;
use super::schema;
use crate::app::App;
use crate::auth::Sender;
use crate::http::{MAX_BODY_OF_MANY_JOBS, Problem};

/// The longest wait for the end of a job.
const MAX_WAIT: Duration = Duration::from_mins(5);

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Query {
    /// How the jobs are delivered, and what is promised.
    #[serde(default)]
    #[param(inline)]
    delivery: Delivery,
    /// How long the request waits for the end of the jobs, such as `30s`; at most `5m`, and at most
    /// 100 jobs. Not with `fire-and-forget`.
    #[param(value_type = Option<schema::Duration>, example = "30s")]
    wait: Option<WireDuration>,
    /// For several durable jobs, at most 1,000: store all of them or none.
    #[serde(default)]
    all_or_none: bool,
}

/// Submit jobs
///
/// The body is one job as JSON, an array of jobs, or one job per line (NDJSON). A durable job is on
/// the disk of the server when this is answered.
///
/// With the header `Idempotency-Key`, the same request sent again makes no second job, and another
/// request is refused with 422. The key becomes the id of the job: a UUID as it is, any other text as a
/// UUID made from it.
#[utoipa::path(
    post,
    path = "/v1/jobs",
    operation_id = "submit_jobs",
    tag = "jobs",
    params(
        Query,
        ("Idempotency-Key" = Option<String>, Header, description = "Up to 255 characters; for one job only", max_length = 255),
    ),
    request_body(content(
        (schema::OneOrMany = "application/json"),
        (String = "application/x-ndjson"),
    )),
    responses(
        (status = 200, description = "One job, waited for: the outcome (confirmed), or the record (durable); or what became of many, all of which have ended; or the job that holds the key of a unique job with `on_conflict` `keep`", body = schema::OutcomeOrEnded),
        (status = 202, description = "One job is accepted; or all of many: what became of each, in their order", body = schema::AcceptedOrMany,
            headers(("Location" = String, description = "Where one durable job can be seen"))),
        (status = 207, description = "Some of many jobs were refused, and others not: what became of each, in their order. Where all are refused, the answer is that for the first", body = Many),
        (status = 400, description = "Not JSON, or a wrong parameter", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "Another job holds the key of a unique job: `holder`; or all_or_none: a job with one of the ids is there already", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "A job, or the body, is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "Neither JSON nor NDJSON", body = Problem, content_type = "application/problem+json"),
        (status = 422, description = "Not a job; `field` names what is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "A limit is reached, and `detail` says which", body = Problem, content_type = "application/problem+json"),
        (status = 502, description = "An answer that makes no sense", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "NATS or the consumers are away, or full", body = Problem, content_type = "application/problem+json",
            headers(("Retry-After" = u64, description = "Seconds"))),
        (status = 504, description = "confirmed: no outcome in time", body = Problem, content_type = "application/problem+json"),
    )
)]
pub(crate) async fn submit(
    State(app): State<App>,
    _sender: Sender,
    Params(query): Params<Query>,
    trace: Option<Extension<TraceContext>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let trace = trace.as_deref();
    let terms = query.terms()?;
    let lines = is_ndjson(&headers)?;
    let key = idempotency_key(&headers)?;
    // How many jobs there are is only known once the body is read.
    let body = app
        .limits
        .read(&headers, body, MAX_BODY_OF_MANY_JOBS)
        .await?;
    let bytes = body.bytes.clone();
    let is_array = bytes.trim_ascii_start().first() == Some(&b'[');
    if lines || is_array {
        if key.is_some() {
            let text =
                "an Idempotency-Key is for one job; give each of several jobs an `id` instead";
            return Err(Problem::bad("Idempotency-Key", text));
        }
        let jobs = split(&bytes, lines)?;
        return many::submit(&app, terms, query.all_or_none, jobs, trace).await;
    }
    if query.all_or_none {
        return Err(Problem::bad("all_or_none", "this is for several jobs"));
    }
    let job = read_job(bytes, key)?;
    let _permit = if terms.waits() {
        Some(app.limits.wait()?)
    } else {
        None
    };
    hand_over(&app, terms, trace, job, Some(body))
        .await
        .map(answer)
}

fn answer(answer: Answer) -> Response {
    match answer {
        Answer::Accepted(accepted) => located(StatusCode::ACCEPTED, &accepted),
        Answer::Kept(accepted) => located(StatusCode::OK, &accepted),
        Answer::Ended(ended) => Json(*ended).into_response(),
        Answer::Outcome(outcome) => Json(*outcome).into_response(),
    }
}

fn located(status: StatusCode, accepted: &Accepted) -> Response {
    let mut response = (status, Json(accepted)).into_response();
    if accepted.delivery == Delivery::Durable
        && let Ok(location) = HeaderValue::from_str(&format!("/v1/jobs/{}", accepted.id))
    {
        response.headers_mut().insert(header::LOCATION, location);
    }
    response
}

impl Query {
    fn terms(&self) -> Result<Terms, Problem> {
        let wait = self.wait.map(WireDuration::get);
        if wait.is_some_and(|wait| wait > MAX_WAIT) {
            return Err(Problem::bad("wait", "the longest wait is 5m"));
        }
        match self.delivery {
            Delivery::FireAndForget if wait.is_some() => {
                let text = "a fire-and-forget job has no outcome to wait for";
                return Err(Problem::bad("wait", text));
            }
            Delivery::Confirmed | Delivery::FireAndForget if self.all_or_none => {
                let text = "only durable jobs can be stored together";
                return Err(Problem::bad("all_or_none", text));
            }
            _ => {}
        }
        Ok(Terms {
            delivery: self.delivery,
            wait,
        })
    }
}
