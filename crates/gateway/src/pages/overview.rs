//! The first page: how the whole system is, and how it was in the last minutes.

use askama::Template;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use client::{Guarantees, Queue, Stream, StreamDepth, WriteHealth};
use common::{Counts, Fleet, FleetKind, JobState};

use super::Pages;
use super::chart::Chart;
use super::figures::{Tile, charts, known, tiles};
use super::frame::{Frame, html};
use super::history::{Evenness, Snapshot};
use super::jobs::Entry;
use super::problem::Problem;
use super::text::{self, Moment};

/// The most queues on the page.
const MOST_QUEUES: usize = 20;

#[derive(Template)]
#[template(path = "overview.html")]
pub(crate) struct OverviewPage {
    frame: Frame,
    entry: Entry,
    tiles: Vec<Tile>,
    fleet_unknown: Option<String>,
    nobody: bool,
    unserved: Vec<String>,
    charts: [Chart; 3],
    states: Vec<StateRow>,
    kinds: Vec<KindRow>,
    /// `None` if they are not known.
    queues: Option<Vec<QueueRow>>,
    more_queues: usize,
    streams: Result<Vec<StreamRow>, String>,
    spread: Option<Spread>,
    guarantees: Vec<Check>,
}

struct StateRow {
    name: &'static str,
    label: &'static str,
    tone: &'static str,
    count: String,
    what: &'static str,
    /// Whether there is a list of them.
    link: bool,
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
    /// Whether it is known that nobody serves it.
    unserved: bool,
    waiting: String,
    running: String,
    redelivered: String,
}

struct StreamRow {
    name: String,
    messages: String,
    size: String,
    /// How full it is, in percent, if it has a limit.
    width: Option<String>,
    tone: &'static str,
    oldest: Option<Moment>,
}

struct Spread {
    at: Moment,
    least: String,
    least_width: String,
    even: String,
    most: String,
    most_width: String,
    tone: &'static str,
}

/// A promise, and whether it is kept.
struct Check {
    tone: &'static str,
    word: &'static str,
    what: String,
}

pub(crate) async fn page(
    State(pages): State<Pages>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let frame = Frame::new(&pages, "Overview", "overview").live(1);
    let seen = pages.history.borrow().clone();
    html(&OverviewPage::of(frame, Entry::of(&pages, &headers), &seen))
}

impl OverviewPage {
    pub(crate) fn of(frame: Frame, entry: Entry, seen: &Snapshot) -> Self {
        let fleet = seen.fleet.as_deref().ok();
        let mut queues: Vec<_> = seen.queues.iter().flat_map(|all| &all.queues).collect();
        queues.sort_by(|one, other| {
            let order = other.waiting.cmp(&one.waiting);
            order.then_with(|| one.kind.as_str().cmp(other.kind.as_str()))
        });
        let mut kinds: Vec<_> = fleet.iter().flat_map(|fleet| &fleet.kinds).collect();
        // What fails most is what somebody looks for.
        kinds.sort_by(|one, other| {
            let order = other.counts.failed.cmp(&one.counts.failed);
            order.then_with(|| one.kind.cmp(&other.kind))
        });
        Self {
            frame,
            entry,
            tiles: tiles(seen, fleet),
            fleet_unknown: seen.fleet.as_ref().err().cloned(),
            nobody: fleet.is_some_and(|fleet| fleet.asked_at.is_some() && fleet.answering == 0),
            unserved: fleet
                .iter()
                .flat_map(|fleet| &fleet.unserved_kinds)
                .map(ToString::to_string)
                .collect(),
            charts: charts(seen),
            states: states(seen, fleet),
            kinds: kinds.into_iter().map(KindRow::of).collect(),
            more_queues: queues.len().saturating_sub(MOST_QUEUES),
            queues: seen.queues.is_some().then(|| {
                let most = queues.into_iter().take(MOST_QUEUES);
                most.map(QueueRow::of).collect()
            }),
            streams: match &seen.streams {
                Ok(streams) => Ok(streams
                    .iter()
                    .flat_map(|all| all.iter())
                    .map(StreamRow::of)
                    .collect()),
                Err(why) => Err(why.clone()),
            },
            spread: seen.spread.map(Spread::of),
            guarantees: stopped(seen.storing.as_ref())
                .into_iter()
                .chain(checks(seen.guarantees.as_deref(), seen.refusal.as_deref()))
                .collect(),
        }
    }
}

