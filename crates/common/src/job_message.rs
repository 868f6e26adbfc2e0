use std::fmt;
use std::str::FromStr;

use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use crate::outcome::cut;
use crate::{
    Backoff, JobId, JobKind, NotPortable, OutcomeError, Timestamp, Unique, WireDuration,
    check_portable,
};

/// A job as it crosses the wire. Only `kind` is required.
///
/// An unknown field is refused by name, because a misspelt option must not change what happens. The
/// payload is kept as it was written: passing it on needs no parsing and loses no precision.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[cfg_attr(
    feature = "schema",
    derive(schemars::JsonSchema),
    schemars(rename = "Job")
)]
#[serde(deny_unknown_fields, expecting = "an object")]
pub struct JobMessage<'a> {
    /// The id of the job. If a job on `jobs.create` has none, the consumer makes a `UUIDv7`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<JobId>,
    /// Which handler runs it.
    pub kind: JobKind,
    /// Input of the handler: JSON that is nested at most 128 levels and has no unpaired surrogate;
    /// `null` if absent. Its own top level is the first; numbers and texts have none.
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(feature = "schema", schemars(with = "serde_json::Value"))]
    pub payload: Option<&'a RawValue>,
    /// When it was made; the time of receipt if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<Timestamp>,
    /// The longest run of one attempt; the handler's if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<WireDuration>,
    /// The job is not started after this time, but ends as expired.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deadline: Option<Timestamp>,
    /// How often it is tried; 5 if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_attempts: Option<MaxAttempts>,
    /// The wait between attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    /// Durable lane: stored with the job and in its subject. Consumers ignore it for now.
    #[serde(default, skip_serializing_if = "Priority::is_normal")]
    pub priority: Priority,
    /// Durable lane: the job does not run before this time, which must be before the year 2262.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "schedulable"
    )]
    pub run_at: Option<Timestamp>,
    /// Durable lane: the job is stored only if no other job of its kind holds the same key. Its message
    /// needs a lock and two headers, which the client library, the gateway, the publisher and the tool
    /// `jobs` add.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique: Option<Unique>,
}

/// The version of the wire format that this code reads and writes.
///
/// A durable job that only later versions can read says so in the header
/// [`crate::subjects::REQUIRES_HEADER`]: an older consumer leaves it to a newer one. Without that
/// header, an unknown field is an error of the sender.
///
/// Version 2 added the field `unique`; only jobs that have it need this version.
pub const WIRE_VERSION: u32 = 2;

/// A time that the NATS server can wait for. The server counts nanoseconds since 1970 with 63 bits,
/// which end in 2262, and treats later times as past.
fn schedulable<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let time = Option::<Timestamp>::deserialize(deserializer)?;
    if time.is_some_and(|time| time.unix_nanos() > i128::from(i64::MAX)) {
        return Err(D::Error::custom(
            "a NATS server can wait for times up to 2262-04-11T23:47:16Z only",
        ));
    }
    Ok(time)
}

/// How often a job is tried: 1 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct MaxAttempts(u32);

/// The priority of a durable job among the waiting jobs of its kind.
///
/// While jobs of all three wait, consumers take them in the ratio 8 : 3 : 1. A priority without jobs leaves
/// its share to the others. So a job of high priority overtakes most waiting jobs of its kind, and one of
/// low priority never waits for ever.
///
/// ```
/// use common::Priority;
///
/// let weights = Priority::ALL.map(Priority::weight);
/// assert_eq!(weights, [8, 3, 1]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Before normal and low.
    High,
    /// The default.
    #[default]
    Normal,
    /// After high and normal.
    Low,
}

/// Bytes that are not a job.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not one JSON text.
    #[error("message is not JSON: {0}")]
    NotJson(#[source] serde_json::Error),
    /// JSON, but a field is missing, unknown or wrong; the text names it.
    #[error("message is not a job: {reason}")]
    NotAJob {
        /// The id, if the message holds a good one: the answer can then name the job.
        id: Option<JobId>,
        /// Which field is wrong, and what would be right.
        reason: String,
    },
}

