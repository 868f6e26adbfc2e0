use std::fmt::Write as _;

use tracing::{debug, enabled, warn};

use super::rounding::milliseconds;
use crate::asking::{Ignored, Round, RoundEnd, StatusAnswer};

/// The most kinds of one consumer whose run times are logged.
const MAX_KINDS: usize = 8;

/// Logs each answer of a round, at level debug.
pub(crate) fn answers(round: &Round) {
    if enabled!(tracing::Level::DEBUG) {
        round.answers.iter().for_each(answer);
    }
}

/// Logs that messages of a round were ignored, or not read.
pub(crate) fn ignored(round: &Round) {
    let Ignored {
        garbage,
        duplicates,
        reason,
    } = &round.ignored;
    let reason = reason.as_ref().map(tracing::field::debug);
    if round.end == RoundEnd::Truncated {
        let read = round.answers.len();
        warn!(
            read,
            garbage,
            duplicates,
            reason,
            "too many answers on jobs.status: the rest is not read, and no consumer is reported as missing"
        );
    } else {
        warn!(
            garbage,
            duplicates, reason, "some answers on jobs.status are ignored"
        );
    }
}

fn answer(answer: &StatusAnswer) {
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

fn run_times(answer: &StatusAnswer) -> String {
    let mut text = String::new();
    for runs in answer.kinds.iter().take(MAX_KINDS) {
        let comma = if text.is_empty() { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{comma}{} p50={}ms p99={}ms",
            runs.kind, runs.run_ms.p50, runs.run_ms.p99
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use common::{ConsumerState, Counts, RunCounts, RunTime};

    use super::*;
    use crate::asking::KindRuns;
    use crate::report::test_lines::{fleet, id, json, lines};

    fn answer(consumer: &str) -> StatusAnswer {
        StatusAnswer {
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
            run_counts: RunCounts::default(),
        }
    }

    #[test]
    fn an_answer_is_one_line_at_level_debug() {
        let round = Round {
            asked_at: std::time::Instant::now(),
            answers: vec![answer("consumer-3f9a1c")],
            late: Vec::new(),
            end: RoundEnd::Complete,
            ignored: Ignored::default(),
        };
        insta::assert_snapshot!(lines(|| answers(&round)));
        assert_eq!(json(|| answers(&round)), "");
    }

    #[test]
    fn ignored_messages_are_one_line_with_the_reason() {
        let mut round = Round {
            asked_at: std::time::Instant::now(),
            answers: Vec::new(),
            late: Vec::new(),
            end: RoundEnd::TimedOut,
            ignored: Ignored {
                garbage: 2,
                duplicates: 1,
                reason: Some("unknown variant `\n`".to_owned()),
            },
        };
        insta::assert_snapshot!(lines(|| ignored(&round)));
        round.end = RoundEnd::Truncated;
        round.ignored = Ignored::default();
        insta::assert_snapshot!(lines(|| ignored(&round)));
    }
}
