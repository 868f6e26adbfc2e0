//! Stores what became of a job, and then acknowledges its message: never the other way round.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use bytes::Bytes;
use common::{
    DeadReason, FailedAttempt, JobRecord, JobState, OutcomeError, Timestamp, codes, subjects,
};
use serde_json::value::RawValue;
use tracing::debug;

use crate::lane::Shared;
use crate::lease::Lease;
use crate::records::{self, Found};
use crate::trim::Acked;
use crate::writer::{Entry, Message, NotStored};

/// Waits from this length on are the server's, as a scheduled message: it is precise to about a
/// quarter of a second. Shorter ones are a delayed nak.
const SCHEDULED: Duration = Duration::from_secs(1);

/// The wait before something is stored again that the server did not take or confirm.
const RETRY: Duration = Duration::from_millis(500);

/// What a record and the headers of a message may take beside the result.
const MARGIN: usize = 4096;

/// The longest text of an error in a record that has many: all of them have to fit into a message.
const SHORT: usize = 512;

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
    /// It is not to be started before then.
    Early {
        /// When it is due.
        until: Timestamp,
    },
}

/// Settles in the background; whoever calls has counted it as being settled.
pub(crate) fn in_background(shared: &Arc<Shared>, lease: Arc<Lease>, settlement: Settlement) {
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        settle(&shared, &lease, settlement).await;
        shared.leases.end(&lease);
        shared.settling.fetch_sub(1, Ordering::AcqRel);
        shared.settled.notify_waiters();
    });
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
                return die(shared, lease, record, DeadReason::Permanent, Some(error)).await;
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
        Settlement::Dead { reason, error } => die(shared, lease, record, reason, error).await,
        Settlement::Failed { error, retry_after } => {
            if lease.attempt >= lease.max_attempts {
                let reason = DeadReason::AttemptsUsedUp;
                return die(shared, lease, record, reason, Some(error)).await;
            }
            let wait =
                retry_after.unwrap_or_else(|| lease.backoff.delay(lease.attempt, rand::random()));
            add_failure(&mut record, error);
            record.state = JobState::Retrying;
            record.next_at = Some(now.after(wait));
            if wait < SCHEDULED {
                if write(shared, lease, &record, Vec::new()).await == Written::Yes {
                    nak(shared, lease, wait).await;
                }
            } else {
                record.run += 1;
                record.settled_deliveries = 0;
                put_off(shared, lease, record).await;
            }
        }
        Settlement::Early { until } => {
            record.state = JobState::Scheduled;
            record.run += 1;
            record.settled_deliveries = 0;
            record.next_at = Some(until);
            put_off(shared, lease, record).await;
        }
        Settlement::PutOff { run, until } => {
            if schedule(shared, lease, run, until).await {
                ack(shared, lease).await;
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
    // The whole record has to fit into a message, whatever a handler says again and again.
    if record.failures.len() >= 8 && error.message.len() > SHORT {
        error
            .message
            .truncate(error.message.floor_char_boundary(SHORT));
    }
    record.failures.push(FailedAttempt {
        attempt: record.attempt,
        consumer: record.consumer.clone(),
        at: record.at,
        error,
    });
}

/// The last record, and after it the acknowledgement.
async fn end(shared: &Shared, lease: &Lease, mut record: JobRecord, with: Entry) {
    record.settled_deliveries = 0;
    match write(shared, lease, &record, with).await {
        Written::Yes | Written::Ended => ack(shared, lease).await,
        // The message is its successor's now; if that one is lost too, it is delivered again.
        Written::Superseded | Written::GaveUp => {}
    }
}

/// Gives a job up: its record and its dead letter are stored together.
async fn die(
    shared: &Shared,
    lease: &Lease,
    mut record: JobRecord,
    reason: DeadReason,
    error: Option<OutcomeError>,
) {
    record.state = JobState::Dead;
    record.reason = Some(reason);
    if let Some(error) = error {
        add_failure(&mut record, error);
    }
    let letter = dead_letter(&record, lease);
    end(shared, lease, record, vec![letter]).await;
}

fn dead_letter(record: &JobRecord, lease: &Lease) -> Message {
    let mut headers = own_headers(lease.headers.as_ref());
    let mut set = |name: &'static str, value: String| {
        // The text is our own, or JSON without line breaks; one that cannot be in a header is
        // still in the record.
        if let Ok(value) = value.parse::<HeaderValue>() {
            headers.insert(HeaderName::from_static(name), value);
        }
    };
    let reason = record.reason.map_or("", |reason| reason.as_str());
    set(subjects::DEAD_REASON_HEADER, reason.to_owned());
    let failures = serde_json::to_string(&record.failures);
    set(subjects::DEAD_FAILURES_HEADER, failures.unwrap_or_default());
    set(subjects::PRIORITY_HEADER, lease.priority.to_string());
    set(subjects::RUN_HEADER, lease.run.to_string());
    Message {
        subject: subjects::dead(lease.id, &lease.kind),
        headers,
        payload: lease.payload.clone(),
    }
}

/// What a dead letter says of its job, and what holds for its first delivery alone.
const OF_THE_LANE: [&str; 5] = [
    subjects::FRESH_HEADER,
    subjects::DEAD_REASON_HEADER,
    subjects::DEAD_FAILURES_HEADER,
    subjects::PRIORITY_HEADER,
    subjects::RUN_HEADER,
];

/// The headers of a job without those of the server and of the lane.
pub(crate) fn own_headers(headers: Option<&HeaderMap>) -> HeaderMap {
    let mut own = HeaderMap::new();
    for (name, values) in headers.into_iter().flat_map(HeaderMap::iter) {
        let text: &str = name.as_ref();
        if text.to_ascii_lowercase().starts_with("nats-") || OF_THE_LANE.contains(&text) {
            continue;
        }
        for value in values {
            own.append(name.clone(), value.clone());
        }
    }
    own
}

/// Lets a job wait in the server until its next run.
async fn put_off(shared: &Shared, lease: &Lease, record: JobRecord) {
    let (run, until) = (record.run, record.next_at.unwrap_or(record.at));
    match write(shared, lease, &record, Vec::new()).await {
        Written::Yes => {
            if schedule(shared, lease, run, until).await {
                ack(shared, lease).await;
            }
        }
        Written::Ended => ack(shared, lease).await,
        Written::Superseded | Written::GaveUp => {}
    }
}

/// Stores the job for its next run; true when the server has it.
async fn schedule(shared: &Shared, lease: &Lease, run: u32, until: Timestamp) -> bool {
    let mut headers = own_headers(lease.headers.as_ref());
    headers.insert("Nats-Schedule", format!("@at {until}"));
    let target = subjects::due_job(lease.id, lease.priority, run, &lease.kind);
    headers.insert("Nats-Schedule-Target", target);
    let message = Message {
        subject: subjects::later(lease.id),
        headers,
        payload: lease.payload.clone(),
    };
    loop {
        match shared.schedules.store(vec![message.clone()]).await {
            Ok(_) => return true,
            Err(error) => shared.warn("a job cannot be put off, trying again", lease, &error),
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
    let payload: Bytes = serde_json::to_vec(record)
        .expect("a record is plain data with text for keys")
        .into();
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
    // An acknowledgement that is lost brings the message back, and its record says that it is done.
    let _ = shared
        .client
        .publish(lease.ack.clone(), "+ACK".into())
        .await;
    shared.acked(Acked {
        queue: lease.queue,
        sequence: lease.stream_sequence,
        subject: lease.subject.clone(),
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
