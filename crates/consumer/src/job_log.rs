//! Decides which jobs get a log line: each job at a low rate, and a bounded number of jobs per
//! second at a high rate.

use std::sync::atomic::{AtomicU32, Ordering};

use common::{OutcomeError, codes};

/// The most lines of one topic in one second; further jobs are only counted.
pub(crate) const LINES_PER_SECOND: u32 = 10;

/// The budgets of log lines in the current second.
#[derive(Debug, Default)]
pub(crate) struct JobLog {
    /// Lines written in this second, by [`Topic`].
    lines: [AtomicU32; 3],
    /// Not 0 if a line was suppressed since the last summary.
    suppressed: AtomicU32,
}

/// What a line is about. Each topic has its own budget, so that none drowns the others.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Topic {
    Success,
    Failure,
    /// Leaving the queue group and joining it again.
    Membership,
}

impl JobLog {
    /// Takes one line from the budget of the topic; `false` if none is left in this second.
    pub(crate) fn may_log(&self, topic: Topic) -> bool {
        let lines = &self.lines[topic as usize];
        // In a flood this is one load. Threads that come at the same time may overshoot the bound
        // a little.
        if lines.load(Ordering::Relaxed) < LINES_PER_SECOND {
            lines.fetch_add(1, Ordering::Relaxed);
            return true;
        }
        if self.suppressed.load(Ordering::Relaxed) == 0 {
            self.suppressed.store(1, Ordering::Relaxed);
        }
        false
    }

    /// Begins a new second.
    pub(crate) fn renew(&self) {
        for lines in &self.lines {
            lines.store(0, Ordering::Relaxed);
        }
    }

    /// Whether a line was suppressed since the last call.
    pub(crate) fn take_suppressed(&self) -> bool {
        self.suppressed.swap(0, Ordering::Relaxed) != 0
    }
}

/// The part of an error that may be logged. The text of an invalid payload repeats the wrong
/// value, which may be secret: only the name of its field is shown.
pub(crate) fn loggable(error: &OutcomeError) -> String {
    const MAX_CHARS: usize = 200;
    let text = match error.message.split_once(':') {
        Some((field, _)) if error.code == codes::INVALID_PAYLOAD => field,
        _ => &error.message,
    };
    let mut shown: String = text.chars().take(MAX_CHARS).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_keep_their_lines_when_successes_have_used_theirs_up() {
        let log = JobLog::default();
        let lines = (0..1000).filter(|_| log.may_log(Topic::Success)).count();
        assert_eq!(lines, LINES_PER_SECOND as usize);
        assert!(log.may_log(Topic::Failure));
    }
}
