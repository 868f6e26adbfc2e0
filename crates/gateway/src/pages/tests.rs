//! Pages that contain texts of other people, and pages of an unknown or empty system.

use askama::Template;
use bytes::Bytes;
use client::{Queue, Queues};
use common::{
    ConsumerState, Counts, DeadReason, FailedAttempt, Fleet, FleetKind, FleetMember, JobRecord,
    JobState, OutcomeError, Presence, RunTime, ScheduleRecord, Timestamp, codes,
};
use std::sync::Arc;
use std::time::Duration;

use super::consumers::ConsumersPage;
use super::history::{Point, Snapshot};
use super::job::{JobPage, Message};
use super::layout::Layout;
use super::overview::OverviewPage;
use super::schedules::SchedulesPage;
use super::widgets::SubmitExample;

/// A script, and what would end a text, an attribute or a comment before it.
const HOSTILE: &str =
    "</textarea></title>--><script>alert(1)</script>\"'><img src=x onerror=alert(1)>";

fn now() -> Timestamp {
    Timestamp::now()
}

fn hostile_fleet() -> Fleet {
    let text = || HOSTILE.to_owned();
    let counts = Counts {
        processed: 10,
        failed: 5,
        ..Counts::default()
    };
    Fleet {
        instance: text(),
        started_at: now(),
        asked_at: Some(now()),
        interval_ms: 1_000,
        answering: 2,
        missing: 1,
        concurrency: 8,
        in_flight: 3,
        waiting: 1,
        totals: counts,
        spread_percent: Some([40.0, 60.0]),
        unserved_kinds: vec!["mail.send".parse().unwrap()],
        kinds: vec![FleetKind {
            kind: text(),
            counts,
            run_ms: RunTime::default(),
            run_counts: None,
        }],
        consumers: vec![FleetMember {
            consumer: text(),
            host: text(),
            version: text(),
            started_at: now(),
            presence: Presence::Present,
            state: ConsumerState::Saturated,
            concurrency: 4,
            in_flight: 4,
            waiting: 1,
            counts,
            run_ms: RunTime::default(),
            answered_at: now(),
            took_ms: 1.0,
        }],
        next: Some(text()),
    }
}

fn render(seen: &Snapshot, url: &str, needs_token: bool) -> String {
    let example = SubmitExample {
        url: url.to_owned(),
        needs_token,
    };
    let page = OverviewPage::of(Layout::bare("Overview"), example, seen, String::new());
    page.render().unwrap()
}

fn overview(fleet: Result<Fleet, String>) -> String {
    let seen = Snapshot {
        fleet: fleet.map(Arc::new),
        streams: Ok(None),
        ..Snapshot::unknown()
    };
    render(&seen, "http://127.0.0.1:8080", false)
}

/// Nothing of a hostile text became a part of the page, though the text is shown.
fn assert_escaped(html: &str) {
    assert!(
        html.contains("&lt;script&gt;alert(1)") || html.contains("&#60;script&#62;alert(1)"),
        "{html}"
    );
    for part in ["<script>", "<img", "</textarea>-", "--><", "\"'>"] {
        assert!(!html.contains(part), "{part} in {html}");
    }
}

#[test]
fn what_consumers_say_of_themselves_is_escaped() {
    assert_escaped(&overview(Ok(hostile_fleet())));
    let mut page = ConsumersPage::of(Layout::bare("Consumers"), HOSTILE.to_owned(), true);
    page.show(&hostile_fleet());
    assert_escaped(&page.render().unwrap());
    page.unknown = Some(HOSTILE.to_owned());
    assert_escaped(&page.render().unwrap());
    assert_escaped(&overview(Err(HOSTILE.to_owned())));
}

