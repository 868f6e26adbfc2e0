use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use client::Submitted;
use common::{Outcome, Status};
use hdrhistogram::Histogram;
use tracing::{info, warn};

use super::counts::{Counts, per_second};
use super::line_ranges::LineRanges;
use crate::config::Guarantee;
use crate::confirmed::Finished;
use crate::durable::StoreResult;
use crate::submission::Submission;

/// The results of all jobs so far, and the log lines about them: progress and summary.
pub(super) struct Summary {
    delivery: Guarantee,
    pub(super) counts: Counts,
    /// The counts in the last progress line.
    at_last_progress: Counts,
    /// Latencies up to the last progress line, in microseconds.
    latencies: Histogram<u64>,
    /// Latencies since then, in microseconds.
    recent: Histogram<u64>,
    /// How many jobs did not succeed, by error code.
    codes: BTreeMap<String, u64>,
    bad_lines: LineRanges,
    /// The first jobs that were given up.
    given_up: Vec<String>,
}

impl Summary {
    /// The most codes, and the most jobs that were given up, that are named one by one.
    const MOST_NAMED: usize = 20;

    pub(super) fn new(delivery: Guarantee) -> Self {
        // Up to a year, with three significant digits.
        let histogram = || {
            Histogram::new_with_bounds(1, 366 * 24 * 3_600 * 1_000_000, 3)
                .expect("the bounds are in order, and 3 digits are allowed")
        };
        Self {
            delivery,
            counts: Counts::default(),
            at_last_progress: Counts::default(),
            latencies: histogram(),
            recent: histogram(),
            codes: BTreeMap::new(),
            bad_lines: LineRanges::default(),
            given_up: Vec::new(),
        }
    }

    /// Counts a job that was read or generated.
    pub(super) fn submitted(&mut self) {
        self.counts.submitted += 1;
    }

    /// Counts a job that was published without a reply subject.
    pub(super) fn sent(&mut self) {
        self.counts.sent += 1;
        self.counts.attempts += 1;
    }

    /// Counts a durable job that was stored or not.
    pub(super) fn stored(&mut self, stored: &StoreResult) {
        self.counts.attempts += 1;
        match &stored.result {
            Ok(Submitted::Stored) => self.counts.stored += 1,
            Ok(Submitted::Known | Submitted::Kept(_)) => self.counts.known += 1,
            Err(outcome) => return self.ended(outcome),
        }
        let micros = u64::try_from(stored.elapsed.as_micros()).unwrap_or(u64::MAX);
        self.recent.saturating_record(micros);
    }

    /// Counts a confirmed job that has ended.
    pub(super) fn finished(&mut self, finished: &Finished) {
        self.counts.attempts += u64::from(finished.sent);
        self.counts.resubmitted += u64::from(finished.sent.saturating_sub(1));
        let micros = u64::try_from(finished.elapsed.as_micros()).unwrap_or(u64::MAX);
        self.recent.saturating_record(micros);
        self.ended(&finished.outcome);
    }

    /// Counts an outcome.
    pub(super) fn ended(&mut self, outcome: &Outcome) {
        let counts = &mut self.counts;
        match outcome.status {
            Status::Succeeded => {
                counts.succeeded += 1;
                return;
            }
            Status::Rejected => counts.rejected += 1,
            Status::Expired => counts.expired += 1,
            Status::Failed | Status::Busy | Status::Interrupted => counts.failed += 1,
        }
        let code = outcome.error.as_ref().map_or("none", |error| &error.code);
        // The code may come from outside, so its length and the number of codes are bounded here.
        let mut code: String = code.chars().take(64).collect();
        if !self.codes.contains_key(&code) && self.codes.len() >= Self::MOST_NAMED {
            "others".clone_into(&mut code);
        }
        *self.codes.entry(code).or_default() += 1;
    }

    /// Counts a job that was given up.
    pub(super) fn gave_up(&mut self, submission: &Submission) {
        self.counts.given_up += 1;
        if self.given_up.len() < Self::MOST_NAMED {
            self.given_up.push(match submission.line_number() {
                Some(line) => format!("{} (line {line})", submission.id),
                None => submission.id.to_string(),
            });
        }
    }

