//! Reads and stores recurring schedules, and makes the messages of their jobs.

use std::collections::BTreeMap;

use async_nats::HeaderMap;
use common::{PendingJob, ScheduleName, ScheduleRecord, Timestamp, subjects};
use connection::NatsClient;
use tracing::debug;

use crate::direct_get;
use crate::headers::{EXPECTED_LAST, EXPECTED_LAST_OF, MESSAGE_ID, is_copy};
use crate::manage;
use crate::message::Message;
use crate::request::ApiError;
use crate::stored_message::StoredMessage;
use crate::topology::Stream;

/// A stored schedule.
#[derive(Clone, Debug)]
pub struct StoredSchedule {
    /// The schedule; `None` if what is stored cannot be read.
    pub record: Option<ScheduleRecord>,
    /// Its sequence in the stream, which the next one has to expect.
    pub sequence: u64,
}

/// Reads a schedule; `None` if there is none.
///
/// # Errors
/// See [`ApiError`].
pub async fn read(
    client: &NatsClient,
    name: &ScheduleName,
) -> Result<Option<StoredSchedule>, ApiError> {
    let stored = direct_get::last(client, Stream::State, &subjects::schedule(name)).await;
    // A stream that does not exist holds no schedules.
    let stored = manage::existing(stored)?.flatten();
    Ok(stored.map(|stored| StoredSchedule {
        record: decode(name, &stored),
        sequence: stored.sequence,
    }))
}

/// Reads all schedules, in the order of their names.
///
/// # Errors
/// See [`ApiError`].
pub async fn all(client: &NatsClient) -> Result<BTreeMap<ScheduleName, StoredSchedule>, ApiError> {
    let stored = direct_get::every(client, Stream::State, subjects::ALL_SCHEDULES).await?;
    let schedules = stored.into_iter().filter_map(|stored| {
        let name = subjects::parse_schedule(&stored.subject)?;
        let schedule = StoredSchedule {
            record: decode(&name, &stored),
            sequence: stored.sequence,
        };
        Some((name, schedule))
    });
    Ok(schedules.collect())
}

/// Anybody may have an answer of the server stored in place of a schedule, through a reply subject.
fn decode(name: &ScheduleName, stored: &StoredMessage) -> Option<ScheduleRecord> {
    if is_copy(&stored.headers) {
        return None;
    }
    let record = serde_json::from_slice(&stored.payload);
    let record: ScheduleRecord = record
        .inspect_err(|error| debug!(schedule = %name, %error, "cannot read a schedule"))
        .ok()?;
    (record.name == *name).then_some(record)
}

/// The message that stores a schedule. The stream stores it only if the last one has the expected sequence
/// (0 for none).
///
/// # Panics
/// Never: a schedule is plain data with text for keys.
#[must_use]
pub fn message(record: &ScheduleRecord, expected: u64) -> Message {
    let mut headers = HeaderMap::new();
    headers.insert(EXPECTED_LAST, expected.to_string());
    let payload = serde_json::to_vec(record).expect("a schedule is plain data with text for keys");
    Message {
        subject: subjects::schedule(&record.name),
        headers,
        payload: payload.into(),
    }
}

/// The message that submits a job of a schedule. However often it is sent, the job is stored once: while the
/// queue holds it, and for two minutes, the server refuses it, and later the job's record is known.
#[must_use]
pub fn job_message(record: &ScheduleRecord, pending: &PendingJob, now: Timestamp) -> Message {
    let template = record.schedule.job.message();
    let PendingJob { id, run_at, .. } = *pending;
    let mut headers = HeaderMap::new();
    headers.insert(EXPECTED_LAST, "0");
    headers.insert(
        EXPECTED_LAST_OF.clone(),
        format!("{}.{id}.>", subjects::DURABLE),
    );
    headers.insert(MESSAGE_ID, id.to_string());
    headers.insert(subjects::SCHEDULE_HEADER, record.name.as_str());
    Message {
        subject: subjects::durable_job(id, template.priority, 1, &template.kind),
        headers,
        payload: record.schedule.job.job(id, now, run_at).into(),
    }
}
