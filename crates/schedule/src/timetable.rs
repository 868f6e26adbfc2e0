use common::{InvalidSchedule, Schedule, Timestamp};

use crate::wall_clock::WallClock;

/// When the ticks of a schedule are, whether it is paused or not. All ticks are at whole seconds.
///
/// ```
/// use common::Schedule;
/// use schedule::Timetable;
///
/// let schedule = br#"{"cron": "30 2 * * *", "time_zone": "Europe/Berlin", "job": {"kind": "report"}}"#;
/// let timetable = Timetable::of(&Schedule::decode(schedule)?)?;
/// let ticks = timetable.upcoming("2026-03-27T12:00:00Z".parse().unwrap(), 3);
/// let ticks: Vec<_> = ticks.iter().map(ToString::to_string).collect();
/// // On March 29, the clock is put forward from 2:00 to 3:00.
/// assert_eq!(ticks, ["2026-03-28T01:30:00Z", "2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"]);
/// # Ok::<(), common::InvalidSchedule>(())
/// ```
#[derive(Clone, Debug)]
pub struct Timetable {
    ticks: Ticks,
    /// The first second that may have a tick, counted from 1970.
    first: i64,
    /// The last one.
    last: i64,
}

#[derive(Clone, Debug)]
enum Ticks {
    Every { seconds: i64, from: i64 },
    Cron(Box<WallClock>),
}

/// A NATS server can wait until 2262 only.
const LAST: i64 = i64::MAX / NANOS;

const NANOS: i64 = 1_000_000_000;

impl Timetable {
    /// Reads the times of a schedule, and checks what a schedule must be apart from its form.
    ///
    /// # Errors
    /// When the cron expression cannot be read or matches no date, the time zone is not known, or the fields
    /// do not fit together.
    pub fn of(schedule: &Schedule) -> Result<Self, InvalidSchedule> {
        let wrong = |reason: String| Err(InvalidSchedule::new(reason));
        if let Some(note) = &schedule.note
            && note.len() > Schedule::MAX_NOTE
        {
            return wrong(format!(
                "field `note`: more than {} bytes",
                Schedule::MAX_NOTE
            ));
        }
        let first = schedule.start_at.map_or(0, |start| {
            seconds(start) + i64::from(start.unix_nanos() % i128::from(NANOS) != 0)
        });
        let last = schedule.end_at.map_or(LAST, |end| seconds(end).min(LAST));
        if first > last {
            return wrong("field `end_at`: it is before `start_at`".to_owned());
        }
        let ticks = match (&schedule.cron, schedule.every) {
            (Some(cron), None) if cron.len() > Schedule::MAX_CRON => {
                return wrong(format!(
                    "field `cron`: more than {} bytes",
                    Schedule::MAX_CRON
                ));
            }
            (Some(cron), None) => Ticks::Cron(Box::new(WallClock::new(cron, &schedule.time_zone)?)),
            (None, Some(every)) if every.get().subsec_nanos() != 0 => {
                return wrong("field `every`: whole seconds are expected".to_owned());
            }
            (None, Some(_)) if schedule.time_zone != "UTC" => {
                return wrong("field `time_zone`: only `cron` has one".to_owned());
            }
            (None, Some(every)) => Ticks::Every {
                seconds: i64::try_from(every.get().as_secs()).unwrap_or(i64::MAX),
                from: first,
            },
            _ => return wrong("one of `cron` and `every` is expected".to_owned()),
        };
        Ok(Self { ticks, first, last })
    }

    /// The first tick after a moment; `None` if there is none.
    #[must_use]
    pub fn after(&self, moment: Timestamp) -> Option<Timestamp> {
        let moment = seconds(moment).max(self.first - 1);
        let tick = match &self.ticks {
            Ticks::Every { seconds, from } => {
                let passed = (moment - from).div_euclid(*seconds);
                from.checked_add((passed + 1).checked_mul(*seconds)?)?
            }
            Ticks::Cron(clock) => clock
                .after(jiff::Timestamp::from_second(moment).ok()?)?
                .as_second(),
        };
        (tick <= self.last).then(|| timestamp(tick)).flatten()
    }

    /// The last tick at or before a moment; `None` if there is none.
    #[must_use]
    pub fn until(&self, moment: Timestamp) -> Option<Timestamp> {
        let moment = seconds(moment).min(self.last);
        if moment < self.first {
            return None;
        }
        let tick = match &self.ticks {
            Ticks::Every { seconds, from } => moment - (moment - from).rem_euclid(*seconds),
            Ticks::Cron(clock) => clock
                .until(jiff::Timestamp::from_second(moment).ok()?)?
                .as_second(),
        };
        (tick >= self.first).then(|| timestamp(tick)).flatten()
    }

    /// The next ticks after a moment, at most so many.
    #[must_use]
    pub fn upcoming(&self, moment: Timestamp, most: usize) -> Vec<Timestamp> {
        let next = |tick: &Timestamp| self.after(*tick);
        std::iter::successors(self.after(moment), next)
            .take(most)
            .collect()
    }
}

/// The second in which a moment is.
fn seconds(moment: Timestamp) -> i64 {
    let seconds = moment.unix_nanos().div_euclid(i128::from(NANOS));
    // The seconds of every time fit.
    i64::try_from(seconds).unwrap_or(i64::MAX)
}

fn timestamp(seconds: i64) -> Option<Timestamp> {
    Timestamp::from_unix_nanos(i128::from(seconds) * i128::from(NANOS))
}