#[test]
fn what_handlers_say_of_a_job_is_escaped() {
    let id = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    let mut record = JobRecord::new(id, None, JobState::Dead, now());
    record.consumer = Some(HOSTILE.to_owned());
    record.reason = Some(DeadReason::Permanent);
    record.result = serde_json::value::to_raw_value(HOSTILE).ok();
    record.failures = vec![FailedAttempt {
        attempt: 1,
        consumer: Some(HOSTILE.to_owned()),
        at: now(),
        error: OutcomeError {
            code: HOSTILE.into(),
            ..OutcomeError::new(codes::PERMANENT, HOSTILE)
        },
    }];
    let layout = Layout::bare("").titled(HOSTILE.to_owned());
    let page = JobPage::new(layout, record, &Message::None, true);
    assert_escaped(&page.render().unwrap());
}

#[test]
fn an_overview_of_nothing_says_what_to_do() {
    let unknown = overview(Err("no status service is there".to_owned()));
    for part in [
        "no status service is there",
        "docker-compose up status-service",
        "No job has run yet",
        "curl -X POST",
        "There are no streams yet",
        "Nothing has been measured yet",
        "It takes two consumers",
    ] {
        assert!(unknown.contains(part), "{part} is missing in {unknown}");
    }
    let nobody = overview(Ok(Fleet {
        answering: 0,
        ..hostile_fleet()
    }));
    assert!(nobody.contains("No consumer is there"), "{nobody}");
}

#[test]
fn jobs_that_their_handler_cannot_read_are_failures_of_their_kind() {
    let mut fleet = hostile_fleet();
    let kind = |kind: &str, failed, rejected| FleetKind {
        kind: kind.to_owned(),
        counts: Counts {
            processed: 20,
            failed,
            rejected,
            ..Counts::default()
        },
        run_ms: RunTime::default(),
        run_counts: None,
    };
    fleet.kinds = vec![kind("echo", 3, 0), kind("thumbnail", 0, 10)];
    fleet.totals.rejected = 10;
    let html = overview(Ok(fleet));
    let row = |kind: &str| html.find(&format!("id=\"kind-{kind}\"")).unwrap();
    assert!(row("thumbnail") < row("echo"), "it fails most: {html}");
    let thumbnail = html[row("thumbnail")..].split("</tr>").next().unwrap();
    assert!(
        thumbnail.contains("data-label=\"Failed\">10<"),
        "{thumbnail}"
    );
    assert!(thumbnail.contains(">50 %<"), "{thumbnail}");
    assert!(html.contains("5 failed, 10 rejected"), "{html}");
}

#[test]
fn the_chart_of_run_times_is_of_the_chosen_kind_and_tells_nothing_of_jobs_that_ended_long_ago() {
    let run = |max| RunTime {
        p50: max,
        p90: max,
        p99: max,
        max,
    };
    let point = |second, kinds: &[(&str, f64)]| Point {
        elapsed: Duration::from_secs(second),
        run_ms: Some(Arc::new(
            kinds
                .iter()
                .map(|(kind, max)| ((*kind).into(), run(*max)))
                .collect(),
        )),
        ..Point::default()
    };
    let chart = |points: Vec<Point>, kind: &str| {
        let seen = Snapshot {
            fleet: Ok(Arc::new(hostile_fleet())),
            points: Arc::new(points),
            ..Snapshot::unknown()
        };
        let example = SubmitExample {
            url: String::new(),
            needs_token: false,
        };
        let page = OverviewPage::of(Layout::bare(""), example, &seen, kind.to_owned());
        let html = page.render().unwrap();
        assert_escaped(&html);
        let chart = html.split("id=\"chart-latency\"").nth(1).unwrap();
        chart.split("</section>").next().unwrap().to_owned()
    };
    let both = || {
        vec![
            point(0, &[("slow", 5_000.0)]),
            point(2, &[("slow", 5_000.0), ("fast", 2.0)]),
        ]
    };
    let slowest = chart(both(), "");
    for part in [
        "Run time of the slowest kind",
        "median <b>5.00 s</b>",
        "value=\"fast\"",
        "value=\"slow\"",
    ] {
        assert!(slowest.contains(part), "{part}: {slowest}");
    }
    let fast = chart(both(), "fast");
    for part in [
        "Run time of fast",
        "median <b>2.00 ms</b>",
        "value=\"fast\" selected",
    ] {
        assert!(fast.contains(part), "{part}: {fast}");
    }
    // The slow job has ended long ago: its curve has a gap, and no value now.
    let mut later = both();
    later.push(point(90, &[("fast", 2.0)]));
    let slow = chart(later.clone(), "slow");
    assert!(
        slow.contains("median <b>-</b>") && slow.contains("class=\"curve\""),
        "{slow}"
    );
    assert!(chart(later, "").contains("median <b>2.00 ms</b>"));
    let never = chart(both(), HOSTILE);
    assert!(
        never.contains("No job has ended in the last minutes"),
        "{never}"
    );
}

