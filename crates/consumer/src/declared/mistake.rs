//! Mistakes in a handlers file, and where they are.

use std::fmt;
use std::ops::Range;
use std::path::Path;

/// A mistake in the file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    pub(super) line: usize,
    /// The full key; empty if the mistake is not about a key.
    key: String,
    text: String,
}

/// A mistake in one key of a handler.
#[derive(Debug)]
pub(super) struct KeyMistake {
    pub(super) key: &'static str,
    pub(super) text: String,
}

impl KeyMistake {
    pub(super) fn new(key: &'static str, text: String) -> Self {
        Self { key, text }
    }
}

/// Shows the mistakes in a file, one a line.
pub(super) struct Mistakes<'a>(pub(super) &'a Path, pub(super) &'a [Mistake]);

impl fmt::Display for Mistakes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, Mistake { line, key, text }) in self.1.iter().enumerate() {
            let end_of_last = if number == 0 { "" } else { "\n" };
            write!(f, "{end_of_last}{}:{line}: ", self.0.display())?;
            if !key.is_empty() {
                write!(f, "{key}: ")?;
            }
            f.write_str(text)?;
        }
        Ok(())
    }
}

/// The text of the file, to find lines in it.
pub(super) struct Lines<'a>(pub(super) &'a str);

impl Lines<'_> {
    /// A mistake at a span of the text; without a span it is on the first line.
    pub(super) fn mistake(&self, span: Option<Range<usize>>, key: &str, text: &str) -> Mistake {
        let before = span.map_or(0, |span| span.start.min(self.0.len()));
        let line = 1 + self
            .0
            .char_indices()
            .take_while(|(at, _)| *at < before)
            .filter(|(_, char)| *char == '\n')
            .count();
        Mistake {
            line,
            key: key.to_owned(),
            text: text.to_owned(),
        }
    }
}
