use std::io::{self, Read};
use std::thread;

use anyhow::Context as _;
use bootstrap::Beat;
use bytes::Bytes;
use common::{OutcomeError, codes};
use tokio::sync::mpsc;

use super::super::item::{BadLine, Item};
use super::lines::Lines;
use crate::submission::{InputLine, Submission};

/// Reads jobs from newline-delimited JSON, ahead and on a thread of its own.
pub(crate) struct JobReader {
    batches: mpsc::Receiver<io::Result<Vec<Item>>>,
    batch: std::vec::IntoIter<Item>,
}

impl JobReader {
    /// Starts to read. A line of more than `longest` bytes is a bad one; so is a job with a `run_at`,
    /// unless jobs are `durable`. The thread keeps `life`, so that its panic is not mistaken for the
    /// end of the input.
    pub(super) fn start(
        reader: impl Read + Send + 'static,
        longest: usize,
        durable: bool,
        life: Option<Beat>,
    ) -> anyhow::Result<Self> {
        // Enough to keep the publisher busy while the thread reads on.
        let (sender, batches) = mpsc::channel(4);
        thread::Builder::new()
            .name("input".to_owned())
            .spawn(move || {
                let _life = life;
                read(reader, longest, durable, &sender);
            })
            .context("cannot start a thread to read the input")?;
        Ok(Self {
            batches,
            batch: Vec::new().into_iter(),
        })
    }

    /// The next line that was read already; `None` if there is none now.
    pub(crate) fn try_next(&mut self) -> io::Result<Option<Item>> {
        if let Some(item) = self.batch.next() {
            return Ok(Some(item));
        }
        match self.batches.try_recv() {
            Ok(batch) => {
                self.batch = batch?.into_iter();
                Ok(self.batch.next())
            }
            Err(_) => Ok(None),
        }
    }

    /// Waits for the next line; `None` at the end of the input. Nothing is lost if the future is
    /// dropped.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Item>> {
        loop {
            if let Some(item) = self.batch.next() {
                return Ok(Some(item));
            }
            match self.batches.recv().await {
                Some(batch) => self.batch = batch?.into_iter(),
                None => return Ok(None),
            }
        }
    }
}

/// Reads to the end of the input, and sends batches of lines. Ends early if the receiver is dropped.
fn read(
    reader: impl Read,
    longest: usize,
    durable: bool,
    batches: &mpsc::Sender<io::Result<Vec<Item>>>,
) {
    const MOST_LINES: usize = 128;
    const MOST_BYTES: u64 = 256 * 1024;
    let mut lines = Lines::new(reader, longest);
    let mut batch = Vec::new();
    let mut bytes = 0;
    loop {
        let line = match lines.next() {
            Ok(Some(line)) => line,
            Ok(None) => break,
            Err(error) => {
                let sent = batches.blocking_send(Ok(batch));
                if sent.is_ok() {
                    let _ = batches.blocking_send(Err(error));
                }
                return;
            }
        };
        let place = InputLine {
            number: line.number,
            bytes: line.bytes,
        };
        bytes += line.bytes;
        batch.push(item(place, line.content, longest, durable));
        // A line that arrives alone, for example from a terminal, is sent at once.
        if batch.len() >= MOST_LINES || bytes >= MOST_BYTES || !lines.next_is_buffered() {
            if batches
                .blocking_send(Ok(std::mem::take(&mut batch)))
                .is_err()
            {
                return;
            }
            bytes = 0;
        }
    }
    let _ = batches.blocking_send(Ok(batch));
}

fn item(line: InputLine, content: Option<&[u8]>, longest: usize, durable: bool) -> Item {
    let Some(content) = content else {
        let error = OutcomeError::new(
            codes::INVALID_JOB,
            format!(
                "the line has more than {longest} bytes, and the server takes no such message (max_payload)"
            ),
        );
        return Item::BadLine(BadLine {
            line,
            id: None,
            error,
        });
    };
    let content = Bytes::copy_from_slice(content);
    let decoded = if durable {
        Submission::decode_durable(content)
    } else {
        Submission::decode(content)
    };
    match decoded {
        Ok(submission) => Item::Job(Submission {
            input_line: Some(line),
            ..submission
        }),
        Err(invalid) => Item::BadLine(BadLine {
            line,
            id: invalid.id,
            error: OutcomeError::new(invalid.code, invalid.to_string()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(text: &str, longest: usize) -> Vec<Item> {
        let text = io::Cursor::new(text.to_owned());
        let mut jobs = JobReader::start(text, longest, false, None).unwrap();
        let mut items = Vec::new();
        while let Some(item) = jobs.next().await.unwrap() {
            items.push(item);
        }
        items
    }

    #[tokio::test]
    async fn each_line_is_a_job_or_says_what_is_wrong_with_it() {
        let long = format!(r#"{{"kind":"a","payload":"{}"}}"#, "x".repeat(100));
        let text = format!(
            "{}\r\n\nnot json\n{}\n{long}\n{}",
            r#"{"kind":"a"}"#,
            r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","kind":"a","prio":1}"#,
            r#"{"kind":"b"}"#
        );
        let items = all(&text, 80).await;
        let read: Vec<_> = items
            .iter()
            .map(|item| match item {
                Item::Job(job) => (job.line_number().unwrap(), job.kind.to_string()),
                Item::BadLine(bad) => (bad.line.number, bad.error.message.clone()),
            })
            .collect();
        let lines: Vec<_> = read.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 3, 4, 5, 6]);
        assert_eq!((read[0].1.as_str(), read[4].1.as_str()), ("a", "b"));
        assert!(read[1].1.starts_with("message is not JSON"), "{read:?}");
        assert!(read[2].1.contains("`prio`"), "{read:?}");
        assert!(read[3].1.contains("more than 80 bytes"), "{read:?}");
        let Item::BadLine(bad) = &items[2] else {
            panic!("was taken")
        };
        assert!(bad.id.is_some(), "a bad line keeps its valid id");
    }

    #[tokio::test]
    async fn a_thousand_lines_come_in_their_order() {
        let text = "{\"kind\":\"a\"}\n".repeat(1_000);
        let items = all(&text, 80).await;
        assert_eq!(items.len(), 1_000);
        for (number, item) in (1..).zip(&items) {
            let Item::Job(job) = item else {
                panic!("was refused")
            };
            assert_eq!(job.input_line, Some(InputLine { number, bytes: 13 }));
        }
    }

    #[tokio::test]
    async fn an_input_that_breaks_off_says_so_after_what_was_read() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("unplugged"))
            }
        }
        let text = &b"{\"kind\":\"a\"}\n"[..];
        let mut jobs = JobReader::start(text.chain(Broken), 80, false, None).unwrap();
        assert!(matches!(jobs.next().await, Ok(Some(Item::Job(_)))));
        assert_eq!(jobs.next().await.unwrap_err().to_string(), "unplugged");
    }
}
