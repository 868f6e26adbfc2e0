//! Takes messages from the queues and finds out what is to be done with each.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bootstrap::{Beat, is_unreadable};
use common::{
    Backoff, DeadReason, DecodeError, Job, JobId, JobKind, JobRecord, MaxAttempts, OutcomeError,
    Priority, codes,
};
use tracing::warn;

use crate::api::PATIENCE;
use crate::claim::{self, Sighting, Verdict};
use crate::fresh::Fresh;
use crate::lane::Shared;
use crate::lease::Lease;
use crate::puller::{Event, Pulled, Puller};
use crate::records::{self, Found, Records};
use crate::settle::{self, Settlement};
use crate::topology::Stream;
use crate::trace;
use crate::writer::MOST_MESSAGES;

/// How long freed room is gathered before it is asked for, so that a pull is worth it.
const GATHER: Duration = Duration::from_millis(1);

/// Less than this part of all room is little.
const FEW: usize = 4;

/// How often pulls are looked at that may have been lost.
const TICK: Duration = Duration::from_secs(1);

/// How often a durable consumer is found gone, a second apart, before it is made again.
const GONE: u32 = 3;

/// How long jobs wait for the cancellations that came while no consumer was there.
const CATCH_UP: Duration = Duration::from_secs(5);

/// The most jobs whose settlement may be under way before no more are taken: two full batches.
/// Whatever is lost with a server has to run again.
const SETTLING: usize = 2 * MOST_MESSAGES;

/// Takes jobs until the lane is left; then gives back what the server had sent.
pub(crate) async fn take_jobs(
    shared: Arc<Shared>,
    mut puller: Puller,
    mut records: Records,
    mut life: Beat,
) -> anyhow::Result<()> {
    let may_begin = async {
        shared.begin.cancelled().await;
        // What was cancelled before this consumer came is not run if that can be helped.
        let _ = tokio::time::timeout(CATCH_UP, shared.caught_up.cancelled()).await;
    };
    tokio::select! {
        () = life.during(Duration::MAX, may_begin) => {}
        () = shared.leave.cancelled() => return Ok(()),
    }
    let mut connected = shared.nats.connected();
    let mut fresh = Fresh::default();
    let mut gone = HashMap::new();
    let mut tick = tokio::time::interval(TICK);
    loop {
        life.beat();
        let settling = shared.settling.load(Ordering::Acquire) >= SETTLING;
        let room = if settling { 0 } else { shared.sink.room() };
        puller.pull(room).await;
        tokio::select! {
            biased;
            () = shared.leave.cancelled() => break,
            event = puller.next() => match event? {
                Event::Pulled(batch) => claim(&shared, &mut records, &mut fresh, batch).await,
                Event::Gone(place) => {
                    fresh.forget();
                    puller.pause(place);
                    // Not at once: the server (2.15.1) still removes the files of a stream that was
                    // deleted, and would remove those of the new one.
                    let times = gone.entry(place).or_insert(0);
                    *times += 1;
                    if *times == GONE {
                        gone.remove(&place);
                        restore(&shared, &puller, place).await;
                    }
                }
                Event::Ended => {}
            },
            changed = connected.changed() => {
                changed?;
                puller.forget();
                fresh.renew(&shared).await;
            }
            () = shared.room.notified() => {
                // A pull for a few of many is not worth it, as long as others run.
                if shared.sink.room() * FEW < shared.sink.capacity() {
                    tokio::time::sleep(GATHER).await;
                }
            }
            () = shared.settled.notified(), if settling => {}
            _ = tick.tick() => fresh.renew(&shared).await,
        }
    }
    puller.leave().await;
    let mut arrived = std::pin::pin!(shared.nats.round_trip(PATIENCE));
    loop {
        let batch = tokio::select! {
            biased;
            event = puller.next() => event?,
            // Without a connection nothing arrives, and the server delivers it again.
            _ = &mut arrived => return Ok(()),
        };
        if let Event::Pulled(batch) = batch {
            claim(&shared, &mut records, &mut fresh, batch).await;
        }
    }
}

/// Somebody has deleted a durable consumer: it is made again.
async fn restore(shared: &Shared, puller: &Puller, place: usize) {
    let queue = puller.queue(place);
    let kind = shared.kind_of(place);
    let topology = shared.options.topology;
    // The stream may be gone as well.
    let restored = async {
        topology.ensure(&shared.client).await?;
        topology
            .ensure_consumer(&shared.client, queue.stream, &kind)
            .await
    };
    match restored.await {
        Ok(name) => {
            warn!(stream = %queue.stream, consumer = name, "a durable consumer was gone, and is made again");
        }
        Err(error) => warn!("a durable consumer is gone and cannot be made again: {error:#}"),
    }
}

