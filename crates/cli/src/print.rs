//! Prints results to standard output, as text or as JSON.

use std::io::{self, Write as _};
use std::time::Duration;

use anyhow::Context as _;
use common::{FailedAttempt, Timestamp};
use serde::Serialize;

/// Prints results as text or as JSON.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Printer {
    pub(crate) json: bool,
}

impl Printer {
    /// Prints a result in one of its two forms.
    pub(crate) fn either(
        self,
        json: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> anyhow::Result<()> {
        print(&if self.json {
            serde_json::to_string(json)?
        } else {
            text()
        })
    }
}

/// Prints lines to standard output.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")
}

/// Writes a message to standard error, beside the result.
pub(crate) fn note(text: &str) {
    // If standard error is closed, there is no place to report it.
    let _ = writeln!(io::stderr(), "{text}");
}

/// A number of things in words: `1 job`, `2 jobs`.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    let plural = if count == 1 { "" } else { "s" };
    format!("{count} {noun}{plural}")
}

/// Whether the error says that the reader of standard output has closed it, as `head` does.
pub(crate) fn is_closed(error: &anyhow::Error) -> bool {
    let error = error.root_cause().downcast_ref::<io::Error>();
    error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

/// A text from outside with its control characters escaped, so that a terminal does not obey them.
pub(crate) fn shown(text: &str) -> String {
    text.chars()
        .flat_map(|character| {
            let escape = character.is_control();
            let plain = (!escape).then_some(character);
            let escaped = escape.then(|| character.escape_default());
            plain.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}

/// A failed attempt as a name and a text. A mark is not an attempt: it has its code and its time.
pub(crate) fn failure(failure: &FailedAttempt) -> (String, String) {
    let at = failure.at;
    let code = shown(&failure.error.code);
    if failure.is_mark() {
        return (code, at.to_string());
    }
    let consumer = failure.consumer.as_deref().map_or("?".to_owned(), shown);
    let (attempt, message) = (failure.attempt, shown(&failure.error.message));
    let text = format!("attempt {attempt} at {at} on {consumer}: {code}: {message}");
    ("failed".to_owned(), text)
}

/// A time as people read it, to the second.
pub(crate) fn moment(at: Timestamp) -> String {
    let text = at.to_string();
    match text.split_once('.') {
        Some((seconds, _)) => format!("{seconds}Z"),
        None => text,
    }
}

/// A length of time in its two largest units.
pub(crate) fn duration(duration: Duration) -> String {
    let seconds = Duration::from_secs(duration.as_secs());
    let text = humantime::format_duration(seconds).to_string();
    text.split(' ').take(2).collect::<Vec<_>>().join(" ")
}

/// A table: a line of column names, then the rows. Each column is as wide as its widest cell.
pub(crate) fn table<const N: usize>(names: [&str; N], rows: &[[String; N]]) -> Vec<String> {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([names[column].chars().count()]).max()
    };
    let widths: Vec<_> = (0..N).map(|column| width(column).unwrap_or(0)).collect();
    let line = |cells: &[String; N]| {
        let cells = cells.iter().zip(&widths);
        let padded = cells.map(|(cell, width)| format!("{cell:width$}"));
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    let names = names.map(ToOwned::to_owned);
    [&names].into_iter().chain(rows).map(line).collect()
}

#[cfg(test)]
mod tests {
    use common::{OutcomeError, codes};

    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_as_text() {
        assert_eq!(shown("a\u{1b}[31m\nä\"b"), "a\\u{1b}[31m\\nä\"b");
    }

    #[test]
    fn a_mark_is_shown_as_what_was_done_and_not_as_an_attempt() {
        let at = "2026-01-31T09:30:00Z".parse().unwrap();
        let mut failed = FailedAttempt {
            attempt: 0,
            consumer: None,
            at,
            error: OutcomeError::new(codes::REPLAYED, "the job was replayed"),
        };
        let (name, text) = failure(&failed);
        assert_eq!((&*name, &*text), ("replayed", "2026-01-31T09:30:00Z"));
        failed.attempt = 2;
        failed.error = OutcomeError::new(codes::TIMEOUT, "too\nlong");
        let (name, text) = failure(&failed);
        assert_eq!(name, "failed");
        assert_eq!(
            text,
            "attempt 2 at 2026-01-31T09:30:00Z on ?: timeout: too\\nlong"
        );
    }

    #[test]
    fn times_are_short() {
        let at = "2026-01-31T09:30:00.123456Z".parse().unwrap();
        assert_eq!(moment(at), "2026-01-31T09:30:00Z");
        assert_eq!(duration(Duration::from_millis(93_785_900)), "1day 2h");
        assert_eq!(duration(Duration::from_millis(900)), "0s");
    }

    #[test]
    fn a_table_is_as_wide_as_what_is_in_it() {
        let rows = [["mail.send", "5"], ["a", "12"]].map(|row| row.map(ToOwned::to_owned));
        let lines = table(["KIND", "WAITING"], &rows);
        assert_eq!(
            lines,
            ["KIND       WAITING", "mail.send  5", "a          12"]
        );
    }
}
