//! Reads jobs from the body of a submission.

use std::fmt;

use axum::http::{HeaderMap, StatusCode, header};
use bytes::Bytes;
use client::NewJob;
use common::{DecodeError, JobId, JobMessage, Timestamp, subjects};
use serde::de::{IgnoredAny, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};

use crate::http::Problem;

/// The most jobs in one request.
pub(super) const MAX_JOBS: usize = 10_000;

/// The longest `Idempotency-Key`, in bytes.
const MAX_KEY: usize = 255;

/// The media type in `Content-Type`, without parameters; empty if there is none.
pub(super) fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE);
    let text = value.and_then(|value| value.to_str().ok()).unwrap_or("");
    text.split(';').next().unwrap_or_default().trim()
}

/// Refuses a body that is not said to be JSON.
pub(super) fn must_be_json(headers: &HeaderMap) -> Result<(), Problem> {
    if media_type(headers).eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let text = "Content-Type must be application/json";
    Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, text).on_field("Content-Type"))
}

/// Reads an object from a JSON body. `shape` says what it should look like, for a body that is an array;
/// `wrong` begins the error of any other body.
pub(super) fn read_object<'a, T: Deserialize<'a>>(
    headers: &HeaderMap,
    body: &'a [u8],
    shape: &str,
    wrong: &str,
) -> Result<T, Problem> {
    must_be_json(headers)?;
    // The derived reader would accept an array as well.
    if body.trim_ascii_start().first() == Some(&b'[') {
        let text = format!("the body is an array instead of {shape}");
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text));
    }
    serde_json::from_slice(body).map_err(|error| {
        let status = if error.is_data() {
            StatusCode::UNPROCESSABLE_ENTITY
        } else {
            StatusCode::BAD_REQUEST
        };
        Problem::new(status, format!("{wrong}: {error}"))
    })
}

/// Whether the body is NDJSON. Everything but NDJSON and JSON is refused, so that a form on a page of
/// another site cannot become a job.
pub(super) fn is_ndjson(headers: &HeaderMap) -> Result<bool, Problem> {
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

/// The id of a job that stands for the `Idempotency-Key`, if there is one.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<JobId>, Problem> {
    const NAME: &str = "Idempotency-Key";
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Problem::bad(NAME, "the header is given more than once"));
    }
    let bytes = value.as_bytes();
    // The IETF draft puts the key between quotes; most clients do not.
    let inner = bytes
        .strip_prefix(b"\"")
        .and_then(|key| key.strip_suffix(b"\""));
    let key = inner.unwrap_or(bytes);
    if key.is_empty() || key.len() > MAX_KEY {
        return Err(Problem::bad(NAME, "1 to 255 characters"));
    }
    Ok(Some(client::id_of_key(key)))
}

/// Reads a job. It gets the id of the `Idempotency-Key`, if there is one.
pub(super) fn read_job(bytes: Bytes, key: Option<JobId>) -> Result<NewJob, Problem> {
    let Some(key) = key else {
        return Ok(NewJob::decode(bytes)?);
    };
    let mut job = JobMessage::decode(&bytes)?;
    if job.id.is_some_and(|id| id != key) {
        let text = "field `id`: the job has another id than its Idempotency-Key stands for";
        return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, text).on_field("id"));
    }
    job.id = Some(key);
    job.created_at.get_or_insert_with(Timestamp::now);
    // What was decoded can be encoded.
    let payload = serde_json::to_vec(&job).map_err(DecodeError::NotJson)?;
    let mut headers = async_nats::HeaderMap::new();
    headers.insert(subjects::REQUEST_HEADER, hash_of(&bytes));
    Ok(NewJob {
        id: key,
        fresh: false,
        kind: job.kind,
        priority: job.priority,
        run_at: job.run_at,
        unique: job.unique,
        payload: payload.into(),
        headers,
    })
}

/// A hash of a request, in hex digits.
fn hash_of(body: &[u8]) -> String {
    let hash = Sha256::digest(body);
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    format!("{:032x}", u128::from_be_bytes(bytes))
}

/// The text of each job of an array. Of an array that is too long, one more than [`MAX_JOBS`].
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
                while jobs.len() < MAX_JOBS
                    && let Some(job) = array.next_element()?
                {
                    jobs.push(job);
                }
                // The rest is skipped, so that a long array costs no memory.
                while let Some(IgnoredAny) = array.next_element()? {
                    if jobs.len() == MAX_JOBS {
                        jobs.push(RawValue::NULL);
                    }
                }
                Ok(Jobs(jobs))
            }
        }

        reader.deserialize_seq(Elements)
    }
}

/// Splits a body into jobs, without copying them: lines of NDJSON, or the elements of a JSON array.
pub(super) fn split(body: &Bytes, lines: bool) -> Result<Vec<Bytes>, Problem> {
    let too_many = || {
        let text = format!("the body has more than {MAX_JOBS} jobs");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, text)
    };
    let jobs: Vec<Bytes> = if lines {
        let lines = body.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
        let lines = lines.filter(|line| !line.is_empty()).take(MAX_JOBS + 1);
        lines.map(|line| body.slice_ref(line)).collect()
    } else {
        let Jobs(array) = serde_json::from_slice(body).map_err(|error| {
            let text = format!("the body is not JSON: {error}");
            Problem::new(StatusCode::BAD_REQUEST, text)
        })?;
        if array.len() > MAX_JOBS {
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
    if jobs.len() > MAX_JOBS {
        return Err(too_many());
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

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
        let read = JobMessage::decode(&job.payload).unwrap();
        assert_eq!(read.id, id);
        assert_eq!(read.payload.unwrap().get(), "1.50");
        let other = br#"{"kind":"a","id":"01890a5d-ac96-774b-bcce-b302099a8057"}"#;
        let problem = read_job(Bytes::from_static(other), id).unwrap_err();
        assert_eq!(
            (problem.status.as_u16(), problem.field.as_deref()),
            (422, Some("id"))
        );
    }

    fn count(body: String, lines: bool) -> Result<usize, u16> {
        let jobs = split(&body.into(), lines);
        jobs.map(|jobs| jobs.len())
            .map_err(|problem| problem.status.as_u16())
    }

    #[test]
    fn a_body_with_too_many_jobs_is_refused() {
        let array = |count: usize| format!("[{}]", vec!["1"; count].join(", "));
        assert_eq!(count(array(2), false), Ok(2));
        assert_eq!(count(array(MAX_JOBS), false), Ok(MAX_JOBS));
        assert_eq!(count(array(MAX_JOBS + 1), false), Err(413));
        assert_eq!(count(array(MAX_JOBS + 7), false), Err(413));
        assert_eq!(count("[1,".to_owned(), false), Err(400));
        assert_eq!(count("[] 1".to_owned(), false), Err(400));
        assert_eq!(count("\n1\n \n2\r\n".to_owned(), true), Ok(2));
        assert_eq!(count("1\n".repeat(MAX_JOBS + 1), true), Err(413));
        assert_eq!(count("\n".to_owned(), true), Err(400));
    }

    #[test]
    fn jobs_are_cut_out_as_they_are_written() {
        let body = Bytes::from_static(b" [ {\"a\" : 1.50} ,\n7]");
        let jobs = split(&body, false).unwrap();
        assert_eq!(jobs, [&b"{\"a\" : 1.50}"[..], b"7"]);
    }
}
