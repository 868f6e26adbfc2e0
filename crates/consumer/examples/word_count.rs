//! A consumer with handlers of its own, next to those that come with it.
//!
//! ```text
//! cargo run -p nats-jobs-consumer --example word_count
//! nats request jobs.create '{"kind": "words.count", "payload": {"path": "/usr/share/dict/words"}}'
//! ```

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::process::ExitCode;

use consumer::{Attempt, Failure, Handler, Job, Registry};
use serde::{Deserialize, Serialize};

fn main() -> ExitCode {
    let handlers = Registry::built_in()
        .with(CountWords)
        // What fits into a line needs no type of its own.
        .with_fn("words.shout", async |text: String| Ok(text.to_uppercase()));
    consumer::run(handlers)
}

/// Counts the words of a file.
struct CountWords;

/// What a job has to say: `{"path": "/some/file"}`. Anything else is rejected before the handler
/// is called.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    path: PathBuf,
}

/// The result of a job.
#[derive(Serialize, Deserialize)]
struct Words {
    total: usize,
    distinct: usize,
    most_frequent: Option<String>,
}

impl Job for File {
    const KIND: &'static str = "words.count";
    type Output = Words;
}

impl Handler for CountWords {
    type Job = File;

    async fn handle(&self, file: File, _: Attempt) -> Result<Words, Failure> {
        // Files and counting keep a thread busy: they get one that no other job waits for.
        tokio::task::spawn_blocking(move || count(&file)).await?
    }
}

fn count(File { path }: &File) -> Result<Words, Failure> {
    let text = std::fs::read_to_string(path);
    let text = text.map_err(|error| {
        // A file that is not there, or not a text, will not be on the next attempt; a file system
        // that is away may come back.
        let failure = match error.kind() {
            ErrorKind::NotFound | ErrorKind::InvalidData => Failure::permanent,
            _ => Failure::transient,
        };
        failure(anyhow::Error::new(error).context(format!("cannot read {}", path.display())))
    })?;
    let mut counts: HashMap<String, usize> = HashMap::new();
    for word in text.split(|char: char| !char.is_alphanumeric()) {
        if !word.is_empty() {
            *counts.entry(word.to_lowercase()).or_default() += 1;
        }
    }
    // Of words that are equally frequent, the first of the alphabet.
    let most_frequent = counts
        .iter()
        .max_by(|(a, n), (b, m)| n.cmp(m).then(b.cmp(a)));
    Ok(Words {
        total: counts.values().sum(),
        distinct: counts.len(),
        most_frequent: most_frequent.map(|(word, _)| word.clone()),
    })
}
