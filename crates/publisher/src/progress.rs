use std::io::{self, IsTerminal as _, Write};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::report::{Counts, per_second};

/// A bar on standard error, where that is a terminal and jobs come in bulk.
pub(crate) struct Bar {
    bar: ProgressBar,
}

impl Bar {
    /// None where nobody would see it; `length` is that of the input in bytes, if it has an end.
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
        let style = ProgressStyle::with_template(template)
            .expect("the template is one of two, and both are right");
        let bar = ProgressBar::with_draw_target(length, target).with_style(style);
        Self { bar }
    }

    pub(crate) fn update(&self, counts: &Counts, bytes: u64, elapsed: Duration) {
        let not_succeeded = counts.not_succeeded() + counts.bad_lines;
        let done = counts.done();
        let rate = per_second(done, elapsed);
        self.bar.set_message(format!(
            "{done} jobs, {rate}/s, {not_succeeded} not succeeded"
        ));
        // The position is of bytes, so that nobody has to count the lines first.
        self.bar.set_position(bytes);
        self.bar.tick();
    }

    /// Takes it off the screen; the summary follows.
    pub(crate) fn clear(&self) {
        self.bar.finish_and_clear();
    }
}

/// Where log lines go beside a bar, or beside outcomes on standard output.
pub(crate) struct LogWriter {
    bar: Option<ProgressBar>,
    to_stderr: bool,
}

impl LogWriter {
    pub(crate) fn new(bar: Option<&Bar>, to_stderr: bool) -> Self {
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
            // Takes the bar away, writes, and draws it again below.
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
    fn the_bar_shows_share_rate_and_failures() {
        let bar = Bar::to(ProgressDrawTarget::hidden(), Some(1_000));
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
