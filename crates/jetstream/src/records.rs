//! Reads and encodes the records of jobs.

use std::collections::HashMap;
use std::hash::BuildHasher;

use anyhow::Context as _;
use async_nats::{HeaderMap, StatusCode};
use bytes::Bytes;
use common::{JobId, JobRecord, OutcomeError, Retention, subjects};
use connection::{NatsClient, Subscriber};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::json;
use tokio::time::Instant;
use tracing::warn;

use crate::headers::{EXPECTED_LAST, EXPECTED_LAST_OF, TTL, is_copy};
use crate::message::Message;
use crate::request::{self, ApiError, PATIENCE, unless_forbidden};
use crate::topology::Stream;
use crate::{cluster, direct_get};

/// The stored record of a job.
#[derive(Debug, Default)]
pub struct StoredRecord {
    /// The record; `None` if what is stored cannot be read.
    pub record: Option<JobRecord>,
    /// The sequence of the record in the stream, which the next record has to expect.
    pub sequence: u64,
}

/// Looks up many records with one request. In a cluster, the answer may be older than what the leader of the
/// stream has: see [`confirm`].
#[derive(Debug)]
pub struct Records {
    client: NatsClient,
    inbox: String,
    answers: Subscriber,
    /// The number of the request, so that late answers to an earlier one are recognised.
    request: u64,
}

/// How many records are asked of a leader at the same time.
const ABREAST: usize = 64;

/// The most records in one request; the server takes 1,024.
pub const MOST: usize = 512;

impl Records {
    /// Subscribes to the answers.
    ///
    /// # Errors
    /// When the connection is closed.
    pub async fn new(client: &NatsClient) -> Result<Self, ApiError> {
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await;
        let answers = answers.map_err(|error| request::no_answer(&inbox, error.to_string()))?;
        Ok(Self {
            client: client.clone(),
            inbox,
            answers,
            request: 0,
        })
    }

    /// The records of these jobs, at most [`MOST`]. A job without a record is not in the map.
    ///
    /// # Errors
    /// See [`ApiError`]; also when the server does not return all records.
    pub async fn of(
        &mut self,
        ids: impl IntoIterator<Item = JobId>,
    ) -> Result<HashMap<JobId, StoredRecord>, ApiError> {
        let subjects: Vec<_> = ids.into_iter().map(subjects::record).collect();
        let mut found = HashMap::new();
        if subjects.is_empty() {
            return Ok(found);
        }
        self.request += 1;
        let reply = format!("{}.{}", self.inbox, self.request);
        let body = json!({"multi_last": subjects}).to_string();
        let subject = format!("$JS.API.DIRECT.GET.{}", Stream::State);
        let no_answer = |problem: String| request::no_answer(&subject, problem);
        let ask = self
            .client
            .publish_with_reply(subject.clone(), reply.clone(), body.into());
        let answers = async {
            ask.await.map_err(|error| no_answer(error.to_string()))?;
            while let Some(answer) = self.answers.next().await {
                if answer.subject.as_str() != reply {
                    continue;
                }
                match answer.status {
                    None | Some(StatusCode::OK) => {
                        let headers = answer.headers.unwrap_or_default();
                        let (id, sequence) = origin(&headers).ok_or_else(|| {
                            no_answer("a record without the headers of a direct get".to_owned())
                        })?;
                        let record = read(id, Some(&headers), &answer.payload);
                        let there: &mut StoredRecord = found.entry(id).or_default();
                        // Somebody else may have stored something beside the record.
                        if there.record.is_none() || (record.is_some() && sequence > there.sequence)
                        {
                            there.record = record;
                        }
                        there.sequence = there.sequence.max(sequence);
                    }
                    // None of the jobs has a record.
                    Some(StatusCode::NOT_FOUND) => return Ok(()),
                    Some(status) if status.as_u16() == 204 => {
                        let left = answer.headers.as_ref().and_then(|headers| {
                            headers.get("Nats-Num-Pending")?.as_str().parse().ok()
                        });
                        if left.unwrap_or(0) > 0 {
                            return Err(no_answer("the server did not send all".to_owned()));
                        }
                        return Ok(());
                    }
                    Some(StatusCode::NO_RESPONDERS) => {
                        return Err(ApiError::NoJetStream(subject.clone()));
                    }
                    Some(status) => return Err(direct_get::refused(&subject, status, &answer)),
                }
            }
            Err(no_answer("the connection to NATS is closed".to_owned()))
        };
        let answers = tokio::time::timeout(PATIENCE, answers);
        unless_forbidden(&self.client, &subject, answers)
            .await?
            .map_err(|_| no_answer(format!("no answer within {PATIENCE:?}")))??;
        Ok(found)
    }
}

