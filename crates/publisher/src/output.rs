use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::thread;

use anyhow::Context as _;
use client::Submitted;
use common::{JobId, Outcome, OutcomeError, Status};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::stored::Kept;

/// Outcomes as newline-delimited JSON, written on a thread of its own.
pub(crate) struct Output {
    name: String,
    buffer: Vec<u8>,
    pieces: mpsc::Sender<Vec<u8>>,
    written: oneshot::Receiver<io::Result<()>>,
}

/// One line of it: the fields of the outcome, and where its job came from.
#[derive(Serialize)]
struct Record<'a> {
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
    /// How much is gathered before it is handed to the thread.
    const PIECE: usize = 64 * 1024;

    /// Replaces a file, or takes standard output where the path is `-`.
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
            // With this gone too, whoever has more to write hears of the error.
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

    /// Adds the outcome of a job; it is written once [`Output::pass_on`] is called.
    pub(crate) fn add(&mut self, line: Option<u64>, outcome: &Outcome, elapsed_ms: Option<f64>) {
        let start = self.buffer.len();
        let record = Record {
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
        // Into memory, and with keys that are texts: there is nothing to go wrong.
        if serde_json::to_writer(&mut self.buffer, &record).is_err() {
            self.buffer.truncate(start);
            return;
        }
        // A result is kept as its consumer wrote it, be it on several lines. In JSON these can
        // only be white space.
        for byte in &mut self.buffer[start..] {
            if matches!(*byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
        self.buffer.push(b'\n');
    }

    /// Adds what became of the submission of a durable job.
    pub(crate) fn add_kept(&mut self, kept: &Kept) {
        let elapsed_ms = Some((kept.elapsed.as_secs_f64() * 1e6).round() / 1e3);
        let line = kept.submission.line();
        let status = match &kept.result {
            Ok(Submitted::Stored) => "stored",
            Ok(Submitted::Known) => "known",
            Err(outcome) => return self.add(line, outcome, elapsed_ms),
        };
        let mut record = serde_json::json!({"id": kept.submission.id, "status": status});
        if let Some(line) = line {
            record["line"] = line.into();
        }
        record["elapsed_ms"] = elapsed_ms.into();
        self.buffer.extend_from_slice(record.to_string().as_bytes());
        self.buffer.push(b'\n');
    }

    /// Hands on what was added if it is much, or anyway if that is asked for; waits while the file
    /// or the reader is slow.
    ///
    /// Nothing is lost or doubled if the future is dropped.
    pub(crate) async fn pass_on(&mut self, anyway: bool) -> anyhow::Result<()> {
        let enough = if anyway { 1 } else { Self::PIECE };
        // What was handed on before may have failed: that is told without more to write, too.
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

    /// Writes the rest and waits until it is written.
    pub(crate) async fn close(mut self) -> anyhow::Result<()> {
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
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
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
        let written = Shared::default();
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