    /// Counts a line of the input that is not a job.
    pub(super) fn bad_line(&mut self, line: u64) {
        self.counts.bad_lines += 1;
        self.bad_lines.add(line);
    }

    /// Logs progress since the last such line, `elapsed` ago. `percent` is the part of the input that is
    /// done; `None` if its length is not known.
    pub(super) fn log_progress(
        &mut self,
        elapsed: Duration,
        under_way: usize,
        percent: Option<u64>,
    ) {
        let counts = self.counts;
        let last = std::mem::replace(&mut self.at_last_progress, counts);
        let rate = per_second(counts.done() - last.done(), elapsed);
        let latency = |quantile| {
            (!self.recent.is_empty()).then(|| millis(self.recent.value_at_quantile(quantile)))
        };
        info!(
            percent,
            done = counts.done(),
            not_succeeded = (counts.not_succeeded() > 0).then(|| counts.not_succeeded()),
            bad_lines = (counts.bad_lines > 0).then_some(counts.bad_lines),
            resubmitted = (counts.resubmitted > 0).then_some(counts.resubmitted),
            under_way,
            jobs_per_second = rate,
            p50_ms = latency(0.5),
            p99_ms = latency(0.99),
            "progress"
        );
        self.take_recent();
    }

    /// Logs the summary of the run, which took `elapsed`.
    pub(super) fn log_summary(&mut self, elapsed: Duration) {
        self.take_recent();
        let counts = self.counts;
        let rate = per_second(counts.done(), elapsed);
        let elapsed_s = (elapsed.as_secs_f64() * 1e3).round() / 1e3;
        match self.delivery {
            Guarantee::Confirmed => info!(
                submitted = counts.submitted,
                succeeded = counts.succeeded,
                failed = counts.failed,
                rejected = counts.rejected,
                expired = counts.expired,
                given_up = counts.given_up,
                resubmitted = counts.resubmitted,
                bad_lines = counts.bad_lines,
                elapsed_s,
                jobs_per_second = rate,
                "summary"
            ),
            Guarantee::Durable => info!(
                submitted = counts.submitted,
                stored = counts.stored,
                known_before = counts.known,
                failed = counts.failed,
                rejected = counts.rejected,
                given_up = counts.given_up,
                bad_lines = counts.bad_lines,
                elapsed_s,
                jobs_per_second = rate,
                "summary"
            ),
            Guarantee::FireAndForget => info!(
                submitted = counts.submitted,
                sent = counts.sent,
                failed = counts.failed,
                given_up = counts.given_up,
                bad_lines = counts.bad_lines,
                elapsed_s,
                jobs_per_second = rate,
                "summary"
            ),
        }
        if !self.latencies.is_empty() {
            let latency = |quantile| millis(self.latencies.value_at_quantile(quantile));
            info!(
                p50_ms = latency(0.5),
                p90_ms = latency(0.9),
                p99_ms = latency(0.99),
                max_ms = millis(self.latencies.max()),
                "{}",
                match self.delivery {
                    Guarantee::Durable => "latency from submission to storage",
                    _ => "latency from submission to outcome",
                }
            );
        }
        if !self.codes.is_empty() {
            let codes = self
                .codes
                .iter()
                .map(|(code, count)| format!("{} {count}", code.escape_debug()));
            let codes = codes.collect::<Vec<_>>().join(", ");
            warn!(by_code = %codes, "jobs that did not succeed");
        }
        if counts.bad_lines > 0 {
            warn!(lines = %self.bad_lines, "bad lines");
        }
        if !self.given_up.is_empty() {
            let jobs = named(&self.given_up, counts.given_up);
            warn!(jobs = %jobs, "jobs that were given up and may still run");
        }
    }

    /// Moves the recent latencies to the others.
    fn take_recent(&mut self) {
        // Both histograms have the same bounds, so this cannot fail.
        let _ = self.latencies.add(&self.recent);
        self.recent.reset();
    }
}

