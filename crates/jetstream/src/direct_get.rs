//! Reads messages of a stream by direct get (ADR-31), without a consumer.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::{HeaderMap, Message, StatusCode};
use bytes::Bytes;
use common::{JobMessage, Timestamp};
use connection::NatsClient;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::request::{ApiError, PATIENCE, may_be_lost, unless_forbidden};
use crate::topology::Stream;

/// How long all answers to a request for several messages may take.
const LONGEST: Duration = Duration::from_secs(30);

/// A message as it is stored in a stream.
#[derive(Clone, Debug)]
pub struct StoredMessage {
    /// Its subject.
    pub subject: String,
    /// Its sequence in the stream.
    pub sequence: u64,
    /// When it was stored, by the clock of the NATS server.
    pub at: Timestamp,
    /// Its headers, and those that the server adds to an answer.
    pub headers: HeaderMap,
    /// Its body; empty after [`StoredMessage::without_payload`].
    pub payload: Bytes,
    /// The size of the body in bytes, also after [`StoredMessage::without_payload`].
    pub size: usize,
    /// The `run_at` of the job in the body, kept by [`StoredMessage::without_payload`].
    run_at: Option<Timestamp>,
}

impl StoredMessage {
    /// Drops the body, which may be large, but keeps its size and `run_at` for lists.
    #[must_use]
    pub fn without_payload(mut self) -> Self {
        self.run_at = self.run_at();
        self.payload = Bytes::new();
        self
    }

    /// How many messages that match the request come after this one; `u64::MAX` if the server does
    /// not say so.
    #[must_use]
    pub fn pending_after(&self) -> u64 {
        let pending = self.headers.get_last("Nats-Num-Pending");
        pending
            .and_then(|pending| pending.as_str().parse().ok())
            .unwrap_or(u64::MAX)
    }

    /// The `run_at` of the job in the body.
    #[must_use]
    pub fn run_at(&self) -> Option<Timestamp> {
        self.run_at
            .or_else(|| JobMessage::decode(&self.payload).ok()?.run_at)
    }
}

/// Reads the last message on a subject, which may hold wildcards.
///
/// # Errors
/// See [`ApiError`].
pub async fn last(
    client: &NatsClient,
    stream: Stream,
    subject: &str,
) -> Result<Option<StoredMessage>, ApiError> {
    one(client, stream, &json!({"last_by_subj": subject})).await
}

/// Reads the last message on a subject without wildcards. The subject of the request ends with it, so
/// that permissions can allow some subjects of a stream only.
///
/// # Errors
/// See [`ApiError`].
pub async fn last_on(
    client: &NatsClient,
    stream: Stream,
    subject: &str,
) -> Result<Option<StoredMessage>, ApiError> {
    let api = format!("$JS.API.DIRECT.GET.{stream}.{subject}");
    ask_for_one(client, api, Bytes::new()).await
}

/// Reads the message with a sequence.
///
/// # Errors
/// See [`ApiError`].
pub async fn at(
    client: &NatsClient,
    stream: Stream,
    sequence: u64,
) -> Result<Option<StoredMessage>, ApiError> {
    one(client, stream, &json!({"seq": sequence})).await
}

/// Reads the first message at or after a sequence whose subject matches a filter.
///
/// # Errors
/// See [`ApiError`].
pub async fn next(
    client: &NatsClient,
    stream: Stream,
    filter: &str,
    from: u64,
) -> Result<Option<StoredMessage>, ApiError> {
    let body = json!({"seq": from, "next_by_subj": filter});
    one(client, stream, &body).await
}

/// Reads the first message stored at or after a time, by the clock of the NATS server, whose subject
/// matches a filter.
///
/// # Errors
/// See [`ApiError`].
pub async fn next_since(
    client: &NatsClient,
    stream: Stream,
    filter: &str,
    time: Timestamp,
) -> Result<Option<StoredMessage>, ApiError> {
    let body = json!({"start_time": time, "next_by_subj": filter});
    one(client, stream, &body).await
}

async fn one(
    client: &NatsClient,
    stream: Stream,
    body: &Value,
) -> Result<Option<StoredMessage>, ApiError> {
    let api = format!("$JS.API.DIRECT.GET.{stream}");
    ask_for_one(client, api, Bytes::from(body.to_string())).await
}

