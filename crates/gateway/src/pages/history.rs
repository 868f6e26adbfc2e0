//! What the dashboard knows of the system: looked at every two seconds, once for all viewers;
//! what is costly to look at, less often.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bootstrap::Beat;
use client::{Guarantees, Queues, Stream, StreamDepth, Topology, WriteHealth};
use common::{Counts, Fleet, FleetRequest, RunTime, Timestamp};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::shown::Shown;
use crate::app::App;
use crate::fleet::fleet;

/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(2);

/// How far back the charts go.
pub(crate) const SPAN: Duration = Duration::from_mins(10);

/// The most points that are kept: those of [`SPAN`].
const MOST_POINTS: usize = 300;

/// The most kinds whose queues are looked at.
const MOST_QUEUES: usize = 256;

/// How often the server's promises are looked at, which hardly ever change.
const GUARANTEES: Duration = Duration::from_secs(30);

/// How often the server is asked whether it stores.
const STORING: Duration = Duration::from_secs(5);

/// How long a part of a look may take: it has several questions, each with an end.
const LOOK: Duration = Duration::from_secs(30);

/// How often the queues are listed, each of which costs the server an answer.
const QUEUES: Duration = Duration::from_secs(10);

/// The most status services whose totals are told apart.
const MOST_OBSERVERS: usize = 16;

/// What was seen at a time.
#[derive(Clone)]
pub(crate) struct Snapshot {
    /// When; absent before the first look.
    pub(crate) at: Option<Timestamp>,
    /// Whether NATS is connected.
    pub(crate) connected: bool,
    /// The fleet with its first consumers, or why it is not known.
    pub(crate) fleet: Result<Arc<Fleet>, String>,
    /// The streams; `None` without a durable lane.
    pub(crate) streams: Result<Option<Arc<Vec<StreamDepth>>>, String>,
    /// The queues of the durable lane, none without it; `None` if they are not known.
    pub(crate) queues: Option<Arc<Queues>>,
    /// How many dead letters there are.
    pub(crate) dead: Option<u64>,
    /// What the server promises.
    pub(crate) guarantees: Option<Arc<Guarantees>>,
    /// Why this gateway takes no durable jobs, if it does not.
    pub(crate) refusal: Option<String>,
    /// Whether the server stores, as it says itself.
    pub(crate) storing: Option<WriteHealth>,
    /// How evenly jobs were spread when some ended last.
    pub(crate) spread: Option<Evenness>,
    /// What was seen in the last minutes, the oldest first.
    pub(crate) points: Arc<Vec<Point>>,
}

/// What the charts show of a moment.
#[derive(Clone, Copy, Default)]
pub(crate) struct Point {
    /// How long after the start of the history it was.
    pub(crate) elapsed: Duration,
    /// Jobs that ended in a second, and those of them that failed.
    pub(crate) rates: Option<(f64, f64)>,
    /// The run times of the slowest kind.
    pub(crate) run_ms: Option<RunTime>,
    /// Jobs that wait in the durable queue.
    pub(crate) queued: Option<u64>,
    /// Durable jobs that wait for their time.
    pub(crate) later: Option<u64>,
    /// Jobs that wait in consumers.
    pub(crate) inbox: Option<u64>,
}

/// How evenly the jobs of a round were spread.
#[derive(Clone, Copy)]
pub(crate) struct Evenness {
    /// When the round ended.
    pub(crate) at: Timestamp,
    /// The smallest and the largest share that one consumer had, in percent.
    pub(crate) percent: [f64; 2],
    /// How many consumers there were.
    pub(crate) among: u64,
}

impl Evenness {
    fn of(fleet: &Fleet) -> Option<Self> {
        Some(Self {
            at: fleet.asked_at?,
            percent: fleet.spread_percent?,
            among: fleet.answering,
        })
        .filter(|spread| spread.among >= 2)
    }
}

/// Where the newest snapshot is found, and heard of.
pub(crate) type History = watch::Receiver<Arc<Snapshot>>;

impl Snapshot {
    pub(crate) fn unknown() -> Self {
        Self {
            at: None,
            connected: false,
            fleet: Err("it has not been asked yet".to_owned()),
            streams: Err("they have not been looked at yet".to_owned()),
            queues: None,
            dead: None,
            guarantees: None,
            refusal: None,
            storing: None,
            spread: None,
            points: Arc::default(),
        }
    }

