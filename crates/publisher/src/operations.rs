//! What a person does with durable jobs at a terminal: look them up, wait for them, cancel them,
//! and see to those that were given up.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bootstrap::{Context, Nats};
use bytes::Bytes;
use clap::{Args, Subcommand};
use client::dead_letters::Remaining;
use client::{DeadLetter, Replayed, Waited, Which, dead_letters};
use common::{DeadReason, JobId, JobKind, JobRecord, JobState};
use serde_json::json;
use tracing::warn;

use crate::config::Payload;

/// Work with durable jobs instead of handing jobs over.
#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Operation {
    /// Show how a durable job is; exit with 1 if nobody knows it
    Info(Job),
    /// Wait until a durable job has ended, and show how; exit with 0 if it succeeded, else 1
    Wait(Wait),
    /// Cancel a durable job; exit with 1 if it has ended otherwise, or nobody knows it
    Cancel(Job),
    /// See to jobs that were given up
    #[command(subcommand)]
    Dead(Dead),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Job {
    /// The job
    #[arg(value_name = "ID")]
    id: JobId,

    /// Print JSON, for programs
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Wait {
    #[command(flatten)]
    job: Job,

    /// How long it is waited for
    #[arg(id = "wait-timeout", long = "timeout", value_name = "DURATION", default_value = "1m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

#[derive(Clone, Debug, Subcommand)]
pub(crate) enum Dead {
    /// List dead letters, the oldest first
    List(List),
    /// Show one with its payload, headers and failed attempts
    Show(Job),
    /// Put dead letters into the queue again; each is replayed once, however many try
    Replay(Replay),
    /// Remove dead letters for good
    Discard(Chosen),
}

#[derive(Clone, Debug, Args)]
pub(crate) struct List {
    #[command(flatten)]
    filter: Filter,

    /// The most that are listed
    #[arg(long, value_name = "NUMBER", default_value_t = 50)]
    limit: usize,

    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Filter {
    /// Only those of this kind
    #[arg(id = "of-kind", long = "kind", value_name = "KIND")]
    kind: Option<JobKind>,

    /// Only those given up for this reason: `attempts_used_up`, permanent, undecodable,
    /// `unreadable_headers`, `no_handler`, `deliveries_exhausted`, `lost_schedule`
    #[arg(long, value_name = "REASON", value_parser = reason)]
    reason: Option<DeadReason>,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Chosen {
    /// The job
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with_all = ["all", "of-kind", "reason"])]
    id: Option<JobId>,

    /// All of them, or all that --kind and --reason leave
    #[arg(long)]
    all: bool,

    #[command(flatten)]
    filter: Filter,
}

#[derive(Clone, Debug, Args)]
pub(crate) struct Replay {
    #[command(flatten)]
    chosen: Chosen,

    /// With --all: the most that are replayed a second
    #[arg(
        id = "replay-rate",
        long = "rate",
        value_name = "NUMBER",
        requires = "all"
    )]
    rate: Option<NonZeroU32>,

    /// Replay it with another payload: JSON, or @ and a file that holds it
    #[arg(
        id = "other-payload",
        long = "payload",
        value_name = "JSON|@FILE",
        conflicts_with = "all"
    )]
    payload: Option<Payload>,
}

fn reason(text: &str) -> Result<DeadReason, String> {
    serde_json::from_value(text.into()).map_err(|_| {
        let words = DeadReason::ALL.map(DeadReason::as_str);
        format!("not one of {}", words.join(", "))
    })
}

impl Filter {
    fn which(self) -> Which {
        Which {
            kind: self.kind,
            reason: self.reason,
            error: None,
        }
    }
}

