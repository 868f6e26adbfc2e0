use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::JobId;

/// What became of a job: the answer to a request on `jobs.create`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct Outcome {
    /// The job; `null` if the message held no good id.
    pub id: Option<JobId>,
    /// How it ended.
    pub status: Status,
    /// Instance name of the consumer that answers.
    pub consumer: String,
    /// The number of the submission that this answers, from 1.
    pub attempt: u32,
    /// What the handler returned; absent unless it succeeded. Nested no deeper than a payload.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "serde_json::Value"))]
    pub result: Option<Box<RawValue>>,
    /// Why it did not succeed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<OutcomeError>,
    /// How long the handler ran, in milliseconds; 0 if it was not started.
    pub duration_ms: f64,
}

/// How a submission ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The handler returned a result.
    Succeeded,
    /// The handler ran and failed, panicked or took too long.
    Failed,
    /// The job was not run and never will be: it is malformed, or nobody serves its kind.
    Rejected,
    /// The job was not run because the consumer is full; submit it again.
    Busy,
    /// The consumer stopped before the job was done; submit it again.
    Interrupted,
    /// The job was not run because its deadline had passed.
    Expired,
}

/// Why a job did not succeed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct OutcomeError {
    /// A word for programs: one of [`codes`].
    #[cfg_attr(feature = "schema", schemars(description = "A word for programs."))]
    pub code: Cow<'static, str>,
    /// A sentence for people.
    pub message: String,
    /// How long to wait before the next attempt, in milliseconds, if this is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

/// The words that [`OutcomeError::code`] holds.
pub mod codes {
    /// The message is not JSON.
    pub const INVALID_JSON: &str = "invalid_json";
    /// A field of the job is missing, unknown or wrong.
    pub const INVALID_JOB: &str = "invalid_job";
    /// The headers of the message, or its subject, cannot be read.
    pub const UNREADABLE_HEADERS: &str = "unreadable_headers";
    /// What is stored as the record of the job is not a record.
    pub const UNREADABLE_RECORD: &str = "unreadable_record";
    /// The payload is not what the handler takes.
    pub const INVALID_PAYLOAD: &str = "invalid_payload";
    /// No consumer serves the kind.
    pub const UNKNOWN_KIND: &str = "unknown_kind";
    /// The job came on the subject of another kind than its own.
    pub const KIND_MISMATCH: &str = "kind_mismatch";
    /// The deadline had passed.
    pub const EXPIRED: &str = "expired";
    /// The consumer was full.
    pub const BUSY: &str = "busy";
    /// The consumer was stopped.
    pub const INTERRUPTED: &str = "interrupted";
    /// Durable lane: the consumer that had the job ended, or was cut off, before it had settled it.
    pub const LOST: &str = "lost";
    /// Durable lane: no attempt, but the mark where a dead letter was replayed.
    pub const REPLAYED: &str = "replayed";
    /// Durable lane: no attempt, but the mark where a dead letter was discarded.
    pub const DISCARDED: &str = "discarded";
    /// The attempt took longer than its time-out.
    pub const TIMEOUT: &str = "timeout";
    /// The handler panicked.
    pub const PANIC: &str = "panic";
    /// The handler failed in a way that a repetition may cure.
    pub const TRANSIENT: &str = "transient";
    /// The handler failed in a way that a repetition cannot cure.
    pub const PERMANENT: &str = "permanent";
    /// The result is larger than a message may be.
    pub const RESULT_TOO_LARGE: &str = "result_too_large";
    /// The result is JSON that others cannot read: nested too deep, or with an unpaired surrogate.
    pub const RESULT_UNREADABLE: &str = "result_unreadable";
}

