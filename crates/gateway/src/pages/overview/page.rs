//! The page itself, with its tables.

use askama::Template;
use axum::extract::{Query, State};
use axum::http::HeaderMap;
use axum::response::Response;
use client::{Queue, StreamDepth};
use common::{FleetKind, JobKind};
use serde::Deserialize;

use super::charts::{charts, kinds_with_run_times};
use super::guarantees::{Check, checks};
use super::states::{StateRow, states};
use super::tiles::{Tile, tiles};
use crate::pages::history::{self, Snapshot};
use crate::pages::kinds::PauseNote;
use crate::pages::layout::{Done, Layout};
use crate::pages::problem::Problem;
use crate::pages::render::html;
use crate::pages::state::Pages;
use crate::pages::widgets::chart::Chart;
use crate::pages::widgets::{Moment, SubmitExample, text};

/// The most queues on the page.
const MAX_QUEUES: usize = 20;

#[derive(Template)]
#[template(path = "overview.html")]
pub(crate) struct OverviewPage {
    layout: Layout,
    example: SubmitExample,
    /// The time of the figures, if they are old.
    old_since: Option<Moment>,
    tiles: Vec<Tile>,
    /// Why the fleet is not known; `None` if it is.
    fleet_unknown: Option<String>,
    /// Whether it is known that there is no consumer.
    no_consumer: bool,
    /// Kinds with waiting jobs that no consumer serves.
    kinds_without_consumer: Vec<String>,
    charts: [Chart; 3],
    /// The kinds of which a chart of run times can be chosen.
    run_kinds: Vec<String>,
    /// The one that is chosen; empty is the slowest.
    run_kind: String,
    states: Vec<StateRow>,
    kinds: Vec<KindRow>,
    /// `None` if they are not known.
    queues: Option<Vec<QueueRow>>,
    more_queues: usize,
    /// The pause of all kinds.
    all_paused: Option<PauseNote>,
    streams: Result<Vec<StreamRow>, String>,
    balance: Option<Balance>,
    guarantees: Vec<Check>,
}

struct KindRow {
    kind: String,
    processed: String,
    failed: String,
    share: String,
    share_width: String,
    p50: String,
    p99: String,
}

struct QueueRow {
    kind: String,
    /// Whether a consumer serves the kind, in words; empty if one does, or no job waits.
    warning: &'static str,
    /// The pause of the kind.
    paused: Option<PauseNote>,
    waiting: String,
    /// Whether the priorities of the kind are heeded.
    priorities: bool,
    /// How many of the waiting jobs are of high priority, if any is.
    high: Option<String>,
    /// How many of them are of low priority, likewise.
    low: Option<String>,
    running: String,
    redelivered: String,
}

struct StreamRow {
    name: String,
    messages: String,
    size: String,
    /// How full it is, in percent; `None` if it has no limit.
    width: Option<String>,
    tone: &'static str,
    oldest: Option<Moment>,
}

struct Balance {
    at: Moment,
    least: String,
    least_width: String,
    even: String,
    most: String,
    most_width: String,
    tone: &'static str,
}

/// The parameters of the page.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Asked {
    /// The kind whose run times are shown.
    kind: String,
    done: Option<Done>,
}

pub(crate) async fn page(
    State(pages): State<Pages>,
    headers: HeaderMap,
    Query(asked): Query<Asked>,
) -> Result<Response, Problem> {
    let layout = Layout::new(&pages, "Overview", "overview")
        .live(1)
        .after(asked.done);
    let example = SubmitExample::new(&pages.app.access, &headers);
    let seen = pages.history.borrow().clone();
    let kind = text::cut(asked.kind.trim(), JobKind::MAX_LEN);
    html(&OverviewPage::of(layout, example, &seen, kind))
}

