use std::fmt;
use std::str::FromStr;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};

/// The name of a schedule. It becomes part of subjects, so it is checked once, here.
///
/// 1 to 64 characters of `A-Z a-z 0-9 _ -`.
///
/// ```
/// use common::{InvalidScheduleName, ScheduleName};
///
/// let name: ScheduleName = "nightly-report".parse()?;
/// assert_eq!(name.as_str(), "nightly-report");
/// assert!("nightly.report".parse::<ScheduleName>().is_err());
/// # Ok::<(), InvalidScheduleName>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ScheduleName(Box<str>);

/// A text that is not the name of a schedule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid name of a schedule {0:?}: 1 to {max} characters of A-Z a-z 0-9 _ -",
    max = ScheduleName::MAX_LEN
)]
pub struct InvalidScheduleName(String);

impl ScheduleName {
    /// The longest name, in characters.
    pub const MAX_LEN: usize = 64;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ScheduleName {
    type Err = InvalidScheduleName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        if (1..=Self::MAX_LEN).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(Self(text.into()));
        }
        // The text may be as long as a message.
        Err(InvalidScheduleName(
            text.chars().take(Self::MAX_LEN).collect(),
        ))
    }
}

impl<'de> Deserialize<'de> for ScheduleName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = ScheduleName;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the name of a schedule")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ScheduleName, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl fmt::Display for ScheduleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for ScheduleName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ScheduleName".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[A-Za-z0-9_-]{1,64}$",
            "description": "The name of a schedule.",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_would_be_more_than_one_token_of_a_subject_is_no_name() {
        for bad in ["", "a.b", "a b", "*", ">", "ä", "a\n", &"x".repeat(65)] {
            assert!(bad.parse::<ScheduleName>().is_err(), "{bad:?} was taken");
        }
        let longest = "x".repeat(64);
        assert_eq!(
            longest.parse::<ScheduleName>().unwrap().to_string(),
            longest
        );
    }
}
