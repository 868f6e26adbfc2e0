//! Requests to JetStream about streams and consumers: information, lists, deletion.
//!
//! See [`crate::request`] for why these calls do not use the library's context. The library's types are
//! used where they have all fields that are needed; [`StreamInfo`] is our own because the library's
//! type has neither the server's time nor the raw configuration.

use std::collections::HashMap;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::account::Account;
use async_nats::jetstream::consumer::Info as ConsumerInfo;
use common::{JobKind, Priority, Timestamp};
use connection::NatsClient;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::request::{ApiError, ask, no_answer};
use crate::topology::{Stream, jobs_of_kind, parse_consumer};

/// A stream as the server describes it.
#[derive(Debug, Deserialize)]
pub struct StreamInfo {
    /// Its configuration, with fields that this version does not know.
    pub config: Value,
    /// What it holds.
    pub state: StreamState,
    /// The time of the server.
    #[serde(rename = "ts")]
    pub now: Timestamp,
}

/// What a stream holds.
#[derive(Debug, Deserialize)]
pub struct StreamState {
    /// The number of its messages.
    pub messages: u64,
    /// Their size in bytes.
    pub bytes: u64,
    /// The sequence of its first message.
    #[serde(rename = "first_seq")]
    pub first_sequence: u64,
    /// When its first message was stored; has no meaning in an empty stream.
    #[serde(rename = "first_ts")]
    pub first_time: Timestamp,
    /// The sequence of the last message that it stored.
    #[serde(rename = "last_seq")]
    pub last_sequence: u64,
}

/// Returns `None` instead of the error that says that there is no JetStream or no such stream.
///
/// # Errors
/// Every other error.
pub fn existing<T>(answer: Result<T, ApiError>) -> Result<Option<T>, ApiError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(ApiError::Refused { .. } | ApiError::NoJetStream(_)) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The account of the user; an error if it has no JetStream.
///
/// # Errors
/// See [`ApiError`].
pub async fn account(client: &NatsClient) -> Result<Account, ApiError> {
    ask(client, "$JS.API.INFO".to_owned(), &Value::Null).await
}

