use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use client::Submitted;
use common::{Outcome, Status};
use hdrhistogram::Histogram;
use tracing::{info, warn};

use crate::bad_lines::BadLines;
use crate::config::Guarantee;
use crate::stored::Kept;
use crate::submission::Submission;
use crate::submitter::Finished;

/// What became of the jobs so far: in total, and since the last progress report.
pub(crate) struct Report {
    delivery: Guarantee,
    pub(crate) counts: Counts,
    at_last_progress: Counts,
    /// Of all jobs but those in `recent`, in microseconds.
    latencies: Histogram<u64>,
    /// Of those since the last progress report.
    recent: Histogram<u64>,
    /// How many did not succeed, by the code of the error.
    codes: BTreeMap<String, u64>,
    bad_lines: BadLines,
    given_up: Vec<String>,
}

/// Numbers of jobs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) submitted: u64,
    /// Published without asking for an answer.
    pub(crate) sent: u64,
    /// Stored in the durable lane.
    pub(crate) stored: u64,
    /// The same, but known there before.
    pub(crate) known: u64,
    pub(crate) succeeded: u64,
    pub(crate) failed: u64,
    pub(crate) rejected: u64,
    pub(crate) expired: u64,
    pub(crate) given_up: u64,
    /// How often those that have ended were handed over.
    pub(crate) attempts: u64,
    pub(crate) resubmitted: u64,
    pub(crate) bad_lines: u64,
}

impl Counts {
    /// Jobs that have ended.
    pub(crate) fn done(&self) -> u64 {
        self.sent + self.stored + self.known + self.succeeded + self.not_succeeded()
    }

    /// Jobs that have ended otherwise than they should.
    pub(crate) fn not_succeeded(&self) -> u64 {
        self.failed + self.rejected + self.expired + self.given_up
    }
}

impl Report {
    /// So many codes and jobs are named one by one.
    const NAMED: usize = 20;