/// ```
/// use common::{DecodeError, JobMessage, MaxAttempts, Priority};
///
/// let text = br#"{"kind": "mail.send", "payload": {"to": "a"}, "max_attempts": 3}"#;
/// let job = JobMessage::decode(text)?;
/// assert_eq!(job.kind.as_str(), "mail.send");
/// assert_eq!(job.max_attempts.map(MaxAttempts::get), Some(3));
/// assert_eq!(job.priority, Priority::Normal);
/// let error = JobMessage::decode(br#"{"kind": "mail.send", "atempts": 3}"#).unwrap_err();
/// assert!(matches!(error, DecodeError::NotAJob { reason, .. } if reason.contains("atempts")));
/// # Ok::<(), DecodeError>(())
/// ```
impl<'a> JobMessage<'a> {
    /// A job of a kind with everything else left to the defaults.
    #[must_use]
    pub fn new(kind: JobKind) -> Self {
        Self {
            id: None,
            kind,
            payload: None,
            created_at: None,
            timeout: None,
            deadline: None,
            max_attempts: None,
            backoff: None,
            priority: Priority::Normal,
            run_at: None,
            unique: None,
        }
    }

    /// Reads a job from a message; the payload is borrowed from it, not copied.
    ///
    /// # Errors
    /// When the bytes are not JSON, or not a job, or others could not read its payload (see
    /// [`check_portable`]); the error names the field.
    pub fn decode(message: &'a [u8]) -> Result<Self, DecodeError> {
        // A derived reader would take the fields from an array, too, by their position.
        if message.trim_ascii_start().first() == Some(&b'[') {
            let reason = "an array; a job is an object".to_owned();
            return Err(DecodeError::NotAJob { id: None, reason });
        }
        // Jobs that arrive in numbers are good ones: what it takes to name the field that is
        // wrong is paid only by those that are not.
        // Text is also checked faster as a whole than string by string.
        let decoded: Result<Self, _> = match std::str::from_utf8(message) {
            Ok(text) => serde_json::from_str(text),
            Err(_) => serde_json::from_slice(message),
        };
        if let Ok(job) = &decoded
            && let Some(Err(error)) = job.payload.map(check_portable)
        {
            return Err(not_portable(job.id, error));
        }
        decoded.map_err(|error| explain(message, error))
    }
}

#[cold]
fn not_portable(id: Option<JobId>, error: NotPortable) -> DecodeError {
    let reason = format!("field `payload`: {error}");
    DecodeError::NotAJob { id, reason }
}

#[cold]
fn explain(message: &[u8], error: serde_json::Error) -> DecodeError {
    #[derive(Deserialize)]
    struct OnlyId {
        #[serde(default)]
        id: Option<JobId>,
    }
    // A number out of range and an escape that is no character are a matter of their field.
    if !error.is_data() && serde_json::from_slice::<&RawValue>(message).is_err() {
        return DecodeError::NotJson(error);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(message);
    let reason = match serde_path_to_error::deserialize::<_, JobMessage<'_>>(&mut deserializer) {
        Err(located) if located.path().iter().len() > 0 => {
            format!("field `{}`: {}", located.path(), located.inner())
        }
        _ => error.to_string(),
    };
    // A name of a field may be as long as the message.
    let reason = cut(reason, OutcomeError::MAX_MESSAGE);
    let id = serde_json::from_slice::<OnlyId>(message)
        .ok()
        .and_then(|only| only.id);
    DecodeError::NotAJob { id, reason }
}

impl MaxAttempts {
    /// The number of attempts.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl Default for MaxAttempts {
    fn default() -> Self {
        Self(5)
    }
}

impl TryFrom<u32> for MaxAttempts {
    type Error = String;

    fn try_from(number: u32) -> Result<Self, Self::Error> {
        if (1..=100).contains(&number) {
            Ok(Self(number))
        } else {
            Err(format!("invalid number of attempts {number}: 1 to 100"))
        }
    }
}

impl FromStr for MaxAttempts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse::<u32>()
            .map_err(|_| format!("invalid number of attempts {text:?}: 1 to 100"))?
            .try_into()
    }
}

