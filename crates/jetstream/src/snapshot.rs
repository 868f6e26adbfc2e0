//! Snapshots of streams, which the server makes and restores itself.
//!
//! None of these requests is sent again when its answer is lost, because a second snapshot would mix its chunks with
//! those of the first.

use std::time::Duration;

use async_nats::{Message, Request, RequestErrorKind, StatusCode};
use bytes::Bytes;
use connection::{NatsClient, Subscriber};
use futures_util::StreamExt as _;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::manage::StreamState;
use crate::request::{ApiError, ask, no_answer, read, unless_forbidden};
use crate::topology::Stream;

/// How long the server may take for the next chunk, or to take one.
const PATIENCE: Duration = Duration::from_mins(1);

/// How long the server may take to end a restoration: it starts the stream and its durable consumers.
const TO_END: Duration = Duration::from_mins(10);

/// The most bytes in a chunk that is restored. The server syncs each message, and gives up a restoration when it
/// has worked on a chunk for five seconds.
pub const CHUNK: usize = 32 << 10;

/// A snapshot that the server is sending.
#[derive(Debug)]
pub struct Snapshot {
    client: NatsClient,
    stream: Stream,
    chunks: Subscriber,
    /// The number of the last chunk.
    last: u64,
    /// The configuration of the stream.
    pub config: Value,
    /// What the stream held when the snapshot began, as the server describes it.
    pub state: Value,
}

/// Has the server make a snapshot of a stream with its durable consumers.
///
/// The snapshot has no message that was stored after it began. A message that is removed while it is made may be
/// missing. So what replaces another message meanwhile, and what is moved to the end of the stream, may be in it
/// neither with its old sequence nor with its new one.
///
/// # Errors
/// See [`ApiError`].
pub async fn begin(client: &NatsClient, stream: Stream) -> Result<Snapshot, ApiError> {
    #[derive(Deserialize)]
    struct Begun {
        config: Value,
        state: Value,
    }
    let api = format!("$JS.API.STREAM.SNAPSHOT.{stream}");
    let inbox = client.new_inbox();
    let chunks = client.subscribe(inbox.clone()).await;
    let chunks = chunks.map_err(|error| no_answer(&api, error.to_string()))?;
    let answer = once(client, &api, &json!({"deliver_subject": inbox})).await?;
    let Begun { config, state } = read(&api, &answer.payload)?;
    Ok(Snapshot {
        client: client.clone(),
        stream,
        chunks,
        last: 0,
        config,
        state,
    })
}

impl Snapshot {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// When the server breaks the snapshot off, a chunk is missing, or none comes for a minute.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ApiError> {
        let failed =
            |problem: &str| no_answer(&format!("snapshot of {}", self.stream), problem.to_owned());
        let chunk = match tokio::time::timeout(PATIENCE, self.chunks.next()).await {
            Ok(Some(chunk)) => chunk,
            Ok(None) => return Err(failed("the connection is closed")),
            Err(_) => return Err(failed("no chunk for a minute")),
        };
        let is_end = |status: StatusCode| status.as_u16() == 204;
        if let Some(status) = chunk.status.filter(|status| !is_end(*status)) {
            let description = chunk.description.as_deref().unwrap_or("no reason given");
            return Err(failed(&format!("broken off: {description} ({status})")));
        }
        if chunk.payload.is_empty() {
            return Ok(None);
        }
        // The last chunk has no reply subject.
        if let Some(reply) = chunk.reply {
            // It ends with the length and the number of the chunk.
            let number = reply
                .rsplit('.')
                .next()
                .and_then(|number| number.parse().ok());
            if number != Some(self.last + 1) {
                return Err(failed("a chunk is missing"));
            }
            self.last += 1;
            let acknowledged = self.client.publish(reply, Bytes::new()).await;
            acknowledged.map_err(|error| failed(&error.to_string()))?;
        }
        Ok(Some(chunk.payload))
    }
}

/// A restoration that waits for the chunks of a snapshot.
#[derive(Debug)]
pub struct Restoration {
    client: NatsClient,
    to: String,
}

/// Has the server restore a stream from a snapshot.
///
/// # Errors
/// See [`ApiError`]; also when the stream exists.
pub async fn restore(
    client: &NatsClient,
    stream: Stream,
    config: &Value,
    state: &Value,
) -> Result<Restoration, ApiError> {
    #[derive(Deserialize)]
    struct Begun {
        deliver_subject: String,
    }
    let api = format!("$JS.API.STREAM.RESTORE.{stream}");
    let answer = once(client, &api, &json!({"config": config, "state": state})).await?;
    let Begun { deliver_subject } = read(&api, &answer.payload)?;
    Ok(Restoration {
        client: client.clone(),
        to: deliver_subject,
    })
}

impl Restoration {
    /// Sends the next bytes of the snapshot, at most [`CHUNK`].
    ///
    /// # Errors
    /// When the server refuses them. It may leave a part of the stream behind.
    pub async fn send(&self, chunk: Bytes) -> Result<(), ApiError> {
        let answer = self.ask(chunk, PATIENCE).await?;
        // The server answers with words only to refuse.
        if answer.payload.is_empty() {
            return Ok(());
        }
        self.read(&answer).map(|_| ())
    }

    /// Ends the restoration, and returns what the stream holds now.
    ///
    /// # Errors
    /// When the snapshot was not whole, or the server cannot start the stream.
    pub async fn finish(self) -> Result<StreamState, ApiError> {
        let answer = self.ask(Bytes::new(), TO_END).await?;
        self.read(&answer)
    }

    async fn ask(&self, chunk: Bytes, patience: Duration) -> Result<Message, ApiError> {
        let request = Request::new().payload(chunk).timeout(Some(patience));
        let asking = self.client.send_request(self.to.clone(), request);
        let answer = unless_forbidden(&self.client, &self.to, asking).await?;
        answer.map_err(|error| {
            let problem = match error.kind() {
                RequestErrorKind::NoResponders => {
                    "the server has given up the restoration".to_owned()
                }
                _ => error.to_string(),
            };
            no_answer(&self.to, problem)
        })
    }

    fn read(&self, answer: &Message) -> Result<StreamState, ApiError> {
        #[derive(Deserialize)]
        struct Ended {
            state: StreamState,
        }
        let Ended { state } = read(&self.to, &answer.payload)?;
        Ok(state)
    }
}

/// Deletes a stream with all its messages and durable consumers.
///
/// # Errors
/// See [`ApiError`].
pub async fn delete_stream(client: &NatsClient, stream: Stream) -> Result<(), ApiError> {
    let api = format!("$JS.API.STREAM.DELETE.{stream}");
    ask::<Value>(client, api, &Value::Null).await?;
    Ok(())
}

/// Sends a request that must not be sent twice.
async fn once(client: &NatsClient, api: &str, body: &Value) -> Result<Message, ApiError> {
    let request = Request::new()
        .payload(body.to_string().into())
        .timeout(Some(PATIENCE));
    let asking = client.send_request(api.to_owned(), request);
    let answer = unless_forbidden(client, api, asking).await?;
    answer.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => ApiError::NoJetStream(api.to_owned()),
        _ => no_answer(api, error.to_string()),
    })
}