/// Whether a stream exists.
///
/// # Errors
/// See [`ApiError`].
pub async fn exists(client: &NatsClient, stream: Stream) -> Result<bool, ApiError> {
    match stream_info(client, stream).await {
        Ok(_) => Ok(true),
        Err(ApiError::Refused {
            code: ErrorCode::STREAM_NOT_FOUND,
            ..
        }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Describes a stream.
///
/// # Errors
/// See [`ApiError`].
pub async fn stream_info(client: &NatsClient, stream: Stream) -> Result<StreamInfo, ApiError> {
    ask(client, info_of(stream), &Value::Null).await
}

/// Describes a stream, and counts its subjects that match a filter.
///
/// # Errors
/// See [`ApiError`].
pub async fn stream_info_with_count(
    client: &NatsClient,
    stream: Stream,
    filter: &str,
) -> Result<(StreamInfo, u64), ApiError> {
    #[derive(Deserialize)]
    struct Info {
        #[serde(flatten)]
        info: StreamInfo,
        /// Absent when there are none.
        #[serde(default)]
        total: u64,
    }
    let answer: Info = ask(client, info_of(stream), &count_of(filter)).await?;
    Ok((answer.info, answer.total))
}

/// The number of subjects in a stream that match a filter.
///
/// # Errors
/// See [`ApiError`].
pub async fn count_subjects(
    client: &NatsClient,
    stream: Stream,
    filter: &str,
) -> Result<u64, ApiError> {
    #[derive(Deserialize)]
    struct Info {
        /// Absent when there are none.
        #[serde(default)]
        total: u64,
    }
    let info: Info = ask(client, info_of(stream), &count_of(filter)).await?;
    Ok(info.total)
}

/// Asks for a page after the last subject: the answer has the total, but no subjects.
fn count_of(filter: &str) -> Value {
    json!({"subjects_filter": filter, "offset": i32::MAX})
}

/// The subjects in a stream that match a filter, with the number of messages on each.
///
/// # Errors
/// See [`ApiError`].
pub async fn subjects(
    client: &NatsClient,
    stream: Stream,
    filter: &str,
) -> Result<HashMap<String, u64>, ApiError> {
    #[derive(Deserialize)]
    struct Info {
        state: State,
    }
    #[derive(Deserialize)]
    struct State {
        /// Absent when there are none.
        #[serde(default)]
        subjects: Option<HashMap<String, u64>>,
    }
    let info: Info = ask(client, info_of(stream), &json!({"subjects_filter": filter})).await?;
    Ok(info.state.subjects.unwrap_or_default())
}

/// Describes a durable consumer.
///
/// # Errors
/// See [`ApiError`].
pub async fn consumer_info(
    client: &NatsClient,
    stream: Stream,
    consumer: &str,
) -> Result<ConsumerInfo, ApiError> {
    let subject = format!("$JS.API.CONSUMER.INFO.{stream}.{consumer}");
    ask(client, subject, &Value::Null).await
}

/// Creates a durable consumer, or changes it: `action` is "create" or "update".
///
/// # Errors
/// See [`ApiError`].
pub(crate) async fn create_consumer(
    client: &NatsClient,
    stream: Stream,
    name: &str,
    config: &Value,
    action: &str,
) -> Result<(), ApiError> {
    let mut subject = format!("$JS.API.CONSUMER.CREATE.{stream}.{name}");
    if let Some(filter) = config["filter_subject"]
        .as_str()
        .filter(|filter| !filter.is_empty())
    {
        subject = format!("{subject}.{filter}");
    }
    let body = json!({"stream_name": stream.name(), "config": config, "action": action});
    ask::<Value>(client, subject, &body).await?;
    Ok(())
}

/// A durable consumer of a kind.
#[derive(Debug)]
pub struct KindConsumer {
    /// The kind that it serves.
    pub kind: JobKind,
    /// The priority that it serves, if it serves only one.
    pub priority: Option<Priority>,
    /// Until when it is paused, if it is.
    pub paused_until: Option<Timestamp>,
    /// Its description by the server.
    pub info: ConsumerInfo,
}

impl KindConsumer {
    /// Whether it delivers the jobs of its kind on a stream whatever their priority.
    pub(crate) fn serves_all_priorities(&self, stream: Stream) -> bool {
        self.info.config.filter_subject == jobs_of_kind(stream, &self.kind)
    }
}

/// The durable consumers of all kinds on a stream; empty if the stream does not exist.
///
/// # Errors
/// See [`ApiError`].
pub async fn consumers_of_kinds(
    client: &NatsClient,
    stream: Stream,
) -> Result<Vec<KindConsumer>, ApiError> {
    #[derive(Deserialize)]
    struct Page {
        total: usize,
        #[serde(default)]
        consumers: Option<Vec<Value>>,
    }
    let (mut of_kinds, mut seen) = (Vec::new(), 0);
    loop {
        let subject = format!("$JS.API.CONSUMER.LIST.{stream}");
        let question = json!({"offset": seen});
        let page = existing(ask::<Page>(client, subject.clone(), &question).await)?;
        let Some(page) = page else {
            return Ok(of_kinds);
        };
        let found = page.consumers.unwrap_or_default();
        let over = found.is_empty();
        seen += found.len();
        for described in found {
            // Other programs may have durable consumers of their own.
            let name = described["name"].as_str().unwrap_or_default();
            if let Some((kind, priority)) = parse_consumer(name) {
                let paused_until = paused_until(&described);
                let info = serde_json::from_value(described);
                of_kinds.push(KindConsumer {
                    kind,
                    priority,
                    paused_until,
                    info: info.map_err(|error| no_answer(&subject, error.to_string()))?,
                });
            }
        }
        if over || seen >= page.total {
            return Ok(of_kinds);
        }
    }
}

/// Until when a durable consumer is paused, as the server describes it; `None` if it is not.
pub(crate) fn paused_until(info: &Value) -> Option<Timestamp> {
    let until = info["config"]["pause_until"].as_str();
    let until = until.filter(|_| info["paused"] == true)?;
    until.parse().ok()
}

/// Deletes one message; a message that does not exist is no error.
///
/// # Errors
/// See [`ApiError`].
pub async fn delete_message(
    client: &NatsClient,
    stream: Stream,
    sequence: u64,
) -> Result<(), ApiError> {
    let subject = format!("$JS.API.STREAM.MSG.DELETE.{stream}");
    let body = json!({"seq": sequence, "no_erase": true});
    match ask::<Value>(client, subject, &body).await {
        Ok(_)
        | Err(ApiError::Refused {
            code: ErrorCode::SEQUENCE_NOT_FOUND,
            ..
        }) => Ok(()),
        // The server uses this code for all other errors too.
        Err(ApiError::Refused {
            code: ErrorCode::STREAM_MESSAGE_DELETE_FAILED,
            description,
            ..
        }) if description == "no message found" || description == "stream store EOF" => Ok(()),
        Err(error) => Err(error),
    }
}

/// Purges the messages below a sequence whose subjects match a filter.
///
/// # Errors
/// See [`ApiError`].
pub async fn purge_below(
    client: &NatsClient,
    stream: Stream,
    filter: &str,
    sequence: u64,
) -> Result<(), ApiError> {
    let subject = format!("$JS.API.STREAM.PURGE.{stream}");
    let body = json!({"filter": filter, "seq": sequence});
    ask::<Value>(client, subject, &body).await?;
    Ok(())
}

fn info_of(stream: Stream) -> String {
    format!("$JS.API.STREAM.INFO.{stream}")
}
