//! All that happened in a run, as JSON lines: what the checker judges, also later and elsewhere.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use common::{DeadReason, JobId, JobState, Timestamp};
use serde::{Deserialize, Serialize};

use super::fault::Fault;

/// A time in microseconds since 1970. All processes of a run are on one machine, so they share a clock.
pub(super) type Micros = i64;

/// What happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(super) enum Event {
    /// The run began with these settings.
    Began {
        at: Micros,
        seed: u64,
        seconds: u64,
        jobs_per_second: u32,
        faults: Vec<Fault>,
        cluster: bool,
    },
    /// Somebody began to submit a job.
    Submitted(Submission),
    /// The submitter was told that the job is stored.
    Acknowledged { at: Micros, id: JobId },
    /// The submitter was told that it is not stored, because another job holds its key.
    Refused { at: Micros, id: JobId },
    /// A recurring schedule had to submit this job at this time.
    Tick {
        due: Micros,
        id: JobId,
        schedule: String,
    },
    /// A handler began: from the ledger.
    RunStart(RunStart),
    /// A handler ended: from the ledger.
    RunEnd {
        at: Micros,
        run: String,
        outcome: RunOutcome,
    },
    /// Somebody began to request that a job be cancelled.
    CancelRequested { at: Micros, id: JobId },
    /// The request to cancel a job was stored.
    CancelAcknowledged { at: Micros, id: JobId },
    /// Something was broken, and then whole again.
    Fault {
        from: Micros,
        to: Micros,
        fault: Fault,
        target: String,
    },
    /// No more jobs were submitted from now on.
    LoadEnded { at: Micros },
    /// The final record of a job; all are read twice.
    Record(FinalRecord),
    /// A job had no final record when the waiting was over, and this was found of it; empty: nothing.
    Unfinished { id: JobId, found: String },
    /// So many messages were left on these subjects in the end.
    Left { subjects: String, messages: u64 },
    /// A service ended by itself, or did not end well when it was told to.
    ServiceFailed { service: String, why: String },
}

/// A job that was submitted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Submission {
    pub(super) at: Micros,
    pub(super) id: JobId,
    pub(super) way: Way,
    pub(super) kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) run_at: Option<Micros>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) deadline: Option<Micros>,
    /// The key of a unique job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) key: Option<String>,
}

/// By which way a job was submitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    Client,
    Publisher,
    Http,
}

/// A handler began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct RunStart {
    pub(super) at: Micros,
    /// Tells runs apart, also those of the same attempt.
    pub(super) run: String,
    pub(super) id: JobId,
    pub(super) attempt: u32,
    pub(super) kind: String,
    pub(super) consumer: String,
}

/// How a handler ended. One that was killed, or whose future was dropped, says nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum RunOutcome {
    Succeeded,
    Failed,
}

/// The final record of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct FinalRecord {
    /// 1 or 2: the server is killed in between.
    pub(super) read: u32,
    pub(super) id: JobId,
    /// When the job ended, by the clock of the server.
    pub(super) at: Micros,
    pub(super) state: JobState,
    pub(super) attempt: u32,
    pub(super) run: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<DeadReason>,
}

/// The present time.
pub(super) fn now() -> Micros {
    micros(Timestamp::now())
}

pub(super) fn micros(time: Timestamp) -> Micros {
    Micros::try_from(time.unix_nanos() / 1000).unwrap_or(Micros::MAX)
}

/// The events of a run so far; each is written to the file as it comes. Clones share it.
#[derive(Clone)]
pub(super) struct History(Arc<Mutex<Inner>>);

struct Inner {
    events: Vec<Event>,
    file: BufWriter<File>,
}

impl History {
    pub(super) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create(path);
        let file = file.with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Self(Arc::new(Mutex::new(Inner {
            events: Vec::new(),
            file: BufWriter::new(file),
        }))))
    }

    /// # Panics
    /// When the file cannot be written: a run without its history proves nothing.
    pub(super) fn note(&self, event: Event) {
        // An event is added whole or not at all.
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let line = serde_json::to_string(&event).expect("an event is plain data");
        writeln!(inner.file, "{line}").expect("the history can be written");
        inner.events.push(event);
    }

    /// All events so far, which are in the file then.
    pub(super) fn events(&self) -> anyhow::Result<Vec<Event>> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        inner.file.flush().context("cannot write the history")?;
        Ok(inner.events.clone())
    }
}

/// Reads the history of a run.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<Event>> {
    let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let mut events = Vec::new();
    for (number, line) in BufReader::new(file).lines().enumerate() {
        let line = line.with_context(|| format!("cannot read {}", path.display()))?;
        let event = serde_json::from_str(&line);
        events.push(
            event.with_context(|| {
                format!("line {} of {} is no event", number + 1, path.display())
            })?,
        );
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_read_back_as_it_was_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("history");
        let history = History::create(&path).unwrap();
        let id = JobId::generate();
        history.note(Event::Acknowledged { at: 1, id });
        history.note(Event::Fault {
            from: 2,
            to: 3,
            fault: Fault::PauseServer,
            target: "nats".to_owned(),
        });
        let events = history.events().unwrap();
        assert_eq!(events.len(), 2);
        assert_eq!(read(&path).unwrap(), events);
        std::fs::write(&path, "{\"event\":\"acknowledged\"}\n").unwrap();
        let error = read(&path).unwrap_err();
        assert!(error.to_string().starts_with("line 1 of "), "{error:#}");
    }
}
