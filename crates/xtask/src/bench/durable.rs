//! The durable lane beside bare `JetStream`: how fast jobs are stored, how fast they are stored, run
//! and settled, and how soon they start.
//!
//! Ours always runs on a server that syncs each write before it says so. What bare does for the
//! whole way of a job is measured on a server with the default, which loses acknowledged jobs at a
//! power cut: that is what most systems do, and what ours is to be compared with.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use async_nats::Client;
use async_nats::jetstream::{self, consumer, stream};
use clap::Args;
use common::{JobId, subjects};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::Deserialize;
use serde_json::Value;
use test_support::{DEADLINE, NatsServer, Service, Signal, eventually};
use tokio::process::Command;
use tokio::time::sleep_until;

use super::Settings;
use super::bare::Took;
use super::client::{connect, tell, terminated};
use super::confirmed::{input_of, rate};
use super::figure::{Figure, Goal, Unit};
use super::job;
use super::latency::{Recorder, now};
use super::probe::Quantiles;
use super::stand::{Side, Stand, in_turn, result, rounds};

const STREAM: &str = "BARE";

/// How many submissions are under way at a time.
pub(super) const IN_FLIGHT: &str = "4096";

/// How many jobs a consumer of ours may have at a time: what a bare one pulls at a time.
const BATCH: &str = "500";

const JOBS_PER_SECOND: u32 = 200;

/// Jobs for each second that a measurement should last.
pub(super) const SUBMITTED_PER_SECOND: u32 = 40_000;
const SETTLED_PER_SECOND: u32 = 25_000;

/// A server with the default sync interval, whose acknowledgement says little.
const LAZY: &str = "jetstream { store_dir: $NATS_STORE_DIR }";

/// How often it is asked whether all jobs are done.
const ASK_EVERY: Duration = Duration::from_millis(5);

pub(super) async fn measure(stand: &Stand, settings: &Settings) -> anyhow::Result<Vec<Figure>> {
    let mut figures = vec![submit(stand, settings).await?];
    figures.push(whole_way(stand, settings).await?);
    figures.push(beside_a_long_job(stand, settings).await?);
    figures.extend(latency(stand, settings).await?);
    Ok(figures)
}

/// Both on a server that syncs each write.
async fn submit(stand: &Stand, settings: &Settings) -> anyhow::Result<Figure> {
    let count = settings.count(SUBMITTED_PER_SECOND);
    let what = "durable, submission alone";
    let measured = in_turn(settings, what, async |side| {
        // A new one each time: the same ids are no new jobs.
        let nats = NatsServer::builder().open().start().await;
        match side {
            Side::Bare => {
                // Slower by far, so fewer of them take as long.
                let count = (count / 5).max(1);
                bare_submit(stand, &nats, count).await
            }
            Side::Ours => our_submit(stand, &nats, count).await,
        }
    })
    .await?;
    let figure = Figure::of(what, Unit::PerSecond, &measured, |rate| *rate);
    Ok(figure.goal(Goal::RatioAtLeast(5.0)))
}

async fn bare_submit(stand: &Stand, nats: &NatsServer, count: u64) -> anyhow::Result<f64> {
    bare_submit_with(stand, nats, count, IN_FLIGHT).await
}

/// How many messages a second are stored with so many under way at a time.
pub(super) async fn bare_submit_with(
    stand: &Stand,
    nats: &NatsServer,
    count: u64,
    in_flight: &str,
) -> anyhow::Result<f64> {
    let mut command = stand.command_on(nats, "xtask", "publisher")?;
    command.args(["bench-role", "bare-durable-publisher"]);
    command.args(["--count", &count.to_string(), "--in-flight", in_flight]);
    rate(command, count).await
}

/// How many jobs a second the publisher stores.
pub(super) async fn our_submit(
    stand: &Stand,
    nats: &NatsServer,
    count: u64,
) -> anyhow::Result<f64> {
    let client = nats.connect_as("worker").await;
    client::Topology::default()
        .ensure(&client.clone().into())
        .await?;
    let input = input_of(count, || job::line("echo"))?;
    rate(publisher(stand, nats, input.path())?, count).await
}

fn publisher(stand: &Stand, nats: &NatsServer, input: &std::path::Path) -> anyhow::Result<Command> {
    let mut command = stand.command_on(nats, "publisher", "publisher")?;
    command
        .args(["--delivery", "durable", "--in-flight", IN_FLIGHT, "--input"])
        .arg(input)
        // An open server lets nobody see how it syncs.
        .arg("--accept-unsafe-server");
    Ok(command)
}

