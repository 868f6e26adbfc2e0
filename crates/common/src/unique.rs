//! Unique jobs: at most one job of a kind holds a key.

use std::fmt;
use std::str::FromStr;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::JobId;

/// Makes a durable job unique: it is stored only if no other job of its kind holds the same key.
///
/// ```
/// use common::{OnConflict, Unique, Until};
///
/// let unique: Unique = serde_json::from_str(r#"{"key": "user-7"}"#)?;
/// assert_eq!(unique.key.as_str(), "user-7");
/// assert_eq!((unique.until, unique.on_conflict), (Until::Ended, OnConflict::Reject));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(deny_unknown_fields))]
pub struct Unique {
    /// The key. Jobs of other kinds may have the same one.
    pub key: UniqueKey,
    /// Until when the job holds the key.
    #[serde(skip_serializing_if = "Until::is_ended")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub until: Until,
    /// What becomes of this job if another job holds the key.
    #[serde(skip_serializing_if = "OnConflict::is_reject")]
    #[cfg_attr(feature = "schema", schemars(default))]
    pub on_conflict: OnConflict,
}

/// The key of a [`Unique`] job: 1 to 256 bytes without control characters.
///
/// ```
/// use common::UniqueKey;
///
/// assert!("invoice 2026/17".parse::<UniqueKey>().is_ok());
/// assert!("".parse::<UniqueKey>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct UniqueKey(String);

/// Until when a [`Unique`] job holds its key.
///
/// ```
/// assert_eq!("started".parse(), Ok(common::Until::Started));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Until {
    /// Until it has succeeded, is dead, cancelled or expired. Waits between attempts are included.
    #[default]
    Ended,
    /// Until its first attempt starts.
    Started,
}

/// What becomes of a [`Unique`] job if another job holds its key.
///
/// ```
/// assert_eq!("keep".parse(), Ok(common::OnConflict::Keep));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum OnConflict {
    /// The submission fails, and the error names the other job.
    #[default]
    Reject,
    /// The submission succeeds with the id of the other job. Nothing is stored.
    Keep,
}

/// What stands for a kind and a key in the subject of a lock: 32 lower-case hex digits.
///
/// ```
/// use common::UniqueHash;
///
/// let hash = UniqueHash::from([7; 16]);
/// assert_eq!(hash.to_string().parse(), Ok(hash));
/// assert!("jobs.>".parse::<UniqueHash>().is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UniqueHash(u128);

/// The body of a lock: which job holds the key.
///
/// A lock is stored in one atomic batch with its job.
///
/// ```
/// use common::{JobId, UniqueLock};
///
/// let id = JobId::generate();
/// let lock = serde_json::to_vec(&UniqueLock { job: id, run: 1 })?;
/// assert_eq!(serde_json::from_slice::<UniqueLock>(&lock)?.job, id);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct UniqueLock {
    /// The job.
    pub job: JobId,
    /// The run that was stored together with the lock: 1 unless the job was replayed. An earlier run
    /// does not remove the lock.
    pub run: u32,
}

/// The answer of a consumer on [`crate::subjects::release`].
///
/// ```
/// let free: common::KeyHolder = serde_json::from_str("{}")?;
/// assert!(free.holder.is_none());
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KeyHolder {
    /// The job that holds the key; absent if the key is free now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<JobId>,
}

impl UniqueKey {
    /// The longest key, in bytes.
    pub const MAX: usize = 256;

    /// The key as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Until {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde calls it with a reference"
    )]
    fn is_ended(&self) -> bool {
        *self == Self::Ended
    }
}

impl OnConflict {
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde calls it with a reference"
    )]
    fn is_reject(&self) -> bool {
        *self == Self::Reject
    }
}

impl FromStr for UniqueKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=Self::MAX).contains(&text.len());
        if fits && !text.chars().any(char::is_control) {
            return Ok(Self(text.to_owned()));
        }
        Err(format!(
            "a key has 1 to {} bytes and no control characters",
            Self::MAX
        ))
    }
}

impl fmt::Display for UniqueKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Until {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "ended" => Ok(Self::Ended),
            "started" => Ok(Self::Started),
            _ => Err("ended or started".to_owned()),
        }
    }
}

impl FromStr for OnConflict {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "reject" => Ok(Self::Reject),
            "keep" => Ok(Self::Keep),
            _ => Err("reject or keep".to_owned()),
        }
    }
}

impl From<[u8; 16]> for UniqueHash {
    fn from(bytes: [u8; 16]) -> Self {
        Self(u128::from_be_bytes(bytes))
    }
}

impl fmt::Display for UniqueHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for UniqueHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let number = (text.len() == 32 && text.bytes().all(digits))
            .then(|| u128::from_str_radix(text, 16).ok());
        let number = number.flatten();
        number
            .map(Self)
            .ok_or_else(|| "32 lower-case hex digits".to_owned())
    }
}

// A derived reader of an enum would take `{"ended": null}`, too.
macro_rules! read_from_text {
    ($($name:ty),*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                text.parse().map_err(D::Error::custom)
            }
        }
    )*};
}

read_from_text!(UniqueKey, Until, OnConflict);

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            key: UniqueKey,
            #[serde(default)]
            until: Until,
            #[serde(default)]
            on_conflict: OnConflict,
        }

        struct Object;

        // A derived reader would take the fields from an array, too, by their position.
        impl<'de> Visitor<'de> for Object {
            type Value = Unique;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with key, until and on_conflict")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Unique, A::Error> {
                let Fields {
                    key,
                    until,
                    on_conflict,
                } = Fields::deserialize(MapAccessDeserializer::new(fields))?;
                Ok(Unique {
                    key,
                    until,
                    on_conflict,
                })
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[cfg(feature = "schema")]
mod schema {
    use std::borrow::Cow;

    use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};

    use super::UniqueKey;

    impl JsonSchema for UniqueKey {
        fn schema_name() -> Cow<'static, str> {
            "UniqueKey".into()
        }

        fn json_schema(_: &mut SchemaGenerator) -> Schema {
            json_schema!({
                "type": "string",
                "minLength": 1,
                "maxLength": Self::MAX,
                "description": "The key of a unique job: 1 to 256 bytes without control characters.",
            })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for text in [
            r#"{"key":"a"}"#,
            r#"{"key":"a","until":"started","on_conflict":"keep"}"#,
        ] {
            let unique: Unique = serde_json::from_str(text).unwrap();
            assert_eq!(serde_json::to_string(&unique).unwrap(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_refused() {
        let long = format!(r#"{{"key":"{}"}}"#, "x".repeat(257));
        for (text, expected) in [
            ("{}", "missing field `key`"),
            (r#"["a"]"#, "expected an object"),
            (r#"{"key":""}"#, "1 to 256 bytes"),
            (r#"{"key":"a\u0000"}"#, "1 to 256 bytes"),
            (&long, "1 to 256 bytes"),
            (r#"{"key":"a","until":"later"}"#, "ended or started"),
            (r#"{"key":"a","until":{"ended":null}}"#, "expected a string"),
            (r#"{"key":"a","on_conflict":"replace"}"#, "reject or keep"),
            (r#"{"key":"a","scope":"kind"}"#, "unknown field `scope`"),
        ] {
            let error = serde_json::from_str::<Unique>(text).unwrap_err();
            assert!(error.to_string().contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn nothing_but_a_hash_is_one() {
        for text in [
            "",
            "0",
            "0000000000000000000000000000000A",
            "+0000000000000000000000000000000",
            "00000000000000000000000000000000a",
        ] {
            assert!(text.parse::<UniqueHash>().is_err(), "{text}");
        }
    }
}
