//! Stores what became of a job, and then acknowledges its message: never the other way round.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::{
    DeadReason, FailedAttempt, JobRecord, JobState, OutcomeError, Timestamp, codes, subjects,
};
use serde_json::value::RawValue;
use tracing::debug;

use crate::direct;
use crate::lane::Shared;
use crate::lease::Lease;
use crate::letter::{dead_letter, fits, own_headers};
use crate::overdue::{self, Marker};
use crate::records::{self, Found};
use crate::topology::Stream;
use crate::trim::Acked;
use crate::writer::{EXPECTED, Entry, Message, NotStored};

/// Waits from this length on are the server's, as a scheduled message: it is precise to about a
/// quarter of a second. Shorter ones are a delayed nak.
pub(crate) const SCHEDULED: Duration = Duration::from_secs(1);

/// The wait before something is stored again that the server did not take or confirm.
const RETRY: Duration = Duration::from_millis(500);

/// What a record and the headers of a message may take beside the result.
const MARGIN: usize = 4096;

/// What the headers of a record may take.
const HEADERS: usize = 512;

/// What became of an attempt.
#[derive(Debug)]
pub enum Settlement {
    /// The handler returned.
    Succeeded {
        /// What it returned.
        result: Option<Box<RawValue>>,
        /// How long it ran.
        duration: Duration,
    },
    /// The handler failed, and may succeed when it is called again.
    Failed {
        /// Why.
        error: OutcomeError,
        /// When a repetition has a chance, if that is known.
        retry_after: Option<Duration>,
    },
    /// The job is given up.
    Dead {
        /// Why.
        reason: DeadReason,
        /// What went wrong in this attempt, if there was one.
        error: Option<OutcomeError>,
    },
    /// It was cancelled.
    Cancelled,
    /// Its deadline has passed.
    Expired,
    /// It was not done, and that is not its fault.
    GivenBack,
    /// It was delivered although it has ended.
    OnlyAck,
    /// It was delivered although it waits for a later run.
    PutOff {
        /// The number of that run.
        run: u32,
        /// When it is due.
        until: Timestamp,
    },
    /// It was delivered although it waits for this very run.
    Waits {
        /// Its record.
        record: Box<JobRecord>,
        /// When it is due.
        until: Timestamp,
    },
    /// It is not to be started before then.
    Early {
        /// When it is due.
        until: Timestamp,
    },
}

/// Settles in the background; whoever calls has counted it as being settled.
pub(crate) fn in_background(shared: &Arc<Shared>, lease: Arc<Lease>, settlement: Settlement) {
    let settling = Settling {
        shared: Arc::clone(shared),
        lease,
    };
    tokio::spawn(async move { settle(&settling.shared, &settling.lease, settlement).await });
}

/// A settlement that is under way. Should it panic, nobody gives signs of life for the job any more,
/// and it is delivered again.
struct Settling {
    shared: Arc<Shared>,
    lease: Arc<Lease>,
}

impl Drop for Settling {
    fn drop(&mut self) {
        self.shared.leases.end(&self.lease);
        self.shared.settling.fetch_sub(1, Ordering::AcqRel);
        self.shared.settled.notify_waiters();
    }
}

/// The same for what was not counted yet.
pub(crate) fn begin(shared: &Arc<Shared>, lease: Arc<Lease>, settlement: Settlement) {
    shared.settling.fetch_add(1, Ordering::AcqRel);
    in_background(shared, lease, settlement);
}

/// What came of writing a record.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    Yes,
    /// The job has ended otherwise.
    Ended,
    /// Somebody else has the job now.
    Superseded,
    /// The lane ended before the server took it.
    GaveUp,
}

