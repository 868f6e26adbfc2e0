//! Answers on `jobs.fleet`: pages of the fleet, as it was after the last round.

use std::sync::Arc;

use async_nats::service::error::Error;
use bootstrap::{Beat, Endpoint};
use bytes::Bytes;
use common::subjects::FLEET;
use common::{Fleet, FleetMember, FleetRequest, Timestamp};
use tokio::sync::watch;
use tracing::debug;

/// The queue group in which status services share the questions.
pub(crate) const GROUP: &str = "status";

/// How many consumers are in an answer if it is not said, and the most.
const USUAL: u32 = 200;
const MOST: u32 = 500;

/// The longest question, in bytes.
const LONGEST: usize = 4096;

/// The longest text that is looked for, in bytes.
const LONGEST_SEARCH: usize = 256;

/// Answers each question at once from what is known.
pub(crate) async fn answer(
    mut endpoint: Endpoint,
    known: watch::Receiver<Arc<Fleet>>,
    max_payload: impl Fn() -> usize,
    mut life: Beat,
) {
    loop {
        let request = tokio::select! {
            request = endpoint.next() => request,
            () = life.tick() => continue,
        };
        let fleet = Arc::clone(&known.borrow());
        let answer = page(&fleet, &request.message.payload, max_payload());
        if let Err(error) = request.respond(answer).await {
            debug!("cannot answer on {FLEET}: {error}");
        }
    }
}

/// The page that is asked for, which is as long as a message may be at the most.
fn page(fleet: &Fleet, question: &[u8], max_payload: usize) -> Result<Bytes, Error> {
    let request = read(question)?;
    let after = request.after.as_deref().map(place).transpose()?;
    let search = request.search.unwrap_or_default().to_lowercase();
    let wanted = |member: &&FleetMember| {
        after.as_ref().is_none_or(|(consumer, since)| {
            (&member.consumer, &member.started_at) > (consumer, since)
        }) && (search.is_empty()
            || member.consumer.to_lowercase().contains(&search)
            || member.host.to_lowercase().contains(&search))
    };
    let mut most = request.limit.unwrap_or(USUAL).min(MOST) as usize;
    let mut found: Vec<_> = fleet
        .consumers
        .iter()
        .filter(wanted)
        .take(most + 1)
        .cloned()
        .collect();
    let mut answer = Fleet {
        consumers: Vec::new(),
        ..outline(fleet)
    };
    loop {
        let more = found.len() > most;
        found.truncate(most);
        answer.next = found.last().filter(|_| more).map(after_member);
        answer.consumers = std::mem::take(&mut found);
        let bytes = serde_json::to_vec(&answer)
            .map_err(|error| refusal(500, &format!("the answer is no JSON: {error}")))?;
        if bytes.len() <= max_payload {
            return Ok(bytes.into());
        }
        if most == 1 {
            return Err(refusal(500, "the answer is longer than a message may be"));
        }
        // Fewer, and the others on the next page.
        found = std::mem::take(&mut answer.consumers);
        most = (found.len().min(most) / 2).max(1);
    }
}

/// All but the consumers.
fn outline(fleet: &Fleet) -> Fleet {
    Fleet {
        instance: fleet.instance.clone(),
        kinds: fleet.kinds.clone(),
        unserved_kinds: fleet.unserved_kinds.clone(),
        consumers: Vec::new(),
        next: None,
        ..*fleet
    }
}

fn read(question: &[u8]) -> Result<FleetRequest, Error> {
    if question.is_empty() {
        return Ok(FleetRequest::default());
    }
    if question.len() > LONGEST {
        return Err(refusal(400, "the question is longer than 4096 bytes"));
    }
    // A derived reader would take the fields from an array, too, by their position.
    if question.trim_ascii_start().first() != Some(&b'{') {
        return Err(refusal(400, "not a question for the fleet: not an object"));
    }
    let request: FleetRequest = serde_json::from_slice(question)
        .map_err(|error| refusal(400, &format!("not a question for the fleet: {error}")))?;
    if request.limit == Some(0) {
        return Err(refusal(400, "`limit` is 0"));
    }
    let search = request.search.as_ref().map_or(0, String::len);
    if search > LONGEST_SEARCH {
        return Err(refusal(400, "`search` is longer than 256 bytes"));
    }
    Ok(request)
}

/// The text for a place behind a consumer.
fn after_member(member: &FleetMember) -> String {
    format!("{} {}", member.started_at, member.consumer)
}

/// The place that such a text means.
fn place(text: &str) -> Result<(String, Timestamp), Error> {
    let place = text
        .split_once(' ')
        .and_then(|(started_at, consumer)| Some((consumer.to_owned(), started_at.parse().ok()?)));
    place.ok_or_else(|| refusal(400, "`after` is not what an answer gave as `next`"))
}

/// An error as micro services tell it; the text goes into a header.
fn refusal(code: usize, text: &str) -> Error {
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
