//! Jobs a second when nobody waits for outcomes.

use std::time::Duration;

use anyhow::Context as _;
use test_support::Service;

use super::Settings;
use super::figure::{Figure, Goal, Unit};
use super::load::Load;
use super::stand::{Side, Stand, in_turn};
use super::usage::cpu_time;

/// Room for all jobs that are ever on the way, so that no consumer leaves the group meanwhile.
const INBOX: &str = "65536";

/// What is measured of consumers at work.
pub(super) struct Sample {
    pub(super) per_second: f64,
    /// CPU time of the consumers for one job, in microseconds.
    pub(super) cpu_us: f64,
}

pub(super) async fn measure(stand: &Stand, settings: &Settings) -> anyhow::Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for count in [1, 4] {
        let what = format!("fire-and-forget, {}", consumers_in_words(count));
        let measured = in_turn(settings, &what, async |side| {
            one_side(stand, settings, side, count).await
        })
        .await?;
        let cpu = format!("{what}: CPU a job");
        let rate = Figure::of(what, Unit::PerSecond, &measured, |sample| sample.per_second);
        figures.push(match count {
            1 => rate.goal(Goal::RatioAtLeast(0.8)),
            _ => rate,
        });
        figures.push(Figure::of(cpu, Unit::Microseconds, &measured, |sample| {
            sample.cpu_us
        }));
    }
    Ok(figures)
}

pub(super) fn consumers_in_words(count: usize) -> String {
    match count {
        1 => "1 consumer".to_owned(),
        many => format!("{many} consumers"),
    }
}

/// Consumers of either side, with room for everything that a [`Load`] sends.
pub(super) async fn consumers(
    stand: &Stand,
    side: Side,
    count: usize,
) -> anyhow::Result<Vec<Service>> {
    let members = stand.members(count, || match side {
        Side::Bare => stand.role("bare-consumer", "worker"),
        Side::Ours => Ok(stand
            .service("consumer", "worker")?
            .args(["--inbox", INBOX])),
    });
    members.await
}

async fn one_side(
    stand: &Stand,
    settings: &Settings,
    side: Side,
    count: usize,
) -> anyhow::Result<Sample> {
    let consumers = consumers(stand, side, count).await?;
    let (publisher, observer) = (
        stand.client("publisher").await,
        stand.client("status").await,
    );
    let mut load = Load::on(count, publisher, observer).await?;
    // What is allocated or looked up on first use is not the speed that lasts.
    load.run_for(settings.span() / 4).await?;
    let before = cpu_us(&consumers)?;
    let done = load
        .run_for(settings.span())
        .await
        .with_context(|| format!("{count} consumers of the side {side:?}"))?;
    Ok(Sample {
        per_second: done.per_second(),
        cpu_us: (cpu_us(&consumers)? - before) / done.jobs as f64,
    })
}

/// CPU time of processes together, in microseconds.
pub(super) fn cpu_us(processes: &[Service]) -> anyhow::Result<f64> {
    let times = processes.iter().map(|process| cpu_time(process.id()));
    let sum: Duration = times.sum::<anyhow::Result<_>>()?;
    Ok(sum.as_secs_f64() * 1e6)
}
