//! Takes messages from the queues and decides what to do with each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bootstrap::{Beat, Nats};
use common::{DeadReason, JobId, JobKind, JobSubject, Priority};
use jetstream::records::{self, Records, StoredRecord};
use jetstream::request::PATIENCE;
use jetstream::{ServerClock, Stream, Topology, is_clustered, kind_settings};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::counters::Counters;
use crate::decide::{self, Sighting, Verdict};
use crate::durable_consumer;
use crate::fetch::{Event, Fetcher, Pulled, QueueIndex};
use crate::first_delivery::FirstDelivery;
use crate::lease::{Lease, Leases};
use crate::newer_version::{self, Reporter};
use crate::phases::Phases;
use crate::queues::Queue;
use crate::read_message::ReadMessage;
use crate::settle::{Settlement, Settler, Settling};
use crate::sink::Sink;
use crate::trace;
use crate::unheeded::Unheeded;

/// How long to wait for more slots to become free, so that one pull asks for several jobs.
const GATHER: Duration = Duration::from_millis(1);

/// Free room is little if it is less than this fraction of all slots: a quarter.
const FEW: usize = 4;

/// How often the intake looks for lost pulls.
const TICK: Duration = Duration::from_secs(1);

/// How many times a durable consumer has to be reported missing, a second apart, before it is
/// created again.
const GONE: u32 = 3;

/// The same in a cluster, where a durable consumer is also reported missing while it has no leader: for
/// longer than an election takes.
const GONE_IN_A_CLUSTER: u32 = 15;

/// After this time without such a report, the durable consumer was there again.
const BACK: Duration = Duration::from_secs(5);

/// How long the first pull waits for cancel requests that came while no consumer ran.
const CATCH_UP: Duration = Duration::from_secs(5);

/// No more jobs are taken while so many settlements are under way: enough for two large batches. Jobs
/// whose settlement is lost with a server have to run again.
const SETTLING: usize = 2000;

/// Takes jobs for a [`Sink`], as many as it has room for.
pub(crate) struct Intake {
    pub(crate) nats: Nats,
    pub(crate) topology: Topology,
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) settler: Settler,
    pub(crate) settling: Arc<Settling>,
    pub(crate) leases: Arc<Leases>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) clock: Arc<ServerClock>,
    pub(crate) phases: Phases,
    /// Notified when the sink may have more room.
    pub(crate) room: Arc<Notify>,
    pub(crate) fetcher: Fetcher<JobKind>,
    pub(crate) records: Records,
    pub(crate) first_delivery: FirstDelivery,
    pub(crate) newer_versions: Reporter,
    /// Tells of queues that are added.
    pub(crate) added: watch::Receiver<Vec<Arc<Queue<JobKind>>>>,
    pub(crate) unheeded: Unheeded,
}

impl Intake {
    /// Takes jobs until [`Phases::leave`]. Then gives back the jobs that the server has already
    /// sent.
    ///
    /// # Errors
    /// When the connection is closed for good.
    pub(crate) async fn run(mut self, mut life: Beat) -> anyhow::Result<()> {
        let phases = self.phases.clone();
        let may_begin = async {
            phases.begun().await;
            // Jobs that were cancelled before this consumer started should not run.
            let _ = tokio::time::timeout(CATCH_UP, phases.caught_up()).await;
        };
        tokio::select! {
            () = life.during(Duration::MAX, may_begin) => {}
            () = phases.leaving() => return Ok(()),
        }
        let mut connected = self.nats.connected();
        let mut gone = HashMap::new();
        let mut tick = tokio::time::interval(TICK);
        let (settling, freed) = (Arc::clone(&self.settling), Arc::clone(&self.room));
        loop {
            life.beat();
            let full = settling.count() >= SETTLING;
            let room = if full { 0 } else { self.sink.room() };
            self.fetcher.pull(room).await;
            tokio::select! {
                biased;
                () = phases.leaving() => break,
                event = self.fetcher.next() => match event? {
                    Event::Pulled(batch) => self.take(batch).await,
                    Event::Gone(queue) => self.see_to_gone(queue, &mut gone).await,
                    Event::Ended => {}
                },
                changed = connected.changed() => {
                    changed?;
                    self.fetcher.forget();
                    self.first_delivery.renew().await;
                }
                () = freed.notified() => {
                    // With little room, wait for more: a pull for few jobs costs as much as one for
                    // many.
                    if self.sink.room() * FEW < self.sink.capacity() {
                        tokio::time::sleep(GATHER).await;
                    }
                }
                () = settling.fallen(), if full => {}
                Ok(()) = self.added.changed() => {
                    let queues = self.added.borrow_and_update().clone();
                    self.fetcher.add_new(&queues);
                    // What is stored by now may have been delivered by another durable consumer.
                    self.first_delivery.forget();
                    self.first_delivery.renew().await;
                }
                _ = tick.tick() => self.first_delivery.renew().await,
            }
        }
        self.take_what_was_sent().await
    }

