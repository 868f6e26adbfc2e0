use common::JobId;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tracing::info;

use super::excerpt;

/// The most lines that are logged for one attempt.
const LINES: u64 = 100;

/// The most bytes that are logged of a line.
const LINE: usize = 1024;

/// The most bytes that an error shows.
const TAIL: usize = 2048;

/// Standard error of a program: it is logged, and its end becomes part of the error if the job fails.
/// Memory is bounded, however much the program writes.
pub(super) struct StandardError<'a> {
    job: JobId,
    kind: &'a str,
    /// The unfinished line, up to one byte more than is logged.
    line: Vec<u8>,
    /// How many lines there were, logged or not.
    lines: u64,
    /// At least the last [`TAIL`] bytes.
    tail: Vec<u8>,
}

impl<'a> StandardError<'a> {
    pub(super) fn new(job: JobId, kind: &'a str) -> Self {
        Self {
            job,
            kind,
            line: Vec::new(),
            lines: 0,
            tail: Vec::new(),
        }
    }

    /// Reads the pipe to its end.
    pub(super) async fn read(&mut self, mut pipe: impl AsyncRead + Unpin) {
        let mut buffer = vec![0; 8192];
        // An error counts as the end of the pipe.
        while let Ok(length @ 1..) = pipe.read(&mut buffer).await {
            self.take(&buffer[..length]);
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            let room = (LINE + 1).saturating_sub(self.line.len());
            self.line.extend_from_slice(&part[..part.len().min(room)]);
            if part.ends_with(b"\n") {
                self.end_line();
            }
        }
        self.tail.extend_from_slice(bytes);
        if self.tail.len() > 8 * TAIL {
            self.tail.drain(..self.tail.len() - TAIL - 1);
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if line.trim_ascii().is_empty() {
            return;
        }
        self.lines += 1;
        if self.lines <= LINES {
            let text = excerpt::head(line.trim_ascii_end(), LINE);
            info!(job.id = %self.job, job.kind = %self.kind, stderr = ?text, "program wrote to standard error");
        }
    }

    /// Logs the unfinished line, and how many lines were not logged.
    pub(super) fn finish(&mut self) {
        self.end_line();
        if let Some(more @ 1..) = self.lines.checked_sub(LINES) {
            info!(job.id = %self.job, job.kind = %self.kind, lines = more, "program wrote more lines to standard error, which are not logged");
        }
    }

    /// The end of the text, safe to show in an error.
    pub(super) fn tail(&self) -> String {
        excerpt::tail(self.tail.trim_ascii(), TAIL)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(parts: &[&[u8]]) -> StandardError<'static> {
        let mut said = StandardError::new(JobId::generate(), "test");
        for part in parts {
            said.take(part);
        }
        said
    }

    #[test]
    fn an_error_repeats_the_end_of_it() {
        let noise: Vec<u8> = b"noise\n".repeat(1000);
        let mut parts: Vec<&[u8]> = vec![&noise; 100];
        parts.extend([b"disk full\n".as_slice(), b"giving up\n"]);
        let said = said(&parts);
        let tail = said.tail();
        assert!(
            tail.starts_with('…') && tail.ends_with("noise | disk full | giving up"),
            "{tail}"
        );
        assert!(said.tail.len() <= 8 * TAIL && tail.len() <= 2 * TAIL);
    }

    #[test]
    fn a_line_without_end_is_held_in_part_only() {
        let said = said(&[&b"x".repeat(100_000), &b"y".repeat(100_000)]);
        assert_eq!(said.line.len(), LINE + 1);
        assert_eq!(said.lines, 0);
    }

    #[test]
    fn empty_lines_are_not_counted() {
        let mut said = said(&[b"a\n\n \n", b"b", b"c\nd"]);
        assert_eq!(said.lines, 2);
        said.finish();
        assert_eq!(said.lines, 3);
        assert_eq!(said.tail(), "a | bc | d");
    }
}
