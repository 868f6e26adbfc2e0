//! Looks a job up by its id, and waits for its end.

use std::time::Duration;

use anyhow::Context as _;
use bootstrap::Client;
use bytes::Bytes;
use common::{FailedAttempt, JobId, JobRecord, JobState, OutcomeError, Timestamp, codes, subjects};
use futures_util::StreamExt as _;
use tokio::time::Instant;

use crate::direct::{self, Kept};
use crate::intake::Place;
use crate::topology::Stream;

/// What is known of a job: its record, or one made of the message that it still is. `None` if
/// nobody knows it, or does not any more.
///
/// # Errors
/// When the server does not answer in time.
pub async fn look_up(client: &Client, id: JobId) -> anyhow::Result<Option<JobRecord>> {
    if let Some(mut record) = record(client, id).await? {
        if record.state == JobState::Unreadable
            && let Some(waiting) = waiting(client, id).await?
        {
            record.kind = waiting.kind;
            record.run = waiting.run;
        }
        return Ok(Some(record));
    }
    if let Some(record) = waiting(client, id).await? {
        return Ok(Some(record));
    }
    // It may have been put off, begun to run, or ended, since its record was looked for.
    record(client, id).await
}

/// Where the message of a job may be, and how the job is there.
///
/// A schedule becomes a message in the queue, never the other way round: looked for in this order,
/// a job is not missed between the two.
fn places(id: JobId) -> [(Stream, String, JobState); 3] {
    let queued = |first| format!("{first}.{id}.>");
    [
        (Stream::Later, subjects::later(id), JobState::Scheduled),
        (Stream::Later, queued(subjects::DUE), JobState::Queued),
        (Stream::Jobs, queued(subjects::DURABLE), JobState::Queued),
    ]
}

/// What the subject says with which a job is in the queue, or will be when its time has come.
fn place(kept: &Kept) -> Option<Place> {
    let target = kept.headers.get("Nats-Schedule-Target");
    Place::of(target.map_or(&kept.subject, |target| target.as_str()))
}

/// What can be said of a job that has no record, by the message that it waits in.
pub(crate) async fn waiting(client: &Client, id: JobId) -> anyhow::Result<Option<JobRecord>> {
    for (stream, subject, state) in places(id) {
        if let Some(kept) = direct::last(client, stream, &subject).await? {
            let place = place(&kept);
            let run = place.as_ref().map_or(1, |place| place.run);
            let mut record = JobRecord::new(id, place.map(|place| place.kind), state, kept.at);
            if state == JobState::Scheduled {
                record.next_at = due(&kept);
            } else if stream == Stream::Jobs
                && let Some(run_at) = early(&kept, run)
            {
                record.state = JobState::Scheduled;
                record.next_at = Some(run_at);
            } else {
                record.run = run;
            }
            return Ok(Some(record));
        }
    }
    Ok(None)
}

/// The time that a job in the queue waits for, if that is to come: a consumer that gets it puts it
/// off.
pub(crate) fn early(kept: &Kept, run: u32) -> Option<Timestamp> {
    // Only the first run can be early.
    kept.run_at()
        .filter(|run_at| run == 1 && *run_at > Timestamp::now())
}

/// How a record is to be shown: a job that was put off until a time that has passed waits for a
/// consumer.
pub(crate) fn as_of_now(mut record: JobRecord) -> JobRecord {
    if record.state == JobState::Scheduled
        && let Some(due) = record.next_at
        && due <= Timestamp::now()
    {
        record.state = JobState::Queued;
        record.at = due;
        record.next_at = None;
    }
    record
}

/// The record of a job: `None` if it has none yet, or none any more.
///
/// # Errors
/// When the server does not answer in time.
pub async fn record(client: &Client, id: JobId) -> anyhow::Result<Option<JobRecord>> {
    let kept = direct::last(client, Stream::State, &subjects::state(id)).await?;
    Ok(kept.map(|kept| read(id, &kept)))
}

/// What a message says that is stored as the record of a job. Any answer of the server may be: it
/// goes wherever whoever asked has said.
pub(crate) fn read(id: JobId, kept: &Kept) -> JobRecord {
    match serde_json::from_slice(&kept.payload) {
        Ok(record) => as_of_now(record),
        Err(error) => {
            let mut record = JobRecord::new(id, None, JobState::Unreadable, kept.at);
            record.failures.push(FailedAttempt {
                attempt: 0,
                consumer: None,
                at: kept.at,
                error: OutcomeError::new(
                    codes::UNREADABLE_RECORD,
                    format!(
                        "what is stored as the record of the job cannot be read; the next record of the job replaces it: {error}"
                    ),
                ),
            });
            record
        }
    }
}

/// The bytes of a job as they were submitted, if it has not ended and the message that it waits or
/// runs in is there.
///
/// # Errors
/// When the server does not answer in time.
pub async fn message(client: &Client, record: &JobRecord) -> anyhow::Result<Option<Bytes>> {
    if record.state.is_final() {
        return Ok(None);
    }
    for (stream, subject, _) in places(record.id) {
        let Some(kept) = direct::last(client, stream, &subject).await? else {
            continue;
        };
        // One of an earlier run may have had another payload, and is about to be removed.
        if place(&kept).is_none_or(|place| place.run >= record.run) {
            return Ok(Some(kept.payload));
        }
    }
    Ok(None)
}

pub(crate) fn due(kept: &Kept) -> Option<Timestamp> {
    let schedule = kept.headers.get("Nats-Schedule")?.as_str();
    schedule.strip_prefix("@at ")?.parse().ok()
}

/// How the wait for a job has ended.
#[derive(Debug)]
pub enum Waited {
    /// The job has: this is its last record.
    Ended(Box<JobRecord>),
    /// It has not in the time that there was. This is how it is, if it is known.
    NotYet(Option<Box<JobRecord>>),
}

/// Waits until a job has ended. It need not be there yet.
///
/// It is listened to before it is looked up, so that no end is missed between the two, and looked
/// up again only when the connection was lost meanwhile.
///
/// # Errors
/// When the server does not answer in time.
pub async fn wait(
    client: &Client,
    mut connected: tokio::sync::watch::Receiver<bool>,
    id: JobId,
    patience: Duration,
) -> anyhow::Result<Waited> {
    let until = Instant::now() + patience;
    let mut events = client.subscribe(subjects::events(id)).await?;
    loop {
        connected.borrow_and_update();
        let known = look_up(client, id).await?;
        if let Some(record) = known
            && record.state.is_final()
        {
            return Ok(Waited::Ended(Box::new(record)));
        }
        loop {
            tokio::select! {
                event = events.next() => {
                    let event = event.context("the connection to NATS is closed")?;
                    let record = serde_json::from_slice::<JobRecord>(&event.payload);
                    if let Ok(record) = record
                        && record.state.is_final()
                    {
                        return Ok(Waited::Ended(Box::new(record)));
                    }
                }
                changed = connected.changed() => {
                    changed.context("the connection to NATS is closed")?;
                    if *connected.borrow() {
                        break;
                    }
                }
                () = tokio::time::sleep_until(until) => {
                    let known = look_up(client, id).await?;
                    return Ok(match known {
                        Some(record) if record.state.is_final() => {
                            Waited::Ended(Box::new(record))
                        }
                        known => Waited::NotYet(known.map(Box::new)),
                    });
                }
            }
        }
    }
}