    /// How many messages a stream holds.
    pub(crate) fn held(&self, stream: Stream) -> Option<u64> {
        let streams = self.streams.as_ref().ok()?.as_ref()?;
        let found = streams.iter().find(|depth| depth.stream == stream);
        found.map(|depth| depth.messages)
    }

    /// Durable jobs that wait for a consumer.
    pub(crate) fn queued(&self) -> Option<u64> {
        self.streams.as_ref().ok()?.as_ref()?;
        Some(self.queues.as_ref()?.waiting)
    }
}

/// What is not looked at each time, and when it was.
pub(crate) struct NowAndThen<T> {
    every: Duration,
    seen: Option<(Instant, T)>,
}

impl<T: Clone> NowAndThen<T> {
    pub(crate) const fn new(every: Duration) -> Self {
        Self { every, seen: None }
    }

    pub(crate) fn is_due(&self) -> bool {
        let seen = self.seen.as_ref();
        seen.is_none_or(|(at, _)| at.elapsed() >= self.every)
    }

    /// Keeps it; what could not be seen is looked at again the next time.
    pub(crate) fn keep(&mut self, seen: Option<T>) {
        self.seen = seen.map(|seen| (Instant::now(), seen));
    }

    pub(crate) fn get(&self) -> Option<T> {
        self.seen.as_ref().map(|(_, seen)| seen.clone())
    }
}

/// Looks at the system until it is told to stop. Whoever holds the first result sees each new
/// snapshot.
pub(crate) fn watch_over(app: App) -> (History, Shown) {
    let (snapshots, history) = watch::channel(Arc::new(Snapshot::unknown()));
    let shown = Shown::new(snapshots, &app);
    let showing = shown.clone();
    let health = app.context.health.clone();
    tokio::spawn(health.supervise("dashboard", async move |life| {
        let looks = look_again_and_again(&app, &showing, life);
        let _ = app.context.shutdown.run_until_cancelled(looks).await;
    }));
    (history, shown)
}

async fn look_again_and_again(app: &App, shown: &Shown, mut life: Beat) {
    let start = Instant::now();
    let connected = app.nats.connected();
    let mut points = VecDeque::with_capacity(MOST_POINTS);
    let mut observers = Observers::default();
    let client = &app.nats.client;
    let mut guarantees = NowAndThen::new(GUARANTEES);
    let mut queues = NowAndThen::new(QUEUES);
    let mut storing = NowAndThen::new(STORING);
    let mut spread = None;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        life.beat();
        if storing.is_due() && *connected.borrow() {
            let asking = client::check_write_health(client, &app.nats.health);
            storing.keep(life.during(LOOK, asking).await.ok());
        }
        if guarantees.is_due() {
            let asking = client::guarantees(client, Topology::default());
            if let Ok(found) = life.during(LOOK, asking).await {
                guarantees.keep(Some(Arc::new(found)));
            }
        }
        let mut snapshot = life.during(LOOK, look(app)).await;
        if matches!(snapshot.streams, Ok(Some(_))) {
            if queues.is_due() {
                let asking = client::queues(client, MOST_QUEUES);
                let found = life.during(LOOK, asking).await;
                queues.keep(found.ok().map(Arc::new));
            }
        } else {
            // Without a durable lane there are none, and what does not answer is not asked more.
            queues.keep(None);
        }
        snapshot.queues = match &snapshot.streams {
            Ok(None) => Some(Arc::default()),
            _ => queues.get(),
        };
        snapshot.connected = *connected.borrow();
        snapshot.guarantees = guarantees.get();
        snapshot.refusal = app.safety.refusal();
        snapshot.storing = storing.get();
        spread = snapshot
            .fleet
            .as_deref()
            .ok()
            .and_then(Evenness::of)
            .or(spread);
        snapshot.spread = spread;
        if points.len() == MOST_POINTS {
            points.pop_front();
        }
        points.push_back(point(start.elapsed(), &snapshot, &mut observers));
        snapshot.points = Arc::new(points.iter().copied().collect());
        life.during(LOOK, shown.show(app, snapshot)).await;
    }
}

