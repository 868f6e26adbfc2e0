//! How long `jobs.status` takes to be answered by a consumer that is as busy as it can be.
//!
//! Once with jobs that come as fast as they are taken, which takes all of the machine for the
//! server and the load too; and once with jobs that compute, so that the consumer has all slots
//! full and the machine to itself. The server is on the way of each question: how long it takes to
//! answer by itself is part of the figure, and shown beside it.

use test_support::{Service, Signal};

use super::Settings;
use super::figure::{Figure, Goal, Unit};
use super::job;
use super::load::Load;
use super::probe::Seen;
use super::stand::{Measured, Side, Stand, in_turn, result};
use super::throughput::consumers;

const ASK_EVERY_MS: &str = "20";

/// Jobs that compute at a time: as many as keep a few cores busy.
const SLOTS: &str = "4";

/// Jobs that compute on the way: more than there are slots, and fewer than the inbox holds.
const WAITING: u64 = 1000;

pub(super) async fn measure(stand: &Stand, settings: &Settings) -> anyhow::Result<Vec<Figure>> {
    let flood = "jobs.status in a flood of jobs";
    let flooded = in_turn(settings, flood, async |side| {
        flooded(stand, settings, side).await
    })
    .await?;
    let computing = "jobs.status, all slots computing";
    let busy = in_turn(settings, computing, async |side| {
        busy(stand, settings, side).await
    })
    .await?;
    let figures = [figures(flood, &flooded), figures(computing, &busy)];
    Ok(figures.into_iter().flatten().collect())
}

fn figures(what: &str, measured: &[Measured<Seen>]) -> [Figure; 5] {
    let figure = |name: &str, part: fn(&Seen) -> u64| {
        let name = format!("{what}, {name}");
        let part = |seen: &_| part(seen) as f64 / 1e6;
        Figure::of(name, Unit::Milliseconds, measured, part)
    };
    [
        figure("p50", |seen| seen.status.p50),
        figure("p99", |seen| seen.status.p99).goal(Goal::Below(5.0)),
        figure("max", |seen| seen.status.max),
        figure("server: p50", |seen| seen.server.p50),
        figure("server: p99", |seen| seen.server.p99),
    ]
}

async fn flooded(stand: &Stand, settings: &Settings, side: Side) -> anyhow::Result<Seen> {
    let _consumer = consumers(stand, side, 1).await?;
    probed(stand, settings, load(stand).await?).await
}

async fn busy(stand: &Stand, settings: &Settings, side: Side) -> anyhow::Result<Seen> {
    let role = match side {
        Side::Bare => "bare-consumer",
        Side::Ours => "our-busy-consumer",
    };
    let members = stand.members(1, || {
        let role = stand.role(role, "worker")?;
        Ok(role.args(["--computing", SLOTS]))
    });
    let _consumer = members.await?;
    let load = load(stand).await?.with(vec![job::busy()], WAITING);
    probed(stand, settings, load).await
}

async fn load(stand: &Stand) -> anyhow::Result<Load> {
    let (publisher, observer) = (
        stand.client("publisher").await,
        stand.client("status").await,
    );
    Load::on(1, publisher, observer).await
}

/// What a probe sees while there is load.
async fn probed(stand: &Stand, settings: &Settings, mut load: Load) -> anyhow::Result<Seen> {
    load.run_for(settings.span() / 4).await?;
    let mut probe: Service = stand
        .role("status-probe", "status")?
        .args(["--every-ms", ASK_EVERY_MS])
        .start();
    load.run_for(2 * settings.span()).await?;
    probe.signal(Signal::SIGTERM);
    result(&mut probe).await
}
