//! Durable jobs that wait for a consumer or run, by kind.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::RequestErrorKind;
use bootstrap::NatsClient;
use client::{JobKind, Stream, parse_consumer};
use serde_json::{Value, json};

/// How long the server may take to answer a request.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The jobs that the durable consumers of kinds have not acknowledged. The streams themselves hold more, for example
/// jobs that have ended and were not removed yet, and scheduled jobs whose time has not come.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// By kind, of all kinds that were ever served.
    pub(crate) by_kind: BTreeMap<JobKind, u64>,
    /// Those of them that were scheduled, and whose time has come.
    pub(crate) due: u64,
}

/// Asks the server for the backlog; `None` if one of the streams does not exist. The server computes the numbers for
/// each durable consumer, so do not call this every second.
///
/// # Errors
/// When the server does not answer in time.
pub(super) async fn backlog(client: &NatsClient) -> anyhow::Result<Option<Backlog>> {
    let mut backlog = Backlog::default();
    for stream in [Stream::Jobs, Stream::Later] {
        let mut seen = 0;
        loop {
            let Some(page) = page(client, stream, seen).await? else {
                return Ok(None);
            };
            // The field is absent if the stream has no durable consumers.
            let consumers = page["consumers"].as_array().map_or(&[][..], Vec::as_slice);
            for consumer in consumers {
                backlog.add(stream, consumer);
            }
            seen += consumers.len() as u64;
            if consumers.is_empty() || seen >= page["total"].as_u64().unwrap_or_default() {
                break;
            }
        }
    }
    Ok(Some(backlog))
}

impl Backlog {
    /// Adds what a durable consumer has not delivered, and what was not acknowledged to it.
    fn add(&mut self, stream: Stream, consumer: &Value) {
        // That of ticks serves no kind, and other programs may have some of their own.
        let kind = consumer["name"].as_str().and_then(parse_consumer);
        let Some((kind, _priority)) = kind else {
            return;
        };
        let count = |field: &str| consumer[field].as_u64().unwrap_or_default();
        let jobs = count("num_pending").saturating_add(count("num_ack_pending"));
        let of_kind = self.by_kind.entry(kind).or_default();
        *of_kind = of_kind.saturating_add(jobs);
        if stream == Stream::Later {
            self.due = self.due.saturating_add(jobs);
        }
    }
}

/// A page of the stream's durable consumers, without the first `offset`; `None` if there is no stream.
async fn page(client: &NatsClient, stream: Stream, offset: u64) -> anyhow::Result<Option<Value>> {
    let subject = format!("$JS.API.CONSUMER.LIST.{stream}");
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_of_all_priorities_of_a_kind_are_added_up_and_ticks_are_none() {
        let mut backlog = Backlog::default();
        let consumer = |name: &str, waiting: u64, running: u64| json!({"name": name, "num_pending": waiting, "num_ack_pending": running});
        for (stream, name, waiting, running) in [
            (Stream::Jobs, "mail=send~high", 1, 2),
            (Stream::Jobs, "mail=send~normal", 10, 0),
            (Stream::Jobs, "mail=send", 0, 3),
            (Stream::Jobs, "echo", 0, 0),
            (Stream::Later, "mail=send", 100, 20),
            (Stream::Later, client::TICKS, 7, 7),
        ] {
            backlog.add(stream, &consumer(name, waiting, running));
        }
        let by_kind = [("echo", 0), ("mail.send", 136)];
        let by_kind = by_kind.map(|(kind, jobs)| (kind.parse().unwrap(), jobs));
        assert_eq!(backlog.by_kind, by_kind.into());
        assert_eq!(backlog.due, 120);
    }
}
