//! Ticks across the changes to and from summer time, in four time zones.

use common::{Schedule, Timestamp};
use proptest::prelude::*;
use schedule::Timetable;

const BERLIN: &str = "Europe/Berlin";
const NEW_YORK: &str = "America/New_York";
/// Summer time is half an hour.
const LORD_HOWE: &str = "Australia/Lord_Howe";
/// Summer time begins at midnight: that day has no 0:00.
const SANTIAGO: &str = "America/Santiago";

fn timetable(cron: &str, zone: &str) -> Timetable {
    let text = serde_json::json!({"cron": cron, "time_zone": zone, "job": {"kind": "a"}});
    let schedule = Schedule::decode(text.to_string().as_bytes()).expect("it is a schedule");
    Timetable::of(&schedule).unwrap_or_else(|error| panic!("{cron}: {error}"))
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap_or_else(|_| panic!("{text}"))
}

/// Cron expression, time zone, and which ticks follow a time.
const TICKS: [(&str, &str, &str, &[&str]); 18] = [
    // 2:00 to 3:00 is skipped on March 29.
    (
        "30 2 * * *",
        BERLIN,
        "2026-03-28T12:00:00Z",
        &["2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"],
    ),
    (
        "0,30 2 * * *",
        BERLIN,
        "2026-03-28T12:00:00Z",
        &["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"],
    ),
    (
        "0 2,3 * * *",
        BERLIN,
        "2026-03-28T12:00:00Z",
        &["2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"],
    ),
    (
        "30 * * * *",
        BERLIN,
        "2026-03-29T00:00:00Z",
        &["2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z"],
    ),
    (
        "0 */2 * * *",
        BERLIN,
        "2026-03-29T00:00:00Z",
        &["2026-03-29T02:00:00Z", "2026-03-29T04:00:00Z"],
    ),
    // 2:00 to 3:00 comes twice on October 25.
    (
        "30 2 * * *",
        BERLIN,
        "2026-10-24T12:00:00Z",
        &["2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"],
    ),
    (
        "30 * * * *",
        BERLIN,
        "2026-10-25T00:00:00Z",
        &[
            "2026-10-25T00:30:00Z",
            "2026-10-25T01:30:00Z",
            "2026-10-25T02:30:00Z",
        ],
    ),
    (
        "0 0,30 1-3 * * *",
        BERLIN,
        "2026-10-24T23:15:00Z",
        &[
            "2026-10-24T23:30:00Z",
            "2026-10-25T00:00:00Z",
            "2026-10-25T00:30:00Z",
            "2026-10-25T02:00:00Z",
        ],
    ),
    // 2:00 to 3:00 on March 8, 1:00 to 2:00 on November 1.
    (
        "15 2 * * *",
        NEW_YORK,
        "2026-03-07T12:00:00Z",
        &["2026-03-08T07:00:00Z", "2026-03-09T06:15:00Z"],
    ),
    (
        "15 1 * * *",
        NEW_YORK,
        "2026-10-31T12:00:00Z",
        &["2026-11-01T05:15:00Z", "2026-11-02T06:15:00Z"],
    ),
    (
        "15 * * * *",
        NEW_YORK,
        "2026-11-01T05:00:00Z",
        &[
            "2026-11-01T05:15:00Z",
            "2026-11-01T06:15:00Z",
            "2026-11-01T07:15:00Z",
        ],
    ),
    // 2:00 to 2:30 on October 4; 1:30 to 2:00 comes twice on April 5.
    (
        "15 2 * * *",
        LORD_HOWE,
        "2026-10-03T00:00:00Z",
        &["2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"],
    ),
    (
        "45 1 * * *",
        LORD_HOWE,
        "2026-04-04T00:00:00Z",
        &["2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"],
    ),
    (
        "45 * * * *",
        LORD_HOWE,
        "2026-04-04T14:00:00Z",
        &[
            "2026-04-04T14:45:00Z",
            "2026-04-04T15:15:00Z",
            "2026-04-04T16:15:00Z",
        ],
    ),
    // 0:00 to 1:00 on September 6; 23:00 to 24:00 comes twice on April 4.
    (
        "0 0 * * *",
        SANTIAGO,
        "2026-09-05T12:00:00Z",
        &["2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"],
    ),
    (
        "@daily",
        SANTIAGO,
        "2026-09-05T12:00:00Z",
        &["2026-09-06T04:00:00Z", "2026-09-07T03:00:00Z"],
    ),
    (
        "30 23 * * *",
        SANTIAGO,
        "2026-04-04T12:00:00Z",
        &["2026-04-05T02:30:00Z", "2026-04-06T03:30:00Z"],
    ),
    (
        "@hourly",
        SANTIAGO,
        "2026-04-05T01:30:00Z",
        &[
            "2026-04-05T02:00:00Z",
            "2026-04-05T03:00:00Z",
            "2026-04-05T04:00:00Z",
        ],
    ),
];

#[test]
fn fixed_times_run_once_a_day_and_the_star_follows_the_clock() {
    for (cron, zone, from, expected) in TICKS {
        let timetable = timetable(cron, zone);
        let ticks = timetable.upcoming(time(from), expected.len());
        let shown: Vec<_> = ticks.iter().map(ToString::to_string).collect();
        assert_eq!(shown, expected, "{cron} in {zone}");
    }
}

