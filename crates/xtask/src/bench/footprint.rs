//! Memory of idle services, the time from their start to the first job, sizes of binaries.

use std::fs;
use std::time::{Duration, Instant};

use async_nats::Client;
use common::subjects;
use test_support::{DEADLINE, SERVICES, Service, ServiceBuilder, eventually};

use super::Settings;
use super::figure::{Figure, Goal, Unit};
use super::job;
use super::load::Load;
use super::stand::{Measured, Side, Stand, in_turn, rounds};
use super::throughput::consumers;
use super::usage::{Noise, resident_mb};

/// Starts of a consumer in each round; the time of a round is their median.
const STARTS: usize = 5;

pub(super) async fn measure(stand: &Stand, settings: &Settings) -> anyhow::Result<Vec<Figure>> {
    let mut figures = vec![
        idle_consumer(stand, settings).await?,
        consumer_after_load(stand, settings).await?,
        idle(
            stand,
            settings,
            "publisher",
            "publisher",
            &["--interval", "1h"],
        )
        .await?,
        idle(stand, settings, "status-service", "status", &[]).await?,
        idle(
            stand,
            settings,
            "gateway",
            "gateway",
            &["--listen", "127.0.0.1:0"],
        )
        .await?,
        start(stand, settings).await?,
        gateway_start(stand, settings).await?,
    ];
    for service in SERVICES {
        figures.push(size(stand, service)?);
    }
    Ok(figures)
}

fn consumer(stand: &Stand, side: Side) -> anyhow::Result<ServiceBuilder> {
    match side {
        Side::Bare => stand.role("bare-responder", "worker"),
        Side::Ours => stand.service("consumer", "worker"),
    }
}

async fn idle_consumer(stand: &Stand, settings: &Settings) -> anyhow::Result<Figure> {
    let what = "consumer, idle: resident";
    let client = stand.client("publisher").await;
    let measured = in_turn(settings, what, async |side| {
        let consumers = stand.members(1, || consumer(stand, side)).await?;
        // One that has worked, as all that is loaded on first use is loaded then.
        first_outcome(&client).await;
        settled_mb(&consumers[0]).await
    })
    .await?;
    Ok(Figure::of(what, Unit::Megabytes, &measured, |mb| *mb).goal(Goal::Below(15.0)))
}

async fn consumer_after_load(stand: &Stand, settings: &Settings) -> anyhow::Result<Figure> {
    let what = "consumer, after full load: resident";
    let measured = in_turn(settings, what, async |side| {
        let consumers = consumers(stand, side, 1).await?;
        let (publisher, observer) = (
            stand.client("publisher").await,
            stand.client("status").await,
        );
        let mut load = Load::on(1, publisher, observer).await?;
        load.run_for(settings.span()).await?;
        settled_mb(&consumers[0]).await
    })
    .await?;
    Ok(Figure::of(what, Unit::Megabytes, &measured, |mb| *mb))
}

async fn idle(
    stand: &Stand,
    settings: &Settings,
    name: &str,
    user: &str,
    arguments: &[&str],
) -> anyhow::Result<Figure> {
    let what = format!("{name}, idle: resident");
    let measured = rounds(settings, &what, async |_| {
        let mut service = stand.service(name, user)?.args(arguments).start();
        service
            .wait_for_line(|line| line.contains("connected to NATS"))
            .await;
        Ok((None, settled_mb(&service).await?))
    })
    .await?;
    Ok(Figure::of(what, Unit::Megabytes, &measured, |mb| *mb).goal(Goal::Below(15.0)))
}

/// What a process has resident once that no longer changes.
async fn settled_mb(service: &Service) -> anyhow::Result<f64> {
    const SAME: u32 = 20;
    let mut last = resident_mb(service.id())?;
    let mut same = 0;
    eventually(DEADLINE, "a settled process", async || {
        let now = resident_mb(service.id()).ok()?;
        let unchanged = (now - last).abs() < f64::EPSILON;
        same = if unchanged { same + 1 } else { 0 };
        last = now;
        (same == SAME).then_some(())
    })
    .await;
    Ok(last)
}

async fn start(stand: &Stand, settings: &Settings) -> anyhow::Result<Figure> {
    let what = "consumer, start to first outcome";
    let client = stand.client("publisher").await;
    let measured = in_turn(settings, what, async |side| {
        let mut times = Vec::new();
        for _ in 0..STARTS {
            stand.wait_for_members(subjects::CREATE, 0).await;
            let start = Instant::now();
            let _consumer = consumer(stand, side)?.start();
            first_outcome(&client).await;
            times.push(start.elapsed());
        }
        times.sort();
        Ok(times[STARTS / 2])
    })
    .await?;
    let ms = |time: &Duration| time.as_secs_f64() * 1e3;
    Ok(Figure::of(what, Unit::Milliseconds, &measured, ms).goal(Goal::Below(100.0)))
}

/// From the start of a gateway until it answers that it is ready.
async fn gateway_start(stand: &Stand, settings: &Settings) -> anyhow::Result<Figure> {
    let what = "gateway, start to ready";
    let measured = rounds(settings, what, async |_| {
        let mut times = Vec::new();
        for _ in 0..STARTS {
            let mut gateway = stand.service("gateway", "gateway")?;
            gateway = gateway.args(["--listen", "127.0.0.1:0"]);
            let start = Instant::now();
            gateway
                .start()
                .wait_for_line(|line| line.contains("serving http"))
                .await;
            times.push(start.elapsed());
        }
        times.sort();
        Ok((None, times[STARTS / 2]))
    })
    .await?;
    let ms = |time: &Duration| time.as_secs_f64() * 1e3;
    Ok(Figure::of(what, Unit::Milliseconds, &measured, ms).goal(Goal::Below(100.0)))
}

/// Submits a job until somebody takes it, and returns when it is done.
async fn first_outcome(client: &Client) {
    let pause = Duration::from_micros(500);
    let patience = Instant::now() + DEADLINE;
    // The server says at once that nobody is there.
    while client.request(subjects::CREATE, job::echo()).await.is_err() {
        assert!(Instant::now() < patience, "no consumer takes a job");
        tokio::time::sleep(pause).await;
    }
}

fn size(stand: &Stand, name: &str) -> anyhow::Result<Figure> {
    let bytes = fs::metadata(stand.binary(name)?)?.len();
    let measured = [Measured {
        bare: None,
        ours: bytes as f64 / 1e6,
        noise: Noise::NONE,
    }];
    let what = format!("{name}, size of the binary");
    Ok(Figure::of(what, Unit::Megabytes, &measured, |mb| *mb))
}
