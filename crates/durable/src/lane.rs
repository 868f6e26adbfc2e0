//! The consumer's side of the lane: takes jobs, keeps them alive, and settles them.
//!
//! All of it has a thread, a runtime and a connection of its own: handlers that keep every other
//! thread busy cannot keep the server waiting for a sign of life.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bootstrap::Client;
use bootstrap::{Beat, Context, Health, Nats, STILL};
use common::JobKind;
use serde_json::Value;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::api::{self, ApiError};
use crate::clock::ServerClock;
use crate::lease::{Lease, Leases};
use crate::puller::{Puller, Queue};
use crate::records::Records;
use crate::settle::Settlement;
use crate::tally::{Figures, Tally};
use crate::topology::{Stream, Topology};
use crate::trim::Acked;
use crate::writer::{Pace, Writer};
use crate::{
    cancels, doctor, intake, keeper, overdue, pulse, settle, starved, storing, trim, unserved,
};

/// How long the thread waits before it looks for JetStream again.
const RETRY: Duration = Duration::from_secs(1);

/// The respect in which a service has a problem whose lane does not run.
const RESPECT: &str = "durable lane";

/// Who runs the jobs that the lane takes.
pub trait Sink: Send + Sync + 'static {
    /// How many jobs it has room for when it has none.
    fn capacity(&self) -> usize;

    /// How many more jobs it has room for.
    fn room(&self) -> usize;

    /// Takes jobs, also if there are more than there is room for: each of them is settled by
    /// [`Lane::settle`] in the end.
    fn take(&self, jobs: Vec<Arc<Lease>>);

    /// Gives jobs back that have waited for longer than this and were not started.
    fn give_up_waiting(&self, longer_than: Duration) -> Vec<Arc<Lease>>;

    /// A job of this kind ended here without its handler being called: its deadline had passed, or
    /// it could not be run at all.
    fn refused(&self, kind: Option<&JobKind>, settlement: &Settlement);
}

/// How the lane works.
#[derive(Clone, Debug)]
pub struct LaneOptions {
    /// The name of the consumer.
    pub instance: String,
    /// The kinds that it serves.
    pub kinds: Vec<JobKind>,
    /// How long the records of jobs that have ended are kept, but for dead ones.
    pub keep: Duration,
    /// The streams.
    pub topology: Topology,
    /// Whether to go on with a server that does not keep what the lane promises.
    pub accept_unsafe: bool,
    /// How long no pull may come to a good end, while jobs wait, before that is a problem.
    pub starved_after: Duration,
}

/// The lane, while it runs.
#[derive(Clone)]
pub struct Lane {
    shared: Arc<Shared>,
    settlements: mpsc::UnboundedSender<(Arc<Lease>, Settlement)>,
}

/// The end of a [`Lane`].
#[derive(Debug)]
pub struct LaneEnd(oneshot::Receiver<anyhow::Result<()>>);

pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) nats: Nats,
    pub(crate) options: LaneOptions,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) records: Writer,
    pub(crate) schedules: Writer,
    pub(crate) leases: Leases,
    pub(crate) tally: Tally,
    pub(crate) clock: ServerClock,
    pub(crate) queues: Vec<Queue>,
    /// Jobs whose settlement is under way.
    pub(crate) settling: AtomicUsize,
    pub(crate) settled: Notify,
    /// How many cancellations this consumer has heard of.
    pub(crate) cancellations: AtomicU64,
    /// Told when the sink may have more room.
    pub(crate) room: Notify,
    /// Kinds of which jobs wait and that nobody serves.
    pub(crate) unserved: std::sync::Mutex<BTreeSet<JobKind>>,
    pub(crate) acked: std::sync::Mutex<Vec<Acked>>,
    /// Cancelled when jobs may be taken.
    pub(crate) begin: CancellationToken,
    /// Cancelled when the cancellations are carried out that were waiting.
    pub(crate) caught_up: CancellationToken,
    /// Cancelled when no more jobs are taken.
    pub(crate) leave: CancellationToken,
    /// Cancelled when none that was under way can come any more.
    pub(crate) left: CancellationToken,
    /// Cancelled when all jobs are settled.
    pub(crate) end: CancellationToken,
    pub(crate) warned: AtomicBool,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

impl Lane {
    /// Prepares to take jobs; `None` if the server has no JetStream for this account.
    ///
    /// # Errors
    /// When the streams or durable consumers cannot be made, or differ from what is declared.
    pub async fn start(
        context: &Context,
        options: LaneOptions,
        sink: Arc<dyn Sink>,
    ) -> anyhow::Result<Option<(Self, LaneEnd)>> {
        let (ready, started) = oneshot::channel();
        let (said, ended) = oneshot::channel();
        let (settlements, to_settle) = mpsc::unbounded_channel();
        let context = context.clone();
        let health = context.health.clone();
        health.on_own_thread("durable lane", async move |mut life| {
            let opening = Box::pin(open(&context, options, sink));
            match life.during(Duration::MAX, opening).await {
                Ok(Some((shared, puller))) => {
                    // The starter may be gone because the service was told to stop.
                    let _ = ready.send(Ok(Some(Arc::clone(&shared))));
                    let ended = run(shared, puller, to_settle, &mut life).await;
                    let _ = said.send(ended);
                }
                Ok(None) => drop(ready.send(Ok(None))),
                Err(error) => drop(ready.send(Err(error))),
            }
            // Whoever started it has heard why it ends.
            life.done();
        })?;
        let shared = started
            .await
            .context("the thread of the durable lane ended")??;
        Ok(shared.map(|shared| {
            let lane = Self {
                shared,
                settlements,
            };
            (lane, LaneEnd(ended))
        }))
    }