fn states(seen: &Snapshot, fleet: Option<&Fleet>) -> Vec<StateRow> {
    let total = |count: fn(&Counts) -> u64| fleet.map(|fleet| count(&fleet.totals));
    let row = |state: JobState, label, count, what| StateRow {
        name: state.as_str(),
        label,
        tone: text::tone(state),
        count: known(count),
        what,
        link: true,
    };
    let counted = |name, tone, count, what| StateRow {
        name,
        label: name,
        tone,
        count: known(count),
        what,
        link: false,
    };
    vec![
        row(
            JobState::Scheduled,
            "scheduled, retrying",
            seen.held(Stream::Later),
            "wait for their time, now",
        ),
        row(
            JobState::Queued,
            "queued",
            seen.queued(),
            "wait for a consumer, now",
        ),
        row(
            JobState::Running,
            "running",
            fleet.map(|fleet| fleet.in_flight),
            "in both lanes, now",
        ),
        row(
            JobState::Dead,
            "dead letters",
            seen.dead,
            "wait for somebody, now",
        ),
        row(
            JobState::Succeeded,
            "succeeded",
            total(|all| all.succeeded),
            "in all",
        ),
        counted("failed", "bad", total(|all| all.failed), "attempts, in all"),
        counted(
            "retried",
            "warn",
            total(|all| all.retried),
            "attempts after the first, in all",
        ),
        row(
            JobState::Cancelled,
            "cancelled",
            total(|all| all.cancelled),
            "while they ran, in all",
        ),
        row(
            JobState::Expired,
            "expired",
            total(|all| all.expired),
            "in all",
        ),
        counted(
            "rejected",
            "idle",
            total(|all| all.rejected),
            "not a job that its handler can read, or nobody serves it, in all",
        ),
    ]
}

impl KindRow {
    fn of(kind: &FleetKind) -> Self {
        let share = text::percent(kind.counts.failed, kind.counts.processed);
        Self {
            kind: kind.kind.clone(),
            processed: text::count(kind.counts.processed),
            failed: text::count(kind.counts.failed),
            share: text::share(share),
            share_width: width(share),
            p50: text::milliseconds(kind.run_ms.p50),
            p99: text::milliseconds(kind.run_ms.p99),
        }
    }
}

/// A percentage as the width of a bar.
fn width(percent: f64) -> String {
    format!("{:.1}", percent.clamp(0.0, 100.0))
}

impl QueueRow {
    fn of(queue: &Queue) -> Self {
        Self {
            kind: queue.kind.to_string(),
            unserved: queue.served == Some(false),
            waiting: if queue.at_least {
                format!("at least {}", text::count(queue.waiting))
            } else {
                text::count(queue.waiting)
            },
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

impl Spread {
    fn of(seen: Evenness) -> Self {
        let [least, most] = seen.percent;
        let even = 100.0 / seen.among as f64;
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

/// What stands before all promises: that nothing is stored.
fn stopped(storing: Option<&WriteHealth>) -> Option<Check> {
    match storing {
        Some(WriteHealth::Stopped(problem)) => Some(Check {
            tone: "bad",
            word: "not storing",
            what: problem.clone(),
        }),
        _ => None,
    }
}

fn checks(guarantees: Option<&Guarantees>, refusal: Option<&str>) -> Vec<Check> {
    let check = |tone, word, what: &str| Check {
        tone,
        word,
        what: what.to_owned(),
    };
    let mut checks = vec![
        check(
            "idle",
            "fire-and-forget",
            "At most once: a job that is lost with its consumer is gone.",
        ),
        check(
            "idle",
            "confirmed",
            "At least once while the publisher lives: it submits again.",
        ),
    ];
    if let Some(refusal) = refusal {
        checks.push(check("bad", "refused", refusal));
    }
    let Some(guarantees) = guarantees else {
        checks.push(check("idle", "durable", "Not known yet."));
        return checks;
    };
    if !guarantees.jetstream {
        checks.push(check(
            "bad",
            "durable",
            "Not there: the server has no JetStream.",
        ));
        return checks;
    }
    let durable = "At least once across the crash of any publisher, consumer or server; ";
    checks.push(match guarantees.synced {
        Some(true) => check(
            "good",
            "durable",
            &format!("{durable}each job is on the disk before it is confirmed."),
        ),
        Some(false) => check(
            "bad",
            "durable",
            &format!("{durable}but a power cut loses jobs that were confirmed last."),
        ),
        None => check(
            "warn",
            "durable",
            &format!(
                "{durable}whether each job is on the disk before it is confirmed cannot be seen."
            ),
        ),
    });
    if let Some(replicas) = guarantees.replicas {
        checks.push(match replicas {
            1 => check("idle", "copies", "One: the disk of one server."),
            more => check("good", "copies", &format!("{more}, on as many servers.")),
        });
    }
    let findings = guarantees.findings.iter();
    // One of them may be the reason of the refusal.
    let told = |finding: &&String| refusal.is_some_and(|refusal| refusal.contains(&***finding));
    checks.extend(
        findings
            .filter(|finding| !told(finding))
            .map(|finding| Check {
                tone: "warn",
                word: "see to it",
                what: finding.clone(),
            }),
    );
    checks
}