    /// Takes the messages that the server sent before the fetcher left.
    async fn take_what_was_sent(&mut self) -> anyhow::Result<()> {
        self.fetcher.leave().await;
        let nats = self.nats.clone();
        let mut arrived = std::pin::pin!(nats.round_trip(PATIENCE));
        loop {
            let batch = tokio::select! {
                biased;
                event = self.fetcher.next() => event?,
                // Without a connection nothing arrives, and the server redelivers the messages.
                _ = &mut arrived => return Ok(()),
            };
            if let Event::Pulled(batch) = batch {
                self.take(batch).await;
            }
        }
    }

    /// Handles a queue whose durable consumer no longer exists. Creates it again after some such
    /// reports.
    async fn see_to_gone(
        &mut self,
        queue: QueueIndex,
        gone: &mut HashMap<QueueIndex, (u32, Instant)>,
    ) {
        self.first_delivery.forget();
        self.fetcher.pause(queue);
        let enough = if is_clustered(&self.nats.client) {
            GONE_IN_A_CLUSTER
        } else {
            GONE
        };
        // Not at once: after a stream was deleted, the server (2.15.1) still removes its files, and
        // would also remove the files of a new stream.
        let now = Instant::now();
        let (times, last) = gone.entry(queue).or_insert((0, now));
        if now.duration_since(*last) > BACK {
            *times = 0;
        }
        *times += 1;
        *last = now;
        if *times == enough {
            gone.remove(&queue);
            self.restore(queue).await;
        }
    }

    /// Creates the durable consumer of a queue again.
    async fn restore(&self, queue: QueueIndex) {
        let queue = self.fetcher.queue(queue);
        let client = &self.nats.client;
        // The stream may be missing as well.
        let restored = async {
            self.topology.ensure(client).await?;
            let followed = kind_settings::followed(client, &queue.of).await?;
            let (stream, kind) = (queue.stream, &queue.of);
            durable_consumer::ensure(self.topology, client, stream, kind, &followed).await
        };
        match restored.await {
            Ok(_) => {
                warn!(stream = %queue.stream, consumer = queue.consumer, "a durable consumer was missing and was created again");
            }
            Err(error) => warn!("a durable consumer is missing and cannot be created: {error:#}"),
        }
    }

