//! The dead letter of a job: with as much of what is known of the job as there is room for.

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use common::{JobRecord, subjects};

use crate::lease::Lease;
use crate::writer::{Message, size_of};

/// The most bytes of headers that a stream takes.
const MOST_HEADERS: usize = 65_535;

/// What a batch may add to the headers of a message.
const OF_A_BATCH: usize = 128;

/// What a dead letter says of its job, and what holds for its first delivery alone.
const OF_THE_LANE: [&str; 7] = [
    subjects::UNREADABLE_HEADER,
    subjects::FRESH_HEADER,
    subjects::DEAD_REASON_HEADER,
    subjects::DEAD_FAILURES_HEADER,
    subjects::PRIORITY_HEADER,
    subjects::RUN_HEADER,
    subjects::DUE_HEADER,
];

/// The dead letter of a job, and whether it can be stored together with the record.
///
/// The job itself is always whole. Beside one that nearly fills a message the failures are left
/// out, which are in the record as well, then headers that could not be read; and where there is not
/// even room for what makes a batch, all but the job is.
pub(crate) fn dead_letter(
    record: &JobRecord,
    lease: &Lease,
    max_payload: usize,
) -> (Message, bool) {
    let letter = |headers: &HeaderMap| Message {
        subject: subjects::dead(lease.id, &lease.kind),
        headers: headers.clone(),
        payload: lease.payload.clone(),
    };
    let own = own_headers(lease.headers.as_ref());
    let mut brief = own.clone();
    let reason = record.reason.map_or("", |reason| reason.as_str());
    set(&mut brief, subjects::DEAD_REASON_HEADER, reason);
    let priority = lease.priority.to_string();
    set(&mut brief, subjects::PRIORITY_HEADER, &priority);
    set(&mut brief, subjects::RUN_HEADER, &lease.run.to_string());
    let mut whole = brief.clone();
    if let Some(raw) = unreadable_headers(lease.headers.as_ref()) {
        set(&mut whole, subjects::UNREADABLE_HEADER, raw);
    }
    let mut full = whole.clone();
    let failures = serde_json::to_string(&record.failures).unwrap_or_default();
    set(&mut full, subjects::DEAD_FAILURES_HEADER, &failures);
    for headers in [&full, &whole, &brief] {
        let letter = letter(headers);
        if fits(&letter, max_payload) {
            return (letter, true);
        }
    }
    (letter(&own), false)
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // The text is our own, or JSON without line breaks; one that cannot be in a header is still in
    // the record.
    if let Ok(value) = value.parse::<HeaderValue>() {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// Whether the server takes a message, also as part of a batch.
pub(crate) fn fits(message: &Message, max_payload: usize) -> bool {
    let headers = size_of(&message.headers) + "NATS/1.0\r\n\r\n".len() + OF_A_BATCH;
    headers <= MOST_HEADERS && headers + message.payload.len() <= max_payload
}

/// What the headers of a message were that could not be read, as base64.
pub(crate) fn unreadable_headers(headers: Option<&HeaderMap>) -> Option<&str> {
    let raw = headers?.get(subjects::UNREADABLE_HEADER)?;
    Some(raw.as_str())
}

/// The headers of a job without those of the server and of the lane.
pub(crate) fn own_headers(headers: Option<&HeaderMap>) -> HeaderMap {
    let mut own = HeaderMap::new();
    for (name, values) in headers.into_iter().flat_map(HeaderMap::iter) {
        let text: &str = name.as_ref();
        if text.to_ascii_lowercase().starts_with("nats-") || OF_THE_LANE.contains(&text) {
            continue;
        }
        for value in values {
            own.append(name.clone(), value.clone());
        }
    }
    own
}