async fn look(app: &App) -> Snapshot {
    let client = &app.nats.client;
    // The first page of the consumers is asked for by programs as well: one answer does for all.
    let first_page = FleetRequest::default();
    let (fleet, streams) = tokio::join!(fleet(app, &first_page), client::streams(client));
    Snapshot {
        at: Some(Timestamp::now()),
        fleet: fleet.map_err(|problem| problem.detail.into_owned()),
        streams: streams
            .map(|streams| streams.map(Arc::new))
            .map_err(|error| format!("{error:#}")),
        ..Snapshot::unknown()
    }
}

fn point(elapsed: Duration, snapshot: &Snapshot, observers: &mut Observers) -> Point {
    let fleet = snapshot.fleet.as_ref().ok();
    Point {
        elapsed,
        rates: fleet.and_then(|fleet| observers.rates(fleet)),
        run_ms: fleet.and_then(|fleet| slowest(fleet)),
        queued: snapshot.queued(),
        later: snapshot.held(Stream::Later),
        inbox: fleet.map(|fleet| fleet.waiting),
    }
}

/// The worst of the kinds for each quantile; nothing where nothing has run.
fn slowest(fleet: &Fleet) -> Option<RunTime> {
    fleet
        .kinds
        .iter()
        .map(|kind| kind.run_ms)
        .reduce(|one, other| RunTime {
            p50: one.p50.max(other.p50),
            p90: one.p90.max(other.p90),
            p99: one.p99.max(other.p99),
            max: one.max.max(other.max),
        })
}

/// The totals that each status service told last. Those of two of them cannot be compared: each has
/// counted since its own start.
#[derive(Default)]
struct Observers(BTreeMap<(String, Timestamp), Told>);

struct Told {
    round: Timestamp,
    totals: Counts,
    rates: Option<(f64, f64)>,
}

impl Observers {
    /// How many jobs ended and failed in a second between the last two rounds of whoever tells it.
    fn rates(&mut self, fleet: &Fleet) -> Option<(f64, f64)> {
        let round = fleet.asked_at?;
        let observer = (fleet.instance.clone(), fleet.started_at);
        let rates = match self.0.get(&observer) {
            Some(told) if told.round == round => return told.rates,
            Some(told) => {
                let seconds = round.since(told.round).as_secs_f64();
                let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
                let ended = rate(fleet.totals.processed, told.totals.processed);
                let failed = rate(fleet.totals.failed, told.totals.failed);
                (seconds > 0.0).then_some((ended, failed))
            }
            None => None,
        };
        if self.0.len() >= MOST_OBSERVERS {
            self.0.clear();
        }
        let totals = fleet.totals;
        self.0.insert(
            observer,
            Told {
                round,
                totals,
                rates,
            },
        );
        rates
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(instance: &str, round: i64, processed: u64, failed: u64) -> Fleet {
        let start: Timestamp = "2026-01-31T09:30:00Z".parse().unwrap();
        Fleet {
            instance: instance.to_owned(),
            started_at: start,
            asked_at: Some(start.shifted(round)),
            interval_ms: 1_000,
            answering: 1,
            missing: 0,
            concurrency: 4,
            in_flight: 0,
            waiting: 0,
            totals: Counts {
                processed,
                failed,
                ..Counts::default()
            },
            spread_percent: None,
            unserved_kinds: Vec::new(),
            kinds: Vec::new(),
            consumers: Vec::new(),
            next: None,
        }
    }

    #[test]
    fn rates_are_those_between_two_rounds_of_the_same_status_service() {
        let mut observers = Observers::default();
        let mut told = |instance, round, processed, failed| {
            observers.rates(&fleet(instance, round, processed, failed))
        };
        assert_eq!(told("a", 0, 100, 0), None, "one round tells no rate");
        assert_eq!(
            told("b", 500, 7_000, 50),
            None,
            "another one counts for itself"
        );
        assert_eq!(told("a", 2_000, 300, 10), Some((100.0, 5.0)));
        assert_eq!(
            told("a", 2_000, 300, 10),
            Some((100.0, 5.0)),
            "the same round"
        );
        assert_eq!(told("b", 1_500, 7_010, 50), Some((10.0, 0.0)));
    }
}