async fn ask_for_one(
    client: &NatsClient,
    api: String,
    body: Bytes,
) -> Result<Option<StoredMessage>, ApiError> {
    let ask = || client.request(api.clone(), body.clone());
    let until = Instant::now() + PATIENCE;
    let asking = client.ask_again_if_lost(until, ask, may_be_lost);
    let answer = match unless_forbidden(client, &api, asking).await? {
        Err(_) => return Err(no_answer(&api, format!("no answer within {PATIENCE:?}"))),
        Ok(Err(error)) if error.kind() == async_nats::RequestErrorKind::NoResponders => {
            return Err(ApiError::NoJetStream(api));
        }
        Ok(Err(error)) => return Err(no_answer(&api, error.to_string())),
        Ok(Ok(answer)) => answer,
    };
    match answer.status {
        Some(StatusCode::NOT_FOUND) => Ok(None),
        None | Some(StatusCode::OK) => stored(answer)
            .map(Some)
            .ok_or_else(|| no_answer(&api, "the answer cannot be read".to_owned())),
        Some(status) => Err(refused(&api, status, &answer)),
    }
}

/// Reads messages at or after a sequence whose subjects match a filter: at most `most`, and about
/// `most_bytes` together. An empty list is the end.
///
/// # Errors
/// See [`ApiError`].
pub async fn batch(
    client: &NatsClient,
    stream: Stream,
    filter: &str,
    from: u64,
    most: usize,
    most_bytes: usize,
) -> Result<Vec<StoredMessage>, ApiError> {
    let api = format!("$JS.API.DIRECT.GET.{stream}");
    let body = json!({
        "seq": from, "next_by_subj": filter, "batch": most, "max_bytes": most_bytes,
    });
    let body = Bytes::from(body.to_string());
    let ask = || all(client, &api, body.clone());
    let may_be_lost = |error: &_| matches!(error, ApiError::NoAnswer { .. });
    let until = Instant::now() + LONGEST;
    let asking = client.ask_again_if_lost(until, ask, may_be_lost);
    match unless_forbidden(client, &api, asking).await? {
        Ok(found) => found,
        Err(_) => Err(no_answer(&api, format!("not complete within {LONGEST:?}"))),
    }
}

/// Requests several messages and collects all answers.
async fn all(client: &NatsClient, api: &str, body: Bytes) -> Result<Vec<StoredMessage>, ApiError> {
    let inbox = client.new_inbox();
    let failed = |error: &dyn std::fmt::Display| no_answer(api, error.to_string());
    let mut answers = client
        .subscribe(inbox.clone())
        .await
        .map_err(|error| failed(&error))?;
    client
        .publish_with_reply(api.to_owned(), inbox, body)
        .await
        .map_err(|error| failed(&error))?;
    let mut found = Vec::new();
    loop {
        let answer = match tokio::time::timeout(PATIENCE, answers.next()).await {
            Err(_) => return Err(no_answer(api, format!("no answer within {PATIENCE:?}"))),
            Ok(None) => return Err(no_answer(api, "the connection is closed".to_owned())),
            Ok(Some(answer)) => answer,
        };
        match answer.status {
            None | Some(StatusCode::OK) => {
                let unreadable = || no_answer(api, "an answer cannot be read".to_owned());
                found.push(stored(answer).ok_or_else(unreadable)?);
            }
            Some(StatusCode::NOT_FOUND) => return Ok(found),
            // The end of the requested messages.
            Some(status) if status.as_u16() == 204 => return Ok(found),
            Some(StatusCode::NO_RESPONDERS) => return Err(ApiError::NoJetStream(api.to_owned())),
            Some(status) => return Err(refused(api, status, &answer)),
        }
    }
}

fn stored(answer: Message) -> Option<StoredMessage> {
    let headers = answer.headers?;
    // The server adds its own headers behind those of the message.
    let text = |name: &str| {
        headers
            .get_last(name)
            .map(|value| value.as_str().to_owned())
    };
    Some(StoredMessage {
        subject: text("Nats-Subject")?,
        sequence: text("Nats-Sequence")?.parse().ok()?,
        at: text("Nats-Time-Stamp")?.parse().ok()?,
        size: answer.payload.len(),
        run_at: None,
        payload: answer.payload,
        headers,
    })
}

pub(crate) fn no_answer(api: &str, problem: String) -> ApiError {
    ApiError::NoAnswer {
        subject: api.to_owned(),
        problem,
    }
}

pub(crate) fn refused(api: &str, status: StatusCode, answer: &Message) -> ApiError {
    ApiError::Refused {
        subject: api.to_owned(),
        code: ErrorCode(u64::from(status.as_u16())),
        description: answer.description.clone().unwrap_or_default(),
    }
}
