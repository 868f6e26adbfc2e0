use std::fmt;
use std::str::FromStr;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use smol_str::SmolStr;

/// Which handler runs a job. It becomes part of a subject, so it is checked once, here.
///
/// 1 to 128 characters of `A-Z a-z 0-9 _ -` in tokens that are joined by single dots.
/// Short ones, which most are, cost no allocation.
///
/// ```
/// use common::{InvalidKind, JobKind};
///
/// let kind: JobKind = "mail.send".parse()?;
/// assert_eq!(kind.as_str(), "mail.send");
/// assert!("mail..send".parse::<JobKind>().is_err());
/// # Ok::<(), InvalidKind>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobKind(SmolStr);

/// The kinds that a consumer serves: a kind in which a token may be `*` (any one token) and the
/// last may be `>` (one or more tokens), as in a NATS subject.
///
/// ```
/// use common::KindPattern;
///
/// let mails: KindPattern = "mail.*".parse()?;
/// assert!(mails.matches("mail.send") && !mails.matches("mail.send.now"));
/// # Ok::<(), common::InvalidKind>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KindPattern(Box<str>);

/// A text that is not a kind, or not a pattern of kinds.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid {what} {text:?}: 1 to {} characters of A-Z a-z 0-9 _ - in tokens joined by single dots{}",
    JobKind::MAX_LEN, if *what == "kind" { "" } else { ", a token may be * and the last may be >" }
)]
pub struct InvalidKind {
    what: &'static str,
    text: String,
}

impl JobKind {
    /// The longest kind, in characters.
    pub const MAX_LEN: usize = 128;

    /// The kind as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The kind as one token of a subject, or the name of a durable consumer: with `=` in place of its dots.
    #[must_use]
    pub fn to_token(&self) -> String {
        self.0.replace('.', "=")
    }

    /// Reads [`JobKind::to_token`].
    #[must_use]
    pub fn from_token(token: &str) -> Option<Self> {
        let kind = token.replace('=', ".").parse().ok()?;
        (!token.contains('.')).then_some(kind)
    }
}

impl KindPattern {
    /// Whether the pattern covers a kind.
    #[must_use]
    pub fn matches(&self, kind: &str) -> bool {
        let mut tokens = kind.split('.');
        for pattern in self.0.split('.') {
            match (pattern, tokens.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (pattern, Some(token)) if pattern == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }
}

fn is_token(token: &str) -> bool {
    is_kind(token.as_bytes()) && !token.contains('.')
}

/// One pass, because each job that arrives is checked: only allowed bytes, and dots only between two
/// tokens.
fn is_kind(text: &[u8]) -> bool {
    let mut after_dot = true;
    for &byte in text {
        match byte {
            b'.' if after_dot => return false,
            b'.' => after_dot = true,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' => after_dot = false,
            _ => return false,
        }
    }
    !after_dot && text.len() <= JobKind::MAX_LEN
}

/// An error shows the start of what was wrong: the text may be as long as a message.
fn invalid(what: &'static str, text: &str) -> InvalidKind {
    let mut shown: String = text.chars().take(JobKind::MAX_LEN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    InvalidKind { what, text: shown }
}

impl FromStr for JobKind {
    type Err = InvalidKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if is_kind(text.as_bytes()) {
            Ok(Self(SmolStr::new(text)))
        } else {
            Err(invalid("kind", text))
        }
    }
}

impl Serialize for JobKind {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for JobKind {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = JobKind;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the kind of a job")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<JobKind, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl std::borrow::Borrow<str> for JobKind {
    /// Lets a map with kinds for keys be searched by a text.
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for KindPattern {
    type Err = InvalidKind;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let last = text.split('.').count() - 1;
        let valid = text.len() <= JobKind::MAX_LEN
            && text.split('.').enumerate().all(|(position, token)| {
                token == "*" || (token == ">" && position == last) || is_token(token)
            });
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(invalid("pattern of kinds", text))
        }
    }
}

impl From<JobKind> for KindPattern {
    /// The pattern that only this kind matches.
    fn from(kind: JobKind) -> Self {
        Self(kind.as_str().into())
    }
}

impl fmt::Display for JobKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for KindPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for JobKind {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "JobKind".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "Which handler runs the job; becomes part of a subject.",
            "minLength": 1,
            "maxLength": Self::MAX_LEN,
            "pattern": r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*$",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_that_would_break_a_subject_are_refused() {
        let too_long = "k".repeat(129);
        let bad = [
            "", ".", ".a", "a.", "a..b", "*", "a.*", ">", "a.>", "a b", "a\tb", "a\r\nb", "a\0b",
            "ä", "$JS.API", "a/b", "а.b", &too_long,
        ];
        for text in bad {
            assert!(text.parse::<JobKind>().is_err(), "{text:?} was taken");
        }
        for text in ["a", "mail.send-now", "A_1.b.c", &"k".repeat(128)] {
            assert_eq!(text.parse::<JobKind>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn an_error_about_a_kind_is_short_however_long_the_kind() {
        let error = "x".repeat(1_000_000).parse::<JobKind>().unwrap_err();
        assert!(error.to_string().len() < 400, "{error}");
    }

    #[test]
    fn patterns_match_as_nats_subjects_do() {
        let matches =
            |pattern: &str, kind: &str| pattern.parse::<KindPattern>().unwrap().matches(kind);
        assert!(matches("a", "a"));
        assert!(!matches("a", "a.b"));
        assert!(matches("b.*", "b.c"));
        assert!(!matches("b.*", "b"));
        assert!(!matches("b.*", "b.c.d"));
        assert!(matches("b.>", "b.c.d"));
        assert!(!matches("b.>", "b"));
        assert!(matches("*.send", "mail.send"));
        assert!(matches(">", "anything.at.all"));
        let one = KindPattern::from("a.b".parse::<JobKind>().unwrap());
        assert!(one.matches("a.b") && !one.matches("a") && !one.matches("a.b.c"));
        for bad in ["", "a.>.b", "a*", "a.", "a b"] {
            assert!(bad.parse::<KindPattern>().is_err(), "{bad:?} was taken");
        }
    }
}
