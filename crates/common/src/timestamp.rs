use std::fmt;
use std::str::FromStr;

use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// A moment, on the wire a text after RFC 3339: `"2026-01-31T09:30:00Z"`.
///
/// ```
/// use std::time::Duration;
///
/// use common::{InvalidTimestamp, Timestamp};
///
/// let morning: Timestamp = "2026-01-31T09:30:00Z".parse()?;
/// assert_eq!(morning.after(Duration::from_hours(1)).to_string(), "2026-01-31T10:30:00Z");
/// assert_eq!("tomorrow".parse::<Timestamp>(), Err(InvalidTimestamp));
/// # Ok::<(), InvalidTimestamp>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Timestamp(#[serde(with = "time::serde::rfc3339")] OffsetDateTime);

/// A text that is no time after RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a time after RFC 3339, such as 2026-01-31T09:30:00Z")]
pub struct InvalidTimestamp;

const END_OF_CALENDAR: OffsetDateTime = time::macros::datetime!(9999-12-31 23:59:59 UTC);

impl Timestamp {
    /// Now, by this machine's clock, to the millisecond.
    #[must_use]
    pub fn now() -> Self {
        let now = OffsetDateTime::now_utc();
        Self(now.replace_millisecond(now.millisecond()).unwrap_or(now))
    }

    /// The moment so many nanoseconds after the Unix epoch; `None` if it is beyond the calendar.
    #[must_use]
    pub fn from_unix_nanos(nanoseconds: i128) -> Option<Self> {
        let moment = OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).ok()?;
        (0..=9999).contains(&moment.year()).then_some(Self(moment))
    }

    /// How many nanoseconds it is after the Unix epoch; negative if it is before it.
    #[must_use]
    pub fn unix_nanos(self) -> i128 {
        self.0.unix_timestamp_nanos()
    }

    /// This moment and a while; the end of the calendar if that is beyond it.
    #[must_use]
    pub fn after(self, wait: std::time::Duration) -> Self {
        let wait = time::Duration::try_from(wait).unwrap_or(time::Duration::MAX);
        let sum = self.0.checked_add(wait);
        // Years beyond 9999 have no form in RFC 3339.
        Self(
            sum.filter(|sum| sum.year() <= 9999)
                .unwrap_or(END_OF_CALENDAR),
        )
    }

    /// A while before this moment; `None` if that is beyond the calendar.
    #[must_use]
    pub fn before(self, wait: std::time::Duration) -> Option<Self> {
        let wait = i128::try_from(wait.as_nanos()).ok()?;
        Self::from_unix_nanos(self.unix_nanos().checked_sub(wait)?)
    }

    /// This moment, moved by so many milliseconds: into the past if there are less than none.
    #[must_use]
    pub fn shifted(self, milliseconds: i64) -> Self {
        let sum = self
            .0
            .checked_add(time::Duration::milliseconds(milliseconds));
        Self(
            sum.filter(|sum| (0..=9999).contains(&sum.year()))
                .unwrap_or(self.0),
        )
    }

    /// How many milliseconds this moment is ahead of another; negative if it is behind.
    #[must_use]
    pub fn milliseconds_ahead_of(self, other: Self) -> i64 {
        i64::try_from((self.0 - other.0).whole_milliseconds()).unwrap_or(i64::MAX)
    }

    /// How long after `earlier` this moment is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> std::time::Duration {
        (self.0 - earlier.0).try_into().unwrap_or_default()
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // A person who wrote "tomorrow" has no use for the part that the parser refused.
        let moment = OffsetDateTime::parse(text, &Rfc3339);
        moment.map(Self).map_err(|_| InvalidTimestamp)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;

        impl Visitor<'_> for Text {
            type Value = Timestamp;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a time after RFC 3339, such as \"2026-01-31T09:30:00Z\"")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Timestamp, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_str(Text)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Years outside 0..=9999 have no form in RFC 3339, and none can be parsed or be now.
        f.write_str(&self.0.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Timestamp {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Timestamp".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "format": "date-time",
            "description": "A moment after RFC 3339.",
        })
    }
}
