//! Requests to the JetStream API, each with a deadline.
//!
//! They do not use the `jetstream` module of async-nats, for three reasons: a [`NatsClient`] may be given a
//! new connection at any time, while the library's context keeps the one it was made with; a request
//! whose connection was lost is sent again on the next connection; and a caller can distinguish a
//! refusal from a missing answer. The library's types are used where they have all fields that are
//! needed.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::{Message, RequestError, RequestErrorKind};
use bytes::Bytes;
use connection::{NatsClient, Operation};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

use crate::cluster;

/// How long JetStream may take to answer, on a server that is not part of a cluster.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Why a request to JetStream failed.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// JetStream refused the request.
    #[error("{subject}: {description} (error {})", .code.0)]
    Refused {
        /// The subject of the request.
        subject: String,
        /// The server's error code, or the status of a direct get.
        code: ErrorCode,
        /// The server's description of the error.
        description: String,
    },
    /// The user of this connection may not publish to the subject.
    #[error(
        "the server does not let this user publish to {0}: grant it that in the permissions of the \
         server"
    )]
    Forbidden(String),
    /// No responders: the server has no JetStream for this account.
    #[error("{0}: no responders; does the server run JetStream for this account?")]
    NoJetStream(String),
    /// No answer in time, or an answer that cannot be read.
    #[error("{subject}: {problem}")]
    NoAnswer {
        /// The subject of the request.
        subject: String,
        /// What is wrong.
        problem: String,
    },
}

/// The error in an answer of JetStream.
#[derive(Debug, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) err_code: ErrorCode,
    #[serde(default)]
    pub(crate) description: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    error: Option<Refusal>,
}

/// Whether an error may come from a lost connection, so that the request is worth repeating.
#[must_use]
pub fn may_be_lost(error: &RequestError) -> bool {
    error.kind() == RequestErrorKind::Other
}

/// Waits for the answer to a request, or until the server refuses the request because the user may not
/// publish to its subject. The request must not be sent before this is awaited.
///
/// # Errors
/// [`ApiError::Forbidden`]
pub fn unless_forbidden<T>(
    client: &NatsClient,
    subject: &str,
    asking: impl Future<Output = T>,
) -> impl Future<Output = Result<T, ApiError>> {
    let forbidden = client.refused(Operation::Publish, subject);
    // A request is a large future.
    let asking = Box::pin(asking);
    async move {
        tokio::select! {
            biased;
            answer = asking => Ok(answer),
            () = forbidden => Err(ApiError::Forbidden(subject.to_owned())),
        }
    }
}

/// Sends a request to JetStream and reads its answer. `Value::Null` sends no body.
///
/// In a cluster, this waits for an election.
///
/// # Errors
/// See [`ApiError`].
pub async fn ask<T: DeserializeOwned>(
    client: &NatsClient,
    subject: String,
    body: &Value,
) -> Result<T, ApiError> {
    let body = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let body = Bytes::from(body);
    let clustered = cluster::is_clustered(client);
    let until = Instant::now() + patience(clustered);
    loop {
        let answer = answer(client, &subject, body.clone(), until).await?;
        let description = match read(&subject, &answer.payload) {
            Err(ApiError::Refused {
                code, description, ..
            }) if clustered && cluster::is_temporary(code) => description,
            read => return read,
        };
        let next = Instant::now() + cluster::TRY_AGAIN;
        if next >= until {
            return Err(no_answer(&subject, description));
        }
        tokio::time::sleep_until(next).await;
    }
}

/// Reads the answer to a request.
pub(crate) fn read<T: DeserializeOwned>(subject: &str, answer: &[u8]) -> Result<T, ApiError> {
    if let Ok(Answer { error: Some(error) }) = serde_json::from_slice(answer) {
        return Err(ApiError::Refused {
            subject: subject.to_owned(),
            code: error.err_code,
            description: error.description,
        });
    }
    serde_json::from_slice(answer)
        .map_err(|error| no_answer(subject, format!("the answer cannot be read: {error}")))
}

/// How long JetStream may take to answer.
pub(crate) fn patience(clustered: bool) -> Duration {
    if clustered {
        cluster::PATIENCE
    } else {
        PATIENCE
    }
}

/// Sends a request that may be repeated, and waits for its answer. In a cluster it is sent again while
/// there is none.
pub(crate) async fn answer(
    client: &NatsClient,
    subject: &str,
    body: Bytes,
    until: Instant,
) -> Result<Message, ApiError> {
    let clustered = cluster::is_clustered(client);
    let begun = Instant::now();
    let ask = || client.request(subject.to_owned(), body.clone());
    loop {
        let again = if clustered {
            until.min(Instant::now() + cluster::ASK_AGAIN)
        } else {
            until
        };
        let asking = client.ask_again_if_lost(again, ask, may_be_lost);
        match unless_forbidden(client, subject, asking).await? {
            Err(_) if again < until => {}
            Err(_) => {
                let waited = begun.elapsed().as_secs();
                return Err(no_answer(subject, format!("no answer within {waited}s")));
            }
            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
                return Err(ApiError::NoJetStream(subject.to_owned()));
            }
            Ok(Err(error)) => return Err(no_answer(subject, error.to_string())),
            Ok(Ok(answer)) => return Ok(answer),
        }
    }
}

pub(crate) fn no_answer(subject: &str, problem: String) -> ApiError {
    ApiError::NoAnswer {
        subject: subject.to_owned(),
        problem,
    }
}
