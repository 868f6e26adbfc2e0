use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bootstrap::Client;
use bootstrap::{Context, Nats, STILL};
use client::WriteHealth;
use common::subjects::FLEET;
use common::{JobKind, Timestamp};
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use tracing::{debug, info};

use crate::depth::Depth;
use crate::due::due;
use crate::metrics::Metrics;
use crate::{Asker, Config, Ended, Fleet, Ignored, Round, page, report};

/// How long after a lost connection nobody is called missing: clients try to reach a server that
/// is back at intervals of up to 4 s.
const SETTLE: Duration = Duration::from_secs(5);

/// How often dead letters, and jobs whose time has come, are counted: that costs the server a look
/// at each subject, and at each durable consumer.
const COUNT: Duration = Duration::from_secs(30);

/// How often the server is asked whether it stores ...
const STORING: Duration = Duration::from_secs(5);

/// ... and how often where its configuration lets nobody ask.
const UNKNOWN: Duration = Duration::from_mins(1);

/// How long a look at the durable lane may take: it has several questions, each with an end.
const LOOK: Duration = Duration::from_mins(1);

/// Asks the consumers every interval, and logs what they answer, until it is told to stop.
///
/// # Errors
/// When NATS refuses the connection, or it is closed for good.
pub async fn serve(context: Context, config: Config) -> anyhow::Result<ExitCode> {
    let nats = context.connect("status").await?;
    let endpoint = context
        .register_endpoint(&nats, "fleet", page::GROUP.to_owned(), FLEET)
        .await?;
    let mut asker = Asker::new(nats.client.clone()).await?;
    let instance = context.instance.clone();
    let about = common::Fleet::new(instance, Timestamp::now(), config.interval.get());
    let (tell, known) = watch::channel(Arc::new(about.clone()));
    let mut log = Log::new(Fleet::new(config.gone_after.get()), about, tell);
    context.monitor.register(log.metrics.clone());
    info!(
        interval = %config.interval,
        timeout = %config.timeout,
        gone_after = %config.gone_after,
        "asking consumers on jobs.status"
    );
    let client = nats.client.clone();
    let life = context.health.task("fleet", STILL);
    let rounds = rounds(&context, &config, &nats, &mut asker, &mut log);
    tokio::select! {
        ended = rounds => ended?,
        // Beside the rounds, so that nobody who asks for the fleet waits for the consumers.
        () = page::answer(endpoint, known, || client.max_payload(), life) => {
            anyhow::bail!("nobody answers on {FLEET} any more");
        }
    }
    log.last();
    Ok(ExitCode::SUCCESS)
}

/// One round after the other, until it is told to stop.
async fn rounds(
    context: &Context,
    config: &Config,
    nats: &Nats,
    asker: &mut Asker,
    log: &mut Log,
) -> anyhow::Result<()> {
    let mut connected = nats.connected();
    // The client is handed out a moment before its connection is said to be up.
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
            late = asker.late() => log.fleet.hear_late(&late?, Instant::now()),
            _ = ticks.tick() => {
                if !*connected.borrow() {
                    continue;
                }
                let timeout = config.timeout.get();
                let answers = asker.ask(log.fleet.awaited(), timeout);
                let round = tokio::select! {
                    round = life.during(timeout, answers) => round?,
                    () = context.shutdown.cancelled() => return Ok(()),
                };
                // A connection that was lost on the way took answers with it.
                let lost = connected.has_changed().unwrap_or(true);
                log.round(&round, lost || Instant::now() < settled_at);
                tokio::select! {
                    () = life.during(LOOK, log.queue(nats)) => {}
                    () = context.shutdown.cancelled() => return Ok(()),
                }
            }
        }
    }
}

/// The fleet, and what was said of it.
struct Log {
    fleet: Fleet,
    about: common::Fleet,
    tell: watch::Sender<Arc<common::Fleet>>,
    rounds: u64,
    ignored: Ignored,
    /// The round before had something to complain of, too.
    complained: bool,
    /// Kinds of which durable jobs wait and that nobody serves.
    unserved: BTreeSet<JobKind>,
    /// How many durable jobs there were.
    depth: Option<Depth>,
    metrics: Metrics,
    /// When dead letters and due jobs were counted.
    counted_at: Option<Instant>,
    /// When the server was asked whether it stores, and how long that is good for.
    asked_storing_at: Option<(Instant, Duration)>,
}

