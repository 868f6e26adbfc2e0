//! The table, and the file with all numbers.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use anyhow::Context as _;
use serde_json::{Value, json};
use test_support::BuildDir;

use super::Settings;
use super::figure::{Figure, Spread};
use super::job;
use super::machine::{machine, versions};
use super::stand::Stand;

/// Figures, printed as they come.
pub(super) struct Report {
    path: PathBuf,
    machine: Value,
    versions: Value,
    settings: Value,
    figures: Vec<Figure>,
}

impl Report {
    pub(super) async fn new(settings: &Settings, stand: &Stand) -> anyhow::Result<Self> {
        let path = match &settings.json {
            Some(path) => path.clone(),
            None => BuildDir::current().target.join("bench.json"),
        };
        Ok(Self {
            path,
            machine: machine(),
            versions: versions(&stand.nats).await,
            settings: json!({
                "quick": settings.quick,
                "rounds": settings.rounds(),
                "span_seconds": settings.span().as_secs_f64(),
                "message_bytes": job::SIZE,
            }),
            figures: Vec::new(),
        })
    }

    pub(super) fn print_head(&self) -> io::Result<()> {
        let text = |value: &Value| {
            value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned)
        };
        let (machine, versions) = (&self.machine, &self.versions);
        writeln!(
            io::stdout(),
            "{} cores, {}, load {}; {}, nats-server {}, async-nats {}; {} bytes a message, {} rounds\n\n{}",
            machine["cores"],
            text(&machine["cpu"]),
            text(&machine["load"]),
            text(&versions["rustc"]),
            text(&versions["nats-server"]),
            text(&versions["async-nats"]),
            self.settings["message_bytes"],
            self.settings["rounds"],
            row("", ["bare", "ours"], "ours / bare (min..max)", "goal"),
        )
    }

    /// Adds figures, and prints them.
    pub(super) fn add(&mut self, figures: Vec<Figure>) -> io::Result<()> {
        for figure in &figures {
            writeln!(io::stdout(), "{}", row_of(figure))?;
        }
        self.figures.extend(figures);
        Ok(())
    }

    pub(super) fn finish(&self) -> anyhow::Result<()> {
        let mut out = io::stdout().lock();
        let rounds = self.figures.iter().flat_map(|figure| &figure.rounds);
        let (mut others, mut stolen) = (0.0_f64, 0.0_f64);
        for round in rounds {
            others = others.max(round.noise.others);
            stolen = stolen.max(round.noise.stolen);
        }
        writeln!(
            out,
            "\nIn the noisiest round other programs took {:.0} % of the machine, and other machines {:.0} %.",
            100.0 * others,
            100.0 * stolen
        )?;
        let json = json!({
            "machine": self.machine,
            "versions": self.versions,
            "settings": self.settings,
            "figures": self.figures.iter().map(Figure::json).collect::<Vec<_>>(),
        });
        fs::write(&self.path, format!("{json:#}\n"))
            .with_context(|| format!("cannot write {}", self.path.display()))?;
        writeln!(out, "All numbers are in {}.", self.path.display())?;
        Ok(())
    }
}

fn row(name: &str, [bare, ours]: [&str; 2], ratio: &str, goal: &str) -> String {
    let row = format!("{name:46} {bare:>13} {ours:>13}  {ratio:24} {goal}");
    row.trim_end().to_owned()
}

fn row_of(figure: &Figure) -> String {
    let show = |number| figure.unit.show(number);
    let median = |spread: Option<Spread>| spread.map_or("-".to_owned(), |it| show(it.median));
    let ratio = match (figure.ratio(), figure.ours()) {
        (Some(ratio), _) => format!("{:.2}x ({:.2}..{:.2})", ratio.median, ratio.min, ratio.max),
        (None, Some(ours)) => format!("({}..{})", show(ours.min), show(ours.max)),
        (None, None) => String::new(),
    };
    let met = match figure.met() {
        Some(true) => " met",
        Some(false) => " MISSED",
        None => "",
    };
    let goal = figure.goal.map(|goal| goal.show(figure.unit));
    row(
        &figure.name,
        [&median(figure.bare()), &median(figure.ours())],
        &ratio,
        &format!("{}{met}", goal.unwrap_or_default()),
    )
}