#[test]
fn the_payload_of_a_job_that_has_not_ended_is_shown_cut_and_escaped() {
    let id = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    let record = JobRecord::new(id, None, JobState::Queued, now());
    let page = |message: &[u8]| {
        let message = Message::Bytes(Bytes::copy_from_slice(message));
        let page = JobPage::new(Layout::bare(""), record.clone(), &message, false);
        page.render().unwrap()
    };
    let job = |payload: &str| serde_json::json!({"kind": "echo", "payload": payload}).to_string();
    assert_escaped(&page(job(HOSTILE).as_bytes()));
    let no_job = page(HOSTILE.as_bytes());
    assert_escaped(&no_job);
    assert!(no_job.contains("id=\"payload\""), "{no_job}");
    let long = page(job(&"x".repeat(1 << 20)).as_bytes());
    assert!(long.len() < 100 << 10, "{}", long.len());
    assert!(long.contains("xxx…"));
    let ended = JobPage::new(Layout::bare(""), record, &Message::None, false);
    assert!(!ended.render().unwrap().contains("id=\"payload\""));
}

#[test]
fn a_dead_job_leads_to_its_dead_letter_as_long_as_that_exists() {
    let id = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
    let mut record = JobRecord::new(id, None, JobState::Dead, now());
    let page = |record: &JobRecord, has_dead_letter| {
        let record = record.clone();
        let page = JobPage::new(Layout::bare(""), record, &Message::None, has_dead_letter);
        page.render().unwrap()
    };
    let link = format!("href=\"/dead/{id}\"");
    assert!(page(&record, true).contains(&link));
    record.failures = vec![FailedAttempt {
        attempt: 0,
        consumer: None,
        at: now(),
        error: OutcomeError::new(codes::DISCARDED, ""),
    }];
    let discarded = page(&record, false);
    assert!(!discarded.contains(&link), "{discarded}");
    assert!(discarded.contains("Discarded"), "{discarded}");
    let interrupted = page(&record, true);
    assert!(interrupted.contains(&link), "{interrupted}");
    assert!(interrupted.contains("Discard interrupted"), "{interrupted}");
}

#[test]
fn queues_that_are_not_known_are_not_shown_as_none() {
    let mut seen = Snapshot {
        streams: Ok(Some(Arc::default())),
        ..Snapshot::unknown()
    };
    let queued = |seen: &Snapshot| {
        let html = render(seen, "http://127.0.0.1:8080", false);
        let tile = html.split("id=\"tile-queued\"").nth(1).unwrap();
        let value = tile.split("class=\"value\">").nth(1).unwrap();
        let none = html.contains("No queue yet");
        (value.split('<').next().unwrap().to_owned(), none)
    };
    assert_eq!(queued(&seen), ("-".to_owned(), false));
    let unknown = render(&seen, "http://127.0.0.1:8080", false);
    assert!(!unknown.contains("nothing to do"), "{unknown}");
    assert!(unknown.contains("durable; - more"), "{unknown}");
    seen.queues = Some(Arc::default());
    assert_eq!(queued(&seen), ("0".to_owned(), true));
}

