//! A consumer with handlers in Rust, as an application would have it: a process of its own.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use bootstrap::Context;
use clap::{Args, Parser as _, Subcommand};
use consumer::{Attempt, Config, Failure, Handler, Job, Registry};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::history::RunOutcome;
use super::ledger::{Kind, Ledger};

/// One of the processes of a run.
#[derive(Args)]
pub(crate) struct ChaosRole {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    Application(Application),
}

#[derive(Args)]
struct Application {
    #[arg(long)]
    instance: String,
    #[arg(long)]
    grace: String,
    #[arg(long)]
    ledger: PathBuf,
}

impl ChaosRole {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let Role::Application(application) = self.role;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        runtime.block_on(application.serve())?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Application {
    async fn serve(self) -> anyhow::Result<()> {
        let name = self.instance.as_str();
        let mut flags = vec!["consumer", "--instance", name, "--grace", &self.grace];
        flags.extend([
            "--concurrency",
            "8",
            "--keep-outcomes",
            "7d",
            "--monitor",
            "off",
        ]);
        let config = Config::try_parse_from(flags)?;
        let mut terminate = signal(SignalKind::terminate()).context("cannot catch SIGTERM")?;
        let stop = CancellationToken::new();
        let context = Context::new(consumer::ABOUT, config.options.clone(), stop.clone());
        tokio::spawn(async move {
            terminate.recv().await;
            stop.cancel();
        });
        consumer::serve(context, config, self.handlers()).await
    }

    fn handlers(&self) -> Registry {
        Registry::new()
            .with(self.handler::<0>())
            .with(self.handler::<1>())
            .with(self.handler::<2>())
            .with(self.handler::<3>())
            .with(self.handler::<4>())
            .with(self.handler::<5>())
            .with(self.handler::<6>())
    }

    fn handler<const N: usize>(&self) -> Recorder<N> {
        Recorder {
            ledger: Ledger::at(self.ledger.clone()),
            consumer: self.instance.clone(),
        }
    }
}

/// A job of one of the kinds of [`Kind::ALL`].
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Task<const N: usize>(Value);

impl<const N: usize> Job for Task<N> {
    const KIND: &'static str = Kind::ALL[N].name();
    type Output = ();
}

/// Does what the kind says, and writes it down.
struct Recorder<const N: usize> {
    ledger: Ledger,
    consumer: String,
}

impl<const N: usize> Handler for Recorder<N> {
    type Job = Task<N>;

    async fn handle(&self, _: Task<N>, attempt: Attempt) -> Result<(), Failure> {
        let kind = Kind::ALL[N];
        let (id, number) = (attempt.id, attempt.number);
        let run = self.ledger.start(id, number, kind.name(), &self.consumer)?;
        tokio::time::sleep(Duration::from_millis(kind.takes_ms())).await;
        if number > kind.fails_until() {
            self.ledger.end(&run, RunOutcome::Succeeded)?;
            return Ok(());
        }
        self.ledger.end(&run, RunOutcome::Failed)?;
        assert!(kind != Kind::Panic, "as it should");
        Err(Failure::transient(std::io::Error::other("as it should")))
    }
}
