//! Reads single messages of a stream, without a consumer.

use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode};
use bootstrap::Client;
use bytes::Bytes;
use common::{Job, Timestamp};
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::api::{ApiError, PATIENCE, may_be_lost};
use crate::topology::Stream;

/// How long the answer to a question for several messages may take.
const LONGEST: Duration = Duration::from_secs(30);

/// A message as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) subject: String,
    pub(crate) sequence: u64,
    pub(crate) at: Timestamp,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
    /// How many bytes the payload has, also where it was left out.
    pub(crate) size: usize,
    /// The time that the job in the payload is to wait for, where the payload was left out.
    pub(crate) run_at: Option<Timestamp>,
}

impl Kept {
    /// Leaves the payload out, which may be large, but for what lists need of it.
    pub(crate) fn without_payload(mut self) -> Self {
        self.run_at = self.run_at();
        self.payload = Bytes::new();
        self
    }

    /// The time that a job in its first run is to wait for.
    pub(crate) fn run_at(&self) -> Option<Timestamp> {
        self.run_at
            .or_else(|| Job::decode(&self.payload).ok()?.run_at)
    }
}

/// The last message with a subject, which may hold wildcards.
pub(crate) async fn last(
    client: &Client,
    stream: Stream,
    subject: &str,
) -> Result<Option<Kept>, ApiError> {
    one(client, stream, &json!({"last_by_subj": subject})).await
}

/// The message with a sequence.
pub(crate) async fn at(
    client: &Client,
    stream: Stream,
    sequence: u64,
) -> Result<Option<Kept>, ApiError> {
    one(client, stream, &json!({"seq": sequence})).await
}

/// The first message from a sequence on whose subject matches a filter.
pub(crate) async fn next(
    client: &Client,
    stream: Stream,
    filter: &str,
    from: u64,
) -> Result<Option<Kept>, ApiError> {
    let body = json!({"seq": from, "next_by_subj": filter});
    one(client, stream, &body).await
}

async fn one(client: &Client, stream: Stream, body: &Value) -> Result<Option<Kept>, ApiError> {
    let api = format!("$JS.API.DIRECT.GET.{stream}");
    let body = Bytes::from(body.to_string());
    let ask = || client.request(api.clone(), body.clone());
    let answer = match client
        .ask_again_if_lost(Instant::now() + PATIENCE, ask, may_be_lost)
        .await
    {
        Err(_) => return Err(no_answer(&api, format!("no answer within {PATIENCE:?}"))),
        Ok(Err(error)) if error.kind() == async_nats::RequestErrorKind::NoResponders => {
            return Err(ApiError::NoJetStream(api));
        }
        Ok(Err(error)) => return Err(no_answer(&api, error.to_string())),
        Ok(Ok(answer)) => answer,
    };
    match answer.status {
        Some(StatusCode::NOT_FOUND) => Ok(None),
        None | Some(StatusCode::OK) => kept(answer)
            .map(Some)
            .ok_or_else(|| no_answer(&api, "an answer that cannot be read".to_owned())),
        Some(status) => Err(refused(&api, status, &answer)),
    }
}

/// Messages whose subjects match a filter, at most `most`, with so many bytes together, from a
/// sequence on; none if there are no more.
pub(crate) async fn some(
    client: &Client,
    stream: Stream,
    filter: &str,
    from: u64,
    most: usize,
    most_bytes: usize,
) -> Result<Vec<Kept>, ApiError> {
    let api = format!("$JS.API.DIRECT.GET.{stream}");
    let body = json!({
        "seq": from, "next_by_subj": filter, "batch": most, "max_bytes": most_bytes,
    });
    let body = Bytes::from(body.to_string());
    let ask = || all(client, &api, body.clone());
    match client
        .ask_again_if_lost(Instant::now() + LONGEST, ask, |error| {
            matches!(error, ApiError::NoAnswer { .. })
        })
        .await
    {
        Ok(found) => found,
        Err(_) => Err(no_answer(&api, format!("not all within {LONGEST:?}"))),
    }
}

/// All answers to a question for several messages.
async fn all(client: &Client, api: &str, body: Bytes) -> Result<Vec<Kept>, ApiError> {
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
                let unreadable = || no_answer(api, "an answer that cannot be read".to_owned());
                found.push(kept(answer).ok_or_else(unreadable)?);
            }
            Some(StatusCode::NOT_FOUND) => return Ok(found),
            // The end of what was asked for.
            Some(status) if status.as_u16() == 204 => return Ok(found),
            Some(StatusCode::NO_RESPONDERS) => return Err(ApiError::NoJetStream(api.to_owned())),
            Some(status) => return Err(refused(api, status, &answer)),
        }
    }
}

fn kept(answer: Message) -> Option<Kept> {
    let headers = answer.headers?;
    let text = |name: &str| headers.get(name).map(|value| value.as_str().to_owned());
    Some(Kept {
        subject: text("Nats-Subject")?,
        sequence: text("Nats-Sequence")?.parse().ok()?,
        at: text("Nats-Time-Stamp")?.parse().ok()?,
        size: answer.payload.len(),
        run_at: None,
        payload: answer.payload,
        headers,
    })
}

fn no_answer(api: &str, problem: String) -> ApiError {
    ApiError::NoAnswer {
        subject: api.to_owned(),
        problem,
    }
}

fn refused(api: &str, status: StatusCode, answer: &Message) -> ApiError {
    ApiError::Refused {
        subject: api.to_owned(),
        code: u64::from(status.as_u16()),
        description: answer.description.clone().unwrap_or_default(),
    }
}
