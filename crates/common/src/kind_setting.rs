use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::Timestamp;

/// The setting of a kind in the durable lane. It is stored on `jobs.kind.<kind>`; a kind without one
/// is not paused.
///
/// It is replaced only by a writer that has seen the last one. A writer keeps the fields that it does
/// not know, and a reader ignores them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub struct KindSetting {
    /// Whether the kind is paused: its jobs are accepted, and none of them is started.
    pub paused: bool,
    /// When the pause ends by itself, by the clock of the NATS server; absent if it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused_until: Option<Timestamp>,
    /// Why the kind is paused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Whether the priorities of its jobs are heeded. Consumers set it when they get the first job of the
    /// kind that is not of normal priority, and nobody resets it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub priorities: bool,
    /// Who changed the setting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When it was changed, by the clock of the NATS server.
    pub at: Timestamp,
    /// The fields of a later version.
    #[serde(flatten)]
    pub others: Map<String, Value>,
}

impl KindSetting {
    /// The longest reason, in bytes.
    pub const MAX_REASON: usize = 1000;

    /// Whether the kind is paused at a time.
    ///
    /// ```
    /// use common::{KindSetting, Timestamp};
    ///
    /// let stored = br#"{"paused": true, "paused_until": "2026-01-31T10:00:00Z", "at": "2026-01-31T09:30:00Z"}"#;
    /// let setting: KindSetting = serde_json::from_slice(stored)?;
    /// let before: Timestamp = "2026-01-31T09:59:59Z".parse()?;
    /// let after: Timestamp = "2026-01-31T10:00:00Z".parse()?;
    /// assert!(setting.is_paused(before) && !setting.is_paused(after));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn is_paused(&self, at: Timestamp) -> bool {
        self.paused && self.paused_until.is_none_or(|until| at < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<KindSetting, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn what_a_later_version_adds_is_kept() {
        let text = r#"{"paused":false,"at":"2026-01-31T09:30:00Z","concurrency":{"most":3}}"#;
        let setting = read(text).unwrap();
        assert_eq!(serde_json::to_string(&setting).unwrap(), text);
    }

    #[test]
    fn an_answer_of_the_server_is_no_setting() {
        for answer in [
            "",
            "[true, null, null, null, \"2026-01-31T09:30:00Z\"]",
            r#"{"stream":"JOBS","seq":1}"#,
            r#"{"type":"io.nats.jetstream.api.v1.consumer_pause_response","paused":true,"pause_until":"2026-01-31T09:30:00Z"}"#,
            r#"{"type":"io.nats.jetstream.api.v1.consumer_info_response","paused":true,"ts":"2026-01-31T09:30:00Z"}"#,
        ] {
            assert!(read(answer).is_err(), "{answer}");
        }
    }
}