/// What the subject of a job says.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) id: JobId,
    pub(crate) priority: Priority,
    pub(crate) run: u32,
    pub(crate) kind: JobKind,
}

impl Place {
    pub(crate) fn of(subject: &str) -> Option<Self> {
        let mut tokens = subject.splitn(6, '.').skip(2);
        Some(Self {
            id: tokens.next()?.parse().ok()?,
            priority: tokens.next()?.parse().ok()?,
            run: tokens.next()?.parse().ok().filter(|run| *run > 0)?,
            kind: tokens.next()?.parse().ok()?,
        })
    }

    /// The kind alone, whatever else the subject says.
    pub(crate) fn kind_in(subject: &str) -> Option<JobKind> {
        subject.splitn(6, '.').nth(5)?.parse().ok()
    }

    /// What stands for it where the subject does not say it.
    pub(crate) fn unreadable(stream_sequence: u64, kind: JobKind) -> Self {
        Self {
            id: JobId::of_unreadable(stream_sequence),
            priority: Priority::Normal,
            run: 1,
            kind,
        }
    }
}

async fn claim(shared: &Arc<Shared>, records: &mut Records, fresh: &mut Fresh, batch: Vec<Pulled>) {
    fresh.see(&batch);
    let mut batch: Vec<_> = batch
        .into_iter()
        .map(|pulled| (Place::of(&pulled.subject), pulled))
        .collect();
    while !batch.is_empty() {
        let rest = batch.split_off(batch.len().min(records::MOST));
        let may_skip = fresh.may_skip_look_up(shared);
        let ids = batch
            .iter()
            .filter(|(_, pulled)| !may_skip(pulled))
            .filter_map(|(place, _)| Some(place.as_ref()?.id));
        let found = look_up(shared, records, ids.collect()).await;
        let Some(found) = found else { return };
        let mut to_run = Vec::with_capacity(batch.len());
        for (place, pulled) in batch {
            let unreadable = || JobId::of_unreadable(pulled.stream_sequence);
            let id = place.as_ref().map_or_else(unreadable, |place| place.id);
            let message = (pulled.queue, pulled.stream_sequence, id);
            if shared.leases.has(message, pulled.delivered) {
                continue;
            }
            // Several messages may be of one job.
            let found = place.as_ref().and_then(|place| found.get(&place.id));
            if let Some(lease) = sort(shared, place, pulled, found) {
                to_run.push(lease);
            }
        }
        if shared.leave.is_cancelled() {
            for lease in to_run {
                settle::begin(shared, lease, Settlement::GivenBack);
            }
        } else if !to_run.is_empty() {
            shared.sink.take(to_run);
        }
        batch = rest;
    }
}

/// Looks records up until it works: the messages are this consumer's, and stay so. `None` if the
/// lane ends before.
async fn look_up(
    shared: &Shared,
    records: &mut Records,
    ids: Vec<JobId>,
) -> Option<HashMap<JobId, Found>> {
    let mut told = false;
    let mut connected = shared.nats.connected();
    connected.mark_unchanged();
    loop {
        // An answer that went to a lost connection is not waited for.
        let found = tokio::select! {
            found = records.of(ids.iter().copied()) => found,
            Ok(()) = connected.changed() => continue,
        };
        match found {
            Ok(found) => return Some(found),
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    warn!("cannot look up what is known of jobs, trying again: {error:#}");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            () = shared.end.cancelled() => return None,
        }
    }
}

/// Why a message is not the job that its subject says.
fn problem_of(
    job: &Result<Job<'_>, DecodeError>,
    place: Option<&Place>,
    subject: &str,
) -> Option<String> {
    match (job, place) {
        (Err(error), _) => Some(error.to_string()),
        (Ok(_), None) => Some(format!(
            "the subject {subject:?} is not jobs.durable.<id>.<priority>.<run>.<kind>"
        )),
        (Ok(job), Some(place)) if job.kind != place.kind => Some(format!(
            "field `kind`: a job of kind \"{}\" came on a subject of kind \"{}\"",
            job.kind, place.kind
        )),
        (Ok(job), Some(place)) if job.id.is_some_and(|id| id != place.id) => Some(format!(
            "field `id`: not the id in the subject, which is {}",
            place.id
        )),
        _ => None,
    }
}