impl OverviewPage {
    pub(crate) fn of(
        layout: Layout,
        example: SubmitExample,
        seen: &Snapshot,
        run_kind: String,
    ) -> Self {
        let fleet = seen.fleet.as_deref().ok();
        let mut queues: Vec<_> = seen.queues.iter().flat_map(|all| &all.queues).collect();
        queues.sort_by(|one, other| {
            let order = other.waiting.cmp(&one.waiting);
            let order = other
                .paused
                .is_some()
                .cmp(&one.paused.is_some())
                .then(order);
            order.then_with(|| one.kind.as_str().cmp(other.kind.as_str()))
        });
        let mut kinds: Vec<_> = fleet.iter().flat_map(|fleet| &fleet.kinds).collect();
        // The kinds that fail most come first: they need attention.
        kinds.sort_by(|one, other| {
            let order = failed(other).cmp(&failed(one));
            order.then_with(|| one.kind.cmp(&other.kind))
        });
        Self {
            layout,
            example,
            old_since: seen.old_since().map(Moment::of),
            tiles: tiles(seen, fleet),
            fleet_unknown: seen.fleet.as_ref().err().cloned(),
            no_consumer: fleet
                .is_some_and(|fleet| fleet.asked_at.is_some() && fleet.answering == 0),
            kinds_without_consumer: fleet
                .iter()
                .flat_map(|fleet| &fleet.unserved_kinds)
                .map(ToString::to_string)
                .collect(),
            charts: charts(seen, &run_kind),
            run_kinds: kinds_with_run_times(seen, &run_kind),
            run_kind,
            states: states(seen, fleet),
            kinds: kinds.into_iter().map(KindRow::of).collect(),
            more_queues: queues.len().saturating_sub(MAX_QUEUES),
            all_paused: seen
                .queues
                .as_ref()
                .and_then(|queues| queues.all_paused.as_ref())
                .map(PauseNote::of),
            queues: seen.queues.is_some().then(|| {
                let first = queues.into_iter().take(MAX_QUEUES);
                first.map(QueueRow::of).collect()
            }),
            streams: match &seen.streams {
                Ok(streams) => Ok(streams
                    .iter()
                    .flat_map(|all| all.iter())
                    .map(StreamRow::of)
                    .collect()),
                Err(why) => Err(why.clone()),
            },
            balance: seen.balance.map(Balance::of),
            guarantees: checks(seen),
        }
    }
}

impl KindRow {
    fn of(kind: &FleetKind) -> Self {
        let failed = failed(kind);
        let share = text::percent(failed, kind.counts.processed);
        Self {
            kind: kind.kind.clone(),
            processed: text::count(kind.counts.processed),
            failed: text::count(failed),
            share: text::share(share),
            share_width: width(share),
            p50: text::milliseconds(kind.run_ms.p50),
            p99: text::milliseconds(kind.run_ms.p99),
        }
    }
}

/// How many jobs of a kind failed: in their handler, or because it cannot read them. A kind is listed
/// only where it has a handler, so none of them was rejected for want of one.
const fn failed(kind: &FleetKind) -> u64 {
    kind.counts.failed.saturating_add(kind.counts.rejected)
}

/// A percentage as the width of a bar.
fn width(percent: f64) -> String {
    format!("{:.1}", percent.clamp(0.0, 100.0))
}

impl QueueRow {
    fn of(queue: &Queue) -> Self {
        Self {
            kind: queue.kind.to_string(),
            warning: match queue.served {
                Some(false) => "no consumer",
                // Consumers are asked only about kinds with waiting jobs.
                None if queue.waiting > 0 => "consumer unknown",
                Some(true) | None => "",
            },
            paused: queue.paused.as_ref().map(PauseNote::of),
            waiting: if queue.at_least {
                format!("at least {}", text::count(queue.waiting))
            } else {
                text::count(queue.waiting)
            },
            priorities: queue.priorities,
            high: Some(queue.waiting_high)
                .filter(|jobs| *jobs > 0)
                .map(text::count),
            low: Some(queue.waiting_low)
                .filter(|jobs| *jobs > 0)
                .map(text::count),
            running: text::count(queue.running),
            redelivered: text::count(queue.redelivered),
        }
    }
}

impl StreamRow {
    fn of(depth: &StreamDepth) -> Self {
        let full = depth
            .limit_bytes
            .map(|limit| text::percent(depth.bytes, limit));
        let size = text::bytes(depth.bytes);
        Self {
            name: depth.stream.to_string(),
            messages: text::count(depth.messages),
            size: match depth.limit_bytes {
                Some(limit) => format!("{size} of {}", text::bytes(limit)),
                None => format!("{size}, no limit of its own"),
            },
            width: full.map(width),
            tone: match full {
                Some(80.0..) => "bad",
                Some(50.0..) => "warn",
                _ => "good",
            },
            oldest: depth.oldest.filter(|_| depth.messages > 0).map(Moment::of),
        }
    }
}

impl Balance {
    fn of(seen: history::Balance) -> Self {
        let [least, most] = seen.percent;
        let even = 100.0 / seen.consumers as f64;
        Self {
            at: Moment::of(seen.at),
            least: text::share(least),
            least_width: width(least),
            even: text::share(even),
            most: text::share(most),
            most_width: width(most),
            tone: if most > 2.0 * even { "warn" } else { "good" },
        }
    }
}