#[test]
fn queues_without_a_consumer_are_marked_and_the_number_of_queued_jobs_counts_all_queues() {
    let queue = |kind: &str, waiting, at_least, served| Queue {
        kind: kind.parse().unwrap(),
        waiting,
        priorities: waiting == 200,
        waiting_high: u64::from(waiting == 200),
        waiting_low: u64::from(waiting == 200) * 2,
        at_least,
        running: 0,
        redelivered: 0,
        oldest: None,
        served,
        paused: None,
    };
    let seen = Snapshot {
        streams: Ok(Some(Arc::default())),
        queues: Some(Arc::new(Queues {
            queues: vec![
                queue("mail.send", 200, true, Some(false)),
                queue("echo", 7, false, Some(true)),
                queue("slow", 3, false, None),
                queue("idle", 0, false, None),
            ],
            waiting: 12_345,
            all_paused: None,
        })),
        ..Snapshot::unknown()
    };
    let html = render(&seen, "http://127.0.0.1:8080", false);
    let row = |kind: &str| {
        let row = html.split(&format!("id=\"queue-{kind}\"")).nth(1).unwrap();
        let row = row.split("</tr>").next().unwrap();
        let badge = row.split("class=\"badge warn\">").nth(1);
        let badge = badge.map_or("", |badge| badge.split('<').next().unwrap());
        (badge.to_owned(), row.contains("at least"))
    };
    assert_eq!(row("mail.send"), ("no consumer".to_owned(), true));
    assert_eq!(row("echo"), (String::new(), false));
    assert_eq!(row("slow"), ("consumer unknown".to_owned(), false));
    assert_eq!(row("idle"), (String::new(), false));
    let tile = html.split("id=\"tile-queued\"").nth(1).unwrap();
    let tile = tile.split("</div>").next().unwrap();
    assert!(
        tile.contains(&super::widgets::text::count(12_345)),
        "{tile}"
    );
}

#[test]
fn the_first_job_is_submitted_as_the_gateway_takes_it() {
    let seen = Snapshot::unknown();
    let open = render(&seen, "http://127.0.0.1:8080", false);
    assert!(open.contains("http://127.0.0.1:8080/v1/jobs"), "{open}");
    assert!(!open.contains("authorization"), "{open}");
    let closed = render(&seen, "https://jobs.example", true);
    assert!(closed.contains("https://jobs.example/v1/jobs"), "{closed}");
    assert!(closed.contains("authorization: Bearer TOKEN"), "{closed}");
}

#[test]
fn texts_of_a_schedule_are_shown_as_texts() {
    let record = serde_json::json!({
        "name": "nightly", "revision": 1, "at": now(), "changed": false,
        "schedule": {
            "cron": HOSTILE, "time_zone": HOSTILE, "note": HOSTILE, "job": {"kind": "echo", "payload": HOSTILE},
        },
    });
    let record: ScheduleRecord = serde_json::from_str(&record.to_string()).unwrap();
    let mut page = SchedulesPage::of(Layout::bare("Schedules"));
    page.show(&record);
    let html = page.render().unwrap();
    assert!(html.contains("alert(1)"), "{html}");
    for raw in ["<script>alert", "<img", "</textarea>", "-->"] {
        assert!(!html.contains(raw), "{raw}: {html}");
    }
}

#[test]
fn no_template_escapes_its_own_policy() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
    let mut seen = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let template = std::fs::read_to_string(&path).unwrap();
        // The policy forbids styles and scripts within a page, and nothing is shown unescaped.
        for part in [
            "|safe",
            "| safe",
            "style=",
            "<style",
            "javascript:",
            " onclick",
            " onload",
            "escape none",
            "http-equiv",
        ] {
            assert!(!template.contains(part), "{part} in {}", path.display());
        }
        let inline = template.matches("<script").count()
            - template.matches("<script type=\"module\" src=").count();
        assert_eq!(inline, 0, "{}", path.display());
        seen += 1;
    }
    assert!(seen >= 10);
}
