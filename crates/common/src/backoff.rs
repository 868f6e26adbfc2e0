use std::fmt;
use std::time::Duration;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::WireDuration;

/// How long to wait before a retry. A ceiling grows with each retry, and the wait is a random part of
/// it ("full jitter"), so that jobs that failed together do not come back together.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[cfg_attr(feature = "schema", schemars(default, deny_unknown_fields))]
pub struct Backoff {
    /// The ceiling before the first retry.
    pub initial: WireDuration,
    /// What the ceiling is multiplied by from retry to retry, 1 to 100.
    #[cfg_attr(feature = "schema", schemars(range(min = 1.0, max = 100.0)))]
    pub factor: f64,
    /// The highest ceiling; at least `initial`.
    pub max: WireDuration,
}

/// A back-off whose parts do not fit each other.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidBackoff {
    /// The factor is not a number from 1 to 100.
    #[error("invalid factor {0}: a number from 1 to 100")]
    Factor(String),
    /// The highest ceiling is below the first one.
    #[error("invalid max {max}: at least initial, which is {initial}")]
    Max {
        /// The first ceiling, as text.
        initial: String,
        /// The highest ceiling, as text.
        max: String,
    },
}

/// The same fields before they were compared with each other.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Unchecked {
    initial: WireDuration,
    factor: f64,
    max: WireDuration,
}

impl Default for Unchecked {
    fn default() -> Self {
        let Backoff {
            initial,
            factor,
            max,
        } = Backoff::default();
        Self {
            initial,
            factor,
            max,
        }
    }
}

impl TryFrom<Unchecked> for Backoff {
    type Error = InvalidBackoff;

    fn try_from(
        Unchecked {
            initial,
            factor,
            max,
        }: Unchecked,
    ) -> Result<Self, Self::Error> {
        if !(1.0..=100.0).contains(&factor) {
            return Err(InvalidBackoff::Factor(factor.to_string()));
        }
        if max < initial {
            return Err(InvalidBackoff::Max {
                initial: initial.to_string(),
                max: max.to_string(),
            });
        }
        Ok(Self {
            initial,
            factor,
            max,
        })
    }
}

impl<'de> Deserialize<'de> for Backoff {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        // A derived reader would take the fields from an array, too, by their position.
        impl<'de> Visitor<'de> for Object {
            type Value = Backoff;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with initial, factor and max")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Backoff, A::Error> {
                let fields = Unchecked::deserialize(MapAccessDeserializer::new(fields))?;
                fields.try_into().map_err(A::Error::custom)
            }
        }

        deserializer.deserialize_map(Object)
    }
}

impl Default for Backoff {
    /// One second, doubled up to ten minutes.
    fn default() -> Self {
        let seconds = |seconds| {
            WireDuration::try_from(Duration::from_secs(seconds))
                .expect("the default is above zero and below a year")
        };
        Self {
            initial: seconds(1),
            factor: 2.0,
            max: seconds(600),
        }
    }
}

/// ```
/// use common::{Backoff, InvalidBackoff};
///
/// let backoff: Backoff = serde_json::from_str(r#"{"initial": "2s", "factor": 3, "max": "1m"}"#)?;
/// assert_eq!(backoff.ceiling(2).as_secs(), 6);
/// let wrong = InvalidBackoff::Factor("0".to_owned()).to_string();
/// let error = serde_json::from_str::<Backoff>(r#"{"factor": 0}"#).unwrap_err();
/// assert!(error.to_string().contains(&wrong));
/// # Ok::<(), serde_json::Error>(())
/// ```
impl Backoff {
    /// The longest wait before a retry; `retry` counts from 1.
    #[must_use]
    pub fn ceiling(&self, retry: u32) -> Duration {
        let exponent = i32::try_from(retry.saturating_sub(1)).unwrap_or(i32::MAX);
        let seconds = self.initial.get().as_secs_f64() * self.factor.powi(exponent);
        let max = self.max.get();
        if seconds < max.as_secs_f64() {
            Duration::from_secs_f64(seconds)
        } else {
            max
        }
    }

    /// The wait before a retry; `share` is a random number from 0 to 1 that the caller draws.
    #[must_use]
    pub fn delay(&self, retry: u32, share: f64) -> Duration {
        self.ceiling(retry).mul_f64(share.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ceiling_grows_to_its_bound_and_never_overflows() {
        let backoff = Backoff::default();
        assert_eq!(backoff.ceiling(1), Duration::from_secs(1));
        assert_eq!(backoff.ceiling(4), Duration::from_secs(8));
        assert_eq!(backoff.ceiling(50), Duration::from_mins(10));
        assert_eq!(backoff.ceiling(u32::MAX), Duration::from_mins(10));
        assert_eq!(backoff.delay(4, 0.5), Duration::from_secs(4));
        assert_eq!(backoff.delay(4, f64::INFINITY), Duration::from_secs(8));
    }

    #[test]
    fn parts_that_do_not_fit_are_refused_by_name() {
        let parse = |text: &str| serde_json::from_str::<Backoff>(text).map_err(|e| e.to_string());
        assert!(
            parse(r#"{"factor":0.5}"#)
                .unwrap_err()
                .contains("invalid factor 0.5")
        );
        assert!(
            parse(r#"{"initial":"1m","max":"1s"}"#)
                .unwrap_err()
                .contains("invalid max 1s")
        );
        assert!(parse(r#"{"faktor":2}"#).unwrap_err().contains("faktor"));
        assert_eq!(
            parse(r#"{"factor":3}"#).unwrap().ceiling(2),
            Duration::from_secs(3)
        );
    }
}