impl From<MaxAttempts> for u32 {
    fn from(attempts: MaxAttempts) -> Self {
        attempts.0
    }
}

impl Priority {
    /// All priorities, the highest first.
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// The share of its jobs among those that are taken while jobs of all priorities wait.
    #[must_use]
    pub const fn weight(self) -> u8 {
        match self {
            Self::High => 8,
            Self::Normal => 3,
            Self::Low => 1,
        }
    }

    /// Whether its jobs go before those of another one that have waited for as long.
    #[must_use]
    pub const fn goes_before(self, other: Self) -> bool {
        self.weight() > other.weight()
    }

    /// The word on the wire, and in subjects.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::High => "high",
            Self::Normal => "normal",
            Self::Low => "low",
        }
    }

    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde calls it with a reference"
    )]
    fn is_normal(&self) -> bool {
        *self == Self::Normal
    }
}

impl fmt::Display for Priority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Priority {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|priority| priority.as_str() == text)
            .ok_or_else(|| {
                let shown: String = text.chars().take(64).collect();
                format!("invalid priority {shown:?}: high, normal or low")
            })
    }
}

impl<'de> Deserialize<'de> for Priority {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Word;

        // A derived reader would take `{"high": null}`, too.
        impl Visitor<'_> for Word {
            type Value = Priority;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("high, normal or low")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Priority, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Word)
    }
}

#[cfg(feature = "schema")]
mod schema {
    use std::borrow::Cow;

    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

    use super::MaxAttempts;