/// Does it; the exit code says whether it came out as one would wish.
pub(crate) async fn run(context: &Context, operation: Operation) -> anyhow::Result<ExitCode> {
    let nats = context.connect("operation").await?;
    let fine = match operation {
        Operation::Info(job) => {
            let record = client::look_up(&nats.client, job.id).await?;
            show_record(&job, record.as_ref())?;
            record.is_some()
        }
        Operation::Wait(Wait { job, timeout }) => {
            let waited = client::wait(&nats.client, nats.connected(), job.id, timeout).await?;
            match waited {
                Waited::Ended(record) => {
                    show_record(&job, Some(&record))?;
                    record.state == JobState::Succeeded
                }
                Waited::NotYet(record) => {
                    show_record(&job, record.as_deref())?;
                    warn!(job.id = %job.id, ?timeout, "the job has not ended in time");
                    false
                }
            }
        }
        Operation::Cancel(job) => cancel(&nats, &job).await?,
        Operation::Dead(dead) => see_to(context, &nats, dead).await?,
    };
    Ok(if fine {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// Asks for a job to be cancelled if it can be, and says so; false if it has ended otherwise, or
/// nobody knows it.
async fn cancel(nats: &Nats, job: &Job) -> anyhow::Result<bool> {
    let id = job.id;
    let known = client::look_up(&nats.client, id)
        .await
        .with_context(|| format!("job {id} is not cancelled: it cannot be looked up"))?;
    let state = known.map(|record| record.state);
    let (said, text) = match state {
        None => (
            "refused",
            format!("job {id} is not cancelled: nobody knows it, or does not any more"),
        ),
        Some(JobState::Cancelled) => ("done", format!("job {id} is cancelled")),
        Some(JobState::Dead) => (
            "refused",
            format!("job {id} is not cancelled: it is dead; discard its dead letter instead"),
        ),
        Some(state) if state.is_final() => (
            "refused",
            format!("job {id} is not cancelled: it has ended as {state}"),
        ),
        Some(_) => {
            client::cancel(&nats.client, id)
                .await
                .with_context(|| format!("job {id} is not cancelled"))?;
            (
                "requested",
                format!("asked for job {id} to be cancelled, unless it ends first"),
            )
        }
    };
    print(&if job.json {
        let state = state.map_or("unknown", JobState::as_str);
        json!({"id": id, "cancel": said, "state": state}).to_string()
    } else {
        text
    })?;
    Ok(said != "refused")
}

async fn see_to(context: &Context, nats: &Nats, operation: Dead) -> anyhow::Result<bool> {
    match operation {
        Dead::List(List {
            filter,
            limit,
            json,
        }) => {
            let letters = dead_letters::list(&nats.client, &filter.which(), 0, limit).await?;
            for letter in &letters {
                print(&if json {
                    summary(letter).to_string()
                } else {
                    line(letter)
                })?;
            }
            if letters.is_empty() && !json {
                print("no dead letters match")?;
            }
            Ok(true)
        }
        Dead::Show(job) => match dead_letters::show(&nats.client, job.id).await? {
            Some(letter) => {
                show_letter(&letter, job.json)?;
                Ok(true)
            }
            None => nothing(&job),
        },
        Dead::Replay(Replay {
            chosen,
            rate,
            payload,
        }) => {
            let payload = payload.map(|payload| Bytes::from(payload.0.get().to_owned()));
            each(context, nats, chosen, rate, async |letter| {
                let replayed = dead_letters::replay(&nats.client, letter, payload.clone()).await?;
                Ok(match replayed {
                    Replayed::Yes => "replayed",
                    Replayed::Already => "not replayed: it was before, or somebody else does it",
                })
            })
            .await
        }
        Dead::Discard(chosen) => {
            each(context, nats, chosen, None, async |letter| {
                dead_letters::discard(&nats.client, letter).await?;
                Ok("discarded")
            })
            .await
        }
    }
}

/// Does something with the letters that are meant, and says what; false if there is none.
async fn each(
    context: &Context,
    nats: &Nats,
    Chosen { id, filter, .. }: Chosen,
    rate: Option<NonZeroU32>,
    action: impl AsyncFn(&DeadLetter) -> anyhow::Result<&'static str>,
) -> anyhow::Result<bool> {
    if let Some(id) = id {
        let Some(letter) = dead_letters::show(&nats.client, id).await? else {
            return nothing(&Job { id, json: false });
        };
        print(&format!("job {id} {}", action(&letter).await?))?;
        return Ok(true);
    }
    let mut counts = BTreeMap::new();
    let mut failed = 0_u64;
    let which = filter.which();
    let mut letters = Remaining::new(&nats.client, &which, rate).await?;
    while let Some(next) = context.shutdown.run_until_cancelled(letters.next()).await {
        let Some(letter) = next? else { break };
        match action(&letter).await {
            Ok(done) => *counts.entry(done).or_insert(0_u64) += 1,
            Err(error) => {
                failed += 1;
                warn!(job.id = %letter.id, "dead letter left as it is: {error:#}");
            }
        }
    }
    if counts.is_empty() && failed == 0 {
        print("no dead letters match")?;
    }
    for (done, count) in counts {
        print(&format!("{count} {done}"))?;
    }
    if failed > 0 {
        print(&format!("{failed} left as they are"))?;
    }
    let stopped = context.shutdown.is_cancelled();
    if stopped {
        warn!("stopped before all dead letters were seen to");
    }
    Ok(failed == 0 && !stopped)
}

fn nothing(job: &Job) -> anyhow::Result<bool> {
    print(&if job.json {
        json!({"id": job.id, "dead": false}).to_string()
    } else {
        format!("there is no dead letter of job {}", job.id)
    })?;
    Ok(false)
}

fn show_record(job: &Job, record: Option<&JobRecord>) -> anyhow::Result<()> {
    let Some(record) = record else {
        return print(&if job.json {
            json!({"id": job.id, "state": "unknown"}).to_string()
        } else {
            format!("nobody knows job {}, or does not any more", job.id)
        });
    };
    if job.json {
        return print(&serde_json::to_string(record)?);
    }
    let mut lines = vec![format!("job       {}", record.id)];
    let mut add = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(format!("{name:<9} {value}"));
        }
    };
    add("kind", record.kind.as_ref().map(ToString::to_string));
    add(
        "state",
        Some(format!("{} since {}", record.state, record.at)),
    );
    add("reason", record.reason.map(|reason| reason.to_string()));
    add("next run", record.next_at.map(|at| at.to_string()));
    add("consumer", record.consumer.as_deref().map(shown));
    add(
        "attempt",
        (record.attempt > 0).then(|| record.attempt.to_string()),
    );
    add("took", record.duration_ms.map(|took| format!("{took} ms")));
    add(
        "result",
        record.result.as_ref().map(|result| shown(result.get())),
    );
    for failure in &record.failures {
        let (at, attempt) = (failure.at, failure.attempt);
        if failure.is_mark() {
            add(&failure.error.code, Some(at.to_string()));
            continue;
        }
        let consumer = failure.consumer.as_deref().map_or("?".to_owned(), shown);
        let (code, message) = (shown(&failure.error.code), shown(&failure.error.message));
        add(
            "failed",
            Some(format!(
                "attempt {attempt} at {at} on {consumer}: {code}: {message}"
            )),
        );
    }
    print(&lines.join("\n"))
}

fn show_letter(letter: &DeadLetter, as_json: bool) -> anyhow::Result<()> {
    let headers: Vec<_> = letter.submitted_headers().collect();
    let text = String::from_utf8_lossy(&letter.payload);
    if as_json {
        let mut all = summary(&letter.summary());
        all["payload"] = text.into();
        all["headers"] = json!(headers);
        all["failures"] = serde_json::to_value(&letter.failures)?;
        return print(&all.to_string());
    }
    print(&line(&letter.summary()))?;
    for failure in &letter.failures {
        let consumer = failure.consumer.as_deref().map_or("?".to_owned(), shown);
        print(&format!(
            "  attempt {} at {} on {consumer}: {}: {}",
            failure.attempt,
            failure.at,
            shown(&failure.error.code),
            shown(&failure.error.message)
        ))?;
    }
    for (name, value) in headers {
        print(&format!("  {}: {}", shown(name), shown(value)))?;
    }
    print(&format!("  {}", shown(&text)))
}

fn summary(letter: &dead_letters::Summary) -> serde_json::Value {
    json!({
        "id": letter.id,
        "kind": letter.kind,
        "reason": letter.reason,
        "at": letter.at,
        "attempts": letter.attempts,
        "error": letter.error,
        "bytes": letter.size,
    })
}

fn line(letter: &dead_letters::Summary) -> String {
    let reason = letter.reason.map_or("?", DeadReason::as_str);
    let error = letter.error.as_ref();
    let error = error.map_or(String::new(), |error| {
        format!(": {}", shown(&error.message))
    });
    format!(
        "{} {} {} {reason}{error}",
        letter.at, letter.id, letter.kind
    )
}

/// A text from outside, without what a terminal would take for a command.
fn shown(text: &str) -> String {
    text.chars()
        .flat_map(|character| {
            let escape = character.is_control();
            let plain = (!escape).then_some(character);
            let escaped = escape.then(|| character.escape_default());
            plain.into_iter().chain(escaped.into_iter().flatten())
        })
        .collect()
}

fn print(text: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_would_obey_is_shown_as_text() {
        assert_eq!(shown("a\u{1b}[31m\nä\"b"), "a\\u{1b}[31m\\nä\"b");
    }

    #[test]
    fn reasons_are_the_words_on_the_wire() {
        assert_eq!(reason("no_handler"), Ok(DeadReason::NoHandler));
        assert!(reason("NoHandler").unwrap_err().contains("no_handler"));
    }
}
