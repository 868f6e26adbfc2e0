use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bootstrap::{Context, Nats, STILL};
use common::{Fleet, JobKind, Timestamp};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::info;

use crate::Config;
use crate::asking::{Asker, Ignored, Round, RoundEnd};
use crate::durable_jobs::DurableJobs;
use crate::fleet::FleetTracker;
use crate::metrics::{FleetValues, Metrics};
use crate::report;

/// How long no consumer is reported as missing after the connection was lost. Clients try to reconnect
/// at intervals of up to 4 s.
const SETTLE: Duration = Duration::from_secs(5);

/// How long an update of the numbers of durable jobs may take. Each of its requests has a shorter limit.
const UPDATE_LIMIT: Duration = Duration::from_mins(1);

/// Does one round after the other, and reports what they find: to the log, to the metrics and to the
/// endpoint on `jobs.fleet`.
pub(crate) struct Rounds {
    tracker: FleetTracker,
    /// The fields of the view that describe this service.
    about: Fleet,
    /// The fleet after the last round, for the endpoint.
    view: watch::Sender<Arc<Fleet>>,
    /// Rounds since the start.
    count: u64,
    /// Messages ignored since the start.
    ignored: Ignored,
    /// Whether messages of the last round were ignored.
    ignored_last_round: bool,
    /// Kinds of waiting durable jobs without a consumer.
    unserved_kinds: BTreeSet<JobKind>,
    durable_jobs: DurableJobs,
    metrics: Metrics,
}

impl Rounds {
    pub(crate) fn new(
        gone_after: Duration,
        about: Fleet,
        view: watch::Sender<Arc<Fleet>>,
        metrics: Metrics,
    ) -> Self {
        Self {
            tracker: FleetTracker::new(gone_after),
            about,
            view,
            count: 0,
            ignored: Ignored::default(),
            ignored_last_round: false,
            unserved_kinds: BTreeSet::new(),
            durable_jobs: DurableJobs::new(metrics.clone()),
            metrics,
        }
    }

    /// Does a round every interval, until the service is told to stop.
    ///
    /// # Errors
    /// When the connection is closed for good.
    pub(crate) async fn run(
        &mut self,
        context: &Context,
        config: &Config,
        nats: &Nats,
        asker: &mut Asker,
    ) -> anyhow::Result<()> {
        let mut connected = nats.connected();
        // The first connection may be announced a moment after the client is there.
        let mut life = context.health.task("rounds", STILL);
        let first = tokio::select! {
            up = life.during(Duration::MAX, connected.wait_for(|up| *up)) => up.map(|_| ()),
            () = context.shutdown.cancelled() => Ok(()),
        };
        first.context("the connection to NATS was closed")?;
        let mut settled_at = Instant::now();
        let mut ticks = tokio::time::interval(config.interval.get());
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = context.shutdown.cancelled() => return Ok(()),
                () = life.tick() => {}
                changed = connected.changed() => {
                    changed.context("the connection to NATS was closed")?;
                    settled_at = Instant::now() + SETTLE;
                }
                late = asker.late() => self.tracker.add_late_answer(&late?, Instant::now()),
                _ = ticks.tick() => {
                    if !*connected.borrow() {
                        continue;
                    }
                    let timeout = config.timeout.get();
                    let asking = asker.ask(self.tracker.awaited(), timeout);
                    let round = tokio::select! {
                        round = life.during(timeout, asking) => round?,
                        () = context.shutdown.cancelled() => return Ok(()),
                    };
                    // If the connection was lost during the round, answers were lost too.
                    let lost = connected.has_changed().unwrap_or(true);
                    self.add(&round, lost || Instant::now() < settled_at);
                    tokio::select! {
                        () = life.during(UPDATE_LIMIT, self.durable_jobs.update(nats)) => {}
                        () = context.shutdown.cancelled() => return Ok(()),
                    }
                }
            }
        }
    }

    /// Reports a round; see [`FleetTracker::add_round`] for `settling`.
    fn add(&mut self, round: &Round, settling: bool) {
        self.count += 1;
        self.ignored.garbage += round.ignored.garbage;
        self.ignored.duplicates += round.ignored.duplicates;
        let ignored = round.end == RoundEnd::Truncated || round.ignored.total() > 0;
        // Not again for each of several rounds.
        if ignored && !self.ignored_last_round {
            report::ignored(round);
        }
        self.ignored_last_round = ignored;
        report::answers(round);
        let changes = self.tracker.add_round(round, settling);
        report::changes(&changes);
        let now = (Instant::now(), Timestamp::now());
        let view = self.tracker.view(&self.about, now);
        self.view.send_replace(Arc::new(view));
        let unserved_kinds: BTreeSet<_> = round
            .answers
            .iter()
            .flat_map(|answer| answer.unserved_kinds.iter().cloned())
            .collect();
        if unserved_kinds != self.unserved_kinds {
            report::unserved_kinds(&unserved_kinds);
            self.unserved_kinds = unserved_kinds;
        }
        let concurrency = round.answers.iter().map(|it| u64::from(it.concurrency));
        self.metrics.values().fleet = Some(FleetValues {
            summary: changes.summary,
            concurrency: concurrency.sum(),
            rounds: self.count,
            ignored: self.ignored.total(),
            unserved_kinds: self.unserved_kinds.len(),
        });
    }

    /// Logs the totals since the start.
    pub(crate) fn log_totals(&self) {
        let totals = self.tracker.totals();
        info!(
            rounds = self.count,
            processed = totals.processed,
            succeeded = totals.succeeded,
            failed = totals.failed,
            rejected = totals.rejected,
            expired = totals.expired,
            cancelled = totals.cancelled,
            ignored = self.ignored.total(),
            "stopped asking"
        );
    }
}
