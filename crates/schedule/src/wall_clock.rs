//! The ticks of a cron expression in a time zone.
//!
//! If the hour field has no `*`, the expression names times of a day, and each of them is one tick: a time
//! that the clock skips is the moment after the gap, and a time that comes twice is its first occurrence.
//! If the hour field has a `*`, the ticks follow the clock: there are none in a gap, and a repeated hour has
//! its ticks twice.

use common::InvalidSchedule;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::civil::DateTime;
use jiff::tz::{AmbiguousOffset, TimeZone};
use jiff::{SignedDuration, Timestamp};

#[derive(Clone, Debug)]
pub(crate) struct WallClock {
    cron: Cron,
    zone: TimeZone,
}

impl WallClock {
    pub(crate) fn new(expression: &str, zone: &str) -> Result<Self, InvalidSchedule> {
        let of_cron = |reason: &str| InvalidSchedule::new(format!("field `cron`: {reason}"));
        let parser = CronParser::builder()
            .seconds(Seconds::Optional)
            .year(Year::Disallowed)
            .build();
        let cron = parser
            .parse(expression)
            .map_err(|error| of_cron(&error.to_string()))?;
        let known = TimeZone::get(zone).ok().filter(|zone| !zone.is_unknown());
        let zone = known.ok_or_else(|| {
            let shown: String = zone.chars().take(64).collect();
            InvalidSchedule::new(format!(
                "field `time_zone`: no time zone {shown:?}; a name of the IANA database is expected, such as Europe/Berlin"
            ))
        })?;
        // Every possible date comes within the 400 years after which the calendar repeats itself.
        let start = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
        cron.find_next_occurrence(&start, true)
            .map_err(|_| of_cron("no date matches it"))?;
        Ok(Self { cron, zone })
    }

    /// The first tick after a moment.
    pub(crate) fn after(&self, moment: Timestamp) -> Option<Timestamp> {
        if self.follows_the_clock() {
            let from = moment.to_zoned(self.zone.clone());
            let next = self.cron.find_next_occurrence(&from, false).ok()?;
            return Some(next.timestamp());
        }
        let (mut time, mut inclusive) = (self.zone.to_datetime(moment), true);
        loop {
            time = self.cron.find_next_occurrence(&time, inclusive).ok()?;
            let tick = self.moment_of(time)?;
            if tick > moment {
                return Some(tick);
            }
            inclusive = false;
        }
    }

    /// The last tick at or before a moment.
    pub(crate) fn until(&self, moment: Timestamp) -> Option<Timestamp> {
        if self.follows_the_clock() {
            let from = moment.to_zoned(self.zone.clone());
            let last = self.cron.find_previous_occurrence(&from, true).ok()?;
            return Some(last.timestamp());
        }
        let mut time = self.zone.to_datetime(moment);
        if let AmbiguousOffset::Fold { before, after } = self.zone.to_ambiguous_zoned(time).offset()
        {
            // In the second pass, times that the clock has not reached again have had their tick in the
            // first one.
            let length = before.duration_until(after).abs();
            time = time.checked_add(length).ok()?;
        }
        let mut inclusive = true;
        loop {
            time = self.cron.find_previous_occurrence(&time, inclusive).ok()?;
            let tick = self.moment_of(time)?;
            if tick <= moment {
                return Some(tick);
            }
            inclusive = false;
        }
    }

    fn follows_the_clock(&self) -> bool {
        self.cron.pattern.hours.from_wildcard
    }

    /// The moment of a time of a day.
    fn moment_of(&self, time: DateTime) -> Option<Timestamp> {
        let ambiguous = self.zone.to_ambiguous_timestamp(time);
        match ambiguous.offset() {
            AmbiguousOffset::Unambiguous { .. } | AmbiguousOffset::Fold { .. } => {
                ambiguous.earlier().ok()
            }
            AmbiguousOffset::Gap { before, .. } => {
                let beyond = before.to_timestamp(time).ok()?;
                let beyond = beyond.checked_add(SignedDuration::from_secs(1)).ok()?;
                let change = self.zone.preceding(beyond).next()?;
                Some(change.timestamp())
            }
        }
    }
}