    impl JsonSchema for MaxAttempts {
        fn schema_name() -> Cow<'static, str> {
            "MaxAttempts".into()
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({
                "type": "integer",
                "minimum": 1,
                "maximum": 100,
                "description": "How often a job is tried.",
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::MAX_DEPTH;

    fn reason(message: &str) -> String {
        JobMessage::decode(message.as_bytes())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_kind_alone_is_a_job() {
        let job = JobMessage::decode(br#"{"kind":"echo"}"#).unwrap();
        assert_eq!(job.kind.as_str(), "echo");
        assert!(job.id.is_none() && job.payload.is_none() && job.deadline.is_none());
        assert_eq!(job.priority, Priority::Normal);
    }

    #[test]
    fn the_job_on_the_wire_reads_as_documented() {
        let text = r#"{
            "id": "01890a5d-ac96-774b-bcce-b302099a8057", "kind": "mail.send",
            "payload": {"to": "a@example.org", "big": 12345678901234567890123},
            "created_at": "2026-01-31T09:30:00Z", "timeout": "30s",
            "deadline": "2026-02-01T00:00:00+02:00", "max_attempts": 3,
            "backoff": {"initial": "1s", "factor": 2, "max": "10m"},
            "priority": "high", "run_at": "2026-01-31T10:00:00Z",
            "unique": {"key": "user-7", "until": "started", "on_conflict": "keep"}
        }"#;
        let job = JobMessage::decode(text.as_bytes()).unwrap();
        insta::assert_snapshot!(serde_json::to_string(&job).unwrap());
    }

    #[test]
    fn each_wrong_field_is_named() {
        let cases = [
            (
                r#"{"kind":"a","prioritty":"high"}"#,
                "unknown field `prioritty`",
            ),
            (r#"{"payload":1}"#, "missing field `kind`"),
            (r#"{"kind":"a..b"}"#, "field `kind`: invalid kind"),
            (r#"{"kind":7}"#, "field `kind`"),
            (r#"{"kind":"a","kind":"b"}"#, "duplicate field `kind`"),
            (r#"{"kind":"a","id":"7"}"#, "field `id`"),
            (r#"{"kind":"a","id":""}"#, "field `id`"),
            (r#"{"kind":"a","timeout":30}"#, "field `timeout`"),
            (
                r#"{"kind":"a","timeout":"0s"}"#,
                "field `timeout`: invalid duration",
            ),
            (
                r#"{"kind":"a","deadline":"tomorrow"}"#,
                "field `deadline`: not a time after RFC 3339, such as 2026-01-31T09:30:00Z",
            ),
            (
                r#"{"kind":"a","run_at":"2262-04-11T23:47:17Z"}"#,
                "field `run_at`: a NATS server can wait",
            ),
            (
                r#"{"kind":"a","created_at":-1}"#,
                "field `created_at`: invalid type: integer `-1`, expected a time after RFC 3339",
            ),
            (
                r#"{"kind":"a","max_attempts":0}"#,
                "field `max_attempts`: invalid number of attempts 0",
            ),
            (
                r#"{"kind":"a","max_attempts":4294967295}"#,
                "field `max_attempts`",
            ),
            (
                r#"{"kind":"a","backoff":{"initial":"1e400s"}}"#,
                "field `backoff",
            ),
            (r#"{"kind":"a","backoff":{"factor":0}}"#, "invalid factor 0"),
            (r#"{"kind":"a","priority":"urgent"}"#, "field `priority`"),
            ("[]", "a job is an object"),
            (
                r#" ["01890a5d-ac96-774b-bcce-b302099a8057","a"]"#,
                "a job is an object",
            ),
            (
                r#"{"kind":"a","backoff":["1s",2,"10m"]}"#,
                "field `backoff`",
            ),
            ("null", "invalid type: null, expected an object"),
            ("\"a\"", "invalid type: string \"a\", expected an object"),
            (
                r#"{"kind":"a","payload":null,"payload":1}"#,
                "duplicate field `payload`",
            ),
            (
                r#"{"kind":"a","id":null,"\u0069d":null}"#,
                "duplicate field `id`",
            ),
            (
                r#"{"kind":"a","backoff":{"factor":1,"factor":2}}"#,
                "field `backoff`: duplicate field `factor`",
            ),
            (
                r#"{"kind":"a","max_attempts":1e400}"#,
                "field `max_attempts`",
            ),
            (
                r#"{"kind":"a","backoff":{"factor":1e400}}"#,
                "field `backoff.factor`",
            ),
            (r#"{"kind":"\ud800"}"#, "field `kind`"),
            (
                r#"{"kind":"a","priority":{"high":null}}"#,
                "field `priority`",
            ),
            (
                r#"{"kind":"a","unique":{"key":""}}"#,
                "field `unique.key`: a key has 1 to 256 bytes",
            ),
        ];
        for (message, expected) in cases {
            let reason = reason(message);
            assert!(reason.contains(expected), "{message}: {reason}");
        }
    }

    #[test]
    fn what_is_not_json_says_so() {
        for message in [
            "",
            "{",
            "\u{feff}{\"kind\":\"a\"}",
            "{\"kind\":\"a\"} x",
            "NaN",
            "{'kind':'a'}",
        ] {
            assert!(
                reason(message).starts_with("message is not JSON"),
                "{message:?}: {}",
                reason(message)
            );
        }
        assert!(JobMessage::decode(b"{\"kind\":\"a\",\"payload\":\"\xff\"}").is_err());
    }

    #[test]
    fn a_wrong_job_with_a_good_id_keeps_its_id() {
        let message = br#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","kind":"a","x":1}"#;
        let Err(DecodeError::NotAJob { id, .. }) = JobMessage::decode(message) else {
            panic!("was taken")
        };
        assert_eq!(
            id.unwrap().to_string(),
            "01890a5d-ac96-774b-bcce-b302099a8057"
        );
    }

    #[test]
    fn a_payload_that_others_cannot_read_is_refused_with_its_field_and_id() {
        let nested = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        let id = "01890a5d-ac96-774b-bcce-b302099a8057";
        let job = |payload: &str| format!(r#"{{"kind":"a","payload":{payload},"id":"{id}"}}"#);
        let deepest = nested(MAX_DEPTH);
        let message = job(&deepest);
        let taken = JobMessage::decode(message.as_bytes()).unwrap();
        assert_eq!(taken.payload.unwrap().get(), deepest);
        for (payload, expected) in [
            (
                nested(MAX_DEPTH + 1),
                "message is not a job: field `payload`: nested deeper than 128 levels",
            ),
            (
                nested(20_000),
                "message is not a job: field `payload`: nested deeper than 128 levels",
            ),
            (
                r#"{"text":"a\ud800b"}"#.to_owned(),
                r"message is not a job: field `payload`: a string has an unpaired surrogate",
            ),
        ] {
            let error = JobMessage::decode(job(&payload).as_bytes()).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{error}");
            let DecodeError::NotAJob { id: Some(of), .. } = error else {
                panic!("the id is lost: {error}")
            };
            assert_eq!(of.to_string(), id);
        }
    }

    #[test]
    fn a_hostile_field_costs_no_stack_and_little_text() {
        let nested = format!("{}1{}", r#"{"a":"#.repeat(20_000), "}".repeat(20_000));
        for (message, expected) in [
            (
                format!(r#"{{"kind":"a","backoff":{nested}}}"#),
                "field `backoff.a`: unknown field `a`",
            ),
            (
                format!(r#"{{"kind":"a","backoff":{{"initial":{nested}}}}}"#),
                "field `backoff.initial`: invalid type: map",
            ),
            (
                format!(r#"{{"kind":"a","other":{nested}}}"#),
                "field `other`: unknown field `other`",
            ),
            (
                format!(r#"{{"kind":"a","{}":1}}"#, "x".repeat(100_000)),
                "field `xxx",
            ),
        ] {
            let reason = reason(&message);
            assert!(reason.contains(expected), "{reason}");
            assert!(reason.len() < 5_000, "{} bytes", reason.len());
        }
    }

    fn kinds() -> impl Strategy<Value = JobKind> {
        "[A-Za-z0-9_-]{1,20}(\\.[A-Za-z0-9_-]{1,20}){0,3}".prop_map(|text| text.parse().unwrap())
    }

    fn timestamps() -> impl Strategy<Value = Timestamp> {
        (0_i64..4_000_000_000).prop_map(|seconds| {
            let moment = time::OffsetDateTime::from_unix_timestamp(seconds).unwrap();
            let text = moment
                .format(&time::format_description::well_known::Rfc3339)
                .unwrap();
            text.parse().unwrap()
        })
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = JobMessage::decode(&bytes);
        }

        #[test]
        fn a_job_with_a_flipped_byte_never_panics(at in 0_usize..60, to in any::<u8>()) {
            let mut bytes = br#"{"kind":"mail.send","payload":[1,"x"],"timeout":"30s","id":null}"#.to_vec();
            bytes[at] = to;
            let _ = JobMessage::decode(&bytes);
        }

        #[test]
        fn a_job_survives_the_round_trip(
            kind in kinds(),
            id in any::<[u8; 16]>(),
            text in ".{0,40}",
            created_at in proptest::option::of(timestamps()),
            deadline in proptest::option::of(timestamps()),
            seconds in proptest::option::of(1_u64..100_000),
            attempts in proptest::option::of(1_u32..=100),
        ) {
            let payload = serde_json::value::to_raw_value(&text).unwrap();
            let job = JobMessage {
                id: Some(uuid::Uuid::from_bytes(id).to_string().parse().unwrap()),
                payload: Some(&payload),
                created_at,
                deadline,
                timeout: seconds.map(|s| std::time::Duration::from_secs(s).try_into().unwrap()),
                max_attempts: attempts.map(|n| n.try_into().unwrap()),
                backoff: Some(Backoff::default()),
                priority: Priority::Low,
                ..JobMessage::new(kind)
            };
            let bytes = serde_json::to_vec(&job).unwrap();
            let back = JobMessage::decode(&bytes).unwrap();
            prop_assert_eq!(back.id, job.id);
            prop_assert_eq!(&back.kind, &job.kind);
            prop_assert_eq!(back.payload.unwrap().get(), payload.get());
            prop_assert_eq!(back.created_at, job.created_at);
            prop_assert_eq!(back.deadline, job.deadline);
            prop_assert_eq!(back.timeout, job.timeout);
            prop_assert_eq!(back.max_attempts, job.max_attempts);
            prop_assert_eq!(back.backoff, job.backoff);
            prop_assert_eq!(back.priority, job.priority);
        }
    }
}