    /// Hands the jobs of a pull to the sink, or settles them.
    async fn take(&mut self, batch: Vec<Pulled<JobKind>>) {
        if batch.iter().any(|pulled| pulled.begins_anew) {
            self.first_delivery.forget();
        }
        let mut batch: Vec<_> = batch
            .into_iter()
            .map(|pulled| (JobSubject::parse(&pulled.subject), pulled))
            .collect();
        while !batch.is_empty() {
            let rest = batch.split_off(batch.len().min(records::MOST));
            let may_skip = self.first_delivery.may_skip_look_up();
            let ids = batch
                .iter()
                .filter(|(_, pulled)| !may_skip(pulled))
                .filter_map(|(subject, _)| Some(subject.as_ref()?.id));
            let Some(mut found) = self.look_up(ids.collect()).await else {
                return;
            };
            if is_clustered(&self.nats.client) {
                let doubtful = batch.iter().filter_map(|(subject, pulled)| {
                    let subject = subject.as_ref()?;
                    let record = found.get(&subject.id);
                    is_doubtful(subject, pulled, record).then_some(subject.id)
                });
                let doubtful = doubtful.collect();
                if !self.confirm(&mut found, doubtful).await {
                    return;
                }
            }
            let mut to_run = Vec::with_capacity(batch.len());
            for (subject, pulled) in batch {
                let unreadable = || JobId::of_unreadable(pulled.stream_sequence);
                let id = subject
                    .as_ref()
                    .map_or_else(unreadable, |subject| subject.id);
                let message = (pulled.queue.stream, pulled.stream_sequence, id);
                if self.leases.has(message, pulled.delivered) {
                    continue;
                }
                let priority = subject.as_ref().map(|subject| subject.priority);
                if !pulled.is_ranked && priority.is_some_and(|it| it != Priority::Normal) {
                    self.unheeded.add(&pulled.queue.of);
                }
                // Several messages may belong to one job.
                let found = subject.as_ref().and_then(|subject| found.get(&subject.id));
                to_run.extend(self.sort(subject, pulled, found));
            }
            if self.phases.is_leaving() {
                for lease in to_run {
                    self.settler.begin(lease, Settlement::GivenBack);
                }
            } else if !to_run.is_empty() {
                self.sink.take(to_run);
            }
            batch = rest;
        }
    }

