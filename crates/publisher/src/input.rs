use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::{Context as _, bail};
use bootstrap::Beat;
use bytes::Bytes;
use common::{JobId, OutcomeError, codes};
use tokio::sync::mpsc;

use crate::lines::Lines;
use crate::submission::{Origin, Submission};

/// An input that was opened and not read yet.
pub(crate) struct Source {
    pub(crate) name: String,
    /// How long it is, if it is a file that has an end.
    pub(crate) length: Option<u64>,
    reader: Box<dyn Read + Send>,
}

/// Jobs from newline-delimited JSON, read ahead on a thread of its own.
pub(crate) struct Input {
    batches: mpsc::Receiver<io::Result<Vec<Item>>>,
    batch: std::vec::IntoIter<Item>,
}

/// What a line holds.
#[derive(Debug)]
pub(crate) enum Item {
    Job(Submission),
    Bad(BadLine),
}

/// A line that is not a job.
#[derive(Debug)]
pub(crate) struct BadLine {
    pub(crate) origin: Origin,
    pub(crate) id: Option<JobId>,
    pub(crate) error: OutcomeError,
}

impl Source {
    /// Opens a file, or standard input where the path is `-`.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self {
                name: "standard input".to_owned(),
                length: None,
                reader: Box::new(io::stdin()),
            });
        }
        let name = path.display().to_string();
        let failed = || format!("cannot read the input {name}");
        let file = File::open(path).with_context(failed)?;
        let metadata = file.metadata().with_context(failed)?;
        if metadata.is_dir() {
            bail!("{}: it is a directory", failed());
        }
        Ok(Self {
            length: metadata.is_file().then_some(metadata.len()),
            reader: Box::new(file),
            name,
        })
    }

    /// Starts to read; lines of more than `longest` bytes are refused. Nobody takes a thread that
    /// panics for the end of the input.
    pub(crate) fn read(
        self,
        longest: usize,
        waits: bool,
        life: Option<Beat>,
    ) -> anyhow::Result<Input> {
        // A few batches are enough to keep the publisher busy while this reads on.
        let (sender, batches) = mpsc::channel(4);
        thread::Builder::new()
            .name("input".to_owned())
            .spawn(move || {
                let _life = life;
                read(self.reader, longest, waits, &sender);
            })
            .context("cannot start a thread to read the input")?;
        Ok(Input {
            batches,
            batch: Vec::new().into_iter(),
        })
    }
}

impl Input {
    /// The next line if it has been read, without waiting.
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

    /// The next line, none at the end; nothing is lost if the future is dropped.
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

/// Reads to the end, in batches of jobs; ends early when nobody takes them any more.
fn read(
    reader: impl Read,
    longest: usize,
    waits: bool,
    batches: &mpsc::Sender<io::Result<Vec<Item>>>,
) {
    const JOBS: usize = 128;
    const BYTES: u64 = 256 * 1024;
    let mut lines = Lines::new(reader, longest);
    let mut batch = Vec::new();
    let mut bytes = 0;
    loop {
        let line = match lines.next() {
            Ok(Some(line)) => line,
            Ok(None) => break,
            Err(error) => {
                let jobs = batches.blocking_send(Ok(batch));
                if jobs.is_ok() {
                    let _ = batches.blocking_send(Err(error));
                }
                return;
            }
        };
        let origin = Origin {
            line: line.number,
            bytes: line.bytes,
        };
        bytes += line.bytes;
        batch.push(item(origin, line.content, longest, waits));
        // Whoever types jobs, or writes them one by one, wants none held back.
        if batch.len() >= JOBS || bytes >= BYTES || !lines.next_is_at_hand() {
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

fn item(origin: Origin, content: Option<&[u8]>, longest: usize, waits: bool) -> Item {
    let Some(content) = content else {
        let error = OutcomeError::new(
            codes::INVALID_JOB,
            format!(
                "the line has more than {longest} bytes, and the server takes no such message (max_payload)"
            ),
        );
        return Item::Bad(BadLine {
            origin,
            id: None,
            error,
        });
    };
    let content = Bytes::copy_from_slice(content);
    let decoded = if waits {
        Submission::decode_durable(content)
    } else {
        Submission::decode(content)
    };
    match decoded {
        Ok(submission) => Item::Job(Submission {
            origin: Some(origin),
            ..submission
        }),
        Err(invalid) => Item::Bad(BadLine {
            origin,
            id: invalid.id,
            error: OutcomeError::new(invalid.code, invalid.to_string()),
        }),
    }
}

/// Whether two paths lead to the same file.
pub(crate) fn same_file(one: &Path, other: &Path) -> bool {
    let canonical = |path: &Path| -> Option<PathBuf> { path.canonicalize().ok() };
    canonical(one).is_some_and(|one| canonical(other) == Some(one))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(text: &str, longest: usize) -> Vec<Item> {
        let source = Source {
            name: String::new(),
            length: None,
            reader: Box::new(io::Cursor::new(text.to_owned())),
        };
        let mut input = source.read(longest, false, None).unwrap();
        let mut items = Vec::new();
        while let Some(item) = input.next().await.unwrap() {
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
        let said: Vec<_> = items
            .iter()
            .map(|item| match item {
                Item::Job(job) => (job.line().unwrap(), job.kind.to_string()),
                Item::Bad(bad) => (bad.origin.line, bad.error.message.clone()),
            })
            .collect();
        let lines: Vec<_> = said.iter().map(|(line, _)| *line).collect();
        assert_eq!(lines, [1, 3, 4, 5, 6]);
        assert_eq!((said[0].1.as_str(), said[4].1.as_str()), ("a", "b"));
        assert!(said[1].1.starts_with("message is not JSON"), "{said:?}");
        assert!(said[2].1.contains("`prio`"), "{said:?}");
        assert!(said[3].1.contains("more than 80 bytes"), "{said:?}");
        let Item::Bad(bad) = &items[2] else {
            panic!("was taken")
        };
        assert!(bad.id.is_some(), "the good id of a bad line is kept");
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
            assert_eq!(
                job.origin,
                Some(Origin {
                    line: number,
                    bytes: 13
                })
            );
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
        let source = Source {
            name: String::new(),
            length: None,
            reader: Box::new(text.chain(Broken)),
        };
        let mut input = source.read(80, false, None).unwrap();
        assert!(matches!(input.next().await, Ok(Some(Item::Job(_)))));
        assert_eq!(input.next().await.unwrap_err().to_string(), "unplugged");
    }

    #[test]
    fn what_cannot_be_read_is_refused_by_name() {
        let error = Source::open(Path::new("/no/such/file")).err().unwrap();
        assert!(error.to_string().contains("/no/such/file"), "{error}");
        let error = Source::open(Path::new("/")).err().unwrap();
        assert!(error.to_string().contains("directory"), "{error}");
    }
}
