//! `cargo xtask chaos`: breaks everything that can be broken while jobs run, and checks what became of each.

mod check;
mod control;
mod fault;
mod garbage;
mod history;
mod inject;
mod ledger;
mod plan;
mod proxy;
mod role;
mod run;
mod settle;
mod stand;
mod submit;
mod ticks;
mod workload;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use test_support::{BuildDir, build_services};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use check::check;
use fault::Fault;
use history::History;
pub(crate) use role::ChaosRole;
use run::Settings;

const LONG_ABOUT: &str = "\
Break servers, services and connections while jobs run, and check what became of each job

Starts a real nats-server (or three), four consumers, a gateway and publishers. Jobs of all sorts are submitted by \
the publisher, by the crate client and over HTTP, and by two recurring schedules. Their handlers write each run into \
a file, outside of NATS. Faults happen at times that the seed decides, alone and together. Then everything is made \
whole, all jobs have to end, and the checker judges the history:

  - every acknowledged job has one end, which is the same after another crash of the server
  - a job that succeeded ran; one whose cancellation was acknowledged does not start and succeed later
  - a job ran once, unless its failures or a fault on its way explain more
  - no job runs before its time, after its deadline, or after its end
  - every tick of a schedule has one job; two jobs never hold one key; the queues are empty in the end

At last comes the negative control, on a server of its own: a consumer acknowledges jobs before it stores their \
records. The run fails if the checker does not find exactly these jobs lost.

The exit code is 0 if nothing was violated and the control was found.

Not run: power cuts, full disks and disks that fail (the tests of full disks are in crates/xtask/tests/durable), \
servers that are cut off from each other, wrong clocks, deleted streams, the status service.";

/// Break servers, services and connections while jobs run, and check what became of each job
#[derive(Args)]
#[command(long_about = LONG_ABOUT)]
pub(crate) struct Chaos {
    /// How long jobs are submitted and things are broken, in minutes
    #[arg(long, value_name = "MINUTES", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    minutes: u32,

    /// The same in seconds, at least 5
    #[arg(long, value_name = "SECONDS", conflicts_with = "minutes", value_parser = clap::value_parser!(u32).range(5..=600_000))]
    seconds: Option<u32>,

    /// Decides which jobs there are and which faults happen when; printed, so that a run can be repeated as far as
    /// real time allows [default: random]
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,

    /// Only these faults, separated by commas [default: all that the servers allow]
    #[arg(long, value_name = "FAULTS", value_delimiter = ',')]
    faults: Vec<Fault>,

    /// Three nats-servers instead of one; each is broken by itself
    #[arg(long)]
    cluster: bool,

    /// How many jobs are submitted each second
    #[arg(long, value_name = "NUMBER", default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    jobs_per_second: u32,

    /// Where the history goes, one JSON object a line [default: chaos/SEED.ndjson in the target folder]
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,

    /// Run nothing: check the history of an earlier run again
    #[arg(
        long, value_name = "FILE",
        conflicts_with_all = ["minutes", "seconds", "seed", "faults", "cluster", "jobs_per_second", "history"]
    )]
    check: Option<PathBuf>,
}

impl Chaos {
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        if let Some(path) = &self.check {
            let verdict = check(&history::read(path)?);
            print!("{verdict}");
            return Ok(code(verdict.violations.is_empty()));
        }
        if self.faults.contains(&Fault::StepDown) && !self.cluster {
            bail!("the fault {} needs --cluster", Fault::StepDown);
        }
        let build_dir = BuildDir::current();
        build_services(&build_dir, Stdio::inherit())?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()?;
        let local = LocalSet::new();
        runtime.block_on(local.run_until(async {
            let mut terminate = signal(SignalKind::terminate())?;
            let mut interrupt = signal(SignalKind::interrupt())?;
            // Whatever was started ends with this.
            tokio::select! {
                result = self.suite(&build_dir.target) => result,
                _ = terminate.recv() => bail!("stopped by SIGTERM"),
                _ = interrupt.recv() => bail!("stopped by SIGINT"),
            }
        }))
    }

    async fn suite(&self, target: &Path) -> anyhow::Result<ExitCode> {
        let settings = self.settings();
        let default = || {
            target
                .join("chaos")
                .join(format!("{}.ndjson", settings.seed))
        };
        let path = self.history.clone().unwrap_or_else(default);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).context("cannot create the folder of the history")?;
        }
        println!(
            "seed           {}\nrun            {}, {} jobs a second, {}\nhistory        {}",
            settings.seed,
            humantime::format_duration(settings.span),
            settings.jobs_per_second,
            if self.cluster {
                "three servers"
            } else {
                "one server"
            },
            path.display()
        );
        let history = History::create(&path)?;
        let logs = run::run(&settings, &history).await?;
        let verdict = check(&history.events()?);
        print!("{verdict}");
        let kept = verdict.violations.is_empty();
        if !kept {
            let file = path.with_extension("log");
            fs::write(&file, logs).context("cannot write the logs")?;
            println!("logs           {}", file.display());
        }
        let control = History::create(&path.with_extension("control.ndjson"))?;
        let lost = control::run(&control).await?;
        println!(
            "control        {lost} jobs were lost on purpose, and the checker found exactly these"
        );
        Ok(code(kept))
    }

    fn settings(&self) -> Settings {
        let seconds = self.seconds.unwrap_or(self.minutes * 60);
        Settings {
            seed: self.seed.unwrap_or_else(rand::random),
            span: Duration::from_secs(u64::from(seconds)),
            jobs_per_second: self.jobs_per_second,
            faults: if self.faults.is_empty() {
                Fault::all(self.cluster)
            } else {
                self.faults.clone()
            },
            cluster: self.cluster,
        }
    }
}

fn code(good: bool) -> ExitCode {
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
