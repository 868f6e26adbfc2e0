//! The durable lane beside the most that the server can do with the same guarantees: programs that send
//! the same messages and do nothing else ([`super::raw`]). A ratio says what we add to that.
//!
//! Processor time says more than a rate on a machine that others use as well.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::ensure;
use async_nats::Client;
use serde_json::{Value, json};
use test_support::{NatsServer, Service};
use tokio::process::Command;

use super::Settings;
use super::confirmed::{input_of, rate};
use super::durable::settled;
use super::figure::{Figure, Goal, Unit};
use super::job;
use super::stand::{Measured, Side, Stand, in_turn};
use super::usage::{cpu_time, cpu_time_of_ended_children};

/// Submissions under way: enough for batches of 4,000.
const IN_FLIGHT: &str = "16384";

const BATCH: &str = "4000";
const RECORDS: &str = "1000";

/// Jobs that a consumer of ours has at a time.
const CONCURRENCY: &str = "500";

/// Jobs for each second that a measurement should last.
const SUBMITTED_PER_SECOND: u32 = 60_000;
const SETTLED_PER_SECOND: u32 = 30_000;

/// What one run gave; times of the processor are in microseconds for each job.
struct Sample {
    per_second: f64,
    server: f64,
    /// Publisher and consumer.
    programs: f64,
}

/// Measures the processor time of a server, of programs that end meanwhile, and of a consumer.
struct Meter {
    server: u32,
    consumer: Option<u32>,
    before: [Duration; 3],
    start: Instant,
}

impl Meter {
    fn start(nats: &NatsServer, consumer: Option<u32>) -> anyhow::Result<Self> {
        let mut meter = Self {
            server: nats.id(),
            consumer,
            before: [Duration::ZERO; 3],
            start: Instant::now(),
        };
        meter.before = meter.read()?;
        Ok(meter)
    }

    fn read(&self) -> anyhow::Result<[Duration; 3]> {
        let consumer = self.consumer.map_or(Ok(Duration::ZERO), cpu_time)?;
        Ok([
            cpu_time(self.server)?,
            cpu_time_of_ended_children()?,
            consumer,
        ])
    }

    fn sample(&self, count: u64) -> anyhow::Result<Sample> {
        let elapsed = self.start.elapsed().as_secs_f64();
        let after = self.read()?;
        let [server, ended, consumer] =
            [0, 1, 2].map(|part| after[part].saturating_sub(self.before[part]).as_secs_f64() * 1e6);
        Ok(Sample {
            per_second: count as f64 / elapsed,
            server: server / count as f64,
            programs: (ended + consumer) / count as f64,
        })
    }
}

pub(super) async fn measure(stand: &Stand, settings: &Settings) -> anyhow::Result<Vec<Figure>> {
    let count = settings.count(SUBMITTED_PER_SECOND);
    let what = "submission, raw and ours";
    let input = input_of(count, || job::line("echo"))?;
    let measured = in_turn(settings, what, async |side| {
        submit(stand, side, input.path(), count).await
    })
    .await?;
    let mut figures = Vec::from(figures(what, &measured));

    let count = settings.count(SETTLED_PER_SECOND);
    let what = "submission to acknowledgement, raw and ours";
    let input = input_of(count, || job::line("echo"))?;
    let measured = in_turn(settings, what, async |side| match side {
        Side::Bare => raw_whole_way(stand, count).await,
        Side::Ours => our_whole_way(stand, input.path(), count, "all").await,
    })
    .await?;
    figures.extend(self::figures(what, &measured));

    let what = "the same, with a record and with keep = failures";
    let measured = in_turn(settings, what, async |side| {
        let keep = if side == Side::Bare {
            "all"
        } else {
            "failures"
        };
        our_whole_way(stand, input.path(), count, keep).await
    })
    .await?;
    let kept = Figure::of(what, Unit::PerSecond, &measured, |sample| sample.per_second);
    figures.push(kept.goal(Goal::RatioAtLeast(1.5)));
    Ok(figures)
}