pub(crate) async fn settle(shared: &Shared, lease: &Lease, settlement: Settlement) {
    lease.settling.store(true, Ordering::Release);
    let now = shared.clock.now();
    let mut record = JobRecord::new(lease.id, Some(lease.kind.clone()), JobState::Queued, now);
    record.run = lease.run;
    record.consumer = Some(shared.options.instance.clone());
    record.attempt = lease.attempt;
    record.failures.clone_from(&lease.failures);
    record.settled_deliveries = lease.delivered.load(Ordering::Relaxed);
    match settlement {
        Settlement::OnlyAck => ack(shared, lease).await,
        Settlement::Succeeded { result, duration } => {
            let limit = shared.client.max_payload().saturating_sub(MARGIN);
            let size = result.as_ref().map_or(0, |result| result.get().len());
            if size > limit {
                let text = format!(
                    "the job ran, but its result of {size} bytes is over the limit of {limit} bytes for a message"
                );
                let error = OutcomeError::new(codes::RESULT_TOO_LARGE, text);
                let reason = DeadReason::Permanent;
                die(shared, lease, record, reason, Some(error)).await;
                return;
            }
            record.state = JobState::Succeeded;
            record.result = result;
            record.duration_ms = Some((duration.as_secs_f64() * 1e6).round() / 1e3);
            end(shared, lease, record, Vec::new()).await;
        }
        Settlement::Cancelled => {
            record.state = JobState::Cancelled;
            end(shared, lease, record, Vec::new()).await;
        }
        Settlement::Expired => {
            record.state = JobState::Expired;
            end(shared, lease, record, Vec::new()).await;
        }
        Settlement::Dead { reason, error } => {
            die(shared, lease, record, reason, error).await;
        }
        Settlement::Failed { error, retry_after } => {
            if lease.is_last_attempt() {
                let reason = DeadReason::AttemptsUsedUp;
                die(shared, lease, record, reason, Some(error)).await;
                return;
            }
            let wait =
                retry_after.unwrap_or_else(|| lease.backoff.delay(lease.attempt, rand::random()));
            add_failure(&mut record, error);
            record.state = JobState::Retrying;
            put_off(shared, lease, record, now.after(wait)).await;
        }
        Settlement::Early { until } => {
            record.state = JobState::Scheduled;
            put_off(shared, lease, record, until).await;
        }
        Settlement::PutOff { run, until } => {
            // Where it was put off already, this is the same job, submitted again.
            if overdue::waits(&shared.client, lease, run).await {
                return ack(shared, lease).await;
            }
            // Whoever put it off may have done so before there were markers.
            overdue::mark(shared, &Marker::of(lease, run), until).await;
            schedule(shared, lease, run, next_run(lease, run, until)).await;
        }
        Settlement::Waits {
            record: mut there,
            until,
        } => {
            // This delivery was not lost with its consumer.
            there.settled_deliveries = record.settled_deliveries;
            match write(shared, lease, &there, Vec::new()).await {
                Written::Yes => nak(shared, lease, until.since(now)).await,
                Written::Ended => ack(shared, lease).await,
                Written::Superseded | Written::GaveUp => {}
            }
        }
        Settlement::GivenBack => match write(shared, lease, &record, Vec::new()).await {
            Written::Yes => nak(shared, lease, Duration::ZERO).await,
            Written::Ended => ack(shared, lease).await,
            Written::Superseded | Written::GaveUp => {}
        },
    }
}

fn add_failure(record: &mut JobRecord, mut error: OutcomeError) {
    // The record is written again after each attempt, whatever a handler says again and again.
    if record.failures.len() >= 8 {
        records::shorten(&mut error, records::SHORT);
    }
    record.failures.push(FailedAttempt {
        attempt: record.attempt,
        consumer: record.consumer.clone(),
        at: record.at,
        error,
    });
}

/// The last record, and after it the acknowledgement.
async fn end(shared: &Shared, lease: &Lease, mut record: JobRecord, with: Entry) -> Written {
    record.settled_deliveries = 0;
    let written = write(shared, lease, &record, with).await;
    match written {
        Written::Yes | Written::Ended => {
            if written == Written::Yes && record.state == JobState::Dead {
                shared.tally.dead_letter();
            }
            ack(shared, lease).await;
        }
        // The message is its successor's now; if that one is lost too, it is delivered again.
        Written::Superseded | Written::GaveUp => {}
    }
    written
}

/// Gives a job up: its record and its dead letter are stored together.
async fn die(
    shared: &Shared,
    lease: &Lease,
    mut record: JobRecord,
    reason: DeadReason,
    error: Option<OutcomeError>,
) -> Written {
    record.state = JobState::Dead;
    record.reason = Some(reason);
    if let Some(error) = error {
        add_failure(&mut record, error);
    }
    let (letter, fits_with_record) = dead_letter(&record, lease, shared.client.max_payload());
    if fits_with_record {
        return end(shared, lease, record, vec![letter]).await;
    }
    // The letter first: whoever is lost in between leaves a job that is delivered again.
    let what = "a dead letter cannot be stored, trying again";
    if store(shared, lease, letter, what).await {
        return end(shared, lease, record, Vec::new()).await;
    }
    Written::GaveUp
}

