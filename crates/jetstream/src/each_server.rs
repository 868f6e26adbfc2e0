//! Asks each server of a cluster about itself.

use std::time::Duration;

use async_nats::StatusCode;
use bytes::Bytes;
use connection::NatsClient;
use futures_util::StreamExt as _;
use serde_json::Value;
use tokio::time::Instant;

use crate::cluster;
use crate::request::{self, ApiError, PATIENCE, no_answer, unless_forbidden};

/// How long after an answer another server may take.
const FURTHER: Duration = Duration::from_millis(500);

/// Asks a question that every server of a cluster answers, if its configuration lets all answers through
/// (`response: stream` at the export, as in deploy/nats.conf). Returns the answers that came, at least one.
///
/// # Errors
/// See [`ApiError`].
pub(crate) async fn ask(client: &NatsClient, subject: &str) -> Result<Vec<Value>, ApiError> {
    if !cluster::is_clustered(client) {
        let answer = request::ask(client, subject.to_owned(), &Value::Null);
        return answer.await.map(|answer| vec![answer]);
    }
    let may_be_lost = |error: &_| matches!(error, ApiError::NoAnswer { .. });
    let until = Instant::now() + 2 * PATIENCE;
    let asking = client.ask_again_if_lost(until, || collect(client, subject), may_be_lost);
    match unless_forbidden(client, subject, asking).await? {
        Ok(answers) => answers,
        Err(_) => Err(no_answer(subject, "no answer".to_owned())),
    }
}

async fn collect(client: &NatsClient, subject: &str) -> Result<Vec<Value>, ApiError> {
    let failed = |error: &dyn std::fmt::Display| no_answer(subject, error.to_string());
    let inbox = client.new_inbox();
    let subscribing = client.subscribe(inbox.clone()).await;
    let mut arriving = subscribing.map_err(|error| failed(&error))?;
    client
        .publish_with_reply(subject.to_owned(), inbox, Bytes::new())
        .await
        .map_err(|error| failed(&error))?;
    let mut answers = Vec::new();
    let mut patience = PATIENCE;
    while let Ok(answer) = tokio::time::timeout(patience, arriving.next()).await {
        let answer = answer.ok_or_else(|| failed(&"the connection is closed"))?;
        if answer.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(ApiError::NoJetStream(subject.to_owned()));
        }
        let answer: Value = serde_json::from_slice(&answer.payload)
            .map_err(|error| failed(&format!("an answer cannot be read: {error}")))?;
        answers.push(answer);
        if count(&answers) == Some(answers.len()) {
            break;
        }
        patience = FURTHER;
    }
    if answers.is_empty() {
        return Err(failed(&format!("no answer within {PATIENCE:?}")));
    }
    Ok(answers)
}

/// How many servers the cluster has, as far as the answers say so.
pub(crate) fn count(answers: &[Value]) -> Option<usize> {
    let sizes = answers.iter().filter_map(|answer| {
        let size = answer["data"]["jetstream"]["meta"]["cluster_size"].as_u64()?;
        usize::try_from(size).ok()
    });
    sizes.max()
}
