//! The endpoint on `jobs.fleet`: answers with a page of the fleet as it was after the last round.

use std::sync::Arc;

use async_nats::service::error::Error;
use bootstrap::{Beat, Endpoint};
use bytes::Bytes;
use common::subjects::FLEET;
use common::{Fleet, FleetMember, FleetRequest, Timestamp};
use tokio::sync::watch;
use tracing::debug;

/// The queue group of all status services. One of them answers each request.
pub(crate) const QUEUE_GROUP: &str = "status";

/// How many consumers a page has at most if the request does not say.
const DEFAULT_LIMIT: u32 = 200;

/// The largest limit of a page.
const MAX_LIMIT: u32 = 500;

/// The largest request, in bytes.
const MAX_REQUEST: usize = 4096;

/// The longest `search`, in bytes.
const MAX_SEARCH: usize = 256;

/// Answers each request at once from the latest view of the fleet.
pub(crate) async fn serve(
    mut endpoint: Endpoint,
    latest_view: watch::Receiver<Arc<Fleet>>,
    max_payload: impl Fn() -> usize,
    mut life: Beat,
) {
    loop {
        let request = tokio::select! {
            request = endpoint.next() => request,
            () = life.tick() => continue,
        };
        let fleet = Arc::clone(&latest_view.borrow());
        let answer = page(&fleet, &request.message.payload, max_payload());
        if let Err(error) = request.respond(answer).await {
            debug!("cannot answer on {FLEET}: {error}");
        }
    }
}

/// The requested page. It has fewer consumers if the message would be larger than `max_payload`.
fn page(fleet: &Fleet, request: &[u8], max_payload: usize) -> Result<Bytes, Error> {
    let request = read(request)?;
    let after = request.after.as_deref().map(parse_cursor).transpose()?;
    let search = request.search.unwrap_or_default().to_lowercase();
    let wanted = |member: &&FleetMember| {
        after.as_ref().is_none_or(|(consumer, since)| {
            (&member.consumer, &member.started_at) > (consumer, since)
        }) && (search.is_empty()
            || member.consumer.to_lowercase().contains(&search)
            || member.host.to_lowercase().contains(&search))
    };
    let mut limit = request.limit.unwrap_or(DEFAULT_LIMIT).min(MAX_LIMIT) as usize;
    let mut found: Vec<_> = fleet
        .consumers
        .iter()
        .filter(wanted)
        .take(limit + 1)
        .cloned()
        .collect();
    let mut answer = Fleet {
        consumers: Vec::new(),
        ..without_consumers(fleet)
    };
    loop {
        let more = found.len() > limit;
        found.truncate(limit);
        answer.next = found.last().filter(|_| more).map(cursor_after);
        answer.consumers = std::mem::take(&mut found);
        let bytes = serde_json::to_vec(&answer)
            .map_err(|error| service_error(500, &format!("the answer is no JSON: {error}")))?;
        if bytes.len() <= max_payload {
            return Ok(bytes.into());
        }
        if limit == 1 {
            return Err(service_error(
                500,
                "the answer is longer than a message may be",
            ));
        }
        // The rest goes to the next page.
        found = std::mem::take(&mut answer.consumers);
        limit = (found.len().min(limit) / 2).max(1);
    }
}

/// The fleet without its consumers.
fn without_consumers(fleet: &Fleet) -> Fleet {
    Fleet {
        instance: fleet.instance.clone(),
        kinds: fleet.kinds.clone(),
        unserved_kinds: fleet.unserved_kinds.clone(),
        consumers: Vec::new(),
        next: None,
        ..*fleet
    }
}

fn read(request: &[u8]) -> Result<FleetRequest, Error> {
    if request.is_empty() {
        return Ok(FleetRequest::default());
    }
    if request.len() > MAX_REQUEST {
        return Err(service_error(400, "the question is longer than 4096 bytes"));
    }
    // serde would also read an array, with the fields in their order.
    if request.trim_ascii_start().first() != Some(&b'{') {
        return Err(service_error(
            400,
            "not a question for the fleet: not an object",
        ));
    }
    let request: FleetRequest = serde_json::from_slice(request)
        .map_err(|error| service_error(400, &format!("not a question for the fleet: {error}")))?;
    if request.limit == Some(0) {
        return Err(service_error(400, "`limit` is 0"));
    }
    let search = request.search.as_ref().map_or(0, String::len);
    if search > MAX_SEARCH {
        return Err(service_error(400, "`search` is longer than 256 bytes"));
    }
    Ok(request)
}

/// The value of `next` or `after` for the consumers after this one.
fn cursor_after(member: &FleetMember) -> String {
    format!("{} {}", member.started_at, member.consumer)
}

/// The name and the start of the consumer in such a value.
fn parse_cursor(text: &str) -> Result<(String, Timestamp), Error> {
    let cursor = text
        .split_once(' ')
        .and_then(|(started_at, consumer)| Some((consumer.to_owned(), started_at.parse().ok()?)));
    cursor.ok_or_else(|| service_error(400, "`after` is not what an answer gave as `next`"))
}

/// An error of the NATS micro service API. The text goes into a header, so it must be one short line.
fn service_error(code: usize, text: &str) -> Error {
    let plain = |character: char| {
        if character.is_control() {
            ' '
        } else {
            character
        }
    };
    Error {
        code,
        status: text.chars().map(plain).take(256).collect(),
    }
}

#[cfg(test)]
mod tests;
