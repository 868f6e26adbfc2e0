//! Requests to JetStream, each with an end: the client library can wait for ever while there is no
//! connection.

use std::time::Duration;

use async_nats::{RequestError, RequestErrorKind};
use bootstrap::Client;
use bytes::Bytes;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::time::Instant;

/// How long JetStream may take to answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Why JetStream did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    /// It said no.
    #[error("{subject}: {description} (error {code})")]
    Refused {
        subject: String,
        code: u64,
        description: String,
    },
    /// Nobody answers: there is no JetStream, or this user may not use it so.
    #[error("{0}: nobody answers; does the server run JetStream for this account?")]
    NoJetStream(String),
    /// No answer, or none that makes sense.
    #[error("{subject}: {problem}")]
    NoAnswer { subject: String, problem: String },
}

/// What JetStream says of a request that it refuses.
#[derive(Debug, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) err_code: u64,
    #[serde(default)]
    pub(crate) description: String,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    error: Option<Refusal>,
}

/// Whether an error may come from a connection that was lost.
pub(crate) fn may_be_lost(error: &RequestError) -> bool {
    error.kind() == RequestErrorKind::Other
}

/// Asks JetStream for something, and reads its answer.
pub(crate) async fn ask<T: DeserializeOwned>(
    client: &Client,
    subject: String,
    body: &Value,
) -> Result<T, ApiError> {
    let no_answer = |subject: &str, problem: String| ApiError::NoAnswer {
        subject: subject.to_owned(),
        problem,
    };
    let body = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let body = Bytes::from(body);
    // Nothing that JetStream is asked for here does more when it is asked for twice.
    let ask = || client.request(subject.clone(), body.clone());
    let answer = match client
        .ask_again_if_lost(Instant::now() + PATIENCE, ask, may_be_lost)
        .await
    {
        Err(_) => {
            return Err(no_answer(
                &subject,
                format!("no answer within {PATIENCE:?}"),
            ));
        }
        Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
            return Err(ApiError::NoJetStream(subject));
        }
        Ok(Err(error)) => return Err(no_answer(&subject, error.to_string())),
        Ok(Ok(answer)) => answer,
    };
    if let Ok(Answer { error: Some(error) }) = serde_json::from_slice(&answer.payload) {
        return Err(ApiError::Refused {
            subject,
            code: error.err_code,
            description: error.description,
        });
    }
    serde_json::from_slice(&answer.payload)
        .map_err(|error| no_answer(&subject, format!("an answer that cannot be read: {error}")))
}
