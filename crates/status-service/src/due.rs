//! Durable jobs whose time has come.

use std::time::Duration;

use anyhow::Context as _;
use async_nats::RequestErrorKind;
use bootstrap::Client;
use client::Stream;
use serde_json::{Value, json};

/// How long the server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many there are, waiting or running; `None` where there is no durable lane.
///
/// The stream holds more, among them what has ended and was not removed yet; what is left to do is
/// what its durable consumers have not acknowledged. The server adds that up for each of them, so
/// this is not for every second.
///
/// # Errors
/// When the server does not answer in time.
pub(crate) async fn due(client: &Client) -> anyhow::Result<Option<u64>> {
    let (mut due, mut seen) = (0_u64, 0);
    loop {
        let Some(page) = page(client, seen).await? else {
            return Ok(None);
        };
        // Not there when there are none.
        let consumers = page["consumers"].as_array().map_or(&[][..], Vec::as_slice);
        for consumer in consumers {
            for count in ["num_pending", "num_ack_pending"] {
                due = due.saturating_add(consumer[count].as_u64().unwrap_or_default());
            }
        }
        seen += consumers.len() as u64;
        if consumers.is_empty() || seen >= page["total"].as_u64().unwrap_or_default() {
            return Ok(Some(due));
        }
    }
}

/// Some of the stream's consumers, from so many on.
async fn page(client: &Client, offset: u64) -> anyhow::Result<Option<Value>> {
    let subject = format!("$JS.API.CONSUMER.LIST.{}", Stream::Later);
    let question = client.request(subject, json!({"offset": offset}).to_string().into());
    let answer = tokio::time::timeout(PATIENCE, question);
    let answer = match answer.await.context("no answer in time")? {
        Ok(answer) => answer,
        Err(error) if error.kind() == RequestErrorKind::NoResponders => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let page: Value = serde_json::from_slice(&answer.payload)?;
    // There is no such stream.
    Ok((!page["error"].is_object()).then_some(page))
}
