use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bootstrap::Beat;
use client::{Stream, Topology};
use common::{FleetRequest, Timestamp};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::feed::Feed;
use super::periodic::Periodic;
use super::rates::Rates;
use super::runs::Runs;
use super::snapshot::{Balance, History, Point, Snapshot};
use crate::app::App;

/// The time between two snapshots.
const INTERVAL: Duration = Duration::from_secs(2);

/// How far back the charts go.
pub(crate) const SPAN: Duration = Duration::from_mins(10);

/// The most points that are kept: those of [`SPAN`].
const MAX_POINTS: usize = 300;

/// How often the guarantees of the server are read. They hardly ever change.
const GUARANTEES: Duration = Duration::from_secs(30);

/// How often the server is asked whether it stores messages.
const WRITE_HEALTH: Duration = Duration::from_secs(5);

/// How often the queues are listed: that costs the server an answer per queue.
const QUEUES: Duration = Duration::from_secs(10);

/// How long one part of a snapshot may take: several requests, each with an end of its own.
const PART_TIMEOUT: Duration = Duration::from_secs(30);

/// Watches the system until the shutdown: takes snapshots, and publishes them to the [`History`].
pub(crate) fn watch(app: App) -> (History, Feed) {
    let (snapshots, history) = watch::channel(Arc::new(Snapshot::unknown()));
    let feed = Feed::new(snapshots, &app);
    let publishing = feed.clone();
    let health = app.context.health.clone();
    tokio::spawn(health.supervise("dashboard", async move |heartbeat| {
        let snapshots = Box::pin(take_snapshots(&app, &publishing, heartbeat));
        let _ = app.context.shutdown.run_until_cancelled(snapshots).await;
    }));
    (history, feed)
}

async fn take_snapshots(app: &App, feed: &Feed, mut heartbeat: Beat) {
    let start = Instant::now();
    let connected = app.nats.connected();
    let mut points = VecDeque::with_capacity(MAX_POINTS);
    let mut rates = Rates::default();
    let mut runs = Runs::default();
    let client = &app.nats.client;
    let mut guarantees = Periodic::new(GUARANTEES);
    let mut queues = Periodic::new(QUEUES);
    let mut storing = Periodic::new(WRITE_HEALTH);
    let mut balance = None;
    // The last snapshot that the server answered for: it is shown while NATS is away.
    let mut known = None;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        heartbeat.beat();
        if storing.is_due() && *connected.borrow() {
            let asking = client::check_write_health(client, &app.nats.health);
            storing.keep(heartbeat.during(PART_TIMEOUT, asking).await.ok());
        }
        if guarantees.is_due() && *connected.borrow() {
            let asking = client::guarantees(client, Topology::default());
            if let Ok(found) = heartbeat.during(PART_TIMEOUT, asking).await {
                guarantees.keep(Some(Arc::new(found)));
            }
        }
        let looked = if *connected.borrow() {
            Some(heartbeat.during(PART_TIMEOUT, look(app)).await)
        } else {
            None
        };
        let Some(mut snapshot) = looked.filter(|_| *connected.borrow()) else {
            queues.keep(None);
            let gap = Point {
                elapsed: start.elapsed(),
                ..Point::default()
            };
            keep(&mut points, gap);
            let snapshot = Snapshot {
                connected: false,
                points: Arc::new(points.iter().cloned().collect()),
                ..known.clone().unwrap_or_else(Snapshot::unknown)
            };
            feed.publish_last_known(snapshot).await;
            continue;
        };
        if matches!(snapshot.streams, Ok(Some(_))) {
            if queues.is_due() {
                let found = heartbeat.during(PART_TIMEOUT, app.queues()).await;
                queues.keep(found.ok());
            }
        } else {
            // Without streams there are no queues; a server that does not answer is not asked again.
            queues.keep(None);
        }
        snapshot.queues = match &snapshot.streams {
            Ok(None) => Some(Arc::default()),
            _ => queues.get(),
        };
        snapshot.connected = true;
        snapshot.guarantees = guarantees.get();
        snapshot.refusal = app.safety.refusal();
        snapshot.storing = storing.get();
        balance = snapshot
            .fleet
            .as_deref()
            .ok()
            .and_then(Balance::of)
            .or(balance);
        snapshot.balance = balance;
        let point = point(start.elapsed(), &snapshot, &mut rates, &mut runs);
        keep(&mut points, point);
        snapshot.rates = points.iter().rev().find_map(|point| point.rates);
        snapshot.points = Arc::new(points.iter().cloned().collect());
        if snapshot.streams.is_ok() {
            known = Some(snapshot.clone());
        }
        heartbeat
            .during(PART_TIMEOUT, feed.publish(app, snapshot))
            .await;
    }
}

/// Keeps a point, in the place of the oldest if there are too many.
fn keep(points: &mut VecDeque<Point>, point: Point) {
    if points.len() == MAX_POINTS {
        points.pop_front();
    }
    points.push_back(point);
}

/// The parts of a snapshot that are read each time.
async fn look(app: &App) -> Snapshot {
    let client = &app.nats.client;
    // The API asks for the first page as well, so they share its answer.
    let first_page = FleetRequest::default();
    let (fleet, streams) = tokio::join!(app.fleet(&first_page), client::streams(client));
    Snapshot {
        at: Some(Timestamp::now()),
        fleet: fleet.map_err(|problem| problem.detail.into_owned()),
        streams: streams
            .map(|streams| streams.map(Arc::new))
            .map_err(|error| format!("{error:#}")),
        ..Snapshot::unknown()
    }
}

fn point(elapsed: Duration, snapshot: &Snapshot, rates: &mut Rates, runs: &mut Runs) -> Point {
    let fleet = snapshot.fleet.as_ref().ok();
    Point {
        elapsed,
        rates: fleet.and_then(|fleet| rates.between_rounds(fleet)),
        run_ms: fleet.map(|fleet| Arc::new(runs.of_last_minute(elapsed, fleet))),
        queued: snapshot.queued(),
        scheduled: snapshot.messages_in(Stream::Later),
        inbox: fleet.map(|fleet| fleet.waiting),
    }
}
