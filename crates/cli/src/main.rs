//! The command line `jobs`: what people and scripts do with durable jobs.

mod backup;
mod bulk;
mod command;
mod complete;
mod confirm;
mod dead;
mod fleet;
mod interrupt;
mod jobs_bulk;
mod kinds;
mod list;
mod lookup;
mod manual;
mod print;
mod queues;
mod schedules;
mod schedules_file;
mod submit;
mod summary;
mod tool;
mod top;
mod user;
mod values;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use bootstrap::{Context, Nats};
use client::ManyAction;
use tokio_util::sync::CancellationToken;

use crate::command::{Command, Config, Kinds};
use crate::interrupt::until;
use crate::print::Printer;
use crate::tool::TOOL;

/// How long the tool tries to reach NATS.
const CONNECT: Duration = Duration::from_secs(10);

/// The exit code after Ctrl-C.
const INTERRUPTED: u8 = 130;

fn main() -> ExitCode {
    complete::complete_if_asked();
    TOOL.run(|config: &Config| &config.options, run)
}

/// Runs the command and returns its exit code.
async fn run(context: Context, config: Config) -> anyhow::Result<ExitCode> {
    let out = Printer { json: config.json };
    // Boxed because it is large: it holds the futures of all commands.
    match Box::pin(on_nats_or_alone(&context, out, config.command)).await {
        Ok(true) => Ok(ExitCode::SUCCESS),
        _ if context.shutdown.is_cancelled() => Ok(INTERRUPTED.into()),
        Ok(false) => Ok(ExitCode::FAILURE),
        Err(error) if print::is_closed(&error) => Ok(ExitCode::SUCCESS),
        Err(error) => Err(error),
    }
}

async fn on_nats_or_alone(
    context: &Context,
    out: Printer,
    command: Command,
) -> anyhow::Result<bool> {
    match command {
        Command::Completions { shell } => manual::completions(shell),
        Command::Man => manual::page(),
        command => {
            command.check()?;
            let nats = connect(context).await?;
            on_nats(&nats, out, &context.shutdown, command).await
        }
    }
}

async fn on_nats(
    nats: &Nats,
    out: Printer,
    stop: &CancellationToken,
    command: Command,
) -> anyhow::Result<bool> {
    match command {
        Command::Submit(submit) => submit::run(nats, out, stop, submit).await,
        Command::Info { id } => until(stop, lookup::info(nats, out, id)).await,
        Command::Why { id } => until(stop, Box::pin(lookup::why(nats, out, id))).await,
        Command::Wait { id, timeout } => until(stop, lookup::wait(nats, out, id, timeout)).await,
        Command::Cancel(jobs) => match jobs.id {
            Some(id) => until(stop, lookup::cancel(nats, out, id)).await,
            None => jobs_bulk::run(nats, out, stop, ManyAction::Cancel, &jobs).await,
        },
        Command::RunNow(jobs) => match jobs.id {
            Some(id) => until(stop, lookup::run_now(nats, out, id)).await,
            None => jobs_bulk::run(nats, out, stop, ManyAction::RunNow, &jobs).await,
        },
        Command::Pause(pause) => until(stop, kinds::pause(nats, out, pause)).await,
        Command::Resume(kind) => until(stop, kinds::resume(nats, out, kind.kind)).await,
        Command::Kinds { change: None } => until(stop, kinds::list(nats, out)).await,
        Command::Kinds {
            change: Some(Kinds::Set { kind, .. }),
        } => until(stop, kinds::heed_priorities(nats, out, kind)).await,
        // Its future is large.
        Command::List(list) => until(stop, Box::pin(list::run(nats, out, list))).await,
        Command::Queues => until(stop, queues::run(nats, out)).await,
        Command::Schedules(command) => {
            until(stop, Box::pin(schedules::run(nats, out, command))).await
        }
        Command::Dead(dead) => dead::run(nats, out, stop, dead).await,
        Command::Fleet { search } => until(stop, fleet::run(nats, out, search)).await,
        Command::Top(top) => top::run(nats, out, stop, top).await,
        Command::Backup { folder } => {
            until(stop, Box::pin(backup::back_up(nats, out, &folder))).await
        }
        Command::Restore(restore) => Box::pin(backup::restore(nats, out, stop, &restore)).await,
        // They need no connection, and were handled before.
        Command::Completions { .. } | Command::Man => Ok(true),
    }
}

async fn connect(context: &Context) -> anyhow::Result<Nats> {
    let connected = tokio::time::timeout(CONNECT, context.connect("command")).await;
    connected.unwrap_or_else(|_| {
        bail!(
            "no connection to NATS within {CONNECT:?}: check that it runs, and that --nats-url or \
             NATS_URL is its address"
        )
    })
}
