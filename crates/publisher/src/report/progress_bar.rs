use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use indicatif::{ProgressDrawTarget, ProgressStyle};

use super::counts::{Counts, per_second};

/// A progress bar on standard error.
pub(crate) struct ProgressBar {
    bar: indicatif::ProgressBar,
}

impl ProgressBar {
    /// A bar for an input of `length` bytes, if that is known. `None` if standard error is not a
    /// terminal.
    pub(crate) fn on_terminal(length: Option<u64>) -> Option<Self> {
        io::stderr()
            .is_terminal()
            .then(|| Self::to(ProgressDrawTarget::stderr(), length))
    }

    fn to(target: ProgressDrawTarget, length: Option<u64>) -> Self {
        let template = if length.is_some() {
            "{bar:30} {percent:>3}% {msg} ETA {eta}"
        } else {
            "{spinner} {msg} {elapsed}"
        };
        let style = ProgressStyle::with_template(template).expect("both templates are valid");
        let bar = indicatif::ProgressBar::with_draw_target(length, target).with_style(style);
        Self { bar }
    }

    /// Shows the counts, and that `bytes` of the input are done.
    pub(super) fn update(&self, counts: &Counts, bytes: u64, elapsed: Duration) {
        let not_succeeded = counts.not_succeeded() + counts.bad_lines;
        let done = counts.done();
        let rate = per_second(done, elapsed);
        self.bar.set_message(format!(
            "{done} jobs, {rate}/s, {not_succeeded} not succeeded"
        ));
        // The position is in bytes, because the number of lines is not known.
        self.bar.set_position(bytes);
        self.bar.tick();
    }

    /// Removes the bar from the screen.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Writes log lines so that they mix neither with a progress bar nor with outcomes on standard output.
pub(crate) struct LogWriter {
    bar: Option<indicatif::ProgressBar>,
    to_stderr: bool,
}

impl LogWriter {
    pub(crate) fn new(bar: Option<&ProgressBar>, to_stderr: bool) -> Self {
        Self {
            bar: bar.map(|bar| bar.bar.clone()),
            to_stderr,
        }
    }

    fn write_out(&self, line: &[u8]) -> io::Result<()> {
        if self.to_stderr {
            io::stderr().write_all(line)
        } else {
            io::stdout().write_all(line)
        }
    }
}

impl Write for LogWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        match &self.bar {
            // Removes the bar, writes the line, and draws the bar again below it.
            Some(bar) => bar.suspend(|| self.write_out(line))?,
            None => self.write_out(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.to_stderr {
            io::stderr().flush()
        } else {
            io::stdout().flush()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_shows_position_rate_and_failures() {
        let bar = ProgressBar::to(ProgressDrawTarget::hidden(), Some(1_000));
        let counts = Counts {
            succeeded: 499,
            failed: 1,
            ..Counts::default()
        };
        bar.update(&counts, 500, Duration::from_secs(10));
        assert_eq!(bar.bar.message(), "500 jobs, 50/s, 1 not succeeded");
        assert_eq!((bar.bar.position(), bar.bar.length()), (500, Some(1_000)));
        bar.clear();
        assert!(bar.bar.is_finished());
    }
}