/// Lets a job wait in the server: as its next run, or, where that is not worth it or does not fit
/// into a message, as a message that is delivered again later.
async fn put_off(shared: &Shared, lease: &Lease, mut record: JobRecord, until: Timestamp) {
    let wait = until.since(record.at);
    let next = next_run(lease, record.run + 1, until);
    let scheduled = wait >= SCHEDULED && fits(&next, shared.client.max_payload());
    record.next_at = Some(until);
    if scheduled {
        record.run += 1;
        record.settled_deliveries = 0;
    }
    match write_waiting(shared, lease, &record, until).await {
        Written::Yes if scheduled => schedule(shared, lease, record.run, next).await,
        Written::Yes => nak(shared, lease, wait).await,
        Written::Ended => ack(shared, lease).await,
        Written::Superseded | Written::GaveUp => {}
    }
}

/// Writes the record of a job that waits, and with it what finds the job if its message is lost.
async fn write_waiting(
    shared: &Shared,
    lease: &Lease,
    record: &JobRecord,
    until: Timestamp,
) -> Written {
    let marker = Marker::of(lease, record.run);
    let slot = overdue::slot_after(until.max(record.at));
    let written = write(shared, lease, record, vec![marker.message(slot)]).await;
    // That may have taken long, where the server was away.
    if written == Written::Yes && overdue::is_late(shared, slot) {
        overdue::mark(shared, &marker, until).await;
    }
    written
}

/// What came of bringing a job back.
pub(crate) enum Restored {
    /// It is scheduled again.
    Scheduled,
    /// That was not possible: it is a dead letter.
    Dead,
    /// There is no need: the job has moved on, or somebody else did it.
    MovedOn,
    /// The lane ended before the server took it.
    GaveUp,
}

/// Schedules a job once more that waits for a time that has passed, and has lost its message; or
/// gives it up, if its bytes are lost as well.
pub(crate) async fn restore(
    shared: &Shared,
    lease: &Lease,
    mut record: JobRecord,
    has_bytes: bool,
) -> Restored {
    // By two: a message of the run before, or one of this run that somebody stores late, does not
    // stand for the job any more then, and is dropped (see `judge`).
    let run = record.run + 2;
    let until = record.at.after(SCHEDULED);
    let next = next_run(lease, run, until);
    let written = if has_bytes && fits(&next, shared.client.max_payload()) {
        record.run = run;
        record.next_at = Some(until);
        record.settled_deliveries = 0;
        match write_waiting(shared, lease, &record, until).await {
            Written::Yes if store_schedule(shared, lease, run, next).await => {
                return Restored::Scheduled;
            }
            Written::Yes => Written::GaveUp,
            written => written,
        }
    } else {
        record.next_at = None;
        die(shared, lease, record, DeadReason::LostSchedule, None).await
    };
    match written {
        Written::Yes => Restored::Dead,
        Written::Ended | Written::Superseded => Restored::MovedOn,
        Written::GaveUp => Restored::GaveUp,
    }
}

/// What the server makes a run of a job of when its time has come.
fn next_run(lease: &Lease, run: u32, until: Timestamp) -> Message {
    let mut headers = own_headers(lease.headers.as_ref());
    headers.insert(EXPECTED, "0");
    headers.insert("Nats-Schedule", format!("@at {until}"));
    let target = subjects::due_job(lease.id, lease.priority, run, &lease.kind);
    headers.insert("Nats-Schedule-Target", target);
    Message {
        subject: subjects::later(lease.id),
        headers,
        payload: lease.payload.clone(),
    }
}

/// Stores the next run of a job, which ends this one.
async fn schedule(shared: &Shared, lease: &Lease, run: u32, next: Message) {
    if store_schedule(shared, lease, run, next).await {
        ack(shared, lease).await;
    }
}

/// Stores a schedule, unless there is one already for this run or a later one; true when the server
/// has it. Whatever else is in its place is replaced.
async fn store_schedule(shared: &Shared, lease: &Lease, run: u32, mut next: Message) -> bool {
    let what = "a job cannot be put off, trying again";
    loop {
        match shared.schedules.store(vec![next.clone()]).await {
            Ok(_) => return true,
            Err(NotStored::Conflict) => {
                match direct::last(&shared.client, Stream::Later, &next.subject).await {
                    Ok(Some(kept)) if overdue::is_schedule_of(&kept, run) => return true,
                    Ok(kept) => {
                        let expected = kept.map_or(0, |kept| kept.sequence);
                        next.headers.insert(EXPECTED, expected.to_string());
                        continue;
                    }
                    Err(error) => shared.warn(what, lease, &error),
                }
            }
            Err(error) => shared.warn(what, lease, &error),
        }
        if shared.pause(RETRY).await {
            return false;
        }
    }
}

