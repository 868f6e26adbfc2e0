//! What the handlers did, outside of NATS: one line for the start and one for the end of each run, added to
//! a file by the process that does the work. So it is true also when the consumer is killed.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::Context as _;
use common::JobId;

use super::history::{Event, RunOutcome, RunStart, now};

/// The kinds of the suite's jobs: the name says what the handler does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Succeeds at once.
    Quick,
    /// Takes longer than a second, so that a record says that it runs.
    Slow,
    /// Takes longer than it takes between two signs of life.
    Long,
    /// Fails twice, and then succeeds.
    Flaky,
    /// Fails at each attempt.
    Fail,
    /// Panics at the first attempt. Only consumers with handlers in Rust serve it.
    Panic,
    /// As `Quick`, for schedules.
    Tick,
}

impl Kind {
    pub(super) const ALL: [Self; 7] = [
        Self::Quick,
        Self::Slow,
        Self::Long,
        Self::Flaky,
        Self::Fail,
        Self::Panic,
        Self::Tick,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Quick => "chaos.quick",
            Self::Slow => "chaos.slow",
            Self::Long => "chaos.long",
            Self::Flaky => "chaos.flaky",
            Self::Fail => "chaos.fail",
            Self::Panic => "chaos.panic",
            Self::Tick => "chaos.tick",
        }
    }

    /// How long a run takes, in milliseconds.
    pub(super) const fn takes_ms(self) -> u64 {
        match self {
            Self::Slow => 1200,
            Self::Long => 6000,
            _ => 0,
        }
    }

    /// The last attempt that fails.
    pub(super) const fn fails_until(self) -> u32 {
        match self {
            Self::Flaky => 2,
            Self::Fail => u32::MAX,
            Self::Panic => 1,
            _ => 0,
        }
    }
}

/// The declarations of the handlers that are programs.
pub(super) fn declarations(ledger: &Path) -> String {
    let programs = Kind::ALL.into_iter().filter(|kind| *kind != Kind::Panic);
    let declared = programs.map(|kind| {
        let (name, ms, last) = (kind.name(), kind.takes_ms(), kind.fails_until());
        let ledger = ledger.display();
        format!(
            r#"
            [handlers."{name}"]
            exec = ["bash", "-c", '''
                say() {{ printf '%s\n' "$*" >> "$LEDGER"; }}
                clock() {{ at=${{EPOCHREALTIME/[.,]/}}; }}
                clock; run=$$.$at
                say start "$run" "$JOB_ID" "$JOB_ATTEMPT" {name} "$CONSUMER_INSTANCE" "$at"
                [ {ms} = 0 ] || sleep "$(( {ms} / 1000 )).$(( {ms} % 1000 / 100 ))"
                if [ "$JOB_ATTEMPT" -le {last} ]; then
                    clock; say end "$run" failed "$at"
                    echo "as it should" >&2; exit 75
                fi
                clock; say end "$run" succeeded "$at"
            ''']
            env = ["LEDGER={ledger}", "CONSUMER_INSTANCE"]
            stdin = "none"
            timeout = "5m"
            "#
        )
    });
    declared.collect()
}

/// Writes runs down.
#[derive(Clone)]
pub(super) struct Ledger {
    path: PathBuf,
}

impl Ledger {
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path }
    }

    /// Notes that a run begins, and returns its name.
    pub(super) fn start(
        &self,
        id: JobId,
        attempt: u32,
        kind: &str,
        consumer: &str,
    ) -> io::Result<String> {
        static RUNS: AtomicU64 = AtomicU64::new(0);
        let number = RUNS.fetch_add(1, Ordering::Relaxed);
        let run = format!("{}.{}.{number}", std::process::id(), now());
        let line = format!("start {run} {id} {attempt} {kind} {consumer} {}\n", now());
        self.add(&line)?;
        Ok(run)
    }

    pub(super) fn end(&self, run: &str, outcome: RunOutcome) -> io::Result<()> {
        let outcome = match outcome {
            RunOutcome::Succeeded => "succeeded",
            RunOutcome::Failed => "failed",
        };
        self.add(&format!("end {run} {outcome} {}\n", now()))
    }

    /// One write to the end of the file, so lines of several processes do not mix.
    fn add(&self, line: &str) -> io::Result<()> {
        let mut file = File::options().create(true).append(true).open(&self.path)?;
        file.write_all(line.as_bytes())
    }

    /// All that was written, as events.
    pub(super) fn events(&self) -> anyhow::Result<Vec<Event>> {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error).context("cannot read the ledger"),
        };
        let events = text
            .lines()
            .map(|line| event(line).with_context(|| format!("the ledger has the line {line:?}")));
        events.collect()
    }
}

fn event(line: &str) -> Option<Event> {
    let words: Vec<_> = line.split(' ').collect();
    match words[..] {
        ["start", run, id, attempt, kind, consumer, at] => Some(Event::RunStart(RunStart {
            at: at.parse().ok()?,
            run: run.to_owned(),
            id: id.parse().ok()?,
            attempt: attempt.parse().ok()?,
            kind: kind.to_owned(),
            consumer: consumer.to_owned(),
        })),
        ["end", run, outcome, at] => Some(Event::RunEnd {
            at: at.parse().ok()?,
            run: run.to_owned(),
            outcome: match outcome {
                "succeeded" => RunOutcome::Succeeded,
                "failed" => RunOutcome::Failed,
                _ => return None,
            },
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_as_events_and_a_broken_line_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::at(folder.path().join("ledger"));
        assert_eq!(ledger.events().unwrap(), []);
        let id = JobId::generate();
        let run = ledger.start(id, 2, "chaos.quick", "a").unwrap();
        let other = ledger.start(id, 2, "chaos.quick", "a").unwrap();
        assert_ne!(run, other);
        ledger.end(&run, RunOutcome::Failed).unwrap();
        let events = ledger.events().unwrap();
        assert!(
            matches!(&events[0], Event::RunStart(start) if start.run == run && start.attempt == 2)
        );
        assert!(
            matches!(&events[2], Event::RunEnd { run: ended, outcome: RunOutcome::Failed, .. } if *ended == run)
        );
        ledger.add("start\n").unwrap();
        let error = ledger.events().unwrap_err();
        assert!(error.to_string().contains("\"start\""), "{error:#}");
    }
}