/// Submitted, run, outcome stored, acknowledged.
async fn whole_way(stand: &Stand, settings: &Settings) -> anyhow::Result<Figure> {
    let count = settings.count(SETTLED_PER_SECOND);
    let what = "durable, from submission to acknowledgement";
    let input = input_of(count, || job::line("echo"))?;
    let measured = in_turn(settings, what, async |side| match side {
        Side::Bare => {
            let nats = NatsServer::builder().open().config(LAZY).start().await;
            let client = nats.connect_as("worker").await;
            bare_stream(&client).await?;
            let mut command = stand.command_on(&nats, "xtask", "worker")?;
            command.args(["bench-role", "bare-durable-consumer"]);
            command.args(["--count", &count.to_string()]);
            let consumer = command.stdout(std::process::Stdio::null()).spawn()?;
            let start = Instant::now();
            bare_submit(stand, &nats, count).await?;
            let status = consumer.wait_with_output().await?.status;
            ensure!(status.success(), "the bare consumer ended with {status}");
            Ok(count as f64 / start.elapsed().as_secs_f64())
        }
        Side::Ours => our_whole_way(stand, "echo", input.path(), count, false).await,
    })
    .await?;
    let figure = Figure::of(what, Unit::PerSecond, &measured, |rate| *rate);
    Ok(figure.goal(Goal::RatioAtLeast(0.5)))
}

/// A job that does not end holds back what can be trimmed at once. It is compared with ours without
/// such a job.
async fn beside_a_long_job(stand: &Stand, settings: &Settings) -> anyhow::Result<Figure> {
    let count = settings.count(SETTLED_PER_SECOND);
    let what = "durable, beside a job that runs all the while (in place of bare: without it)";
    let kind = "sleep";
    let input = input_of(count, || job::line(kind))?;
    let measured = in_turn(settings, what, async |side| {
        our_whole_way(stand, kind, input.path(), count, side == Side::Ours).await
    })
    .await?;
    let figure = Figure::of(what, Unit::PerSecond, &measured, |rate| *rate);
    Ok(figure.goal(Goal::RatioAtLeast(0.8)))
}

async fn our_whole_way(
    stand: &Stand,
    kind: &str,
    input: &std::path::Path,
    count: u64,
    beside_a_long_one: bool,
) -> anyhow::Result<f64> {
    let nats = NatsServer::builder().open().start().await;
    let mut consumer = Service::program(stand.binary("consumer")?)
        .envs(nats.env_for("worker"))
        .args(["--concurrency", BATCH, "--durable", "required"])
        .start();
    consumer
        .wait_for_line(|line| line.contains("taking durable jobs"))
        .await;
    let client = nats.connect_as("worker").await;
    if beside_a_long_one {
        let id = JobId::generate();
        let subject = subjects::durable_job(id, common::Priority::Normal, 1, &kind.parse()?);
        client.request(subject, job::long(id)).await?;
    }
    let start = Instant::now();
    rate(publisher(stand, &nats, input)?, count).await?;
    settled(&client, kind, u64::from(beside_a_long_one)).await?;
    Ok(count as f64 / start.elapsed().as_secs_f64())
}

/// Waits until all jobs of a kind are acknowledged, but so many that still run.
pub(super) async fn settled(client: &Client, kind: &str, running: u64) -> anyhow::Result<()> {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let subject = format!("$JS.API.CONSUMER.INFO.JOBS.{kind}");
        let info = client.request(subject, "".into()).await?;
        let info: ConsumerInfo = serde_json::from_slice(&info.payload)?;
        if info.num_pending == 0 && info.num_ack_pending == running {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "not all jobs were settled");
        tokio::time::sleep(ASK_EVERY).await;
    }
}

#[derive(Deserialize)]
struct ConsumerInfo {
    num_pending: u64,
    num_ack_pending: u64,
}

/// From submission to the start of the handler; both on one server that syncs each write, in turn.
async fn latency(stand: &Stand, settings: &Settings) -> anyhow::Result<Vec<Figure>> {
    let what = "durable latency at 200 jobs a second";
    let measured = rounds(settings, what, async |_| {
        let (bare, ours) = latency_round(stand, 4 * settings.span()).await?;
        Ok((Some(bare), ours))
    })
    .await?;
    let [p50, p99] = Figure::quantiles("durable, submit to handler start", &measured);
    Ok(vec![
        p50.goal(Goal::RatioAtMost(2.0)),
        p99.goal(Goal::RatioAtMost(3.0)),
    ])
}

