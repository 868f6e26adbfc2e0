//! What people and programs read of the fleet: log lines.
//!
//! Names and other texts come from messages, and anybody may answer: they are logged escaped.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use common::JobKind;
use tracing::{debug, enabled, info, warn};

use crate::depth::Depth;
use crate::{Answer, Change, Ended, Event, Ignored, News, Round, Summary};

/// The most lines about single consumers after one round; it is when hundreds of them change at
/// the same time that the lines must stay readable.
const MAX_LINES: usize = 100;

/// Logs what a round told.
pub(crate) fn news(news: &News) {
    // What somebody should look at is not among what is left out, if it can be helped.
    let mut events: Vec<_> = news.events.iter().collect();
    events.sort_by_key(|event| !is_worrying(&event.change));
    for event in events.iter().take(MAX_LINES) {
        changed(event);
    }
    if let Some(more @ [first, ..]) = events.get(MAX_LINES..) {
        let (more, what) = (more.len(), "more has happened to consumers than is told");
        if is_worrying(&first.change) {
            warn!(more, "{what}");
        } else {
            info!(more, "{what}");
        }
    }
    match news.answering {
        Some(true) => info!("consumers answer on jobs.status again"),
        Some(false) => warn!("no consumer answers on jobs.status"),
        None => {}
    }
    // That nobody answers was said.
    if news.summary.consumers > 0 {
        summary(&news.summary);
    }
}

/// Logs each consumer of a round, where debug lines are wanted.
pub(crate) fn consumers(round: &Round) {
    if enabled!(tracing::Level::DEBUG) {
        round.answers.iter().for_each(consumer);
    }
}

/// Logs messages that were ignored, and rounds that were cut.
pub(crate) fn ignored(round: &Round) {
    let Ignored {
        garbage,
        duplicates,
        reason,
    } = &round.ignored;
    let reason = reason.as_ref().map(tracing::field::debug);
    if round.ended == Ended::Cut {
        let read = round.answers.len();
        warn!(
            read,
            garbage,
            duplicates,
            reason,
            "more answers on jobs.status than are read: the rest is cut off, and nobody is called missing"
        );
    } else {
        warn!(
            garbage,
            duplicates, reason, "some answers on jobs.status are ignored"
        );
    }
}

/// Logs of which kinds durable jobs wait although nobody serves them.
pub(crate) fn unserved(kinds: &BTreeSet<JobKind>) {
    if kinds.is_empty() {
        info!("every kind of which durable jobs are in front is served");
    } else {
        let kinds: Vec<_> = kinds.iter().map(JobKind::as_str).collect();
        warn!(
            kinds = kinds.join(","),
            "durable jobs wait, and no consumer serves their kinds"
        );
    }
}

/// Logs how many durable jobs there are.
pub(crate) fn depth(depth: Depth) {
    info!(
        queued = depth.queued,
        later = depth.later,
        "durable jobs that wait or run, and that wait for their time"
    );
}

/// The most kinds whose run times are logged of one consumer.
const MOST_KINDS: usize = 8;

fn consumer(answer: &Answer) {
    debug!(
        consumer = ?answer.id.consumer,
        host = ?answer.host,
        version = ?answer.version,
        uptime_s = answer.uptime.as_secs(),
        state = %answer.state,
        concurrency = answer.concurrency,
        in_flight = answer.in_flight,
        waiting = answer.waiting,
        processed = answer.counts.processed,
        succeeded = answer.counts.succeeded,
        failed = answer.counts.failed,
        rejected = answer.counts.rejected,
        expired = answer.counts.expired,
        retried = answer.counts.retried,
        answered_ms = milliseconds(answer.took),
        run_times = ?run_times(answer),
        "consumer"
    );
}

/// Whether somebody should look at it: it is then a warning.
fn is_worrying(change: &Change) -> bool {
    match change {
        Change::Missing { .. } | Change::TooLate | Change::Dropped { .. } => true,
        Change::Restarted {
            in_flight,
            waiting,
            announced,
        } => !announced && (*in_flight, *waiting) != (0, 0),
        Change::Joined { .. } | Change::Back | Change::Left { .. } | Change::Gone { .. } => false,
    }
}

