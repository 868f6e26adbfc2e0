//! The numbers at the top of the overview.

use common::Fleet;

use crate::pages::history::Snapshot;
use crate::pages::widgets::text;

/// What is shown for an unknown number.
const UNKNOWN: &str = "-";

/// A number at the top of the overview.
pub(crate) struct Tile {
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    pub(crate) value: String,
    pub(crate) note: String,
    pub(crate) bad: bool,
}

/// A number as text.
pub(crate) fn known(number: Option<u64>) -> String {
    number.map_or_else(|| UNKNOWN.to_owned(), text::count)
}

/// The numbers at the top of the overview.
pub(crate) fn tiles(seen: &Snapshot, fleet: Option<&Fleet>) -> Vec<Tile> {
    let rates = seen.rates;
    let missing = fleet.map_or(0, |fleet| fleet.missing);
    let dead = seen.dead_letters.unwrap_or(0);
    let inbox = known(fleet.map(|fleet| fleet.waiting));
    let failed = known(fleet.map(|fleet| fleet.totals.failed)) + " failed";
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
            note: match fleet.map_or(0, |fleet| fleet.totals.rejected) {
                0 => failed,
                rejected => format!("{failed}, {} rejected", text::count(rejected)),
            },
            bad: false,
        },
        Tile {
            id: "dead",
            name: "Dead letters",
            value: known(seen.dead_letters),
            note: match seen.dead_letters {
                None => "not known",
                Some(0) => "nothing to do",
                Some(_) => "to look at",
            }
            .to_owned(),
            bad: dead > 0,
        },
    ]
}
