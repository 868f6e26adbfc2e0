//! What is seen first: the numbers on top of the overview, and the charts of the last minutes.

use common::Fleet;

use super::chart::{Chart, Series};
use super::history::{Point, SPAN, Snapshot};
use super::text;

/// What stands where a number is not known.
const UNKNOWN: &str = "-";

/// A number that is seen first.
pub(crate) struct Tile {
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) note: String,
    pub(crate) bad: bool,
}

/// A number, if it is known.
pub(crate) fn known(number: Option<u64>) -> String {
    number.map_or_else(|| UNKNOWN.to_owned(), text::count)
}

/// The numbers on top of the page.
pub(crate) fn tiles(seen: &Snapshot, fleet: Option<&Fleet>) -> Vec<Tile> {
    let rates = seen.points.iter().rev().find_map(|point| point.rates);
    let missing = fleet.map_or(0, |fleet| fleet.missing);
    let dead = seen.dead.unwrap_or(0);
    let inbox = known(fleet.map(|fleet| fleet.waiting));
    vec![
        Tile {
            id: "consumers",
            name: "Consumers",
            value: known(fleet.map(|fleet| fleet.answering)),
            note: match missing {
                0 => "answering".to_owned(),
                missing => format!("answering, {} missing", text::count(missing)),
            },
            bad: missing > 0,
        },
        Tile {
            id: "running",
            name: "Running",
            value: known(fleet.map(|fleet| fleet.in_flight)),
            note: format!("of {} slots", known(fleet.map(|fleet| fleet.concurrency))),
            bad: false,
        },
        Tile {
            id: "queued",
            name: "Queued",
            value: known(seen.queued()),
            note: format!("durable; {inbox} more in consumers"),
            bad: false,
        },
        Tile {
            id: "throughput",
            name: "Throughput",
            value: rates.map_or_else(|| UNKNOWN.to_owned(), |(ended, _)| text::brief(ended)),
            note: match rates {
                Some((_, failed)) if failed > 0.0 => {
                    format!("jobs a second, {} failed", text::brief(failed))
                }
                _ => "jobs a second".to_owned(),
            },
            bad: false,
        },
        Tile {
            id: "processed",
            name: "Processed",
            value: known(fleet.map(|fleet| fleet.totals.processed)),
            note: format!("{} failed", known(fleet.map(|fleet| fleet.totals.failed))),
            bad: false,
        },
        Tile {
            id: "dead",
            name: "Dead letters",
            value: known(seen.dead),
            note: match seen.dead {
                None => "not known",
                Some(0) => "nothing to do",
                Some(_) => "to look at",
            }
            .to_owned(),
            bad: dead > 0,
        },
    ]
}

/// The charts below them.
pub(crate) fn charts(seen: &Snapshot) -> [Chart; 3] {
    let now = seen
        .points
        .last()
        .map(|point| point.elapsed)
        .unwrap_or_default();
    let ages: Vec<_> = seen
        .points
        .iter()
        .map(|point| (now.saturating_sub(point.elapsed)).as_secs_f64())
        .collect();
    let span = span(ages.first().copied().unwrap_or_default());
    let series = |class, name, value: &dyn Fn(&Point) -> Option<f64>| Series {
        class,
        name,
        values: seen.points.iter().map(value).collect(),
    };
    let count = |number: Option<u64>| number.map(|number| number as f64);
    let draw = |title, id, curves, label| Chart::draw((title, id), &ages, span, curves, label);
    [
        draw(
            "Throughput, jobs a second",
            "throughput",
            vec![
                series("series-1", "ended", &|point| {
                    point.rates.map(|(ended, _)| ended)
                }),
                series("series-2", "failed", &|point| {
                    point.rates.map(|(_, failed)| failed)
                }),
            ],
            text::brief,
        ),
        draw(
            "Run time of the slowest kind",
            "latency",
            vec![
                series("series-1", "median", &|point| {
                    point.run_ms.map(|run| run.p50)
                }),
                series("series-3", "p90", &|point| point.run_ms.map(|run| run.p90)),
                series("series-4", "p99", &|point| point.run_ms.map(|run| run.p99)),
            ],
            text::milliseconds,
        ),
        draw(
            "Queue depth, jobs",
            "depth",
            vec![
                series("series-1", "queued", &|point| count(point.queued)),
                series("series-3", "scheduled", &|point| count(point.later)),
                series("series-4", "in consumers", &|point| count(point.inbox)),
            ],
            text::brief,
        ),
    ]
}

/// How far back charts go, in seconds: as far as is known, in round steps.
fn span(oldest: f64) -> f64 {
    let steps = [60.0, 120.0, 300.0];
    let step = steps.into_iter().find(|&step| oldest <= step);
    step.unwrap_or(SPAN.as_secs_f64())
}
