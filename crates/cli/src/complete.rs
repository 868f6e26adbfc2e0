//! Completes commands, flags, kinds, schedules and ids in a shell.
//!
//! The script that a shell loads calls this program for each completion, with the words so far. Kinds
//! and ids are read from NATS, for which the variables `NATS_*` have to be set. Without NATS there are
//! none, and no error: nothing may be printed between the words of a command line.

use std::ffi::OsStr;
use std::io;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Arg, Command};
use clap_complete::Shell;
use clap_complete::engine::{ArgValueCompleter, CompletionCandidate};
use clap_complete::env::{CompleteEnv, Shells};
use client::{Client, Filter, Options};
use common::JobState;

use crate::command::Config;
use crate::tool::TOOL;

/// The variable that says to complete, and for which shell.
const VARIABLE: &str = "JOBS_COMPLETE";

/// How long a completion may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most kinds and ids that are offered.
const MOST: usize = 100;

/// Completes, and ends the process, if a shell asks for that. Must be called before threads start.
pub(crate) fn complete_if_asked() {
    CompleteEnv::with_factory(|| with_candidates(TOOL.command::<Config>()))
        .var(VARIABLE)
        .complete();
}

/// The script that a shell has to load, which calls this program.
pub(crate) fn script(shell: Shell) -> anyhow::Result<Vec<u8>> {
    let name = shell.to_string();
    let shells = Shells::builtins();
    let shell = shells
        .completer(&name)
        .with_context(|| format!("there are no completions for {name}"))?;
    let program = std::env::current_exe().context("cannot find this program")?;
    let program = program
        .to_str()
        .context("the path of this program is not UTF-8")?;
    let mut script = Vec::new();
    shell.write_registration(VARIABLE, TOOL.name, TOOL.name, program, &mut script)?;
    Ok(script)
}

/// Offers kinds and ids where a command takes them.
fn with_candidates(command: Command) -> Command {
    let name = command.get_name().to_owned();
    let command = command.mut_args(|arg| offered(&name, arg));
    command.mut_subcommands(with_candidates)
}

fn offered(command: &str, arg: Arg) -> Arg {
    let candidates: fn() -> io::Result<Vec<CompletionCandidate>> = match arg.get_id().as_str() {
        "kind" => kinds,
        "name" => schedules,
        // The id of a new job is not among those that are known.
        "id" if arg.get_long().is_none() => match command {
            "show" | "replay" | "discard" => dead,
            _ => jobs,
        },
        _ => return arg,
    };
    arg.add(ArgValueCompleter::new(move |current: &OsStr| {
        let current = current.to_string_lossy();
        let mut candidates = candidates().unwrap_or_default();
        candidates.retain(|candidate| {
            let value = candidate.get_value().to_string_lossy();
            value.starts_with(&*current)
        });
        candidates
    }))
}

fn kinds() -> io::Result<Vec<CompletionCandidate>> {
    ask(async |client| {
        let queues = client.queues(MOST).await?;
        let kinds = queues.queues.into_iter();
        Ok(kinds
            .map(|queue| CompletionCandidate::new(queue.kind.as_str()))
            .collect())
    })
}

fn schedules() -> io::Result<Vec<CompletionCandidate>> {
    ask(async |client| {
        let all = client::schedules::list(client.nats()).await?.into_iter();
        Ok(all
            .map(|(name, _)| CompletionCandidate::new(name.as_str()))
            .collect())
    })
}

fn jobs() -> io::Result<Vec<CompletionCandidate>> {
    newest(&Filter::default())
}

fn dead() -> io::Result<Vec<CompletionCandidate>> {
    newest(&Filter {
        state: Some(JobState::Dead),
        ..Filter::default()
    })
}

fn newest(filter: &Filter) -> io::Result<Vec<CompletionCandidate>> {
    ask(async |client| {
        let jobs = client.list(filter, None, MOST).await?.jobs.into_iter();
        Ok(jobs
            .map(|job| {
                let kind = job.kind.as_ref().map_or("", |kind| kind.as_str());
                let help = format!("{} {kind}", job.state.as_str());
                CompletionCandidate::new(job.id.to_string()).help(Some(help.into()))
            })
            .collect())
    })
}

/// Asks NATS, as the variables of the environment say.
fn ask<T>(question: impl AsyncFnOnce(&Client) -> anyhow::Result<T>) -> io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let asking = async {
        let client = Client::connect(Options::from_env()?).await?;
        question(&client).await
    };
    let answer = runtime.block_on(async {
        match tokio::time::timeout(PATIENCE, asking).await {
            Ok(answer) => answer.map_err(io::Error::other),
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
        }
    });
    // The resolution of a name may go on.
    runtime.shutdown_background();
    answer
}
