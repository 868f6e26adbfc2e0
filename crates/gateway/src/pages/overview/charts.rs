//! The charts of the last minutes.

use std::collections::BTreeSet;

use common::{JobKind, RunTime};

use crate::pages::history::{Point, SPAN, Snapshot};
use crate::pages::widgets::chart::{Chart, Series};
use crate::pages::widgets::text;

/// The charts of the overview; that of run times is of a kind, or of the slowest if `kind` is empty.
pub(crate) fn charts(seen: &Snapshot, kind: &str) -> [Chart; 3] {
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
    let run = |name, class, quantile: fn(RunTime) -> f64| {
        series(class, name, &|point| run_time(point, kind).map(quantile))
    };
    let draw =
        |title: &str, id, curves, label| Chart::draw((title, id), &ages, span, curves, label);
    let run_title = match kind {
        "" => "Run time of the slowest kind".to_owned(),
        kind => format!("Run time of {}", text::cut(kind, JobKind::MAX_LEN)),
    };
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
            &run_title,
            "latency",
            vec![
                run("median", "series-1", |run| run.p50),
                run("p90", "series-3", |run| run.p90),
                run("p99", "series-4", |run| run.p99),
            ],
            text::milliseconds,
        ),
        draw(
            "Queue depth, jobs",
            "depth",
            vec![
                series("series-1", "queued", &|point| count(point.queued)),
                series("series-3", "scheduled", &|point| count(point.scheduled)),
                series("series-4", "in consumers", &|point| count(point.inbox)),
            ],
            text::brief,
        ),
    ]
}

/// The run times of a kind, or the slowest ones of all kinds; not a number if no job has ended, and `None`
/// if that is not known.
fn run_time(point: &Point, kind: &str) -> Option<RunTime> {
    const NONE: RunTime = RunTime {
        p50: f64::NAN,
        p90: f64::NAN,
        p99: f64::NAN,
        max: f64::NAN,
    };
    let known = point.run_ms.as_ref()?;
    let found = match kind {
        "" => known.values().copied().reduce(|one, other| RunTime {
            p50: one.p50.max(other.p50),
            p90: one.p90.max(other.p90),
            p99: one.p99.max(other.p99),
            max: one.max.max(other.max),
        }),
        kind => known.get(kind).copied(),
    };
    Some(found.unwrap_or(NONE))
}

/// The most kinds that can be chosen.
const MAX_KINDS: usize = 100;

/// The kinds that consumers have run, and the kind that is chosen, in the order of their names.
pub(crate) fn kinds_with_run_times(seen: &Snapshot, chosen: &str) -> Vec<String> {
    let points = seen.points.iter().filter_map(|point| point.run_ms.as_ref());
    let ran = points.flat_map(|known| known.keys()).map(|kind| &**kind);
    let fleet = seen.fleet.iter().flat_map(|fleet| &fleet.kinds);
    let known: BTreeSet<&str> = fleet.map(|kind| kind.kind.as_str()).chain(ran).collect();
    let mut kinds: BTreeSet<&str> = known.into_iter().take(MAX_KINDS).collect();
    if !chosen.is_empty() {
        kinds.insert(chosen);
    }
    kinds.into_iter().map(str::to_owned).collect()
}

/// How far back the charts go, in seconds: to the oldest point, in round steps.
fn span(oldest: f64) -> f64 {
    let steps = [60.0, 120.0, 300.0];
    let step = steps.into_iter().find(|&step| oldest <= step);
    step.unwrap_or(SPAN.as_secs_f64())
}
