use std::time::Duration;

/// For how long the record of an ended job is kept: a power of two in seconds, from 1 s to about a year.
///
/// It is part of the [subject](crate::subjects::ended) of the record. So all records on these subjects
/// are in the order in which their time is over, and those that are too old are removed together.
///
/// ```
/// use std::time::Duration;
///
/// use common::Retention;
///
/// let an_hour = Retention::at_least(Duration::from_hours(1));
/// assert_eq!(an_hour.time(), Duration::from_secs(4096));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention(u32);

/// The exponent of the longest retention: 388 days.
const LONGEST: u32 = 25;

impl Retention {
    /// The shortest retention that is at least as long as this time; the longest one if there is none.
    #[must_use]
    pub fn at_least(time: Duration) -> Self {
        let longer = |retention: &Self| retention.time() >= time;
        Self::all().find(longer).unwrap_or(Self(LONGEST))
    }

    /// All retentions, the shortest first.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..=LONGEST).map(Self)
    }

    /// Its length.
    #[must_use]
    pub fn time(self) -> Duration {
        Duration::from_secs(1 << self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_never_shortened_and_at_most_doubled() {
        let hours = [1, 2, 24, 24 * 30, 24 * 366].map(|hours| hours * 3600);
        for seconds in [1, 2, 3, 59, 60, 61].into_iter().chain(hours) {
            let time = Duration::from_secs(seconds);
            let kept = Retention::at_least(time).time();
            assert!(kept >= time && kept < 2 * time, "{seconds} s, {kept:?}");
        }
        assert_eq!(Retention::at_least(Duration::ZERO).time().as_secs(), 1);
        assert_eq!(Retention::at_least(Duration::MAX).time().as_secs(), 1 << 25);
        assert_eq!(Retention::all().count(), 26);
    }
}
