//! The charts of the last minutes.

use crate::pages::history::{Point, SPAN, Snapshot};
use crate::pages::widgets::chart::{Chart, Series};
use crate::pages::widgets::text;

/// The charts of the overview.
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
                series("series-3", "scheduled", &|point| count(point.scheduled)),
                series("series-4", "in consumers", &|point| count(point.inbox)),
            ],
            text::brief,
        ),
    ]
}

/// How far back the charts go, in seconds: to the oldest point, in round steps.
fn span(oldest: f64) -> f64 {
    let steps = [60.0, 120.0, 300.0];
    let step = steps.into_iter().find(|&step| oldest <= step);
    step.unwrap_or(SPAN.as_secs_f64())
}
