//! The durable lane of a consumer: pulls jobs, keeps their messages in progress, and settles the
//! jobs.
//!
//! The lane has its own thread, runtime and connection. So its heartbeat reaches the server in
//! time, even when handlers keep all other threads busy.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bootstrap::{Beat, Context, Nats, NatsClient, STILL};
use common::JobKind;
use jetstream::records::Records;
use jetstream::{
    ApiError, ServerClock, Stream, kind_settings, manage, preflight, request, unique_locks,
    write_health,
};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tracing::warn;

use crate::cancel_listener::CancelListener;
use crate::counters::{Counters, Figures};
use crate::durable_consumer;
use crate::fetch::Fetcher;
use crate::first_delivery::{Cancellations, FirstDelivery};
use crate::heartbeat::Heartbeat;
use crate::intake::Intake;
use crate::lease::{Lease, Leases};
use crate::maintenance::{
    self, Cancel, Expiry, KindsFound, KindsWithoutConsumer, LimitOfQueue, MaxDeliveries,
    OverdueTicks, OverdueWatch, Pauses, Priorities, Purge, RunsNow, ScheduleChanges, SharedQueue,
    StaleLocks, StarvedPulls, Ticks,
};
use crate::newer_version::Reporter;
use crate::options::LaneOptions;
use crate::phases::Phases;
use crate::queues::{Queue, Queues};
use crate::settle::{Settlement, Settler, Settling};
use crate::sink::Sink;
use crate::store::JobStore;
use crate::unheeded::Unheeded;

/// How long the lane waits before it looks for JetStream again.
const RETRY: Duration = Duration::from_secs(1);

/// The name of the health problem that says that the lane does not run.
const RESPECT: &str = "durable lane";

/// A handle to the running durable lane.
#[derive(Clone)]
pub struct Lane {
    handle: Arc<Handle>,
    settlements: mpsc::UnboundedSender<(Arc<Lease>, Settlement)>,
}

/// Resolves when a [`Lane`] has ended.
#[derive(Debug)]
pub struct LaneEnd(oneshot::Receiver<anyhow::Result<()>>);

/// The state that the service's threads share with the lane's thread.
struct Handle {
    phases: Phases,
    leases: Arc<Leases>,
    settling: Arc<Settling>,
    counters: Arc<Counters>,
    room: Arc<Notify>,
    without_consumer: KindsFound,
    client: NatsClient,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").finish_non_exhaustive()
    }
}

