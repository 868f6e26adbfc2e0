//! Scheduled durable jobs whose time has come.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::RequestErrorKind;
use bootstrap::NatsClient;
use client::Stream;
use serde_json::{Value, json};

/// How long the server may take to answer a request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// How many scheduled jobs have come due and wait for a consumer or run; `None` if there is no stream
/// of scheduled jobs.
///
/// These are the messages that the durable consumers of kinds have not acknowledged. The stream itself
/// holds more, for example jobs that have ended and were not removed yet. The server computes the
/// numbers for each durable consumer, so do not call this every second.
///
/// # Errors
/// When the server does not answer in time.
pub(super) async fn pending_scheduled(client: &NatsClient) -> anyhow::Result<Option<u64>> {
    let (mut pending, mut seen) = (0_u64, 0);
    loop {
        let Some(page) = page(client, seen).await? else {
            return Ok(None);
        };
        // The field is absent if the stream has no durable consumers.
        let consumers = page["consumers"].as_array().map_or(&[][..], Vec::as_slice);
        let of_kinds = |consumer: &&Value| consumer["name"] != client::TICKS;
        for consumer in consumers.iter().filter(of_kinds) {
            for count in ["num_pending", "num_ack_pending"] {
                pending = pending.saturating_add(consumer[count].as_u64().unwrap_or_default());
            }
        }
        seen += consumers.len() as u64;
        if consumers.is_empty() || seen >= page["total"].as_u64().unwrap_or_default() {
            return Ok(Some(pending));
        }
    }
}

/// A page of the stream's durable consumers, without the first `offset`; `None` if there is no stream.
async fn page(client: &NatsClient, offset: u64) -> anyhow::Result<Option<Value>> {
    let subject = format!("$JS.API.CONSUMER.LIST.{}", Stream::Later);
    let request = client.request(subject, json!({"offset": offset}).to_string().into());
    let answer = tokio::time::timeout(TIMEOUT, request);
    let answer = match answer.await.context("no answer in time")? {
        Ok(answer) => answer,
        Err(error) if error.kind() == RequestErrorKind::NoResponders => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let page: Value = serde_json::from_slice(&answer.payload)?;
    // An error means that there is no such stream.
    Ok((!page["error"].is_object()).then_some(page))
}