/// ```
/// use common::{Outcome, OutcomeError, Status, codes};
///
/// let answer = r#"{"id": null, "status": "rejected", "consumer": "consumer-1", "attempt": 1,
///     "duration_ms": 0, "error": {"code": "invalid_json", "message": "message is not JSON"}}"#;
/// let outcome: Outcome = serde_json::from_str(answer)?;
/// assert_eq!(outcome.status, Status::Rejected);
/// let expected = OutcomeError::new(codes::INVALID_JSON, "message is not JSON");
/// assert_eq!(outcome.error, Some(expected));
/// # Ok::<(), serde_json::Error>(())
/// ```
impl OutcomeError {
    /// The longest message, in bytes: a text that repeats input must not outgrow what it is in.
    pub const MAX_MESSAGE: usize = 4096;

    /// An error with a code and a message, which is cut after [`OutcomeError::MAX_MESSAGE`].
    #[must_use]
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            code: Cow::Borrowed(code),
            message: cut(message.into(), Self::MAX_MESSAGE),
            retry_after_ms: None,
        }
    }
}

/// Cuts a text to at most so many bytes, and says so by its last character.
pub(crate) fn cut(mut text: String, most: usize) -> String {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most - '…'.len_utf8()));
        text.push('…');
    }
    text
}

impl Status {
    /// Whether the same job should be submitted again.
    #[must_use]
    pub const fn invites_another_attempt(self) -> bool {
        matches!(self, Self::Busy | Self::Interrupted)
    }

    /// The word on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Busy => "busy",
            Self::Interrupted => "interrupted",
            Self::Expired => "expired",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_outcome_on_the_wire_reads_as_documented() {
        let succeeded = Outcome {
            id: "01890a5d-ac96-774b-bcce-b302099a8057".parse().ok(),
            status: Status::Succeeded,
            consumer: "consumer-3f9a1c".into(),
            attempt: 1,
            result: serde_json::value::to_raw_value(&serde_json::json!({"hex": "ab"})).ok(),
            error: None,
            duration_ms: 1.25,
        };
        let rejected = Outcome {
            id: None,
            status: Status::Rejected,
            result: None,
            error: Some(OutcomeError::new(
                codes::INVALID_JSON,
                "message is not JSON",
            )),
            duration_ms: 0.0,
            ..succeeded.clone()
        };
        insta::assert_snapshot!(format!(
            "{}\n{}",
            serde_json::to_string(&succeeded).unwrap(),
            serde_json::to_string(&rejected).unwrap()
        ));
    }

    #[test]
    fn a_message_is_cut_between_characters() {
        let error = OutcomeError::new(codes::PERMANENT, "ä".repeat(10_000));
        assert!(error.message.len() <= OutcomeError::MAX_MESSAGE);
        assert!(error.message.ends_with("ä…"));
    }

    #[test]
    fn a_newer_consumer_may_add_fields_and_codes() {
        let text = r#"{"id":null,"status":"failed","consumer":"c","attempt":2,"duration_ms":3,
            "error":{"code":"brand_new","message":"m","hint":"h"},"trace":"t"}"#;
        let outcome: Outcome = serde_json::from_str(text).unwrap();
        assert_eq!(outcome.error.unwrap().code, "brand_new");
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = serde_json::from_slice::<Outcome>(&bytes);
        }

        #[test]
        fn an_outcome_survives_the_round_trip(
            consumer in ".{0,20}", attempt in any::<u32>(), message in ".{0,40}", text in ".{0,40}",
        ) {
            let outcome = Outcome {
                id: Some(JobId::generate()),
                status: Status::Failed,
                consumer,
                attempt,
                result: serde_json::value::to_raw_value(&text).ok(),
                error: Some(OutcomeError::new(codes::PERMANENT, message)),
                duration_ms: 0.5,
            };
            let back: Outcome = serde_json::from_slice(&serde_json::to_vec(&outcome).unwrap()).unwrap();
            prop_assert_eq!(back.id, outcome.id);
            prop_assert_eq!(back.consumer, outcome.consumer);
            prop_assert_eq!(back.attempt, outcome.attempt);
            prop_assert_eq!(back.error, outcome.error);
            let (back, sent) = (back.result.unwrap(), outcome.result.unwrap());
            prop_assert_eq!(back.get(), sent.get());
        }
    }
}
