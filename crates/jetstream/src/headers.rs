//! The NATS headers that durable jobs use, and functions for the headers of a job.

use async_nats::{HeaderMap, HeaderName};
use common::{ScheduleName, WIRE_VERSION, subjects};

use crate::message::Message;

/// The sequence that the last message with the subject must have; 0 if there must be none (ADR-50).
pub const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";

/// The subject, with wildcards, whose last message [`EXPECTED_LAST`] is about, if that is not the
/// subject of the message itself.
///
/// It is a name already, because each record has it: a text is checked and copied at each use.
pub static EXPECTED_LAST_OF: HeaderName =
    HeaderName::from_static("Nats-Expected-Last-Subject-Sequence-Subject");

/// The id of a message, or of an entry in its first message. The server refuses an id that it has
/// stored before.
pub const MESSAGE_ID: &str = "Nats-Msg-Id";

/// How long a message is kept, such as `24h` (ADR-43).
pub const TTL: &str = "Nats-TTL";

/// When a scheduled message is due: `@at` and a time (ADR-51). See [`schedule_at`].
pub const SCHEDULE: &str = "Nats-Schedule";

/// The subject on which a scheduled message is published when it is due (ADR-51).
pub const SCHEDULE_TARGET: &str = "Nats-Schedule-Target";

// These are names already, because every message has them: a text is checked and copied at each use.
pub(crate) static BATCH_ID: HeaderName = HeaderName::from_static("Nats-Batch-Id");
pub(crate) static BATCH_SEQUENCE: HeaderName = HeaderName::from_static("Nats-Batch-Sequence");
pub(crate) const BATCH_COMMIT: &str = "Nats-Batch-Commit";
static REQUIRES: HeaderName = HeaderName::from_static(subjects::REQUIRES_HEADER);
static FRESH: HeaderName = HeaderName::from_static(subjects::FRESH_HEADER);

/// The most bytes of headers that a stream takes.
const MOST_HEADERS: usize = 65_535;

/// What a batch may add to the headers of a message, in bytes.
const OF_A_BATCH: usize = 128;

/// Headers that this system adds to a job: those of a dead letter, those of a marker, and those that
/// apply only to the first delivery.
const ADDED: [&str; 7] = [
    subjects::UNREADABLE_HEADER,
    subjects::FRESH_HEADER,
    subjects::DEAD_REASON_HEADER,
    subjects::DEAD_FAILURES_HEADER,
    subjects::PRIORITY_HEADER,
    subjects::RUN_HEADER,
    subjects::DUE_HEADER,
];

/// The value of [`SCHEDULE`] for a time.
#[must_use]
pub fn schedule_at(time: common::Timestamp) -> String {
    format!("@at {time}")
}

/// The time in the [`SCHEDULE`] header of a message; the inverse of [`schedule_at`].
#[must_use]
pub fn scheduled_time(headers: &HeaderMap) -> Option<common::Timestamp> {
    let schedule = headers.get(SCHEDULE)?.as_str();
    schedule.strip_prefix("@at ")?.parse().ok()
}

/// Whether the server takes a message of this size, also as part of a batch.
#[must_use]
pub fn fits(message: &Message, max_payload: usize) -> bool {
    let headers = size_of(&message.headers) + "NATS/1.0\r\n\r\n".len() + OF_A_BATCH;
    headers <= MOST_HEADERS && headers + message.payload.len() <= max_payload
}

/// The size of headers in bytes, without the version line and the end that every header block has.
#[must_use]
pub fn size_of(headers: &HeaderMap) -> usize {
    let each = headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values
            .iter()
            .map(move |value| name.len() + value.as_str().len() + ": \r\n".len())
    });
    each.sum()
}

/// The raw headers of a message that could not be read, as base64.
#[must_use]
pub fn unreadable(headers: Option<&HeaderMap>) -> Option<&str> {
    let raw = headers?.get(subjects::UNREADABLE_HEADER)?;
    Some(raw.as_str())
}

/// The headers with which a job was submitted: without those of the server and those that this
/// system added.
#[must_use]
pub fn submitted(headers: Option<&HeaderMap>) -> HeaderMap {
    let mut own = HeaderMap::new();
    for (name, values) in headers.into_iter().flat_map(HeaderMap::iter) {
        let text: &str = name.as_ref();
        if text.to_ascii_lowercase().starts_with("nats-") || ADDED.contains(&text) {
            continue;
        }
        for value in values {
            own.append(name.clone(), value.clone());
        }
    }
    own
}

/// The hash of the request that submitted a job; `None` if its message has no valid one.
#[must_use]
pub fn request_hash(headers: &HeaderMap) -> Option<String> {
    let hash = first(headers, subjects::REQUEST_HEADER)?;
    let valid = hash.len() <= subjects::MAX_REQUEST_HASH
        && hash.bytes().all(|byte| byte.is_ascii_alphanumeric());
    valid.then(|| hash.to_owned())
}

/// Marks the message of a job as fresh; see [`subjects::FRESH_HEADER`].
pub fn set_fresh(headers: &mut HeaderMap) {
    headers.insert(FRESH.clone(), "1");
}

/// Whether a message is marked as fresh; see [`subjects::FRESH_HEADER`].
#[must_use]
pub fn is_fresh(headers: Option<&HeaderMap>) -> bool {
    headers.is_some_and(|headers| headers.get(FRESH.clone()).is_some())
}

/// The recurring schedule that submitted a job; `None` if none did, or the name is none.
#[must_use]
pub fn schedule_name(headers: &HeaderMap) -> Option<ScheduleName> {
    first(headers, subjects::SCHEDULE_HEADER)?.parse().ok()
}

/// The first value of a header. There are few headers: to compare all costs less than a look-up.
fn first<'a>(headers: &'a HeaderMap, wanted: &str) -> Option<&'a str> {
    let (_, values) = headers
        .iter()
        .find(|(name, _)| AsRef::<str>::as_ref(*name) == wanted)?;
    Some(values.first()?.as_str())
}

/// The version of the wire format that a message needs; `None` if this code reads that version.
#[must_use]
pub fn newer_version(headers: Option<&HeaderMap>) -> Option<u32> {
    let version = headers?.get(REQUIRES.clone())?.as_str();
    version
        .parse()
        .ok()
        .filter(|version| *version > WIRE_VERSION)
}

/// Whether a message, as a direct get or an event returns it, is a copy of another message.
///
/// A client can have any answer of the server stored in a stream, because it can name a subject of the
/// stream as the reply subject of a request. The answer to a direct get is a copy of a message, whose bytes
/// may be chosen by somebody else. But such a copy has the headers of that direct get as well as those
/// that the server has added for us.
#[must_use]
pub fn is_copy(headers: &HeaderMap) -> bool {
    headers.get_all(async_nats::header::NATS_SEQUENCE).count() > 1
}

/// Whether a message, as a subscription or a durable consumer delivers it, is the answer to a direct get,
/// which somebody had sent here; see [`is_copy`].
#[must_use]
pub fn is_answer(headers: Option<&HeaderMap>) -> bool {
    headers.is_some_and(|headers| headers.get(async_nats::header::NATS_SEQUENCE).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_later_version_is_newer() {
        let newer = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(subjects::REQUIRES_HEADER, value);
            newer_version(Some(&headers))
        };
        assert_eq!(newer("3"), Some(3));
        for value in ["0", "1", "2", "", "two", "-2", "4294967296"] {
            assert_eq!(newer(value), None, "{value}");
        }
        assert_eq!(newer_version(None), None);
    }
}
