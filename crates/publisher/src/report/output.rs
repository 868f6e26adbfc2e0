use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::thread;

use anyhow::Context as _;
use client::Submitted;
use common::{JobId, Outcome, OutcomeError, Status};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::durable::StoreResult;

/// Writes outcomes as newline-delimited JSON, on a thread of its own.
pub(crate) struct Output {
    /// The path, or `standard output`.
    name: String,
    /// Lines that were not passed to the thread yet.
    buffer: Vec<u8>,
    pieces: mpsc::Sender<Vec<u8>>,
    /// The result of the thread, once it has ended.
    written: oneshot::Receiver<io::Result<()>>,
}

/// One line of the output: the fields of the outcome, and the line of the input that held the job.
#[derive(Serialize)]
struct OutcomeLine<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<u64>,
    id: Option<JobId>,
    status: Status,
    #[serde(skip_serializing_if = "str::is_empty")]
    consumer: &'a str,
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<&'a serde_json::value::RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a OutcomeError>,
    duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    elapsed_ms: Option<f64>,
}

impl Output {
    /// How many bytes are gathered before they are passed to the thread.
    const PIECE: usize = 64 * 1024;

    /// Creates or replaces a file, or uses standard output if the path is `-`.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Self::to("standard output".to_owned(), io::stdout());
        }
        let name = path.display().to_string();
        let file = File::create(path).with_context(|| format!("cannot write the output {name}"))?;
        Self::to(name, file)
    }

    fn to(name: String, mut writer: impl Write + Send + 'static) -> anyhow::Result<Self> {
        let (pieces, mut to_write) = mpsc::channel::<Vec<u8>>(8);
        let (done, written) = oneshot::channel();
        let write = move || {
            let mut write_all = || {
                while let Some(piece) = to_write.blocking_recv() {
                    writer.write_all(&piece)?;
                }
                writer.flush()
            };
            let result = write_all();
            // Closes the channel, so that the next `pass_on` reports the error.
            drop(to_write);
            let _ = done.send(result);
        };
        thread::Builder::new()
            .name("output".to_owned())
            .spawn(write)
            .context("cannot start a thread to write the output")?;
        Ok(Self {
            name,
            buffer: Vec::new(),
            pieces,
            written,
        })
    }

    /// Adds an outcome. [`Output::pass_on`] writes it.
    ///
    /// `line` is the number of the job's line in the input, and `elapsed_ms` the time since its
    /// submission; both may be absent.
    pub(super) fn add(&mut self, line: Option<u64>, outcome: &Outcome, elapsed_ms: Option<f64>) {
        let start = self.buffer.len();
        let record = OutcomeLine {
            line,
            id: outcome.id,
            status: outcome.status,
            consumer: &outcome.consumer,
            attempt: outcome.attempt,
            result: outcome.result.as_deref(),
            error: outcome.error.as_ref(),
            duration_ms: outcome.duration_ms,
            elapsed_ms,
        };
        // This cannot fail: it writes to memory, and all keys are strings.
        if serde_json::to_writer(&mut self.buffer, &record).is_err() {
            self.buffer.truncate(start);
            return;
        }
        // A result is written as its consumer sent it, which may be several lines. Outside of strings
        // JSON allows line ends as white space only, so they can be replaced.
        for byte in &mut self.buffer[start..] {
            if matches!(*byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
        self.buffer.push(b'\n');
    }

    /// Adds the result of storing a durable job.
    pub(super) fn add_stored(&mut self, stored: &StoreResult) {
        let elapsed_ms = Some((stored.elapsed.as_secs_f64() * 1e6).round() / 1e3);
        let line = stored.submission.line_number();
        let status = match &stored.result {
            Ok(Submitted::Stored) => "stored",
            Ok(Submitted::Known) => "known",
            Ok(Submitted::Kept(_)) => "kept",
            Err(outcome) => return self.add(line, outcome, elapsed_ms),
        };
        let mut record = serde_json::json!({"id": stored.submission.id, "status": status});
        if let Ok(Submitted::Kept(holder)) = stored.result {
            record["holder"] = holder.to_string().into();
        }
        if let Some(line) = line {
            record["line"] = line.into();
        }
        record["elapsed_ms"] = elapsed_ms.into();
        self.buffer.extend_from_slice(record.to_string().as_bytes());
        self.buffer.push(b'\n');
    }

    /// Passes the added lines to the thread, if there are enough of them or `flush` is set. Waits
    /// while the thread is behind.
    ///
    /// Nothing is lost or written twice if the future is dropped.
    ///
    /// # Errors
    /// When writing has failed, now or before.
    pub(super) async fn pass_on(&mut self, flush: bool) -> anyhow::Result<()> {
        let enough = if flush { 1 } else { Self::PIECE };
        // A closed channel means that writing has failed; that is reported even with nothing to write.
        if self.buffer.len() < enough && !self.pieces.is_closed() {
            return Ok(());
        }
        if let Ok(permit) = self.pieces.reserve().await {
            permit.send(std::mem::take(&mut self.buffer));
            return Ok(());
        }
        let result = (&mut self.written).await.unwrap_or_else(|_| Err(ended()));
        let error = result.err().unwrap_or_else(ended);
        Err(anyhow::Error::new(error).context(self.failed()))
    }

    /// Writes the remaining lines, and waits until all are written.
    pub(super) async fn close(mut self) -> anyhow::Result<()> {
        self.pass_on(true).await?;
        let failed = self.failed();
        drop(self.pieces);
        let result = self.written.await.unwrap_or_else(|_| Err(ended()));
        result.context(failed)
    }

    fn failed(&self) -> String {
        format!("cannot write the output {}", self.name)
    }
}

fn ended() -> io::Error {
    io::Error::other("the thread that writes it has ended")
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use serde_json::value::RawValue;

    use super::*;

    #[derive(Clone, Default)]
    struct SharedBuffer(Arc<Mutex<Vec<u8>>>);

    impl Write for SharedBuffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn outcome(result: &str) -> Outcome {
        Outcome {
            id: "01890a5d-ac96-774b-bcce-b302099a8057".parse().ok(),
            status: Status::Succeeded,
            consumer: "consumer-1".to_owned(),
            attempt: 1,
            result: RawValue::from_string(result.to_owned()).ok(),
            error: None,
            duration_ms: 0.5,
        }
    }

    #[tokio::test]
    async fn each_outcome_is_one_line() {
        let written = SharedBuffer::default();
        let mut output = Output::to("x".to_owned(), written.clone()).unwrap();
        output.add(Some(7), &outcome("{\n  \"a\": \"b\\n\"\r\n}"), Some(1.25));
        let failed = Outcome {
            id: None,
            status: Status::Failed,
            consumer: String::new(),
            result: None,
            error: Some(OutcomeError::new("timeout", "no answer came in time")),
            ..outcome("1")
        };
        output.add(None, &failed, None);
        output.close().await.unwrap();
        insta::assert_snapshot!(String::from_utf8(written.0.lock().unwrap().clone()).unwrap());
    }

    #[tokio::test]
    async fn a_full_disk_is_reported_with_the_name_of_the_output() {
        let mut output = Output::open(Path::new("/dev/full")).unwrap();
        let error = loop {
            output.add(None, &outcome("1"), None);
            if let Err(error) = output.pass_on(true).await {
                break error;
            }
        };
        let error = format!("{error:#}");
        assert!(
            error.starts_with("cannot write the output /dev/full: "),
            "{error}"
        );
        assert!(error.contains("space"), "{error}");
    }

    #[tokio::test]
    async fn an_error_with_the_last_piece_is_not_missed() {
        let mut output = Output::open(Path::new("/dev/full")).unwrap();
        output.add(None, &outcome("1"), None);
        assert!(output.close().await.is_err());
    }
}