/// The `first` of `all`, and how many more there are.
fn named(first: &[impl std::fmt::Display], all: u64) -> String {
    let mut text = String::new();
    for (number, one) in first.iter().enumerate() {
        let comma = if number == 0 { "" } else { ", " };
        // Writing to a string cannot fail.
        let _ = write!(text, "{comma}{one}");
    }
    let more = all - first.len() as u64;
    if more > 0 {
        let _ = write!(text, " and {more} more");
    }
    text
}

/// Milliseconds, rounded to two decimals.
fn millis(micros: u64) -> f64 {
    (micros as f64 / 10.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use common::OutcomeError;

    use super::*;
    use crate::outcome::unsuccessful;

    /// What `log` logs, without the time.
    fn logged(log: impl FnOnce()) -> String {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&lines);
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_target(false)
            .with_ansi(false)
            .with_writer(move || LogBuffer(Arc::clone(&writer)))
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let lines = lines.lock().unwrap();
        String::from_utf8(lines.clone()).unwrap()
    }

    struct LogBuffer(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for LogBuffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn submission(line: u64) -> Submission {
        let text = r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","kind":"a"}"#;
        let input_line = Some(crate::submission::InputLine {
            number: line,
            bytes: 50,
        });
        Submission {
            input_line,
            ..Submission::decode(Bytes::from_static(text.as_bytes())).unwrap()
        }
    }

    fn finish(summary: &mut Summary, status: Status, code: &'static str, millis: u64) {
        let error = OutcomeError::new(code, "");
        summary.submitted();
        summary.finished(&Finished {
            submission: submission(1),
            outcome: unsuccessful(None, status, 1, error),
            elapsed: Duration::from_millis(millis),
            sent: 1 + u32::from(millis > 900),
        });
    }

    #[test]
    fn the_summary_reads_as_documented() {
        let mut summary = Summary::new(Guarantee::Confirmed);
        for millis in 1..=1_000 {
            finish(&mut summary, Status::Succeeded, "", millis);
        }
        for _ in 0..3 {
            finish(&mut summary, Status::Failed, "no_consumer", 5_000);
        }
        finish(&mut summary, Status::Rejected, "unknown_kind", 1);
        finish(&mut summary, Status::Expired, "new\nline", 1);
        for line in (1..=40).step_by(3).chain(50..=60) {
            summary.bad_line(line);
        }
        summary.submitted();
        summary.gave_up(&submission(7));
        insta::assert_snapshot!(logged(|| {
            summary.log_progress(Duration::from_secs(5), 17, Some(40));
            summary.log_progress(Duration::from_secs(5), 17, Some(40));
            summary.log_summary(Duration::from_millis(12_345));
        }));
    }

    #[test]
    fn the_summary_of_fire_and_forget_jobs_is_short() {
        let mut summary = Summary::new(Guarantee::FireAndForget);
        for _ in 0..100_000 {
            summary.submitted();
            summary.sent();
        }
        insta::assert_snapshot!(logged(|| summary.log_summary(Duration::from_millis(200))));
    }

    #[test]
    fn the_summary_of_a_run_without_jobs_has_no_latency() {
        let mut summary = Summary::new(Guarantee::Confirmed);
        insta::assert_snapshot!(logged(|| summary.log_summary(Duration::from_secs(100))));
    }

    #[test]
    fn endlessly_many_codes_do_not_take_endless_memory() {
        let mut summary = Summary::new(Guarantee::Confirmed);
        for number in 0..1_000 {
            let mut error = OutcomeError::new("", "");
            error.code = format!("{number}{}", "x".repeat(1_000)).into();
            summary.ended(&unsuccessful(None, Status::Failed, 1, error));
        }
        assert_eq!(summary.codes.len(), Summary::MOST_NAMED + 1);
        assert!(summary.codes.keys().all(|code| code.len() <= 64));
        assert_eq!(summary.codes["others"], 980);
    }
}
