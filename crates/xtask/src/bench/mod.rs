//! `cargo xtask bench`: how fast the system is, beside bare async-nats in the same run.
//!
//! The figures of one machine mean little on another, and on a shared machine not even a minute
//! later. So everything is measured in turn, bare and ours, several times, and what counts is the
//! ratio.

mod application;
mod bare;
mod client;
mod confirmed;
mod durable;
mod figure;
mod footprint;
mod gateway;
mod job;
mod latency;
mod limit;
mod load;
mod machine;
mod ours;
mod probe;
mod raw;
mod report;
mod stand;
mod status;
mod throughput;
mod usage;

use std::env;
use std::ffi::OsString;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};
use test_support::{BuildDir, build_services, project_root};

use figure::Figure;
use report::Report;
use stand::Stand;

const LONG_ABOUT: &str = "\
Measure how fast the system is, beside bare async-nats in the same run

Builds everything optimised, starts a nats-server with deploy/nats.conf and the processes of each \
scenario, prints a table and writes the numbers of each round as JSON. `bare` is a small program \
that does the same with async-nats alone and reads no job; ratios compare it with ours round by \
round.";

/// Measure how fast the system is, beside bare async-nats in the same run
#[derive(Args)]
#[command(long_about = LONG_ABOUT)]
pub(crate) struct Bench {
    #[command(flatten)]
    settings: Settings,
}

/// What is measured, and how long.
#[derive(Args, Clone)]
struct Settings {
    /// A rough answer in about two minutes
    #[arg(long)]
    quick: bool,

    /// How often each figure is measured [default: 7; 3 if quick]
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u32).range(1..))]
    rounds: Option<u32>,

    /// How long one measurement lasts [default: 3s; 1s if quick]
    #[arg(long, value_name = "DURATION", value_parser = humantime::parse_duration)]
    span: Option<Duration>,

    /// Measure only this; may be given more than once
    #[arg(long, value_name = "NAME")]
    only: Vec<Scenario>,

    /// Where the numbers go [default: bench.json in the target folder]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Scenario {
    /// Jobs a second that one consumer, and four, take when nobody waits for outcomes
    Throughput,
    /// Jobs a second with 1,024 of them under way, each answered with its outcome
    Confirmed,
    /// From submission to the first line of the handler, at 200 jobs a second
    Latency,
    /// Jobs a second that are stored, and that are stored, run and settled, and how soon they start,
    /// in the durable lane
    Durable,
    /// Durable jobs a second, and processor time for each, beside the most that the server can do with the
    /// same guarantees
    Limit,
    /// Durable jobs a second that an application stores with the crate client, beside the publisher
    Application,
    /// How long a durable job takes to be stored over HTTP, and how many a second there can be
    Gateway,
    /// How long jobs.status takes to be answered under full load
    Status,
    /// Memory, start-up times, sizes of the binaries
    Footprint,
}

/// One of the processes that a scenario is made of.
#[derive(Args)]
pub(crate) struct BenchRole {
    #[command(subcommand)]
    role: Role,
}

#[derive(Subcommand)]
enum Role {
    /// Measures; the optimised build of this program does it.
    Measure(#[command(flatten)] Settings),
    BareConsumer(bare::Consumer),
    BareResponder,
    BareRequester(bare::Requester),
    BarePublisher(bare::Publisher),
    BareLatencyConsumer,
    BareDurablePublisher(durable::BarePublisher),
    BareDurableConsumer(durable::BareConsumer),
    BareDurableLatencyConsumer,
    Application(application::Application),
    RawPublisher(raw::Publisher),
    RawConsumer(raw::Consumer),
    HttpLoad(gateway::HttpLoad),
    OurLatencyConsumer,
    OurBusyConsumer(ours::BusyConsumer),
    StatusProbe(probe::StatusProbe),
}

impl Bench {
    /// Builds what is measured and what measures, and hands over to the latter.
    pub(crate) fn run(&self) -> anyhow::Result<ExitCode> {
        let release = BuildDir::current().with_profile("release");
        build_services(&release, Stdio::inherit())?;
        // Built by itself: together with it, the services would get its features too.
        let cargo = env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo"));
        let status = Command::new(cargo)
            .current_dir(project_root())
            .args(["build", "--locked", "--release", "--package", "xtask"])
            .arg("--target-dir")
            .arg(&release.target)
            .stdin(Stdio::null())
            .status()
            .context("cannot start cargo to build the bench")?;
        if !status.success() {
            bail!("building the bench failed ({status})");
        }
        let mut folder = release.target;
        folder.extend(release.triple);
        let error = Command::new(folder.join("release/xtask"))
            .args(["bench-role", "measure"])
            .args(self.settings.arguments())
            .exec();
        Err(error).context("cannot start the optimised build of this program")
    }
}

impl Settings {
    /// The command line that these settings came from.
    fn arguments(&self) -> Vec<OsString> {
        let mut arguments = Vec::new();
        if self.quick {
            arguments.push("--quick".into());
        }
        if let Some(rounds) = self.rounds {
            arguments.extend(["--rounds".into(), rounds.to_string().into()]);
        }
        if let Some(span) = self.span {
            let span = humantime::format_duration(span).to_string();
            arguments.extend(["--span".into(), span.into()]);
        }
        for scenario in &self.only {
            let value = scenario.to_possible_value();
            let name = value.expect("no scenario is hidden").get_name().to_owned();
            arguments.extend(["--only".into(), name.into()]);
        }
        if let Some(path) = &self.json {
            arguments.extend(["--json".into(), path.into()]);
        }
        arguments
    }

    fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 3 } else { 7 })
    }

    /// How long one measurement lasts, of what could go on for ever.
    fn span(&self) -> Duration {
        let seconds = if self.quick { 1 } else { 3 };
        self.span.unwrap_or(Duration::from_secs(seconds))
    }

    /// As many as there are in the time of a measurement.
    fn count(&self, per_second: u32) -> u64 {
        let per_millisecond = u128::from(per_second / 1000);
        u64::try_from(self.span().as_millis() * per_millisecond).unwrap_or(u64::MAX)
    }

    fn wants(&self, scenario: Scenario) -> bool {
        self.only.is_empty() || self.only.contains(&scenario)
    }
}

impl BenchRole {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.role {
            // The load generator is part of it, and one thread is the fastest that it can have.
            Role::Measure(settings) => tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(measure(&settings)),
            Role::BareConsumer(consumer) => play(consumer.run()),
            Role::BareResponder => play(bare::responder()),
            Role::BareRequester(requester) => play(requester.run()),
            Role::BarePublisher(publisher) => play(publisher.run()),
            Role::BareLatencyConsumer => play(bare::latency_consumer()),
            Role::BareDurablePublisher(publisher) => play(publisher.run()),
            Role::BareDurableConsumer(consumer) => play(consumer.run()),
            Role::BareDurableLatencyConsumer => play(durable::bare_latency_consumer()),
            Role::Application(application) => play(application.run()),
            Role::RawPublisher(publisher) => play(publisher.run()),
            Role::RawConsumer(consumer) => play(consumer.run()),
            Role::HttpLoad(load) => play(load.run()),
            Role::OurLatencyConsumer => play(ours::latency_consumer()),
            Role::OurBusyConsumer(consumer) => play(consumer.run()),
            Role::StatusProbe(probe) => play(probe.run()),
        }?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Runs a program on the runtime that most programs have, and as a task of it: what runs outside of
/// one, in `main`, is woken up across threads, and bare would be slower for no good reason.
fn play(program: impl Future<Output = anyhow::Result<()>> + Send + 'static) -> anyhow::Result<()> {
    tokio::runtime::Runtime::new()?.block_on(async { tokio::spawn(program).await? })
}

async fn measure(settings: &Settings) -> anyhow::Result<()> {
    let stand = Stand::start().await?;
    let mut report = Report::new(settings, &stand).await?;
    report.print_head()?;
    for scenario in Scenario::value_variants() {
        if !settings.wants(*scenario) {
            continue;
        }
        let figures: Vec<Figure> = match scenario {
            Scenario::Throughput => throughput::measure(&stand, settings).await?,
            Scenario::Confirmed => confirmed::measure(&stand, settings).await?,
            Scenario::Latency => latency::measure(&stand, settings).await?,
            Scenario::Durable => durable::measure(&stand, settings).await?,
            Scenario::Limit => limit::measure(&stand, settings).await?,
            Scenario::Application => application::measure(&stand, settings).await?,
            Scenario::Gateway => gateway::measure(&stand, settings).await?,
            Scenario::Status => status::measure(&stand, settings).await?,
            Scenario::Footprint => footprint::measure(&stand, settings).await?,
        };
        report.add(figures)?;
    }
    report.finish()
}
