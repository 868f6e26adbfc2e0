use std::time::Duration;

use common::{CatchUp, Overlap, Schedule, Timestamp};

use crate::timetable::Timetable;

/// A tick that is at most so much late is in time; one that is later is missed.
pub const IN_TIME: Duration = Duration::from_mins(1);

/// The most ticks that are looked at, and counted as skipped, at a time.
const MOST: usize = 1000;

/// What is to be done when the time of a tick has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Due {
    /// The ticks that have a job each, in their order. At most the last one if the schedule does not allow
    /// its jobs to overlap.
    pub ticks: Vec<Timestamp>,
    /// The next tick; `None` if there is none.
    pub next: Option<Timestamp>,
    /// How many ticks have no job; at most 1,000 are counted.
    pub skipped: u64,
    /// The last of them.
    pub last_skipped: Option<Timestamp>,
}

impl Due {
    /// The ticks from `next`, whose time has come, until now.
    #[must_use]
    pub fn of(schedule: &Schedule, timetable: &Timetable, next: Timestamp, now: Timestamp) -> Self {
        // The last one first. The first one need not be in the timetable, which may have been changed.
        let mut passed = Vec::new();
        let mut tick = timetable.until(now);
        while let Some(time) = tick.filter(|time| *time > next)
            && passed.len() < MOST
        {
            passed.push(time);
            tick = just_before(time).and_then(|before| timetable.until(before));
        }
        passed.push(next);
        let in_time = passed
            .iter()
            .take_while(|time| now.since(**time) <= IN_TIME)
            .count();
        let missed = match schedule.catch_up {
            CatchUp::Skip => 0,
            CatchUp::Once => usize::from(in_time == 0),
            CatchUp::All(most) => usize::try_from(most).unwrap_or(MOST),
        };
        let mut run = in_time + missed;
        if schedule.overlap != Overlap::Allow {
            run = run.min(1);
        }
        let skipped = passed.split_off(run.min(passed.len()));
        passed.reverse();
        Self {
            ticks: passed,
            next: timetable.after(now),
            skipped: skipped.len() as u64,
            last_skipped: skipped.first().copied(),
        }
    }
}

fn just_before(tick: Timestamp) -> Option<Timestamp> {
    tick.before(Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due(options: &str, next: &str, now: &str) -> (Vec<String>, u64, Option<String>) {
        let text = format!(r#"{{"every":"20s","job":{{"kind":"a"}}{options}}}"#);
        let schedule = Schedule::decode(text.as_bytes()).unwrap();
        let timetable = Timetable::of(&schedule).unwrap();
        let time = |text: &str| format!("2026-01-31T{text}Z").parse().unwrap();
        let due = Due::of(&schedule, &timetable, time(next), time(now));
        let short = |tick: &Timestamp| tick.to_string()[11..19].to_owned();
        (
            due.ticks.iter().map(short).collect(),
            due.skipped,
            due.next.as_ref().map(short),
        )
    }

    fn expected(ticks: &[&str], skipped: u64, next: &str) -> (Vec<String>, u64, Option<String>) {
        let ticks = ticks.iter().map(|&tick| tick.to_owned()).collect();
        (ticks, skipped, Some(next.to_owned()))
    }

    #[test]
    fn ticks_in_time_run_whatever_the_policy() {
        for policy in ["\"skip\"", "\"once\"", "{\"all\":1}"] {
            let policy = format!(r#","catch_up":{policy}"#);
            assert_eq!(
                due(&policy, "12:00:00", "12:00:00.3"),
                expected(&["12:00:00"], 0, "12:00:20")
            );
            assert_eq!(
                due(&policy, "12:00:00", "12:01:00"),
                expected(
                    &["12:00:00", "12:00:20", "12:00:40", "12:01:00"],
                    0,
                    "12:01:20"
                )
            );
        }
    }

    #[test]
    fn missed_ticks_are_caught_up_as_the_policy_says() {
        let ended = r#","end_at":"2026-01-31T12:02:00Z""#;
        let policy = |policy: &str| format!(r#"{ended},"catch_up":{policy}"#);
        let none_in_time = |of: &str| {
            let (ticks, skipped, next) = due(&policy(of), "12:00:00", "13:00:00");
            assert_eq!(next, None);
            (ticks, skipped)
        };
        assert_eq!(none_in_time("\"skip\""), (vec![], 7));
        assert_eq!(none_in_time("\"once\""), (vec!["12:02:00".to_owned()], 6));
        let two = vec!["12:01:40".to_owned(), "12:02:00".to_owned()];
        assert_eq!(none_in_time("{\"all\":2}"), (two, 5));
        // One in time stands for all of `once`.
        let once = due(r#","catch_up":"once""#, "11:00:00", "12:00:10");
        assert_eq!(
            once,
            expected(&["11:59:20", "11:59:40", "12:00:00"], 178, "12:00:20")
        );
        let all = due(r#","catch_up":{"all":1}"#, "11:00:00", "12:00:10");
        assert_eq!(all.0[0], "11:59:00");
        assert_eq!((all.0.len(), all.1), (4, 177));
    }

    #[test]
    fn jobs_that_must_not_overlap_have_the_last_tick_only() {
        for overlap in ["skip", "replace"] {
            let options = format!(r#","overlap":"{overlap}","catch_up":{{"all":5}}"#);
            assert_eq!(
                due(&options, "12:00:00", "12:00:40"),
                expected(&["12:00:40"], 2, "12:01:00")
            );
        }
    }

    #[test]
    fn a_tick_that_was_due_before_an_edit_is_run_and_years_of_ticks_are_not_counted() {
        assert_eq!(
            due("", "12:00:07", "12:00:08"),
            expected(&["12:00:07"], 0, "12:00:20")
        );
        let (ticks, skipped, _) = due("", "00:00:00", "23:00:00");
        assert_eq!((ticks.len(), skipped), (4, 997));
    }
}
