//! Jobs a second with many of them under way, each answered with its outcome; and how fast jobs are
//! handed over when nobody waits.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use common::subjects;
use tempfile::NamedTempFile;
use tokio::process::Command;

use super::Settings;
use super::figure::{Figure, Goal, Unit};
use super::job;
use super::stand::{Side, Stand, in_turn};
use super::throughput::{Sample, consumers_in_words, cpu_us};

const IN_FLIGHT: &str = "1024";

/// Jobs for each second that a measurement should last; nobody is much faster.
const CONFIRMED_PER_SECOND: u32 = 150_000;
const PUBLISHED_PER_SECOND: u32 = 1_000_000;

pub(super) async fn measure(stand: &Stand, settings: &Settings) -> anyhow::Result<Vec<Figure>> {
    let count = settings.count(CONFIRMED_PER_SECOND);
    let input = input(count)?;
    let mut figures = Vec::new();
    for consumers in [1, 4] {
        let what = format!("confirmed, {}", consumers_in_words(consumers));
        let measured = in_turn(settings, &what, async |side| {
            confirmed(stand, side, consumers, count, input.path()).await
        })
        .await?;
        let cpu = format!("{what}: consumer's CPU a job");
        let rate = Figure::of(what, Unit::PerSecond, &measured, |sample| sample.per_second);
        figures.push(rate.goal(Goal::RatioAtLeast(0.7)));
        figures.push(Figure::of(cpu, Unit::Microseconds, &measured, |sample| {
            sample.cpu_us
        }));
    }
    figures.push(published(stand, settings).await?);
    Ok(figures)
}

async fn confirmed(
    stand: &Stand,
    side: Side,
    consumers: usize,
    count: u64,
    input: &Path,
) -> anyhow::Result<Sample> {
    let consumers = stand.members(consumers, || match side {
        Side::Bare => stand.role("bare-responder", "worker"),
        Side::Ours => stand.service("consumer", "worker"),
    });
    let consumers = consumers.await?;
    let mut program = match side {
        Side::Bare => bare(stand, "bare-requester", count)?,
        Side::Ours => ours(stand, input, "confirmed")?,
    };
    program.args(["--in-flight", IN_FLIGHT]);
    let before = cpu_us(&consumers)?;
    let per_second = rate(program, count).await?;
    Ok(Sample {
        per_second,
        cpu_us: (cpu_us(&consumers)? - before) / count as f64,
    })
}

/// Nobody takes these jobs: what is measured is how fast they are handed to the server.
async fn published(stand: &Stand, settings: &Settings) -> anyhow::Result<Figure> {
    let count = settings.count(PUBLISHED_PER_SECOND);
    let input = input(count)?;
    let what = "fire-and-forget, publisher alone";
    let measured = in_turn(settings, what, async |side| {
        // Those of the last scenario may have left only just now.
        stand.wait_for_members(subjects::CREATE, 0).await;
        let program = match side {
            Side::Bare => bare(stand, "bare-publisher", count)?,
            Side::Ours => ours(stand, input.path(), "fire-and-forget")?,
        };
        rate(program, count).await
    })
    .await?;
    Ok(Figure::of(what, Unit::PerSecond, &measured, |rate| *rate))
}

/// A file with so many jobs, a line each.
pub(super) fn input(count: u64) -> anyhow::Result<NamedTempFile> {
    input_of(count, job::echo)
}

/// A file with so many lines.
pub(super) fn input_of(count: u64, line: impl Fn() -> Bytes) -> anyhow::Result<NamedTempFile> {
    let file = NamedTempFile::new().context("cannot create a temporary file")?;
    let mut lines = BufWriter::new(File::create(file.path())?);
    for _ in 0..count {
        lines.write_all(&line())?;
        lines.write_all(b"\n")?;
    }
    lines.flush()?;
    Ok(file)
}

fn bare(stand: &Stand, role: &str, count: u64) -> anyhow::Result<Command> {
    let mut command = stand.command("xtask", "publisher")?;
    command.args(["bench-role", role, "--count", &count.to_string()]);
    Ok(command)
}

fn ours(stand: &Stand, input: &Path, delivery: &str) -> anyhow::Result<Command> {
    let mut command = stand.command("publisher", "publisher")?;
    command.args(["--delivery", delivery, "--input"]).arg(input);
    Ok(command)
}

/// Jobs a second of a program, from its start to its end.
pub(super) async fn rate(mut program: Command, count: u64) -> anyhow::Result<f64> {
    let start = Instant::now();
    let output = program.output().await.context("cannot start a program")?;
    let time = start.elapsed();
    ensure!(
        output.status.success(),
        "not all jobs succeeded ({}):\n{}{}",
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(count as f64 / time.as_secs_f64())
}