fn changed(event: &Event) {
    let (consumer, host) = (&event.id.consumer, &event.host);
    match &event.change {
        Change::Joined { version } => info!(?consumer, ?host, ?version, "consumer joined"),
        Change::Back => info!(?consumer, ?host, "consumer answers again"),
        Change::Left { processed } => info!(?consumer, ?host, processed, "consumer left"),
        Change::Gone { silent, processed } => info!(
            ?consumer,
            ?host,
            silent_s = seconds(*silent),
            processed,
            "consumer is gone, its counts stay"
        ),
        Change::Missing {
            silent,
            in_flight,
            waiting,
        } => warn!(
            ?consumer,
            ?host,
            silent_s = seconds(*silent),
            in_flight,
            waiting,
            "consumer is missing"
        ),
        Change::TooLate => warn!(
            ?consumer,
            ?host,
            "consumer answers after the round is over, a longer --timeout would wait for it"
        ),
        Change::Restarted {
            in_flight, waiting, ..
        } if is_worrying(&event.change) => warn!(
            ?consumer,
            ?host,
            in_flight,
            waiting,
            "consumer restarted without a word, jobs were in it"
        ),
        Change::Restarted { .. } => info!(?consumer, ?host, "consumer restarted"),
        Change::Dropped { messages } => warn!(
            ?consumer,
            ?host,
            messages,
            "consumer lost messages: its NATS client had to drop them"
        ),
    }
}

fn summary(summary: &Summary) {
    let since = summary.since.as_ref();
    let spread = summary.spread.map(|spread| spread.to_string());
    info!(
        consumers = summary.consumers,
        running = summary.running,
        saturated = summary.saturated,
        draining = summary.draining,
        missing = summary.missing,
        in_flight = summary.in_flight,
        waiting = summary.waiting,
        processed = summary.totals.processed,
        since_last = since.map(|since| since.processed),
        per_second = since.and_then(|since| {
            let seconds = since.elapsed.as_secs_f64();
            (seconds > 0.0).then(|| tenths(since.processed as f64 / seconds))
        }),
        failed = summary.totals.failed,
        rejected = summary.totals.rejected,
        expired = summary.totals.expired,
        spread = %spread.as_deref().unwrap_or("-"),
        round_trip_ms = milliseconds(summary.round_trip),
        "fleet"
    );
}

fn run_times(answer: &Answer) -> String {
    let mut text = String::new();
    for runs in answer.kinds.iter().take(MOST_KINDS) {
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing to a text does not fail.
        let _ = write!(
            text,
            "{comma}{} p50={}ms p99={}ms",
            runs.kind, runs.run_ms.p50, runs.run_ms.p99
        );
    }
    text
}

fn milliseconds(duration: Duration) -> f64 {
    tenths(duration.as_secs_f64() * 1_000.0)
}

fn seconds(duration: Duration) -> f64 {
    tenths(duration.as_secs_f64())
}