impl Log {
    fn new(fleet: Fleet, about: common::Fleet, tell: watch::Sender<Arc<common::Fleet>>) -> Self {
        Self {
            fleet,
            about,
            tell,
            rounds: 0,
            ignored: Ignored::default(),
            complained: false,
            unserved: BTreeSet::new(),
            depth: None,
            metrics: Metrics::default(),
            counted_at: None,
            asked_storing_at: None,
        }
    }

    fn round(&mut self, round: &Round, settling: bool) {
        self.rounds += 1;
        self.ignored.garbage += round.ignored.garbage;
        self.ignored.duplicates += round.ignored.duplicates;
        let complain = round.ended == Ended::Cut || round.ignored.total() > 0;
        // Once, not with every round.
        if complain && !self.complained {
            report::ignored(round);
        }
        self.complained = complain;
        report::consumers(round);
        let news = self.fleet.absorb(round, settling);
        report::news(&news);
        let now = (Instant::now(), Timestamp::now());
        self.tell
            .send_replace(Arc::new(self.fleet.told(&self.about, now)));
        let unserved: BTreeSet<_> = round
            .answers
            .iter()
            .flat_map(|answer| answer.unserved_kinds.iter().cloned())
            .collect();
        if unserved != self.unserved {
            report::unserved(&unserved);
            self.unserved = unserved;
        }
        let counts = (self.rounds, self.unserved.len(), self.ignored.total());
        self.metrics.round(round, &news.summary, counts);
    }

    /// Looks at what the durable lane holds, and tells how many jobs that is when it has changed.
    async fn queue(&mut self, nats: &Nats) {
        let client = &nats.client;
        self.storing(nats).await;
        match client::streams(client).await {
            Ok(streams) => {
                let streams = streams.unwrap_or_default();
                let depth = Depth::of(&streams);
                if let Some(now) = depth
                    && depth != self.depth
                {
                    report::depth(now);
                }
                self.depth = depth;
                self.metrics.seen().streams = streams;
            }
            Err(error) => {
                debug!("cannot see how many durable jobs there are: {error:#}");
                let mut seen = self.metrics.seen();
                (seen.streams, seen.storage) = (Vec::new(), None);
                (seen.due, seen.dead_letters) = (None, None);
                self.counted_at = None;
                return;
            }
        }
        let storage = client::storage(client).await.unwrap_or_else(|error| {
            debug!("cannot see how much is stored: {error:#}");
            None
        });
        self.metrics.seen().storage = storage;
        if self.counted_at.is_none_or(|at| at.elapsed() >= COUNT) {
            self.count(client).await;
        }
    }

    /// Asks the server whether it stores; seldom where it does not say.
    async fn storing(&mut self, nats: &Nats) {
        if self
            .asked_storing_at
            .is_some_and(|(at, wait)| at.elapsed() < wait)
        {
            return;
        }
        let wait = match client::check_write_health(&nats.client, &nats.health).await {
            Ok(WriteHealth::Works | WriteHealth::Stopped(_)) => STORING,
            Ok(WriteHealth::Unknown) => UNKNOWN,
            Err(error) => {
                debug!("cannot see whether the server stores: {error:#}");
                if nats.health.problem("storage").is_some() {
                    STORING
                } else {
                    UNKNOWN
                }
            }
        };
        self.asked_storing_at = Some((Instant::now(), wait));
    }

    /// Counts what the server has to add up.
    async fn count(&mut self, client: &Client) {
        // Also after an error: a server that does not answer is not asked all the sooner.
        self.counted_at = Some(Instant::now());
        let due = due(client).await.unwrap_or_else(|error| {
            debug!("cannot see for how many durable jobs the time has come: {error:#}");
            None
        });
        let letters = match client::count_dead_letters(client).await {
            Ok(letters) => {
                // Asked again soon where there is no such stream yet.
                if letters.is_none() {
                    self.counted_at = None;
                }
                letters
            }
            Err(error) => {
                debug!("cannot see how many dead letters there are: {error:#}");
                None
            }
        };
        let mut seen = self.metrics.seen();
        (seen.due, seen.dead_letters) = (due, letters);
    }

    fn last(&self) {
        let totals = self.fleet.totals();
        info!(
            rounds = self.rounds,
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
