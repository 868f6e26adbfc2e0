use std::time::Duration;

use client::Submitted;
use common::{Outcome, Status};
use tracing::{debug, info, warn};

use crate::source::BadLine;
use crate::submission::Submission;

/// Log lines about single jobs, bounded in number.
pub(super) struct JobLog {
    /// Whether each job gets a line at level info, because there are few jobs a second.
    each: bool,
    /// Problems that were logged since the last [`JobLog::next_period`].
    problems: u64,
}

impl JobLog {
    /// The most problems that are logged in one period.
    const MOST_PROBLEMS: u64 = 20;

    pub(super) fn new(each: bool) -> Self {
        Self { each, problems: 0 }
    }

    /// Logs that a job was published without a reply subject.
    pub(super) fn sent(&self, submission: &Submission) {
        let (id, kind) = (submission.id, &submission.kind);
        if self.each {
            info!(job.id = %id, job.kind = %kind, "job sent");
        } else {
            debug!(job.id = %id, job.kind = %kind, "job sent");
        }
    }

    /// Logs that a durable job is stored.
    pub(super) fn stored(&self, submission: &Submission, submitted: Submitted) {
        if self.each {
            match submitted {
                Submitted::Stored => {
                    info!(job.id = %submission.id, job.kind = %submission.kind, "job stored");
                }
                Submitted::Kept(holder) => {
                    info!(job.id = %submission.id, job.kind = %submission.kind, %holder, "another job holds the key");
                }
                Submitted::Known => {
                    info!(job.id = %submission.id, job.kind = %submission.kind, "job known before");
                }
            }
        }
    }

    /// Logs an outcome.
    pub(super) fn ended(&mut self, submission: &Submission, outcome: &Outcome, elapsed: Duration) {
        let (id, kind, line) = (submission.id, &submission.kind, submission.line_number());
        let attempt = outcome.attempt;
        let elapsed_ms = (elapsed.as_secs_f64() * 1e5).round() / 1e2;
        if outcome.status == Status::Succeeded {
            let consumer = outcome.consumer.escape_debug();
            if self.each {
                info!(job.id = %id, job.kind = %kind, line, %consumer, attempt, elapsed_ms, "job succeeded");
            } else {
                debug!(job.id = %id, job.kind = %kind, line, %consumer, attempt, elapsed_ms, "job succeeded");
            }
            return;
        }
        if !self.problem() {
            return;
        }
        let consumer = (!outcome.consumer.is_empty())
            .then(|| tracing::field::display(shown(&outcome.consumer)));
        let error = outcome.error.as_ref();
        let code = error.map(|error| tracing::field::display(shown(&error.code)));
        let message = error.map(|error| tracing::field::display(shown(&error.message)));
        warn!(
            job.id = %id, job.kind = %kind, line, consumer, attempt, elapsed_ms,
            error.code = code, error.message = message, "job {}", outcome.status
        );
    }

    pub(super) fn bad_line(&mut self, bad: &BadLine) {
        if self.problem() {
            warn!(line = bad.line.number, error.message = %shown(&bad.error.message), "bad line");
        }
    }

    /// Starts a new period, and logs how many problems of the last one were not logged.
    pub(super) fn next_period(&mut self) {
        let problems = std::mem::take(&mut self.problems);
        if problems > Self::MOST_PROBLEMS {
            warn!(
                more = problems - Self::MOST_PROBLEMS,
                "more problems, not logged one by one"
            );
        }
    }

    /// Counts a problem, and returns whether to log it.
    fn problem(&mut self) -> bool {
        self.problems += 1;
        self.problems <= Self::MOST_PROBLEMS
    }
}

/// A text from outside, escaped and cut to 200 characters. It may quote a payload, which must not be
/// logged in full. The beginning is enough to find the mistake; the whole text is in the output.
fn shown(text: &str) -> String {
    const LONGEST: usize = 200;
    let mut shown: String = text
        .chars()
        .take(LONGEST)
        .flat_map(char::escape_debug)
        .collect();
    if text.chars().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_from_outside_is_one_short_line() {
        assert_eq!(shown("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(shown(&"ä".repeat(200)), "ä".repeat(200));
        assert_eq!(shown(&"ä".repeat(201)).chars().count(), 201);
    }

    #[test]
    fn the_problems_logged_in_a_period_are_bounded() {
        let mut log = JobLog::new(true);
        assert_eq!((0..100).filter(|_| log.problem()).count(), 20);
        log.next_period();
        assert!(log.problem());
    }
}
