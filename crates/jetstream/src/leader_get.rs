//! Reads a message of a stream from the leader of the stream.
//!
//! In a cluster, a follower may answer a direct get. It may be behind: on three idle servers, 7 % of the
//! direct gets right after an acknowledged write were answered with what was there before. The leader
//! answers `STREAM.MSG.GET`, which takes the same body for one message, but has no batches.

use async_nats::jetstream::ErrorCode;
use async_nats::{HeaderMap, HeaderName, HeaderValue};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use connection::{NatsClient, read_headers};
use serde::Deserialize;
use serde_json::Value;

use crate::request::{self, ApiError, no_answer};
use crate::stored_message::StoredMessage;
use crate::topology::Stream;

#[derive(Deserialize)]
struct Answer {
    message: Raw,
}

/// A message as the leader returns it. The type of async-nats keeps only the last value of a header.
#[derive(Deserialize)]
struct Raw {
    subject: String,
    seq: u64,
    /// The time as text, which a direct get has as a header.
    time: String,
    /// The block of headers as base64; absent in a message without.
    #[serde(default)]
    hdrs: String,
    /// The body as base64; absent if it is empty.
    #[serde(default)]
    data: String,
}

/// Reads the message that the body of a direct get describes, in the form in which a direct get returns
/// it. `None` if the leader has no such message.
pub(crate) async fn one(
    client: &NatsClient,
    stream: Stream,
    body: &Value,
) -> Result<Option<StoredMessage>, ApiError> {
    let api = format!("$JS.API.STREAM.MSG.GET.{stream}");
    match request::ask::<Answer>(client, api.clone(), body).await {
        Ok(Answer { message }) => {
            let message = message.stored(stream);
            let unreadable = || no_answer(&api, "the answer cannot be read".to_owned());
            message.map(Some).ok_or_else(unreadable)
        }
        Err(ApiError::Refused { code, .. }) if code == ErrorCode::NO_MESSAGE_FOUND => Ok(None),
        Err(error) => Err(error),
    }
}

impl Raw {
    fn stored(self, stream: Stream) -> Option<StoredMessage> {
        let payload = STANDARD.decode(self.data).ok()?;
        let block = STANDARD.decode(self.hdrs).ok()?;
        let mut headers = if block.is_empty() {
            HeaderMap::new()
        } else {
            read_headers(&block)
        };
        // Behind those of the message, as in the answer to a direct get.
        let of_the_server = [
            ("Nats-Stream", stream.name().to_owned()),
            ("Nats-Subject", self.subject),
            ("Nats-Sequence", self.seq.to_string()),
            ("Nats-Time-Stamp", self.time),
        ];
        for (name, value) in of_the_server {
            let name: HeaderName = name.parse().ok()?;
            let value: HeaderValue = value.replace(['\r', '\n'], "\u{fffd}").parse().ok()?;
            headers.append(name, value);
        }
        StoredMessage::read(headers, Bytes::from(payload))
    }
}

#[cfg(test)]
mod tests {
    use common::subjects::UNREADABLE_HEADER;

    use super::*;
    use crate::headers::is_copy;

    fn message(headers: Option<&[u8]>) -> StoredMessage {
        let raw = Raw {
            subject: "jobs.state.a".to_owned(),
            seq: 7,
            time: "2026-01-31T09:30:00.123456789Z".to_owned(),
            hdrs: headers.map_or_else(String::new, |block| STANDARD.encode(block)),
            data: STANDARD.encode(b"{}"),
        };
        raw.stored(Stream::State).unwrap()
    }

    #[test]
    fn a_message_has_the_form_of_a_direct_get() {
        let plain = message(None);
        assert_eq!(
            (plain.subject.as_str(), plain.sequence),
            ("jobs.state.a", 7)
        );
        assert_eq!(plain.at.to_string(), "2026-01-31T09:30:00.123456789Z");
        assert_eq!(plain.payload, "{}");
        assert!(!is_copy(&plain.headers));
        let twice = message(Some(b"NATS/1.0\r\nA: 1\r\nA: 2\r\n\r\n"));
        assert_eq!(twice.headers.get_all("A").count(), 2);
    }

    #[test]
    fn a_stored_copy_of_another_message_is_still_told_by_its_headers() {
        let copy = message(Some(
            b"NATS/1.0\r\nNats-Subject: jobs.state.b\r\nNats-Sequence: 3\r\n\r\n",
        ));
        assert!(is_copy(&copy.headers));
        assert_eq!((copy.subject.as_str(), copy.sequence), ("jobs.state.a", 7));
    }

    #[test]
    fn headers_that_cannot_be_read_are_kept_as_one() {
        for block in [
            b"NATS/1.0\r\nA: 1\r2\r\n\r\n".as_slice(),
            b"NATS/1.0\r\nno colon\r\n\r\n",
            b"NATS/1.0\r\nA: \xff\r\n\r\n",
            b"no headers",
        ] {
            let hostile = message(Some(block));
            let kept = hostile.headers.get(UNREADABLE_HEADER).unwrap();
            assert_eq!(STANDARD.decode(kept.as_str()).unwrap(), block);
            assert_eq!(hostile.sequence, 7);
        }
    }
}