/// The message that stores a record. The stream stores it only if the last record of the job has the
/// expected sequence (0 for none), and removes it after the time to live, if there is one.
#[must_use]
pub fn message(id: JobId, record: Bytes, expected: u64, ttl: Option<&str>) -> Message {
    let mut headers = guard(id, expected);
    if let Some(ttl) = ttl {
        headers.insert(TTL, ttl);
    }
    Message {
        subject: subjects::state(id),
        headers,
        payload: record,
    }
}

/// The message that stores the record of a job that has ended, if the job had no record before. The
/// stream stores it only if the job has none. It has no time to live: with one, its removal would cost
/// the server more than everything else that it does for the job. Consumers remove these records
/// together.
#[must_use]
pub fn first_and_last(id: JobId, record: Bytes, retention: Retention) -> Message {
    Message {
        subject: subjects::ended(retention, id),
        headers: guard(id, 0),
        payload: record,
    }
}

fn guard(id: JobId, expected: u64) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(EXPECTED_LAST, expected.to_string());
    headers.insert(EXPECTED_LAST_OF.clone(), subjects::record(id));
    headers
}

/// Reads the record of a job, as it is stored or as its event tells it.
///
/// # Errors
/// When it is not the record of this job: see [`is_copy`].
pub fn decode(id: JobId, headers: Option<&HeaderMap>, record: &[u8]) -> Result<JobRecord, String> {
    if headers.is_some_and(is_copy) {
        return Err("it is a copy of another message".to_owned());
    }
    let record: JobRecord = serde_json::from_slice(record).map_err(|error| error.to_string())?;
    if record.id == id {
        Ok(record)
    } else {
        Err(format!("it is the record of the job {}", record.id))
    }
}

/// To how many bytes error messages are cut in a record that is too large.
pub const SHORT: usize = 512;

/// Cuts the message of an error to at most `longest` bytes.
pub fn shorten(error: &mut OutcomeError, longest: usize) {
    let end = error.message.floor_char_boundary(longest);
    error.message.truncate(end);
}

/// A record as JSON of at most `limit` bytes, however many attempts have failed. If it is too large,
/// the job is left out, then the error messages are cut and the oldest failures left out. The last
/// failure stays, because attempts are counted from it.
///
/// # Panics
/// Never: a record is plain data with text for keys.
#[must_use]
pub fn encode(record: &JobRecord, limit: usize) -> Bytes {
    let encoded = |record: &JobRecord| {
        serde_json::to_vec(record).expect("a record is plain data with text for keys")
    };
    let mut bytes = encoded(record);
    if bytes.len() > limit {
        let mut record = record.clone();
        record.job = None;
        bytes = encoded(&record);
        if bytes.len() <= limit {
            return bytes.into();
        }
        for longest in [SHORT, 0] {
            for failure in &mut record.failures {
                shorten(&mut failure.error, longest);
            }
            bytes = encoded(&record);
            while bytes.len() > limit && record.failures.len() > 1 {
                record.failures.drain(..record.failures.len() / 2);
                bytes = encoded(&record);
            }
            if bytes.len() <= limit {
                break;
            }
        }
    }
    bytes.into()
}

/// The job whose record an answer holds, and the sequence of the record.
fn origin(headers: &HeaderMap) -> Option<(JobId, u64)> {
    // The server adds its own headers behind those of the message.
    let subject = headers.get_last(async_nats::header::NATS_SUBJECT)?.as_str();
    let id = subjects::parse_record(subject)?;
    let sequence = headers.get_last(async_nats::header::NATS_SEQUENCE)?;
    Some((id, sequence.as_str().parse().ok()?))
}

