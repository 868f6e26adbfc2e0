//! `POST /v1/jobs`.

use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bootstrap::trace::TraceContext;
use bytes::Bytes;
use client::NewJob;
use common::{DecodeError, Job, JobId, Timestamp, WireDuration};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use utoipa::IntoParams;

use super::hand_over::{Answer, Delivery, Terms, hand_over};
use super::many::{self, Many};
use super::params::Params;
use super::schema;
use crate::access::Sender;
use crate::app::App;
use crate::limits::MOST_OF_MANY;
use crate::problem::Problem;

/// The longest wait for the end of a job.
const LONGEST_WAIT: Duration = Duration::from_mins(5);

/// The longest `Idempotency-Key`, in bytes.
const LONGEST_KEY: usize = 255;

#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(crate) struct Query {
    /// How the jobs travel, and what is promised.
    #[serde(default)]
    #[param(inline)]
    delivery: Delivery,
    /// How long the request is kept open until the outcome, such as `30s`; at most `5m`. Not for
    /// `fire-and-forget`. With several durable jobs, for at most 100 of them.
    #[param(value_type = Option<schema::Duration>, example = "30s")]
    wait: Option<WireDuration>,
    /// With several durable jobs, at most 1,000: store all of them or none.
    #[serde(default)]
    all_or_none: bool,
}

/// Submit jobs
///
/// One job as JSON, an array of jobs, or one job a line (NDJSON). A durable job is on the disk of
/// the server when this is answered.
///
/// The header `Idempotency-Key` makes repetitions of the same request one job: a UUID is the id of
/// the job, any other text is turned into one, always the same.
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
        (status = 200, description = "One job, waited for: the outcome (confirmed), or the record (durable); or what became of many, all of which have ended", body = schema::OutcomeOrEnded),
        (status = 202, description = "One job is accepted; or all of many: what became of each, in their order", body = schema::AcceptedOrMany,
            headers(("Location" = String, description = "Where one durable job can be seen"))),
        (status = 207, description = "Some of many jobs were refused, and others not: what became of each, in their order. Where all are refused, the answer is that for the first", body = Many),
        (status = 400, description = "Not JSON, or a wrong parameter", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "all_or_none: a job with one of the ids is there already", body = Problem, content_type = "application/problem+json"),
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
    // What a message may hold is known only for one job; how many there are, only then.
    let body = app.limits.read(&headers, body, MOST_OF_MANY).await?;
    let bytes = body.bytes.clone();
    let is_array = bytes.trim_ascii_start().first() == Some(&b'[');
    if lines || is_array {
        if key.is_some() {
            let text = "an Idempotency-Key is for one job; give each of several an id instead";
            return Err(Problem::bad("Idempotency-Key", text));
        }
        let jobs = many::split(&bytes, lines)?;
        return many::submit(&app, terms, query.all_or_none, jobs, trace).await;
    }
    if query.all_or_none {
        return Err(Problem::bad("all_or_none", "this is for several jobs"));
    }
    let job = read_job(bytes, key)?;
    let _place = if terms.waits() {
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
        Answer::Accepted(accepted) => {
            let mut response = (StatusCode::ACCEPTED, Json(&accepted)).into_response();
            if accepted.delivery == Delivery::Durable
                && let Ok(place) = HeaderValue::from_str(&format!("/v1/jobs/{}", accepted.id))
            {
                response.headers_mut().insert(header::LOCATION, place);
            }
            response
        }
        Answer::Ended(ended) => Json(*ended).into_response(),
        Answer::Outcome(outcome) => Json(*outcome).into_response(),
    }
}

impl Query {
    fn terms(&self) -> Result<Terms, Problem> {
        let wait = self.wait.map(WireDuration::get);
        if wait.is_some_and(|wait| wait > LONGEST_WAIT) {
            return Err(Problem::bad("wait", "the longest wait is 5m"));
        }
        match self.delivery {
            Delivery::FireAndForget if wait.is_some() => {
                let text = "nobody is told what becomes of a fire-and-forget job";
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

/// What a body says that it is, without parameters.
pub(super) fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE);
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or("");
    text.split(';').next().unwrap_or_default().trim()
}

/// Whether the body is NDJSON; what is neither that nor JSON is refused, so that no form of
/// another site's page becomes a job.
fn is_ndjson(headers: &HeaderMap) -> Result<bool, Problem> {
    let kind = media_type(headers);
    if kind.eq_ignore_ascii_case("application/json") {
        return Ok(false);
    }
    let lines = [
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
    ];
    if lines.iter().any(|lines| kind.eq_ignore_ascii_case(lines)) {
        return Ok(true);
    }
    let text = "Content-Type must be application/json or application/x-ndjson";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text).on_field("Content-Type"))
}

