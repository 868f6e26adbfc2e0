//! Reads messages of a stream by direct get (ADR-31), without a consumer.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::{Message, StatusCode};
use bytes::Bytes;
use common::Timestamp;
use connection::NatsClient;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::request::{self, ApiError, PATIENCE, no_answer, unless_forbidden};
use crate::stored_message::StoredMessage;
use crate::topology::Stream;
use crate::{cluster, leader_get, manage};

/// How long all answers to a request for several messages may take.
const LONGEST: Duration = Duration::from_secs(30);

/// How many messages [`every`] reads at a time, and how many bytes of them.
const PAGE: (usize, usize) = (500, 1 << 20);

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
/// that permissions can allow some subjects of a stream only. No such request reaches the leader: in a
/// cluster, the answer may be older than what the leader has.
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

/// Reads one message. In a cluster, only the leader of the stream is asked: the absence of a message, or
/// its age, decides what its readers do.
async fn one(
    client: &NatsClient,
    stream: Stream,
    body: &Value,
) -> Result<Option<StoredMessage>, ApiError> {
    if cluster::is_clustered(client) {
        return leader_get::one(client, stream, body).await;
    }
    let api = format!("$JS.API.DIRECT.GET.{stream}");
    ask_for_one(client, api, Bytes::from(body.to_string())).await
}

async fn ask_for_one(
    client: &NatsClient,
    api: String,
    body: Bytes,
) -> Result<Option<StoredMessage>, ApiError> {
    let until = Instant::now() + PATIENCE;
    let answer = request::answer(client, &api, body, until).await?;
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
        // In a cluster, the servers that have the stream may be away.
        Ok(Err(ApiError::NoJetStream(_))) if cluster::is_clustered(client) => {
            manage::stream_info(client, stream).await?;
            Err(no_answer(&api, "no server has the stream now".to_owned()))
        }
        Ok(found) => found,
        Err(_) => Err(no_answer(&api, format!("not complete within {LONGEST:?}"))),
    }
}

/// Reads all messages whose subjects match a filter, page by page; none if the stream does not exist. For few
/// and small messages: all of them are held in memory.
///
/// # Errors
/// See [`ApiError`].
pub(crate) async fn every(
    client: &NatsClient,
    stream: Stream,
    filter: &str,
) -> Result<Vec<StoredMessage>, ApiError> {
    let (mut found, mut from) = (Vec::new(), 1);
    loop {
        let page = batch(client, stream, filter, from, PAGE.0, PAGE.1).await;
        let page = manage::existing(page)?.unwrap_or_default();
        let Some(last) = page.last() else {
            return Ok(found);
        };
        from = last.sequence + 1;
        let over = last.pending_after() == 0;
        found.extend(page);
        if over {
            return Ok(found);
        }
    }
}

/// The same as [`batch`], for a reader who takes an empty list for the end of what there is. In a cluster, the list may
/// come from a follower that is behind: then this is an error unless the leader has no more either.
///
/// # Errors
/// See [`ApiError`].
pub async fn batch_to_the_end(
    client: &NatsClient,
    stream: Stream,
    filter: &str,
    from: u64,
    most: usize,
    most_bytes: usize,
) -> Result<Vec<StoredMessage>, ApiError> {
    let found = batch(client, stream, filter, from, most, most_bytes).await?;
    if found.is_empty()
        && cluster::is_clustered(client)
        && next(client, stream, filter, from).await?.is_some()
    {
        let behind = "the server that answered is behind the leader of the stream";
        return Err(no_answer(filter, behind.to_owned()));
    }
    Ok(found)
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
    StoredMessage::read(answer.headers?, answer.payload)
}

pub(crate) fn refused(api: &str, status: StatusCode, answer: &Message) -> ApiError {
    ApiError::Refused {
        subject: api.to_owned(),
        code: ErrorCode(u64::from(status.as_u16())),
        description: answer.description.clone().unwrap_or_default(),
    }
}