/// Stores a message that belongs to a job, however often it has to be tried; true when the server
/// has it.
async fn store(shared: &Shared, lease: &Lease, message: Message, what: &str) -> bool {
    loop {
        match shared.records.store(vec![message.clone()]).await {
            Ok(_) => return true,
            Err(error) => shared.warn(what, lease, &error),
        }
        if shared.pause(RETRY).await {
            return false;
        }
    }
}

/// Writes a record, and messages that belong to it, unless the job has moved on.
pub(crate) async fn write(
    shared: &Shared,
    lease: &Lease,
    record: &JobRecord,
    with: Entry,
) -> Written {
    let mut expected = lease.record.lock().await;
    // Whoever says that the job runs may have waited until it did not any more: then that would
    // replace the last record, which this lease itself has written.
    if record.state == JobState::Running && lease.settling.load(Ordering::Acquire) {
        return Written::Superseded;
    }
    let limit = shared.client.max_payload().saturating_sub(HEADERS);
    let payload = records::encode(record, limit);
    let expires = record.state.is_final() && record.state != JobState::Dead;
    let ttl = expires.then(|| shared.ttl());
    loop {
        let message = records::message(lease.id, payload.clone(), *expected, ttl.as_deref());
        let mut entry = vec![message];
        entry.extend_from_slice(&with);
        match shared.records.store(entry).await {
            Ok(sequence) => {
                *expected = sequence;
                shared.warned.store(false, Ordering::Relaxed);
                return Written::Yes;
            }
            Err(NotStored::Conflict | NotStored::Exists) => {
                match records::one(&shared.client, lease.id).await {
                    Ok(found) => match after_conflict(record, *expected, found) {
                        After::Ours(sequence) => {
                            *expected = sequence;
                            return Written::Yes;
                        }
                        After::Theirs(written) => {
                            debug!(job.id = %lease.id, ?written, "the job has moved on");
                            return written;
                        }
                        After::TryAgain(sequence) => *expected = sequence,
                    },
                    Err(error) => debug!("cannot look up a record: {error:#}"),
                }
            }
            Err(error) => shared.warn(
                "what became of a job cannot be stored, trying again",
                lease,
                &error,
            ),
        }
        if shared.pause(RETRY).await {
            return Written::GaveUp;
        }
    }
}

enum After {
    Ours(u64),
    Theirs(Written),
    TryAgain(u64),
}

/// The record is not the one that was expected. If the answer to an earlier try was lost, it may
/// be the very one that was to be written.
fn after_conflict(record: &JobRecord, expected: u64, found: Option<Found>) -> After {
    match found {
        // It has expired, or somebody deleted it.
        None => After::TryAgain(0),
        Some(Found {
            record: Some(there),
            sequence,
        }) => {
            let same = there.state == record.state
                && there.consumer == record.consumer
                && there.at == record.at
                && there.run == record.run
                && there.attempt == record.attempt;
            if same {
                After::Ours(sequence)
            } else if there.state.is_final() {
                After::Theirs(Written::Ended)
            } else if sequence == expected {
                After::TryAgain(sequence)
            } else {
                After::Theirs(Written::Superseded)
            }
        }
        Some(Found { sequence, .. }) => After::TryAgain(sequence),
    }
}

async fn ack(shared: &Shared, lease: &Lease) {
    let connection = shared.connections();
    // An acknowledgement that is lost brings the message back, and its record says that it is done.
    let _ = shared
        .client
        .publish(lease.ack.clone(), "+ACK".into())
        .await;
    shared.acked(Acked {
        queue: lease.queue,
        sequence: lease.stream_sequence,
        connection,
    });
}

async fn nak(shared: &Shared, lease: &Lease, wait: Duration) {
    let body = if wait.is_zero() {
        "-NAK".to_owned()
    } else {
        format!("-NAK {{\"delay\": {}}}", wait.as_nanos())
    };
    let _ = shared.client.publish(lease.ack.clone(), body.into()).await;
}