    /// Starts to take jobs.
    pub fn begin(&self) {
        self.shared.begin.cancel();
    }

    /// Settles a job, in the background: stores what became of it, and then acknowledges it.
    pub fn settle(&self, lease: Arc<Lease>, settlement: Settlement) {
        self.shared.settling.fetch_add(1, Ordering::AcqRel);
        // The thread ends after all that was to be settled; an error is a thread that panicked,
        // after which the job is delivered again.
        if self.settlements.send((lease, settlement)).is_err() {
            self.shared.settling.fetch_sub(1, Ordering::AcqRel);
        }
    }

    /// The kinds of which jobs wait and that nobody serves, as far as they are among the oldest.
    #[must_use]
    pub fn unserved_kinds(&self) -> Vec<JobKind> {
        let kinds = self.shared.unserved.lock();
        kinds
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .cloned()
            .collect()
    }

    /// What was counted of the lane here, beside how jobs ended.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.shared.tally.figures()
    }

    /// The sink may have more room.
    pub fn room_changed(&self) {
        self.shared.room.notify_one();
    }

    /// Takes no more jobs. What the server has sent is given back.
    pub fn leave(&self) {
        self.shared.leave.cancel();
    }

    /// Waits until the sink is given no more jobs, after [`Lane::leave`].
    pub async fn left(&self) {
        self.shared.left.cancelled().await;
    }

    /// Waits until all jobs are settled and the server has heard of it.
    ///
    /// # Errors
    /// When that does not come to pass within `patience`: the jobs are delivered again.
    pub async fn finish(&self, mut end: LaneEnd, patience: Duration) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + patience;
        self.leave();
        let all_settled = async {
            self.left().await;
            loop {
                let settled = self.shared.settled.notified();
                if self.shared.settling.load(Ordering::Acquire) == 0 {
                    return;
                }
                settled.await;
            }
        };
        let in_time = tokio::time::timeout_at(deadline, all_settled).await.is_ok();
        let left = self.shared.leases.count();
        self.shared.end.cancel();
        let ended = tokio::time::timeout_at(deadline, end.wait()).await;
        anyhow::ensure!(
            in_time && ended.is_ok(),
            "{left} jobs were not settled in time and will be delivered again"
        );
        ended.unwrap_or(Ok(()))
    }
}

impl LaneEnd {
    /// Waits until the lane has ended: because of an error, if nobody told it to.
    ///
    /// # Errors
    /// Why it ended.
    pub async fn wait(&mut self) -> anyhow::Result<()> {
        (&mut self.0)
            .await
            .context("the thread of the durable lane ended")?
    }
}

async fn open(
    context: &Context,
    options: LaneOptions,
    sink: Arc<dyn Sink>,
) -> anyhow::Result<Option<(Arc<Shared>, Puller)>> {
    let nats = context.connect("durable").await?;
    let client = nats.client.clone();
    let clock = ServerClock::default();
    let mut told = false;
    let queues = loop {
        match prepare(&client, &options, &clock).await {
            Ok(Some(queues)) => break queues,
            Ok(None) => return Ok(None),
            // NATS was lost, or JetStream is not ready yet.
            Err(error) if is_away(&error) => {
                let problem = format!("the durable lane waits for JetStream: {error:#}");
                if !std::mem::replace(&mut told, true) {
                    warn!("{problem}");
                }
                context.health.set_problem(RESPECT, Some(problem));
            }
            Err(error) => return Err(error),
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            () = context.shutdown.cancelled() => return Ok(None),
        }
    };
    context.health.set_problem(RESPECT, None);
    let puller = Puller::new(&client, queues.clone()).await?;
    let shared = Arc::new(Shared {
        records: Writer::supervised(&nats, "durable records", Pace::Thrifty),
        schedules: Writer::supervised(&nats, "durable schedules", Pace::Thrifty),
        client,
        nats,
        options,
        sink,
        leases: Leases::default(),
        tally: Tally::default(),
        clock,
        queues,
        settling: AtomicUsize::new(0),
        settled: Notify::new(),
        cancellations: AtomicU64::new(0),
        room: Notify::new(),
        unserved: std::sync::Mutex::default(),
        acked: std::sync::Mutex::default(),
        begin: CancellationToken::new(),
        caught_up: CancellationToken::new(),
        leave: CancellationToken::new(),
        left: CancellationToken::new(),
        end: CancellationToken::new(),
        warned: AtomicBool::new(false),
    });
    Ok(Some((shared, puller)))
}

