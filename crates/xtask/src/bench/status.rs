//! How long `jobs.status` takes to be answered while jobs come as fast as they are taken.

use test_support::Signal;

use super::Settings;
use super::figure::{Figure, Goal, Unit};
use super::load::Load;
use super::probe::Quantiles;
use super::stand::{Side, Stand, in_turn, result};
use super::throughput::consumers;

const ASK_EVERY_MS: &str = "20";

pub(super) async fn measure(stand: &Stand, settings: &Settings) -> anyhow::Result<Vec<Figure>> {
    let what = "jobs.status under load";
    let measured = in_turn(settings, what, async |side| {
        one_side(stand, settings, side).await
    })
    .await?;
    let figure = |name: &str, part: fn(&Quantiles) -> u64| {
        let name = format!("{what}, {name}");
        let part = |quantiles: &_| part(quantiles) as f64 / 1e6;
        Figure::of(name, Unit::Milliseconds, &measured, part)
    };
    Ok(vec![
        figure("p50", |quantiles| quantiles.p50),
        figure("p99", |quantiles| quantiles.p99).goal(Goal::Below(5.0)),
        figure("max", |quantiles| quantiles.max),
    ])
}

async fn one_side(stand: &Stand, settings: &Settings, side: Side) -> anyhow::Result<Quantiles> {
    let _consumer = consumers(stand, side, 1).await?;
    let (publisher, observer) = (
        stand.client("publisher").await,
        stand.client("status").await,
    );
    let mut load = Load::on(1, publisher, observer).await?;
    load.run_for(settings.span() / 4).await?;
    let mut probe = stand
        .role("status-probe", "status")?
        .args(["--every-ms", ASK_EVERY_MS])
        .start();
    load.run_for(2 * settings.span()).await?;
    probe.signal(Signal::SIGTERM);
    result(&mut probe).await
}
