use std::time::Duration;

use client::Submitted;
use common::{Outcome, Status};
use tracing::{debug, info, warn};

use crate::input::BadLine;
use crate::submission::Submission;

/// Log lines about single jobs: as many as somebody can read.
pub(crate) struct JobLog {
    /// Whether each job is worth a line, because they come slowly.
    each: bool,
    /// Problems that were logged since the last [`JobLog::next_period`].
    problems: u64,
}

impl JobLog {
    /// So many problems are logged one by one in a period.
    const PROBLEMS: u64 = 20;

    pub(crate) fn new(each: bool) -> Self {
        Self { each, problems: 0 }
    }

    pub(crate) fn sent(&self, submission: &Submission) {
        let (id, kind) = (submission.id, &submission.kind);
        if self.each {
            info!(job.id = %id, job.kind = %kind, "job sent");
        } else {
            debug!(job.id = %id, job.kind = %kind, "job sent");
        }
    }

    pub(crate) fn stored(&self, submission: &Submission, submitted: Submitted) {
        if self.each {
            match submitted {
                Submitted::Stored => {
                    info!(job.id = %submission.id, job.kind = %submission.kind, "job stored");
                }
                Submitted::Known => {
                    info!(job.id = %submission.id, job.kind = %submission.kind, "job known before");
                }
            }
        }
    }

    pub(crate) fn ended(&mut self, submission: &Submission, outcome: &Outcome, elapsed: Duration) {
        let (id, kind, line) = (submission.id, &submission.kind, submission.line());
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

    pub(crate) fn bad_line(&mut self, bad: &BadLine) {
        if self.problem() {
            warn!(line = bad.origin.line, error.message = %shown(&bad.error.message), "bad line");
        }
    }

    /// Begins to count anew, and says how much was not logged.
    pub(crate) fn next_period(&mut self) {
        let problems = std::mem::take(&mut self.problems);
        if problems > Self::PROBLEMS {
            warn!(
                more = problems - Self::PROBLEMS,
                "problems that are not logged one by one"
            );
        }
    }

    fn problem(&mut self) -> bool {
        self.problems += 1;
        self.problems <= Self::PROBLEMS
    }
}

/// A text from outside, cut and escaped. It may repeat a part of a payload, which is not for logs:
/// what is shown is enough to find the mistake, and all of it is among the outcomes.
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
    fn a_text_from_outside_stays_on_one_line_and_is_not_endless() {
        assert_eq!(shown("a\nb\u{1b}[31m"), "a\\nb\\u{1b}[31m");
        assert_eq!(shown(&"ä".repeat(200)), "ä".repeat(200));
        assert_eq!(shown(&"ä".repeat(201)).chars().count(), 201);
    }

    #[test]
    fn only_so_many_problems_are_logged_in_a_period() {
        let mut log = JobLog::new(true);
        assert_eq!((0..100).filter(|_| log.problem()).count(), 20);
        log.next_period();
        assert!(log.problem());
    }
}