/// Makes streams and durable consumers that are missing; `None` without JetStream.
async fn prepare(
    client: &Client,
    options: &LaneOptions,
    clock: &ServerClock,
) -> anyhow::Result<Option<Vec<Queue>>> {
    match api::ask::<Value>(client, "$JS.API.INFO".to_owned(), &Value::Null).await {
        Ok(_) => {}
        // JetStream is off, for the server or for this account.
        Err(ApiError::NoJetStream(_) | ApiError::Refused { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    }
    let topology = options.topology;
    topology.ensure(client).await?;
    for finding in doctor::look_at(client, topology).await? {
        if !finding.breaks || options.accept_unsafe {
            warn!("{finding}");
        } else {
            anyhow::bail!(
                "{finding}; or tell the consumer to go on all the same by --accept-unsafe-server"
            );
        }
    }
    let mut queues = Vec::new();
    for kind in &options.kinds {
        for stream in [Stream::Jobs, Stream::Later] {
            let consumer = topology.ensure_consumer(client, stream, kind).await?;
            queues.push(Queue { stream, consumer });
        }
    }
    keeper::ensure(topology, client).await?;
    trim::read_clock(client, clock).await?;
    Ok(Some(queues))
}

/// Whether somebody has only to wait.
fn is_away(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<ApiError>(),
        Some(ApiError::NoAnswer { .. } | ApiError::NoJetStream(_))
    )
}

async fn run(
    shared: Arc<Shared>,
    puller: Puller,
    mut to_settle: mpsc::UnboundedReceiver<(Arc<Lease>, Settlement)>,
    life: &mut Beat,
) -> anyhow::Result<()> {
    let records = Records::new(&shared.client).await?;
    let mut background = Background {
        health: &shared.nats.health,
        shared: &shared,
        tasks: JoinSet::new(),
    };
    background.spawn("durable heartbeat", pulse::beat);
    background.spawn("durable trim", trim::trim);
    background.spawn("durable cancellations", cancels::listen);
    background.spawn("durable look for unserved kinds", unserved::look);
    background.spawn("durable keeper", keeper::keep);
    background.spawn("watch for overdue jobs", overdue::watch);
    background.spawn("watch of the pulls", {
        let silences = puller.silences();
        |shared, life| starved::watch(shared, silences, life)
    });
    background.spawn("watch of the storage", |shared, life| {
        let writes = vec![shared.records.silence(), shared.schedules.silence()];
        let (client, health) = (shared.client.clone(), shared.nats.health.clone());
        storing::watch(client, health, writes, life)
    });
    let life_of_intake = shared.nats.health.task("durable intake", STILL);
    let take_jobs = intake::take_jobs(Arc::clone(&shared), puller, records, life_of_intake);
    let mut intake = tokio::spawn(take_jobs);
    let mut taking = true;
    loop {
        tokio::select! {
            biased;
            () = life.tick() => {}
            Some((lease, settlement)) = to_settle.recv() => {
                settle::in_background(&shared, lease, settlement);
            }
            ended = &mut intake, if taking => {
                taking = false;
                shared.left.cancel();
                ended.context("the durable lane's intake panicked")??;
            }
            () = shared.end.cancelled() => break,
        }
    }
    // So that the last acknowledgements have arrived.
    shared.nats.round_trip(api::PATIENCE).await
}

/// What runs beside the intake, as long as this is kept.
struct Background<'a> {
    health: &'a Health,
    shared: &'a Arc<Shared>,
    tasks: JoinSet<()>,
}

impl Background<'_> {
    fn spawn<W, F>(&mut self, name: &'static str, work: W)
    where
        W: FnOnce(Arc<Shared>, Beat) -> F + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let shared = Arc::clone(self.shared);
        let work = self.health.supervise(name, |life| work(shared, life));
        self.tasks.spawn(work);
    }
}

impl Shared {
    /// How often this consumer has connected to a server: counted before anything arrives on a
    /// connection, other than the event that tells of it.
    pub(crate) fn connections(&self) -> u64 {
        self.client.connects()
    }

    /// Whether the server of the connection is the only one, so that no other can crash beside it.
    pub(crate) fn is_alone(&self) -> bool {
        self.client.server_info().cluster.is_none()
    }

    /// The kind of a queue.
    pub(crate) fn kind_of(&self, queue: usize) -> JobKind {
        // Two queues for each kind, in their order.
        self.options.kinds[queue / 2].clone()
    }

    /// How long the record of a job that has ended lives, as the server is told it.
    pub(crate) fn ttl(&self) -> String {
        format!("{}s", self.options.keep.as_secs())
    }

    /// Says what stands in the way of storing what became of a job; once until it works again.
    pub(crate) fn warn(&self, what: &str, lease: &Lease, error: &dyn fmt::Display) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            warn!(job.id = %lease.id, job.kind = %lease.kind, "{what} (further ones are not reported until it works): {error}");
        }
    }

    /// Waits before another try; true if there is none, because the lane has ended.
    pub(crate) async fn pause(&self, wait: Duration) -> bool {
        tokio::select! {
            () = tokio::time::sleep(wait) => false,
            () = self.end.cancelled() => true,
        }
    }
}