    /// Looks up records, and tries again until this succeeds, because the server has already
    /// delivered the messages to this consumer. `None` if the lane ends first.
    async fn look_up(&mut self, ids: Vec<JobId>) -> Option<HashMap<JobId, StoredRecord>> {
        let mut has_warned = false;
        let mut connected = self.nats.connected();
        connected.mark_unchanged();
        loop {
            // After a reconnect, the answer to the old request does not arrive.
            let found = tokio::select! {
                found = self.records.of(ids.iter().copied()) => found,
                Ok(()) = connected.changed() => continue,
            };
            match found {
                Ok(found) => return Some(found),
                Err(error) => {
                    if !std::mem::replace(&mut has_warned, true) {
                        warn!("cannot look up the records of jobs, trying again: {error:#}");
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = self.phases.ended() => return None,
            }
        }
    }

    /// Looks records up again in the leader of their stream, and tries again until this succeeds; false if
    /// the lane ends first.
    async fn confirm(
        &self,
        found: &mut HashMap<JobId, StoredRecord>,
        doubtful: Vec<JobId>,
    ) -> bool {
        let client = &self.nats.client;
        while let Err(error) = records::confirm(client, found, doubtful.iter().copied()).await {
            debug!("cannot look up the records of jobs, trying again: {error:#}");
            tokio::select! {
                () = tokio::time::sleep(TICK) => {}
                () = self.phases.ended() => return false,
            }
        }
        true
    }

    /// Decides what to do with a message. Returns the lease of a job to run; everything else is
    /// settled in the background.
    fn sort(
        &self,
        subject: Option<JobSubject>,
        pulled: Pulled<JobKind>,
        found: Option<&StoredRecord>,
    ) -> Option<Arc<Lease>> {
        let now = self.clock.now();
        let mut read = ReadMessage::of(subject.as_ref(), &pulled);
        let due = pulled.queue.stream == Stream::Later;
        let foreign = subject.as_ref().is_some_and(|subject| {
            let record = found.and_then(|found| found.record.as_ref());
            let waits = record.filter(|record| !due && decide::waits(record));
            waits.is_some_and(|record| read.is_of_another_job(record, subject))
        });
        let found = found.filter(|_| !foreign);
        let subject = subject.filter(|_| !foreign).unwrap_or_else(|| {
            JobSubject::of_unreadable(pulled.stream_sequence, pulled.queue.of.clone())
        });
        let record = found.and_then(|found| found.record.as_ref());
        let verdict = decide::decide(Sighting {
            record,
            run: subject.run,
            due,
            delivered: pulled.delivered,
            max_attempts: read.max_attempts,
            deadline: read.deadline,
            run_at: read.run_at,
            now,
        });
        let stored = pulled.stored;
        let first = pulled.delivered == 1;
        if !first {
            self.counters.redelivered();
        }
        let mut lease = Lease::of_delivery(subject, pulled, found);
        lease.max_attempts = read.max_attempts;
        lease.backoff = read.backoff;
        lease.unique_until_start = read.unique_until_start;
        let settlement = match (verdict, read.failure()) {
            (Verdict::Done, _) if record.is_some_and(|record| record.state.is_final()) => {
                Settlement::Ended
            }
            (Verdict::Done, _) => Settlement::OnlyAck,
            (_, Some(failure)) => failure,
            (
                Verdict::Run { .. }
                | Verdict::Early { .. }
                | Verdict::Expired { .. }
                | Verdict::Exhausted { .. },
                None,
            ) if let Some(version) = read.newer_version => {
                self.counters.newer_version();
                self.newer_versions.report(&lease.kind, version);
                lease.attempt = record.map_or(0, |record| record.attempt);
                let until = now.after(newer_version::wait(lease.run));
                Settlement::Early { until }
            }
            (Verdict::Run { attempt, failures }, None) => {
                lease.attempt = attempt;
                lease.failures = failures;
                if let Some(stored) = stored.filter(|_| first) {
                    self.counters.waits.add(now.since(stored), 1);
                }
                let lease = Arc::new(lease);
                self.leases.hold(&lease);
                return Some(lease);
            }
            (Verdict::PutOff { run, until }, None) => Settlement::PutOff { run, until },
            (Verdict::Early { until }, None) => Settlement::Early { until },
            (Verdict::Waits { until }, None) => {
                let record = record.cloned();
                record.map_or(Settlement::GivenBack, |record| Settlement::Waits {
                    record: Box::new(record),
                    until,
                })
            }
            (Verdict::Expired { failures }, None) => {
                lease.failures = failures;
                Settlement::Expired
            }
            (Verdict::Exhausted { failures }, None) => {
                lease.failures = failures;
                Settlement::Dead {
                    reason: DeadReason::DeliveriesExhausted,
                    error: None,
                }
            }
        };
        self.settle_without_a_run(lease, settlement);
        None
    }

    /// Settles a message whose job is not run now.
    fn settle_without_a_run(&self, lease: Lease, settlement: Settlement) {
        let lease = Arc::new(lease);
        self.leases.hold(&lease);
        if !matches!(
            settlement,
            Settlement::Ended
                | Settlement::OnlyAck
                | Settlement::PutOff { .. }
                | Settlement::Waits { .. }
                | Settlement::Early { .. }
        ) {
            self.sink.refused(Some(&lease.kind), &settlement);
            trace::refused(&lease, &settlement);
        }
        self.settler.begin(lease, settlement);
    }
}

/// Whether a record in a cluster has to be read from the leader of its stream, because what a follower
/// has may be older, and would decide wrongly.
///
/// On the first delivery of its first run, a job without a record may run: if the record is only not there
/// yet, the outcome is refused. Of a later delivery or run there should be a record, which counts the
/// attempts. A job that was replayed has ended before. But one that has ended for good stays so.
fn is_doubtful(
    subject: &JobSubject,
    pulled: &Pulled<JobKind>,
    found: Option<&StoredRecord>,
) -> bool {
    match found {
        None => pulled.delivered > 1 || subject.run > 1 || pulled.queue.stream == Stream::Later,
        Some(found) => !found.record.as_ref().is_some_and(decide::is_over),
    }
}
