use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A length of time, on the wire a text with units: `"30s"`, `"500ms"`, `"1h 30m"`.
///
/// ```
/// use common::{InvalidDuration, WireDuration};
///
/// let timeout: WireDuration = "1m 30s".parse()?;
/// assert_eq!(timeout.get().as_secs(), 90);
/// let error: InvalidDuration = "soon".parse::<WireDuration>().unwrap_err();
/// assert!(error.to_string().contains("soon"));
/// # Ok::<(), InvalidDuration>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WireDuration(Duration);

/// A text that is not a length of time above zero and up to [`WireDuration::MAX`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "invalid duration {0:?}: a number with a unit above zero and up to 366 days, such as \"30s\", \"500ms\" or \"1h 30m\""
)]
pub struct InvalidDuration(String);

impl WireDuration {
    /// The longest duration: 366 days. More would overflow a clock sooner than it would help.
    pub const MAX: Duration = Duration::from_hours(366 * 24);

    /// The length of time.
    #[must_use]
    pub const fn get(self) -> Duration {
        self.0
    }
}

impl TryFrom<Duration> for WireDuration {
    type Error = InvalidDuration;

    fn try_from(duration: Duration) -> Result<Self, Self::Error> {
        if duration.is_zero() || duration > Self::MAX {
            Err(InvalidDuration(format!("{duration:?}")))
        } else {
            Ok(Self(duration))
        }
    }
}

impl FromStr for WireDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        humantime::parse_duration(text)
            .ok()
            .and_then(|duration| Self::try_from(duration).ok())
            .ok_or_else(|| InvalidDuration(text.chars().take(64).collect()))
    }
}

impl TryFrom<String> for WireDuration {
    type Error = InvalidDuration;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<WireDuration> for String {
    fn from(duration: WireDuration) -> Self {
        duration.to_string()
    }
}

impl fmt::Display for WireDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for WireDuration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A length of time with units, above zero and up to 366 days.",
            "examples": ["30s", "500ms", "1h 30m"],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_are_no_length_of_time_are_refused() {
        for bad in [
            "",
            "0s",
            "30",
            "-1s",
            "367d",
            "1e9s",
            "99999999999999999999s",
            "soon",
        ] {
            assert!(bad.parse::<WireDuration>().is_err(), "{bad:?} was taken");
        }
        assert_eq!(
            "1m 30s".parse::<WireDuration>().unwrap().get(),
            Duration::from_secs(90)
        );
    }
}