impl Lane {
    /// Opens the lane on its own thread. It takes no jobs before [`Lane::begin`].
    ///
    /// `None` if the server has no JetStream for this account, or if the service stops before
    /// JetStream is ready.
    ///
    /// # Errors
    /// When NATS cannot be reached, when the streams or durable consumers cannot be created or
    /// differ from their declaration, or when the server may lose what it has confirmed and
    /// [`LaneOptions::accept_unsafe`] is not set.
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
                Ok(Some(parts)) => {
                    // The receiver is gone if the service stops meanwhile.
                    let _ = ready.send(Ok(Some(Arc::clone(&parts.handle))));
                    let ended = parts.run(to_settle, &mut life).await;
                    let _ = said.send(ended);
                }
                Ok(None) => drop(ready.send(Ok(None))),
                Err(error) => drop(ready.send(Err(error))),
            }
            // The result was sent above, so this end of the task is not a failure.
            life.done();
        })?;
        let handle = started
            .await
            .context("the thread of the durable lane ended")??;
        Ok(handle.map(|handle| {
            let lane = Self {
                handle,
                settlements,
            };
            (lane, LaneEnd(ended))
        }))
    }

    /// Starts to take jobs.
    pub fn begin(&self) {
        self.handle.phases.begin();
    }

    /// Settles a job in the background: stores its outcome first, then acknowledges its message or
    /// gives it back.
    pub fn settle(&self, lease: Arc<Lease>, settlement: Settlement) {
        self.handle.settling.add();
        // An error means that the lane's thread has ended. The server redelivers the job after the
        // ack wait.
        if self.settlements.send((lease, settlement)).is_err() {
            self.handle.settling.remove();
        }
    }

    /// Releases the key of a unique job before its first attempt starts; see
    /// [`Lease::unique_until_start`]. False if the server did not confirm it: then the job must not start.
    pub async fn release_key(&self, lease: &Lease) -> bool {
        let Some(hash) = lease.headers.as_ref().and_then(unique_locks::hash_in) else {
            return true;
        };
        let released = unique_locks::release(&self.handle.client, hash, lease.id, lease.run).await;
        if let Err(error) = &released {
            warn!(job.id = %lease.id, job.kind = %lease.kind, "cannot release a key before its job starts, so the job is given back: {error:#}");
        }
        released.is_ok()
    }

    /// The kinds that have waiting jobs but no consumer. Only the oldest jobs in the streams are
    /// examined, so a kind may be missing.
    #[must_use]
    pub fn kinds_without_consumer(&self) -> Vec<JobKind> {
        self.handle.without_consumer.kinds()
    }

    /// The counters of the lane in this consumer, except how jobs ended.
    #[must_use]
    pub fn figures(&self) -> Figures {
        self.handle.counters.figures()
    }

    /// Notifies the lane that the sink may have more room.
    pub fn room_changed(&self) {
        self.handle.room.notify_one();
    }

    /// Stops taking jobs. Jobs that the server has already sent are given back.
    pub fn leave(&self) {
        self.handle.phases.leave();
    }

    /// Waits until the lane hands no more jobs to the sink, after [`Lane::leave`].
    pub async fn left(&self) {
        self.handle.phases.left().await;
    }

    /// Waits until all jobs are settled and the server has received the acknowledgements. Then ends
    /// the lane.
    ///
    /// # Errors
    /// When not all jobs are settled within `patience`: the server redelivers the others. Also the
    /// error that ended the lane.
    pub async fn finish(&self, mut end: LaneEnd, patience: Duration) -> anyhow::Result<()> {
        let deadline = tokio::time::Instant::now() + patience;
        self.leave();
        let all_settled = async {
            self.left().await;
            self.handle.settling.none().await;
        };
        let in_time = tokio::time::timeout_at(deadline, all_settled).await.is_ok();
        let left = self.handle.leases.count();
        self.handle.phases.end();
        let ended = tokio::time::timeout_at(deadline, end.wait()).await;
        anyhow::ensure!(
            in_time && ended.is_ok(),
            "{left} jobs were not settled in time and will be redelivered"
        );
        ended.unwrap_or(Ok(()))
    }
}