/// Looks up the record of one job; in a cluster, in the leader of the stream.
///
/// # Errors
/// When the server does not answer in time.
pub async fn one(client: &NatsClient, id: JobId) -> anyhow::Result<Option<StoredRecord>> {
    if cluster::is_clustered(client) {
        return from_leader(client, id).await;
    }
    let ask = || async move {
        let mut records = Records::new(client).await?;
        records.of([id]).await
    };
    let until = Instant::now() + 2 * PATIENCE;
    let found = client.ask_again_if_lost(until, ask, |_| true).await;
    Ok(found.context("no answer")??.remove(&id))
}

/// Looks these records up again, in the leader of their stream; each costs a request. In a cluster, what
/// [`Records`] found may be older than what the leader has.
///
/// # Errors
/// When the leader does not answer in time.
pub async fn confirm<S: BuildHasher>(
    client: &NatsClient,
    found: &mut HashMap<JobId, StoredRecord, S>,
    doubtful: impl IntoIterator<Item = JobId>,
) -> anyhow::Result<()> {
    let looking = doubtful
        .into_iter()
        .map(async |id| anyhow::Ok((id, from_leader(client, id).await?)));
    let mut looking = stream::iter(looking).buffer_unordered(ABREAST);
    while let Some((id, record)) = looking.try_next().await? {
        match record {
            Some(record) => found.insert(id, record),
            None => found.remove(&id),
        };
    }
    Ok(())
}

async fn from_leader(client: &NatsClient, id: JobId) -> anyhow::Result<Option<StoredRecord>> {
    let subject = subjects::record(id);
    let Some(last) = direct_get::last(client, Stream::State, &subject).await? else {
        return Ok(None);
    };
    let mut found = StoredRecord {
        record: read(id, Some(&last.headers), &last.payload),
        sequence: last.sequence,
    };
    // Somebody else may have stored something beside the record, on another of its subjects.
    let mut from = 1;
    while found.record.is_none() && from < last.sequence {
        let next = direct_get::next(client, Stream::State, &subject, from).await?;
        let Some(next) = next.filter(|next| next.sequence < last.sequence) else {
            break;
        };
        found.record = read(id, Some(&next.headers), &next.payload);
        from = next.sequence + 1;
    }
    Ok(Some(found))
}

/// Reads the record of a job; `None`, and a warning, if it cannot be read.
fn read(id: JobId, headers: Option<&HeaderMap>, payload: &[u8]) -> Option<JobRecord> {
    decode(id, headers, payload)
        .inspect_err(|error| warn!(job.id = %id, "cannot read the record of a job: {error}"))
        .ok()
}

#[cfg(test)]
mod tests {
    use common::{FailedAttempt, JobState, Timestamp, codes};

    use super::*;

    #[test]
    fn a_record_fits_however_much_has_failed_and_keeps_its_result_and_its_last_failure() {
        let mut record = JobRecord::new(
            JobId::generate(),
            None,
            JobState::Succeeded,
            Timestamp::now(),
        );
        let result = format!("\"{}\"", "x".repeat(10_000));
        record.result = serde_json::from_str(&result).ok();
        record.failures = (1..=200)
            .map(|attempt| FailedAttempt {
                attempt,
                consumer: None,
                at: record.at,
                error: OutcomeError::new(codes::TRANSIENT, "\u{1}ü".repeat(1000)),
            })
            .collect();
        for limit in [10_500, 14_000, 50_000, 1_000_000] {
            let bytes = encode(&record, limit);
            assert!(bytes.len() <= limit, "{}", bytes.len());
            let kept: JobRecord = serde_json::from_slice(&bytes).unwrap();
            assert_eq!(kept.result.unwrap().get(), result);
            assert_eq!(kept.failures.last().unwrap().attempt, 200);
        }
        let whole: JobRecord = serde_json::from_slice(&encode(&record, usize::MAX)).unwrap();
        assert_eq!(whole.failures, record.failures);
    }
}