#[test]
fn what_is_no_schedule_is_refused_with_the_field() {
    for (text, expected) in [
        (r#"{"job":{"kind":"a"}}"#, "one of `cron` and `every`"),
        (
            r#"{"cron":"* * * * *","every":"1s","job":{"kind":"a"}}"#,
            "one of `cron` and `every`",
        ),
        (
            r#"{"cron":"61 * * * *","job":{"kind":"a"}}"#,
            "field `cron`",
        ),
        (
            r#"{"cron":"0 0 0 1 1 * 2030","job":{"kind":"a"}}"#,
            "field `cron`",
        ),
        (
            r#"{"cron":"0 0 30 2 *","job":{"kind":"a"}}"#,
            "no date matches it",
        ),
        (
            r#"{"cron":"0 0 * * *","time_zone":"Mars/Base","job":{"kind":"a"}}"#,
            "no time zone \"Mars/Base\"",
        ),
        (
            r#"{"cron":"0 0 * * *","time_zone":"Etc/Unknown","job":{"kind":"a"}}"#,
            "no time zone",
        ),
        (
            r#"{"every":"1s 500ms","job":{"kind":"a"}}"#,
            "whole seconds",
        ),
        (r#"{"every":"500ms","job":{"kind":"a"}}"#, "whole seconds"),
        (
            r#"{"every":"1s","time_zone":"Europe/Berlin","job":{"kind":"a"}}"#,
            "only `cron` has one",
        ),
        (
            r#"{"every":"1s","start_at":"2026-01-02T00:00:00Z","end_at":"2026-01-01T00:00:00Z","job":{"kind":"a"}}"#,
            "field `end_at`",
        ),
    ] {
        let schedule = Schedule::decode(text.as_bytes()).unwrap();
        let error = Timetable::of(&schedule).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    for long in ["note", "cron"] {
        let mut text = serde_json::json!({"cron": "* * * * *", "job": {"kind": "a"}});
        text[long] = "*".repeat(1001).into();
        let schedule = Schedule::decode(text.to_string().as_bytes()).unwrap();
        let error = Timetable::of(&schedule).unwrap_err().to_string();
        assert!(
            error.contains(&format!("field `{long}`: more than")),
            "{error}"
        );
    }
}

#[test]
fn ticks_begin_and_end_when_the_schedule_says() {
    let text = br#"{"every":"90s","start_at":"2026-01-31T12:00:00.5Z","end_at":"2026-01-31T12:03:30Z","job":{"kind":"a"}}"#;
    let timetable = Timetable::of(&Schedule::decode(text).unwrap()).unwrap();
    let ticks = timetable.upcoming(time("2026-01-01T00:00:00Z"), 10);
    let expected = [
        "2026-01-31T12:00:01Z",
        "2026-01-31T12:01:31Z",
        "2026-01-31T12:03:01Z",
    ];
    assert_eq!(ticks, expected.map(time));
    assert_eq!(timetable.until(time("2026-01-31T12:00:00Z")), None);
    assert_eq!(
        timetable.until(time("2030-01-01T00:00:00Z")),
        Some(time(expected[2]))
    );
    // Without a start, every ten minutes are those of the clock.
    let text = br#"{"every":"10m","job":{"kind":"a"}}"#;
    let timetable = Timetable::of(&Schedule::decode(text).unwrap()).unwrap();
    let next = timetable.after(time("2026-01-31T12:09:59.9Z"));
    assert_eq!(next, Some(time("2026-01-31T12:10:00Z")));
    // A NATS server cannot wait for longer.
    assert_eq!(timetable.after(time("2262-04-11T23:47:00Z")), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// Back and forth are the same ticks, also in the hours of a change.
    #[test]
    fn the_ticks_until_a_moment_are_those_that_came_before_it(
        cron in prop_oneof![
            Just("*/7 * * * *"), Just("30 1,2 * * *"), Just("0 */3 * * *"), Just("*/20 0-3,23 * * *"), Just("15 30 1 * * SUN"),
        ],
        zone in prop_oneof![Just(BERLIN), Just(NEW_YORK), Just(LORD_HOWE), Just(SANTIAGO)],
        change in prop_oneof![
            Just("2026-03-28T23:00:00Z"), Just("2026-10-24T22:00:00Z"), Just("2026-03-08T05:00:00Z"), Just("2026-11-01T03:00:00Z"),
            Just("2026-10-03T13:00:00Z"), Just("2026-04-04T13:00:00Z"), Just("2026-09-06T02:00:00Z"), Just("2026-04-05T01:00:00Z"),
        ],
        seconds in 0_u64..21_600,
    ) {
        let timetable = timetable(cron, zone);
        let moment = time(change).after(std::time::Duration::from_secs(seconds));
        let last = timetable.until(moment).unwrap();
        prop_assert!(last <= moment);
        let next = timetable.after(last).unwrap();
        prop_assert!(next > moment, "{last} {next}");
        prop_assert_eq!(timetable.after(moment), Some(next));
        prop_assert_eq!(timetable.until(next), Some(next));
    }
}