impl LaneEnd {
    /// Waits until the lane has ended. Without a call of [`Lane::finish`], only an error ends it.
    ///
    /// # Errors
    /// The error that ended the lane.
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
) -> anyhow::Result<Option<Parts>> {
    let nats = context.connect("durable").await?;
    let client = nats.client.clone();
    let clock = Arc::new(ServerClock::default());
    let mut has_warned = false;
    let queues = loop {
        match prepare(&client, &options, &clock).await {
            Ok(Some(queues)) => break queues,
            Ok(None) => return Ok(None),
            // NATS was lost, or JetStream is not ready yet.
            Err(error) if is_away(&error) => {
                let problem = format!("the durable lane waits for JetStream: {error:#}");
                if !std::mem::replace(&mut has_warned, true) {
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
    let fetcher = Fetcher::new(&client, queues.clone()).await?;
    let handle = Arc::new(Handle {
        phases: Phases::default(),
        leases: Arc::default(),
        settling: Arc::default(),
        counters: Arc::default(),
        room: Arc::default(),
        without_consumer: KindsFound::default(),
        client: client.clone(),
    });
    let store = JobStore::new(
        &nats,
        &options,
        Arc::clone(&clock),
        Arc::clone(&handle.counters),
        handle.phases.clone(),
    );
    Ok(Some(Parts {
        nats,
        options,
        sink,
        clock,
        queues: Queues::new(queues),
        unheeded: Unheeded::default(),
        fetcher,
        store: Arc::new(store),
        handle,
    }))
}

/// Creates missing streams and durable consumers; `None` without JetStream.
async fn prepare(
    client: &NatsClient,
    options: &LaneOptions,
    clock: &ServerClock,
) -> anyhow::Result<Option<Vec<Arc<Queue<JobKind>>>>> {
    // JetStream may be off, for the server or for this account.
    if manage::existing(manage::account(client).await)?.is_none() {
        return Ok(None);
    }
    let topology = options.topology;
    topology.ensure(client).await?;
    for finding in preflight::examine_jetstream(client, topology).await? {
        if !finding.breaks || options.accept_unsafe {
            warn!("{finding}");
        } else {
            anyhow::bail!("{finding}; to use this server anyway, give --accept-unsafe-server");
        }
    }
    // All at once: two requests for each kind would delay the start.
    let settings = kind_settings::all(client).await?;
    let mut queues = Vec::new();
    for kind in &options.kinds {
        let followed = settings.of(kind);
        for stream in [Stream::Jobs, Stream::Later] {
            let names = durable_consumer::ensure(topology, client, stream, kind, &followed).await?;
            for consumer in names {
                queues.push(Arc::new(Queue::of_kind(stream, kind, consumer)));
            }
        }
    }
    maintenance::ensure_queues(topology, client).await?;
    clock.read(client).await?;
    Ok(Some(queues))
}

/// Whether the error is transient: JetStream is not reachable yet, or the permissions of this user are
/// not complete yet.
fn is_away(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<ApiError>(),
        Some(ApiError::NoAnswer { .. } | ApiError::NoJetStream(_) | ApiError::Forbidden(_))
    )
}

/// The opened lane, before it runs.
struct Parts {
    nats: Nats,
    options: LaneOptions,
    sink: Arc<dyn Sink>,
    clock: Arc<ServerClock>,
    queues: Queues,
    unheeded: Unheeded,
    fetcher: Fetcher<JobKind>,
    store: Arc<JobStore>,
    handle: Arc<Handle>,
}

/// So many settlements that wait share a task at most.
const SETTLED_TOGETHER: usize = 256;

impl Parts {
    /// Runs until [`Phases::end`], or until the intake fails.
    async fn run(
        self,
        mut to_settle: mpsc::UnboundedReceiver<(Arc<Lease>, Settlement)>,
        life: &mut Beat,
    ) -> anyhow::Result<()> {
        let (nats, handle) = (self.nats.clone(), Arc::clone(&self.handle));
        let settler = Settler::new(
            Arc::clone(&self.store),
            Arc::clone(&handle.leases),
            Arc::clone(&handle.settling),
        );
        let cancellations = Cancellations::default();
        // Dropping the set at the end of this function aborts the tasks.
        let _background = self.start_background(&settler, &cancellations);
        let intake = Intake {
            records: Records::new(&nats.client).await?,
            first_delivery: FirstDelivery::new(nats.client.clone(), cancellations),
            nats: nats.clone(),
            topology: self.options.topology,
            sink: self.sink,
            settler: settler.clone(),
            settling: Arc::clone(&handle.settling),
            leases: Arc::clone(&handle.leases),
            counters: Arc::clone(&handle.counters),
            clock: self.clock,
            phases: handle.phases.clone(),
            room: Arc::clone(&handle.room),
            fetcher: self.fetcher,
            newer_versions: Reporter::default(),
            added: self.queues.added(),
            unheeded: self.unheeded,
        };
        let mut intake = tokio::spawn(intake.run(nats.health.task("durable intake", STILL)));
        let mut taking = true;
        let mut settlements = Vec::new();
        loop {
            tokio::select! {
                biased;
                () = life.tick() => {}
                1.. = to_settle.recv_many(&mut settlements, SETTLED_TOGETHER) => {
                    settler.settle_all_counted(settlements.drain(..));
                }
                ended = &mut intake, if taking => {
                    taking = false;
                    handle.phases.set_left();
                    ended.context("the durable lane's intake panicked")??;
                }
                () = handle.phases.ended() => break,
            }
        }
        // After a round trip, the server has received the last acknowledgements.
        nats.round_trip(request::PATIENCE).await
    }

    /// Starts the background tasks.
    fn start_background(&self, settler: &Settler, cancellations: &Cancellations) -> JoinSet<()> {
        let Handle {
            phases,
            leases,
            counters,
            without_consumer,
            ..
        } = &*self.handle;
        let (nats, client, health) = (&self.nats, &self.nats.client, &self.nats.health);
        let mut tasks = JoinSet::new();
        let heartbeat = Heartbeat {
            client: client.clone(),
            leases: Arc::clone(leases),
            sink: Arc::clone(&self.sink),
            store: Arc::clone(&self.store),
            settler: settler.clone(),
        };
        tasks.spawn(health.supervise("durable heartbeat", |life| heartbeat.run(life)));
        let listener = CancelListener {
            client: client.clone(),
            leases: Arc::clone(leases),
            cancellations: cancellations.clone(),
        };
        tasks.spawn(health.supervise("durable cancellations", |life| listener.run(life)));
        let purge = Purge {
            client: client.clone(),
            clock: Arc::clone(&self.clock),
            queues: self.queues.clone(),
            acknowledged: self.store.acknowledged(),
        };
        tasks.spawn(health.supervise("durable purge", |life| purge.run(life)));
        let expiry = Expiry {
            client: client.clone(),
            keep: self.options.keep,
        };
        tasks.spawn(health.supervise("removal of old records", |life| expiry.run(life)));
        let limit = LimitOfQueue {
            client: client.clone(),
            phases: phases.clone(),
        };
        tasks.spawn(health.supervise("limit of the queue", |life| limit.run(life)));
        let kinds = KindsWithoutConsumer {
            client: client.clone(),
            clock: Arc::clone(&self.clock),
            served: self.options.kinds.clone(),
            found: without_consumer.clone(),
        };
        tasks.spawn(health.supervise("look for kinds without consumer", |life| kinds.run(life)));
        let pauses = Pauses {
            nats: nats.clone(),
            kinds: self.options.kinds.clone(),
            priorities: Priorities {
                store: Arc::clone(&self.store),
                topology: self.options.topology,
                queues: self.queues.clone(),
                unheeded: self.unheeded.clone(),
            },
        };
        tasks.spawn(health.supervise("settings of kinds", |life| pauses.run(life)));
        let locks = StaleLocks {
            client: client.clone(),
        };
        tasks.spawn(health.supervise("requests to release keys", |life| locks.run(life)));
        let runs_now = RunsNow {
            client: client.clone(),
            store: Arc::clone(&self.store),
        };
        tasks.spawn(health.supervise("requests to run jobs now", |life| runs_now.run(life)));
        self.start_shared_work(&mut tasks);
        let overdue = OverdueWatch {
            client: client.clone(),
            store: Arc::clone(&self.store),
            clock: Arc::clone(&self.clock),
            counters: Arc::clone(counters),
            phases: phases.clone(),
        };
        tasks.spawn(health.supervise("watch for overdue jobs", |life| overdue.run(life)));
        let pulls = StarvedPulls {
            nats: nats.clone(),
            queues: self.queues.clone(),
            after: self.options.starved_after,
        };
        tasks.spawn(health.supervise("watch of the pulls", |life| pulls.run(life)));
        let writes = self.store.unanswered();
        let (client, of_service) = (client.clone(), health.clone());
        tasks.spawn(health.supervise("watch of the storage", |life| {
            write_health::watch(client, of_service, writes, life)
        }));
        tasks
    }

    /// Starts the work that one consumer of the fleet does for all.
    fn start_shared_work(&self, tasks: &mut JoinSet<()>) {
        let (nats, health, phases) = (&self.nats, &self.nats.health, &self.handle.phases);
        let cancel = Cancel {
            store: Arc::clone(&self.store),
            phases: phases.clone(),
        };
        let topology = self.options.topology;
        let queue = SharedQueue::new(nats, topology, phases);
        tasks.spawn(health.supervise("requests to cancel", |life| cancel.run(queue, life)));
        let max_deliveries = MaxDeliveries {
            store: Arc::clone(&self.store),
            phases: phases.clone(),
        };
        let queue = SharedQueue::new(nats, topology, phases);
        tasks.spawn(health.supervise("maximum deliveries", |life| max_deliveries.run(queue, life)));
        let ticks = Ticks::new(&self.store);
        let queue = SharedQueue::new(nats, topology, phases);
        tasks.spawn(health.supervise("ticks of schedules", |life| ticks.run(queue, life)));
        let changes = ScheduleChanges::new(&self.store);
        let queue = SharedQueue::new(nats, topology, phases);
        tasks.spawn(health.supervise("changes of schedules", |life| changes.run(queue, life)));
        let ticks = OverdueTicks::new(&self.store);
        tasks.spawn(health.supervise("look for overdue schedules", |life| ticks.run(life)));
    }
}