async fn latency_round(stand: &Stand, span: Duration) -> anyhow::Result<(Quantiles, Quantiles)> {
    let nats = NatsServer::builder().open().start().await;
    let client = nats.connect_as("publisher").await;
    bare_stream(&client).await?;
    let role = |role: &str| -> anyhow::Result<Service> {
        let program = Service::program(stand.binary("xtask")?);
        let program = program.envs(nats.env_for("worker"));
        Ok(program.args(["bench-role", role]).start())
    };
    let mut bare = role("bare-durable-latency-consumer")?;
    let mut ours = role("our-latency-consumer")?;
    for consumer in [
        "$JS.API.CONSUMER.INFO.BARE.workers",
        "$JS.API.CONSUMER.INFO.JOBS.stamped",
    ] {
        eventually(DEADLINE, consumer, async || {
            let info = client.request(consumer, "".into()).await.ok()?;
            let info: Value = serde_json::from_slice(&info.payload).ok()?;
            (info["num_waiting"].as_u64()? > 0).then_some(())
        })
        .await;
    }
    let gap = Duration::from_secs(1) / JOBS_PER_SECOND / 2;
    let start = tokio::time::Instant::now();
    let kind = job::STAMPED.parse()?;
    for number in 0.. {
        let at = start + gap * number;
        if at >= start + span {
            break;
        }
        sleep_until(at).await;
        let id = JobId::generate();
        let subject = if number % 2 == 0 {
            format!("bare.{id}")
        } else {
            subjects::durable_job(id, common::Priority::Normal, 1, &kind)
        };
        let answer = client
            .request(subject, job::stamped_with(id, now()))
            .await?;
        ensure!(
            !answer.payload.windows(7).any(|part| part == b"\"error\""),
            "a job was not stored: {}",
            String::from_utf8_lossy(&answer.payload)
        );
    }
    for consumer in [&mut bare, &mut ours] {
        consumer.signal(Signal::SIGTERM);
    }
    Ok((result(&mut bare).await?, result(&mut ours).await?))
}

/// The stream of the bare side: whoever comes first makes it.
pub(super) async fn bare_stream(client: &Client) -> anyhow::Result<stream::Stream> {
    let config = stream::Config {
        name: STREAM.to_owned(),
        subjects: vec!["bare.>".to_owned()],
        ..stream::Config::default()
    };
    let stream = jetstream::new(client.clone()).create_stream(config).await;
    stream.context("cannot make the bare stream")
}

async fn bare_consumer(client: &Client) -> anyhow::Result<consumer::PullConsumer> {
    let config = consumer::pull::Config {
        durable_name: Some("workers".to_owned()),
        max_ack_pending: 10_000,
        ..consumer::pull::Config::default()
    };
    let consumer = bare_stream(client).await?.create_consumer(config).await;
    consumer.context("cannot make the bare consumer")
}

/// Publishes with many acknowledgements outstanding.
#[derive(Args)]
pub(super) struct BarePublisher {
    #[arg(long)]
    count: u64,
    #[arg(long)]
    in_flight: usize,
}

impl BarePublisher {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = connect().await?;
        bare_stream(&client).await?;
        let context = jetstream::new(client);
        let messages = job::echoes();
        let start = Instant::now();
        let mut under_way = FuturesUnordered::new();
        for (number, message) in (0..self.count).zip(messages.iter().cycle()) {
            if under_way.len() == self.in_flight
                && let Some(stored) = under_way.next().await
            {
                let stored: Result<_, _> = stored;
                stored?;
            }
            let stored = context
                .publish(format!("bare.{number}"), message.clone())
                .await?;
            under_way.push(stored.into_future());
        }
        while let Some(stored) = under_way.next().await {
            stored?;
        }
        tell(&Took {
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

/// Pulls and acknowledges so many messages.
#[derive(Args)]
pub(super) struct BareConsumer {
    #[arg(long)]
    count: u64,
}

impl BareConsumer {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = connect().await?;
        let consumer = bare_consumer(&client).await?;
        let mut messages = consumer
            .stream()
            .max_messages_per_batch(BATCH.parse()?)
            .messages()
            .await?;
        for _ in 0..self.count {
            let message = messages.next().await.context("the messages ended")??;
            message.ack().await.map_err(anyhow::Error::from_boxed)?;
        }
        // The server has all acknowledgements when it answers what comes after them.
        let _ = client.request("bare-nobody", "".into()).await;
        Ok(())
    }
}

/// Notes when each message arrives, until SIGTERM.
pub(super) async fn bare_latency_consumer() -> anyhow::Result<()> {
    let client = connect().await?;
    let (recorder, terminated) = (Recorder::new(), terminated()?);
    let mut messages = bare_consumer(&client).await?.messages().await?;
    while let Some(Some(message)) = terminated.run_until_cancelled(messages.next()).await {
        let message = message?;
        // The clock is read first: what it takes to read the message is not counted.
        let now = now();
        recorder.record(job::sent_ns(&message.payload)?, now);
        message.ack().await.map_err(anyhow::Error::from_boxed)?;
    }
    recorder.tell()
}