/// The id that a key stands for.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<JobId>, Problem> {
    const NAME: &str = "Idempotency-Key";
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Problem::bad(NAME, "it is given more than once"));
    }
    let bytes = value.as_bytes();
    // The draft of the IETF puts it between quotes, and most clients do not.
    let inner = bytes
        .strip_prefix(b"\"")
        .and_then(|key| key.strip_suffix(b"\""));
    let key = inner.unwrap_or(bytes);
    if key.is_empty() || key.len() > LONGEST_KEY {
        return Err(Problem::bad(NAME, "1 to 255 characters"));
    }
    let as_id = std::str::from_utf8(key)
        .ok()
        .and_then(|text| text.parse().ok());
    Ok(Some(as_id.unwrap_or_else(|| id_of_key(key))))
}

/// A UUID of version 8 made from a text: the same for the same text, on every gateway.
fn id_of_key(key: &[u8]) -> JobId {
    let mut hash = Sha256::new();
    // So that it is not a hash that the text has elsewhere.
    hash.update(b"jobs gateway: Idempotency-Key\0");
    hash.update(key);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    let uuid = uuid::Builder::from_custom_bytes(bytes).into_uuid();
    // Any UUID is an id; were it not, the job would be given another one.
    uuid.to_string()
        .parse()
        .unwrap_or_else(|_| JobId::generate())
}

/// Reads a job, which has this id if there is one.
pub(super) fn read_job(bytes: Bytes, key: Option<JobId>) -> Result<NewJob, Problem> {
    let Some(key) = key else {
        return Ok(NewJob::decode(bytes)?);
    };
    let mut job = Job::decode(&bytes)?;
    if job.id.is_some_and(|id| id != key) {
        let text = "field `id`: the job has another id than its Idempotency-Key stands for";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text).on_field("id"));
    }
    job.id = Some(key);
    job.created_at.get_or_insert_with(Timestamp::now);
    // What was read can be written.
    let payload = serde_json::to_vec(&job).map_err(DecodeError::NotJson)?;
    Ok(NewJob {
        id: key,
        fresh: false,
        kind: job.kind,
        priority: job.priority,
        run_at: job.run_at,
        payload: payload.into(),
        headers: async_nats::HeaderMap::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &'static str) -> Result<Option<JobId>, Problem> {
        let mut headers = HeaderMap::new();
        headers.insert("idempotency-key", HeaderValue::from_static(text));
        idempotency_key(&headers)
    }

    #[test]
    fn a_key_stands_for_the_same_id_everywhere_and_for_ever() {
        let uuid = "01890a5d-ac96-774b-bcce-b302099a8057";
        assert_eq!(key(uuid).unwrap().unwrap().to_string(), uuid);
        let order = key("order-17").unwrap().unwrap();
        // Were this to change, an upgrade would run jobs twice.
        assert_eq!(order.to_string(), "f16f7b04-2cb4-8757-90ff-becd9c5f3d57");
        assert_eq!(key("\"order-17\"").unwrap(), Some(order));
        assert_ne!(key("order-18").unwrap(), Some(order));
        assert!(key("").is_err());
    }

    #[test]
    fn a_job_takes_the_id_of_its_key() {
        let id = key("order-17").unwrap();
        let job = read_job(Bytes::from_static(br#"{"kind":"a","payload":1.50}"#), id).unwrap();
        let read = Job::decode(&job.payload).unwrap();
        assert_eq!(read.id, id);
        assert_eq!(read.payload.unwrap().get(), "1.50");
        let other = br#"{"kind":"a","id":"01890a5d-ac96-774b-bcce-b302099a8057"}"#;
        let problem = read_job(Bytes::from_static(other), id).unwrap_err();
        assert_eq!(
            (problem.status.as_u16(), problem.field.as_deref()),
            (422, Some("id"))
        );
    }
}
