//! A text that is searched for in payloads and errors.

use std::fmt;
use std::str::FromStr;

use common::{FailedAttempt, JobMessage, JobRecord};

/// A piece of a payload or of an error: 1 to 256 characters, without spaces around. Upper and lower
/// case are the same.
///
/// ```
/// use client::{Filter, InvalidSearchText, SearchText};
///
/// let text: SearchText = "no such address".parse()?;
/// let filter = Filter { text: Some(text), ..Filter::default() };
/// assert_eq!("".parse::<SearchText>(), Err(InvalidSearchText));
/// # Ok::<(), InvalidSearchText>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SearchText {
    shown: String,
    lower: String,
}

/// A text that cannot be searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a text to search for has 1 to {} characters", SearchText::MAX_LEN)]
pub struct InvalidSearchText;

impl SearchText {
    /// The longest text, in characters.
    pub const MAX_LEN: usize = 256;

    /// The text as it was given.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.shown
    }

    fn is_in(&self, text: &str) -> bool {
        text.to_lowercase().contains(&self.lower)
    }

    /// Whether the text is in the JSON as it is written, or in what its escapes stand for.
    fn is_in_json(&self, json: &str) -> bool {
        self.is_in(json) || (json.contains('\\') && self.is_in(&unescaped(json)))
    }

    /// Whether the text is in the payload of a job; of bytes that are no job, whether it is in any of
    /// them.
    pub(crate) fn is_in_message(&self, message: &[u8]) -> bool {
        match JobMessage::decode(message) {
            Ok(job) => (job.payload).is_some_and(|payload| self.is_in_json(payload.get())),
            Err(_) => self.is_in_json(&String::from_utf8_lossy(message)),
        }
    }

    /// Whether the text is in one of these errors, in the form `code: message`.
    pub(crate) fn is_in_failures(&self, failures: &[FailedAttempt]) -> bool {
        let mut errors = failures.iter().map(|failure| &failure.error);
        errors.any(|error| self.is_in(&format!("{}: {}", error.code, error.message)))
    }

    /// Whether the text is in what a record holds of payload and errors.
    pub(crate) fn is_in_record(&self, record: &JobRecord) -> bool {
        self.is_in_failures(&record.failures)
            || (record.job.as_ref()).is_some_and(|job| self.is_in_message(job.get().as_bytes()))
    }
}

impl FromStr for SearchText {
    type Err = InvalidSearchText;

    fn from_str(text: &str) -> Result<Self, InvalidSearchText> {
        let shown = text.trim();
        if shown.is_empty() || shown.chars().count() > Self::MAX_LEN {
            return Err(InvalidSearchText);
        }
        Ok(Self {
            shown: shown.to_owned(),
            lower: shown.to_lowercase(),
        })
    }
}

impl fmt::Display for SearchText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}

/// JSON with each escape replaced by the character that it stands for. Escapes stand only in strings.
fn unescaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        let (plain, escapes) = rest.split_at(at);
        text.push_str(plain);
        // Escapes that follow each other are read together: two may stand for one character.
        let mut end = 0;
        while escapes[end..].starts_with('\\') {
            let length = if escapes[end + 1..].starts_with('u') {
                6
            } else {
                2
            };
            let Some(next) =
                (end + length..=escapes.len()).find(|end| escapes.is_char_boundary(*end))
            else {
                return text;
            };
            end = next;
        }
        let characters = serde_json::from_str::<String>(&format!("\"{}\"", &escapes[..end]));
        // What is not JSON is searched as it is.
        text.push_str(characters.as_deref().unwrap_or(&escapes[..end]));
        rest = &escapes[end..];
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn finds(text: &str, message: &str) -> bool {
        let text: SearchText = text.parse().unwrap();
        text.is_in_message(message.as_bytes())
    }

    #[test]
    fn a_piece_of_a_payload_is_found_however_it_is_written() {
        let job = r#"{"kind":"mail.send","payload":{"to":"Z\u00fcrich \ud83d\ude80 \"x\"\n"}}"#;
        for text in [
            "zürich",
            "ZÜRICH",
            " zürich ",
            "🚀",
            "\"x\"",
            "\"to\":\"z",
            "u00FC",
        ] {
            assert!(finds(text, job), "{text}");
        }
        // What is beside the payload is not the payload.
        for text in ["mail.send", "payload", "basel"] {
            assert!(!finds(text, job), "{text}");
        }
        assert!(!finds("kind", r#"{"kind":"echo"}"#));
        // What is no job is searched as a whole.
        assert!(finds("brok", r#"{"kind":"a b","x":"BROKEN"#));
        assert!(finds("\\ud83d", r#"{"payload":"\ud83d"#));
    }

    #[test]
    fn a_text_to_search_for_is_neither_empty_nor_long() {
        for wrong in ["", "  ", &"x".repeat(257)] {
            assert_eq!(wrong.parse::<SearchText>(), Err(InvalidSearchText));
        }
        assert!("ä".repeat(256).parse::<SearchText>().is_ok());
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_search_panic(bytes: Vec<u8>, text in "[\\\\u0-9ä]{0,40}") {
            let wanted: SearchText = "x".parse().unwrap();
            wanted.is_in_message(&bytes);
            unescaped(&text);
        }
    }
}