    pub(crate) fn new(delivery: Guarantee) -> Self {
        // Up to a year, and right to three digits.
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
            bad_lines: BadLines::default(),
            given_up: Vec::new(),
        }
    }

    pub(crate) fn submitted(&mut self) {
        self.counts.submitted += 1;
    }

    pub(crate) fn sent(&mut self) {
        self.counts.sent += 1;
        self.counts.attempts += 1;
    }

    pub(crate) fn kept(&mut self, kept: &Kept) {
        self.counts.attempts += 1;
        match &kept.result {
            Ok(Submitted::Stored) => self.counts.stored += 1,
            Ok(Submitted::Known) => self.counts.known += 1,
            Err(outcome) => return self.ended(outcome),
        }
        let micros = u64::try_from(kept.elapsed.as_micros()).unwrap_or(u64::MAX);
        self.recent.saturating_record(micros);
    }

    pub(crate) fn finished(&mut self, finished: &Finished) {
        self.counts.attempts += u64::from(finished.sent);
        self.counts.resubmitted += u64::from(finished.sent.saturating_sub(1));
        let micros = u64::try_from(finished.elapsed.as_micros()).unwrap_or(u64::MAX);
        self.recent.saturating_record(micros);
        self.ended(&finished.outcome);
    }

    /// A job ended, be it without having been sent.
    pub(crate) fn ended(&mut self, outcome: &Outcome) {
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
        // The word may come from anybody: neither its length nor how many there are is bounded.
        let mut code: String = code.chars().take(64).collect();
        if !self.codes.contains_key(&code) && self.codes.len() >= Self::NAMED {
            "others".clone_into(&mut code);
        }
        *self.codes.entry(code).or_default() += 1;
    }

    pub(crate) fn gave_up(&mut self, submission: &Submission) {
        self.counts.given_up += 1;
        if self.given_up.len() < Self::NAMED {
            self.given_up.push(match submission.line() {
                Some(line) => format!("{} (line {line})", submission.id),
                None => submission.id.to_string(),
            });
        }
    }

    pub(crate) fn bad_line(&mut self, line: u64) {
        self.counts.bad_lines += 1;
        self.bad_lines.add(line);
    }

    /// Logs what happened since the last time, `elapsed` ago.
    pub(crate) fn progress(&mut self, elapsed: Duration, under_way: usize, percent: Option<u64>) {
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

    /// Logs what happened in all.
    pub(crate) fn summary(&mut self, elapsed: Duration) {
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

    fn take_recent(&mut self) {
        // Both have the same bounds, so there is nothing that would not fit.
        let _ = self.latencies.add(&self.recent);
        self.recent.reset();
    }
}

/// The first of something, and how many more there are.
fn named(first: &[impl std::fmt::Display], all: u64) -> String {
    let mut text = String::new();
    for (number, one) in first.iter().enumerate() {
        let comma = if number == 0 { "" } else { ", " };
        // Writing to a text cannot fail.
        let _ = write!(text, "{comma}{one}");
    }
    let more = all - first.len() as u64;
    if more > 0 {
        let _ = write!(text, " and {more} more");
    }
    text
}

/// Whole jobs a second, with one digit more where they are few.
pub(crate) fn per_second(jobs: u64, elapsed: Duration) -> f64 {
    let rate = jobs as f64 / elapsed.as_secs_f64().max(1e-9);
    if rate < 100.0 {
        (rate * 10.0).round() / 10.0
    } else {
        rate.round()
    }
}

/// Milliseconds with two digits behind the point.
fn millis(micros: u64) -> f64 {
    (micros as f64 / 10.0).round() / 100.0
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use bytes::Bytes;
    use common::OutcomeError;

    use super::*;
    use crate::answer::not_succeeded;

    /// What is logged meanwhile, without the time.
    fn logged(log: impl FnOnce()) -> String {
        let lines = Arc::new(Mutex::new(Vec::new()));
        let writer = Arc::clone(&lines);
        let subscriber = tracing_subscriber::fmt()
            .without_time()
            .with_target(false)
            .with_ansi(false)
            .with_writer(move || Shared(Arc::clone(&writer)))
            .finish();
        tracing::subscriber::with_default(subscriber, log);
        let lines = lines.lock().unwrap();
        String::from_utf8(lines.clone()).unwrap()
    }

    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn submission(line: u64) -> Submission {
        let text = r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","kind":"a"}"#;
        let origin = Some(crate::submission::Origin { line, bytes: 50 });
        Submission {
            origin,
            ..Submission::decode(Bytes::from_static(text.as_bytes())).unwrap()
        }
    }

    fn finish(report: &mut Report, status: Status, code: &'static str, millis: u64) {
        let error = OutcomeError::new(code, "");
        report.submitted();
        report.finished(&Finished {
            submission: submission(1),
            outcome: not_succeeded(None, status, 1, error),
            elapsed: Duration::from_millis(millis),
            sent: 1 + u32::from(millis > 900),
        });
    }

    #[test]
    fn the_summary_reads_as_documented() {
        let mut report = Report::new(Guarantee::Confirmed);
        for millis in 1..=1_000 {
            finish(&mut report, Status::Succeeded, "", millis);
        }
        for _ in 0..3 {
            finish(&mut report, Status::Failed, "no_consumer", 5_000);
        }
        finish(&mut report, Status::Rejected, "unknown_kind", 1);
        finish(&mut report, Status::Expired, "new\nline", 1);
        for line in (1..=40).step_by(3).chain(50..=60) {
            report.bad_line(line);
        }
        report.submitted();
        report.gave_up(&submission(7));
        insta::assert_snapshot!(logged(|| {
            report.progress(Duration::from_secs(5), 17, Some(40));
            report.progress(Duration::from_secs(5), 17, Some(40));
            report.summary(Duration::from_millis(12_345));
        }));
    }

    #[test]
    fn the_summary_of_jobs_without_an_answer_is_short() {
        let mut report = Report::new(Guarantee::FireAndForget);
        for _ in 0..100_000 {
            report.submitted();
            report.sent();
        }
        insta::assert_snapshot!(logged(|| report.summary(Duration::from_millis(200))));
    }

    #[test]
    fn the_summary_of_a_run_without_jobs_has_no_latency() {
        let mut report = Report::new(Guarantee::Confirmed);
        insta::assert_snapshot!(logged(|| report.summary(Duration::from_secs(100))));
    }

    #[test]
    fn endlessly_many_codes_do_not_take_endless_memory() {
        let mut report = Report::new(Guarantee::Confirmed);
        for number in 0..1_000 {
            let mut error = OutcomeError::new("", "");
            error.code = format!("{number}{}", "x".repeat(1_000)).into();
            report.ended(&not_succeeded(None, Status::Failed, 1, error));
        }
        assert_eq!(report.codes.len(), Report::NAMED + 1);
        assert!(report.codes.keys().all(|code| code.len() <= 64));
        assert_eq!(report.codes["others"], 980);
    }
}
