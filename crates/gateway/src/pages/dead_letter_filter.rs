//! Which dead letters a page shows, or a form means.

use client::Which;
use common::{DeadReason, JobKind};
use serde::{Deserialize, Serialize};

use super::widgets::text;

/// What stands where no error is known.
pub(super) const NO_ERROR: &str = "no error is known";

/// A choice of dead letters, as addresses and forms contain it. Empty fields do not restrict it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct DeadLetterFilter {
    pub(crate) kind: String,
    pub(crate) reason: String,
    /// The message of a group, exactly; it may be empty. `None` is any message.
    pub(crate) error: Option<String>,
}

impl DeadLetterFilter {
    /// The same for the client library.
    ///
    /// # Errors
    /// When a field is wrong: which one, in words.
    pub(crate) fn which(&self) -> Result<Which, String> {
        let (kind, reason) = (self.kind.trim(), self.reason.trim());
        let kind = match kind {
            "" => None,
            kind => Some(kind.parse::<JobKind>().map_err(|error| error.to_string())?),
        };
        let reason = match reason {
            "" => None,
            word => Some(
                DeadReason::ALL
                    .into_iter()
                    .find(|reason| reason.as_str() == word)
                    .ok_or_else(|| format!("invalid reason {:?}", text::cut(word, 64)))?,
            ),
        };
        Ok(Which {
            kind,
            reason,
            error: self.error.clone(),
        })
    }

    /// Whether it chooses all dead letters.
    pub(crate) fn is_all(&self) -> bool {
        let blank = |text: &str| text.trim().is_empty();
        blank(&self.kind) && blank(&self.reason) && self.error.is_none()
    }

    /// The message, as the value of a form field.
    pub(crate) fn message(&self) -> &str {
        self.error.as_deref().unwrap_or_default()
    }

    /// The message in words; `None` is any message.
    pub(crate) fn shown_message(&self) -> Option<&str> {
        let error = self.error.as_deref();
        error.map(|error| if error.is_empty() { NO_ERROR } else { error })
    }

    /// The reason in words; empty is any reason.
    pub(crate) fn reason(&self) -> &'static str {
        let found = DeadReason::ALL
            .into_iter()
            .find(|reason| reason.as_str() == self.reason);
        found.map_or("", text::reason)
    }

    /// The filter as the query of an address.
    pub(crate) fn query(&self) -> String {
        // Three texts can always be encoded.
        serde_urlencoded::to_string(self).unwrap_or_default()
    }
}