fn figures(what: &str, measured: &[Measured<Sample>]) -> [Figure; 3] {
    let cpu = |whose: &str, part: fn(&Sample) -> f64| {
        Figure::of(
            format!("  CPU a job, {whose}"),
            Unit::Microseconds,
            measured,
            part,
        )
    };
    [
        Figure::of(what, Unit::PerSecond, measured, |sample| sample.per_second)
            .goal(Goal::RatioAtLeast(0.85)),
        cpu("server", |sample| sample.server),
        cpu("publisher and consumer", |sample| sample.programs),
    ]
}

async fn submit(stand: &Stand, side: Side, input: &Path, count: u64) -> anyhow::Result<Sample> {
    let (nats, _client) = server().await?;
    let meter = Meter::start(&nats, None)?;
    rate(publisher(stand, &nats, side, input, count)?, count).await?;
    meter.sample(count)
}

async fn raw_whole_way(stand: &Stand, count: u64) -> anyhow::Result<Sample> {
    let (nats, client) = server().await?;
    let create = json!({"stream_name": "JOBS", "config": {
        "durable_name": "echo", "ack_policy": "explicit", "max_ack_pending": 65_536,
        "filter_subject": "jobs.durable.*.*.*.echo",
    }});
    let subject = "$JS.API.CONSUMER.CREATE.JOBS.echo.jobs.durable.*.*.*.echo";
    ask(&client, subject, &create).await?;
    let mut command = stand.command_on(&nats, "xtask", "worker")?;
    command.args(["bench-role", "raw-consumer", "--batch", RECORDS]);
    command.args(["--count", &count.to_string()]);
    let meter = Meter::start(&nats, None)?;
    let consumer = command.stdout(std::process::Stdio::null()).spawn()?;
    let input = Path::new("");
    rate(publisher(stand, &nats, Side::Bare, input, count)?, count).await?;
    let status = consumer.wait_with_output().await?.status;
    ensure!(status.success(), "the raw consumer ended with {status}");
    meter.sample(count)
}

async fn our_whole_way(
    stand: &Stand,
    input: &Path,
    count: u64,
    keep: &str,
) -> anyhow::Result<Sample> {
    let (nats, client) = server().await?;
    let mut consumer = Service::program(stand.binary("consumer")?)
        .envs(nats.env_for("worker"))
        .args([
            "--concurrency",
            CONCURRENCY,
            "--durable",
            "required",
            "--keep",
            keep,
        ])
        .start();
    consumer
        .wait_for_line(|line| line.contains("taking durable jobs"))
        .await;
    let meter = Meter::start(&nats, Some(consumer.id()))?;
    rate(publisher(stand, &nats, Side::Ours, input, count)?, count).await?;
    settled(&client, "echo", 0).await?;
    meter.sample(count)
}

/// A new server with the streams, whose queue has no limit in force, as while consumers run.
async fn server() -> anyhow::Result<(NatsServer, Client)> {
    let nats = NatsServer::builder().open().start().await;
    let client = nats.connect_as("worker").await;
    ::client::Topology::default()
        .ensure(&client.clone().into())
        .await?;
    let mut config = ask(&client, "$JS.API.STREAM.INFO.JOBS", &Value::Null).await?["config"].take();
    config["max_bytes"] = json!(-1);
    ask(&client, "$JS.API.STREAM.UPDATE.JOBS", &config).await?;
    Ok((nats, client))
}

async fn ask(client: &Client, subject: &str, question: &Value) -> anyhow::Result<Value> {
    let question = if question.is_null() {
        String::new()
    } else {
        question.to_string()
    };
    let answer = client.request(subject.to_owned(), question.into()).await?;
    let answer: Value = serde_json::from_slice(&answer.payload)?;
    ensure!(answer["error"].is_null(), "{subject}: {answer}");
    Ok(answer)
}

fn publisher(
    stand: &Stand,
    nats: &NatsServer,
    side: Side,
    input: &Path,
    count: u64,
) -> anyhow::Result<Command> {
    if side == Side::Bare {
        let mut command = stand.command_on(nats, "xtask", "publisher")?;
        command.args(["bench-role", "raw-publisher", "--batch", BATCH]);
        command.args(["--count", &count.to_string()]);
        return Ok(command);
    }
    let mut command = stand.command_on(nats, "publisher", "publisher")?;
    command
        .args(["--delivery", "durable", "--in-flight", IN_FLIGHT, "--input"])
        .arg(input)
        // An open server lets nobody see how it syncs.
        .arg("--accept-unsafe-server");
    Ok(command)
}