fn tenths(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex, PoisonError};

    use common::{ConsumerState, Counts, RunTime};
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;
    use crate::{InstanceId, KindRuns, Since, Spread};

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        fn text(&self) -> String {
            let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            String::from_utf8(bytes.clone()).unwrap()
        }
    }

    impl Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let mut captured = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            captured.write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    impl<'a> MakeWriter<'a> for Captured {
        type Writer = Self;

        fn make_writer(&'a self) -> Self {
            self.clone()
        }
    }

    /// The lines that are logged, as people see them but for time and instance.
    fn lines(log: impl FnOnce()) -> String {
        let captured = Captured::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(captured.clone())
            .with_ansi(false)
            .with_target(false)
            .without_time()
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        captured.text()
    }

    fn json(log: impl FnOnce()) -> String {
        let captured = Captured::default();
        let subscriber = tracing_subscriber::fmt()
            .json()
            .flatten_event(true)
            .with_writer(captured.clone())
            .with_target(false)
            .without_time()
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        captured.text()
    }

    fn fleet() -> Summary {
        Summary {
            consumers: 4,
            running: 2,
            saturated: 1,
            draining: 1,
            missing: 1,
            in_flight: 7,
            waiting: 1_030,
            totals: Counts {
                processed: 12_345,
                succeeded: 12_340,
                failed: 3,
                rejected: 2,
                ..Counts::default()
            },
            since: Some(Since {
                processed: 502,
                elapsed: Duration::from_millis(5_003),
            }),
            spread: Some(Spread {
                consumers: 4,
                min: 0.2412,
                max: 0.2579,
            }),
            round_trip: Duration::from_micros(2_140),
        }
    }

    fn answer(consumer: &str) -> Answer {
        Answer {
            id: id(consumer),
            host: "worker-1".to_owned(),
            version: "0.1.0".to_owned(),
            uptime: Duration::from_secs(61),
            state: ConsumerState::Running,
            concurrency: 4,
            in_flight: 2,
            waiting: 3,
            dropped: 0,
            counts: fleet().totals,
            kinds: vec![
                runs("thumbnail", 31.5, 204.0),
                runs("mail.send\x1b[31m", 0.5, 2.0),
            ],
            unserved_kinds: Vec::new(),
            took: Duration::from_micros(1_460),
        }
    }

    fn runs(kind: &str, p50: f64, p99: f64) -> KindRuns {
        KindRuns {
            kind: kind.to_owned(),
            counts: Counts::default(),
            run_ms: RunTime {
                p50,
                p99,
                ..RunTime::default()
            },
        }
    }

    fn id(consumer: &str) -> InstanceId {
        InstanceId {
            consumer: consumer.to_owned(),
            started_at: "2026-01-31T09:30:00Z".parse().unwrap(),
        }
    }

    #[test]
    fn the_fleet_is_one_line() {
        let mut first = fleet();
        (first.since, first.spread) = (None, None);
        insta::assert_snapshot!(lines(|| {
            summary(&fleet());
            summary(&first);
        }));
        insta::assert_snapshot!(json(|| summary(&fleet())));
    }

    #[test]
    fn what_became_of_a_consumer_is_one_line_and_text_from_messages_is_escaped() {
        let (silent, processed) = (Duration::from_millis(5_012), 3_086);
        let (in_flight, waiting) = (2, 3);
        let version = "0.1.0".to_owned();
        let restarted = |announced| Change::Restarted {
            in_flight,
            waiting,
            announced,
        };
        let changes = [
            Change::Joined { version },
            Change::Missing {
                silent,
                in_flight,
                waiting,
            },
            Change::TooLate,
            Change::Back,
            restarted(true),
            restarted(false),
            Change::Left { processed },
            Change::Gone { silent, processed },
            Change::Dropped { messages: 12 },
        ];
        let event = |change| Event {
            id: id("consumer-3f9a1c\n\x1b[31m"),
            host: "worker \" 1".to_owned(),
            change,
        };
        insta::assert_snapshot!(lines(|| changes.map(event).iter().for_each(changed)));
    }

    #[test]
    fn a_consumer_is_one_line_where_debug_lines_are_wanted() {
        let round = Round {
            asked_at: std::time::Instant::now(),
            answers: vec![answer("consumer-3f9a1c")],
            late: Vec::new(),
            ended: Ended::Complete,
            ignored: Ignored::default(),
        };
        insta::assert_snapshot!(lines(|| consumers(&round)));
        assert_eq!(json(|| consumers(&round)), "");
    }

    #[test]
    fn what_is_ignored_is_one_line_that_says_why() {
        let mut round = Round {
            asked_at: std::time::Instant::now(),
            answers: Vec::new(),
            late: Vec::new(),
            ended: Ended::TimedOut,
            ignored: Ignored {
                garbage: 2,
                duplicates: 1,
                reason: Some("unknown variant `\n`".to_owned()),
            },
        };
        insta::assert_snapshot!(lines(|| ignored(&round)));
        round.ended = Ended::Cut;
        round.ignored = Ignored::default();
        insta::assert_snapshot!(lines(|| ignored(&round)));
    }

    #[test]
    fn a_hundred_lines_after_one_round_are_enough_and_worries_come_first() {
        let told = |worries: usize| {
            let change = |n| {
                if n < 200 - worries {
                    Change::Back
                } else {
                    Change::TooLate
                }
            };
            let event = |n| Event {
                id: id(&format!("consumer-{n}")),
                host: "worker-1".to_owned(),
                change: change(n),
            };
            let news = News {
                events: (0..200).map(event).collect(),
                answering: Some(false),
                summary: Summary {
                    consumers: 0,
                    ..fleet()
                },
            };
            lines(|| super::news(&news))
        };
        let few: Vec<_> = told(3).lines().map(str::to_owned).collect();
        assert!(few[2].contains("WARN consumer answers after"), "{}", few[2]);
        assert!(few[3].contains("INFO consumer answers again"), "{}", few[3]);
        insta::assert_snapshot!(few[MAX_LINES..].join("\n"));
        let many = told(101);
        let left_out = many.lines().nth(MAX_LINES).unwrap();
        assert!(left_out.contains("WARN more has happened"), "{left_out}");
    }
}
