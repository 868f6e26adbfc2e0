//! An application that submits durable jobs with the crate `client`, beside the publisher.

use anyhow::Context as _;
use clap::Args;
use client::{Client, Job, Options};
use common::JobMessage;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use test_support::NatsServer;

use super::Settings;
use super::confirmed::rate;
use super::durable::{IN_FLIGHT, SUBMITTED_PER_SECOND, our_submit};
use super::figure::{Figure, Goal, Unit};
use super::job;
use super::stand::{Side, Stand, in_turn};

pub(super) async fn measure(stand: &Stand, settings: &Settings) -> anyhow::Result<Vec<Figure>> {
    let count = settings.count(SUBMITTED_PER_SECOND);
    let what = "durable, submission by the crate client (in place of bare: by the publisher)";
    let measured = in_turn(settings, what, async |side| {
        let nats = NatsServer::builder().open().start().await;
        match side {
            Side::Bare => our_submit(stand, &nats, count).await,
            Side::Ours => submit(stand, &nats, count).await,
        }
    })
    .await?;
    let figure = Figure::of(what, Unit::PerSecond, &measured, |rate| *rate);
    Ok(vec![figure.goal(Goal::RatioAtLeast(0.9))])
}

async fn submit(stand: &Stand, nats: &NatsServer, count: u64) -> anyhow::Result<f64> {
    let worker = nats.connect_as("worker").await;
    let topology = client::Topology::default();
    topology.ensure(&worker.into()).await?;
    let mut command = stand.command_on(nats, "xtask", "publisher")?;
    command.args(["bench-role", "application"]);
    command.args(["--count", &count.to_string(), "--in-flight", IN_FLIGHT]);
    rate(command, count).await
}

/// Submits typed jobs, so many at a time.
#[derive(Args)]
pub(super) struct Application {
    #[arg(long)]
    count: u64,
    #[arg(long)]
    in_flight: usize,
}

/// The payload of a line of the publisher's input.
#[derive(Clone, Serialize, Deserialize)]
struct Echo(Box<RawValue>);

impl Job for Echo {
    const KIND: &'static str = "echo";
    type Output = serde_json::Value;
}

impl Application {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let jobs = Client::connect(Options::from_env()?).await?;
        let line = job::line(Echo::KIND);
        let payload = JobMessage::decode(&line)?.payload;
        let payload = Echo(payload.context("a line without a payload")?.to_owned());
        let submissions = stream::iter(0..self.count).map(|_| {
            let submission = jobs.submit(payload.clone());
            async move { submission.await.map(drop) }
        });
        let submissions = submissions.buffer_unordered(self.in_flight);
        submissions.try_collect::<()>().await?;
        Ok(())
    }
}