/// Why a message is not of the job with its id, which waits.
///
/// A job that waits was read before, and its record is written before its next run: another message
/// with its id is somebody else's, and must not end it.
fn of_another_job(waits: &JobRecord, place: &Place) -> Option<&'static str> {
    let kind = waits.kind.as_ref();
    if place.run > waits.run {
        Some("the job with this id waits for an earlier run")
    } else if kind.is_some_and(|kind| *kind != place.kind) {
        Some("the job with this id is of another kind")
    } else {
        None
    }
}

/// Finds out what is to be done with a message; what is to be run is returned, everything else
/// done in the background.
fn sort(
    shared: &Arc<Shared>,
    place: Option<Place>,
    pulled: Pulled,
    found: Option<&Found>,
) -> Option<Arc<Lease>> {
    let now = shared.clock.now();
    let job = Job::decode(&pulled.payload);
    let mut problem = problem_of(&job, place.as_ref(), &pulled.subject);
    let (max_attempts, backoff, deadline, run_at) = match &job {
        Ok(job) => (job.max_attempts, job.backoff, job.deadline, job.run_at),
        Err(_) => (None, None, None, None),
    };
    let max_attempts = max_attempts.unwrap_or(MaxAttempts::default()).get();
    let unreadable = is_unreadable(pulled.headers.as_ref());
    let due = shared.queues[pulled.queue].stream == Stream::Later;
    let mut found = found;
    let place = place.filter(|place| {
        let record = found.and_then(|found| found.record.as_ref());
        let waits = record.filter(|record| !due && claim::waits(record));
        let another = waits.and_then(|record| of_another_job(record, place));
        problem = problem.take().or(another.map(str::to_owned));
        let foreign = waits.is_some() && (unreadable || problem.is_some());
        if foreign {
            found = None;
        }
        !foreign
    });
    let place = place
        .unwrap_or_else(|| Place::unreadable(pulled.stream_sequence, shared.kind_of(pulled.queue)));
    let verdict = claim::judge(Sighting {
        record: found.and_then(|found| found.record.as_ref()),
        run: place.run,
        due,
        delivered: pulled.delivered,
        max_attempts,
        deadline,
        run_at,
        now,
    });
    let stored = pulled.stored;
    let first = pulled.delivered == 1;
    if !first {
        shared.tally.redelivered();
    }
    let mut lease = Lease::new(place, pulled, found);
    lease.max_attempts = max_attempts;
    lease.backoff = backoff.unwrap_or(Backoff::default());
    let settlement = match (verdict, problem) {
        (Verdict::Done, _) => Settlement::OnlyAck,
        _ if unreadable => Settlement::Dead {
            reason: DeadReason::UnreadableHeaders,
            error: Some(OutcomeError::new(
                codes::UNREADABLE_HEADERS,
                "the headers of the message, or its subject, cannot be read; the headers are kept with the dead letter, as base64",
            )),
        },
        (_, Some(problem)) => Settlement::Dead {
            reason: DeadReason::Undecodable,
            error: Some(OutcomeError::new(codes::INVALID_JOB, problem)),
        },
        (Verdict::Run { attempt, failures }, None) => {
            lease.attempt = attempt;
            lease.failures = failures;
            if let Some(stored) = stored.filter(|_| first) {
                shared.tally.waits.add(now.since(stored), 1);
            }
            let lease = Arc::new(lease);
            shared.leases.hold(&lease);
            return Some(lease);
        }
        (Verdict::PutOff { run, until }, None) => Settlement::PutOff { run, until },
        (Verdict::Early { until }, None) => Settlement::Early { until },
        (Verdict::Waits { until }, None) => {
            let record = found.and_then(|found| found.record.clone());
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
    settle_without_a_run(shared, lease, settlement);
    None
}

/// Settles a message whose job is not run now.
fn settle_without_a_run(shared: &Arc<Shared>, lease: Lease, settlement: Settlement) {
    let lease = Arc::new(lease);
    shared.leases.hold(&lease);
    if !matches!(
        settlement,
        Settlement::OnlyAck
            | Settlement::PutOff { .. }
            | Settlement::Waits { .. }
            | Settlement::Early { .. }
    ) {
        shared.sink.refused(Some(&lease.kind), &settlement);
        trace::refused(&lease, &settlement);
    }
    settle::begin(shared, lease, settlement);
}
