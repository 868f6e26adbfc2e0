//! The dead letters: jobs that were given up, as they were submitted.

use anyhow::Context as _;
use async_nats::HeaderMap;
use bootstrap::Client;
use bytes::Bytes;
use common::{
    DeadReason, FailedAttempt, Job, JobId, JobKind, JobRecord, JobState, NotPortable, OutcomeError,
    Priority, Timestamp, check_portable, codes, subjects,
};
use serde_json::Value;

mod all;
mod failures;
mod groups;
mod newest;
mod summary;

pub use all::{Action, Remaining};
pub use groups::{Group, Groups, groups, normalised};
pub use newest::{Cursor, Letters, count, newest};
pub use summary::Summary;

use crate::api;
use crate::clock::ServerClock;
use crate::direct::{self, Kept};
use crate::letter::{own_headers, unreadable_headers};
use crate::records;
use crate::submit::MARGIN;
use crate::topology::Stream;
use crate::trim;
use crate::writer::{self, Message, NotStored, size_of};
use failures::add_failures;

/// How many are read at a time.
const PAGE: usize = 100;

/// How many bytes they may have together.
const PAGE_BYTES: usize = 4 << 20;

/// The most attempts before a replay that are kept.
const MOST_ATTEMPTS: usize = 100;

/// How long the record of a discarded job is kept.
const KEPT: &str = "168h";

/// A job that was given up.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The job.
    pub id: JobId,
    /// Its kind.
    pub kind: JobKind,
    /// Why it was given up.
    pub reason: Option<DeadReason>,
    /// When, by the clock of the NATS server.
    pub at: Timestamp,
    /// Its failures, the oldest first: those of its record where the letter had no room for them.
    pub failures: Vec<FailedAttempt>,
    /// Its bytes as they were submitted.
    pub payload: Bytes,
    /// The headers that it was submitted with.
    pub headers: HeaderMap,
    /// What they were where they could not be read, as base64.
    unreadable_headers: Option<String>,
    priority: Priority,
    run: u32,
    sequence: u64,
    /// The size of its payload, also where that was left out.
    size: usize,
}

/// Which dead letters are meant.
#[derive(Clone, Debug, Default)]
pub struct Which {
    /// Only those of this kind.
    pub kind: Option<JobKind>,
    /// Only those that were given up for this reason.
    pub reason: Option<DeadReason>,
    /// Only those whose last error has this message, as [`normalised`] makes it: a [`Group`].
    pub error: Option<String>,
}

impl Which {
    fn is(&self, letter: &DeadLetter) -> bool {
        let message = || {
            let failure = letter.last_failure();
            failure.map_or(String::new(), |failure| normalised(&failure.error.message))
        };
        (self.kind.is_none() || self.kind.as_ref() == Some(&letter.kind))
            && (self.reason.is_none() || self.reason == letter.reason)
            && self.error.as_ref().is_none_or(|error| *error == message())
    }
}

/// The subjects of all dead letters, or of those of a kind.
pub(crate) fn filter(kind: Option<&JobKind>) -> String {
    match kind {
        Some(kind) => format!("jobs.dead.*.{kind}"),
        None => "jobs.dead.>".to_owned(),
    }
}

/// What came of a replay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replayed {
    /// It is in the queue again.
    Yes,
    /// Somebody else has replayed it, or the job is not dead any more.
    Already,
}

/// Why a dead letter was left as it is; found in an error by [`anyhow::Error::downcast_ref`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeftAsItIs {
    /// Somebody else does something with it at the same time.
    #[error("job {0} is being replayed or discarded by somebody else")]
    Busy(JobId),
    /// The other payload cannot be read by others.
    #[error("field `payload`: {0}")]
    NotPortable(NotPortable),
    /// There is nothing that could be run again.
    #[error("the bytes of job {0} are lost: it can be replayed only with a payload")]
    NoBytes(JobId),
    /// With the other payload it does not fit into a message.
    #[error(
        "with this payload the job has {size} bytes, and a durable one may have {limit} \
         (max_payload of the server, less what is kept for headers)"
    )]
    TooLarge {
        /// The size of the job in bytes.
        size: usize,
        /// The most that is taken.
        limit: usize,
    },
}

impl DeadLetter {
    /// The headers that the job was submitted with, each value by itself. Those that could not be read
    /// are one value, as base64.
    pub fn submitted_headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let readable = self.headers.iter().flat_map(|(name, values)| {
            let name: &str = name.as_ref();
            values.iter().map(move |value| (name, value.as_str()))
        });
        let unreadable = self.unreadable_headers.as_deref();
        readable.chain(unreadable.map(|raw| (subjects::UNREADABLE_HEADER, raw)))
    }

    pub(crate) fn of(kept: Kept) -> Option<Self> {
        let mut tokens = kept.subject.splitn(4, '.').skip(2);
        let (id, kind) = (tokens.next()?.parse().ok()?, tokens.next()?.parse().ok()?);
        let header = |name: &str| kept.headers.get(name).map(async_nats::HeaderValue::as_str);
        let word = |text: &str| serde_json::from_value(Value::from(text)).ok();
        // What cannot be read is what somebody else has put there.
        let failures = header(subjects::DEAD_FAILURES_HEADER)
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let headers = own_headers(Some(&kept.headers));
        let unreadable = unreadable_headers(Some(&kept.headers)).map(ToOwned::to_owned);
        let reason = header(subjects::DEAD_REASON_HEADER).and_then(word);
        let priority = header(subjects::PRIORITY_HEADER)
            .and_then(|text| text.parse().ok())
            .unwrap_or_default();
        let run = header(subjects::RUN_HEADER)
            .and_then(|text| text.parse().ok())
            .unwrap_or(1);
        Some(Self {
            id,
            kind,
            run,
            reason,
            at: kept.at,
            failures,
            payload: kept.payload,
            headers,
            unreadable_headers: unreadable,
            priority,
            sequence: kept.sequence,
            size: kept.size,
        })
    }
}

/// Dead letters, the oldest first, at most `most`; from the one after `after` on, which is the
/// [`Summary::position`] of the last one that was seen.
///
/// # Errors
/// When the server does not answer in time.
pub async fn list(
    client: &Client,
    which: &Which,
    mut after: u64,
    most: usize,
) -> anyhow::Result<Vec<Summary>> {
    let mut letters = Vec::new();
    while letters.len() < most
        && let Some(page) = page(client, which, after).await?
    {
        after = page.last;
        let wanted = page.letters.iter().map(DeadLetter::summary);
        letters.extend(wanted.take(most - letters.len()));
    }
    Ok(letters)
}

/// Some dead letters with all that they hold.
struct Page {
    /// Those that are meant, the oldest first.
    letters: Vec<DeadLetter>,
    /// The position of the last one that was read.
    last: u64,
}

/// The dead letters after a position, as many as are read at a time; nothing at the end.
async fn page(client: &Client, which: &Which, after: u64) -> anyhow::Result<Option<Page>> {
    let (filter, from) = (filter(which.kind.as_ref()), after + 1);
    let read = direct::some(client, Stream::State, &filter, from, PAGE, PAGE_BYTES).await?;
    let Some(last) = read.last().map(|kept| kept.sequence) else {
        return Ok(None);
    };
    let mut letters: Vec<_> = read.into_iter().filter_map(DeadLetter::of).collect();
    add_failures(client, &mut letters).await?;
    letters.retain(|letter| which.is(letter));
    Ok(Some(Page { letters, last }))
}

/// The dead letter of a job.
///
/// # Errors
/// When the server does not answer in time.
pub async fn show(client: &Client, id: JobId) -> anyhow::Result<Option<DeadLetter>> {
    let kept = direct::last(client, Stream::State, &format!("jobs.dead.{id}.>")).await?;
    let mut letter = kept.and_then(DeadLetter::of);
    add_failures(client, letter.as_mut_slice()).await?;
    Ok(letter)
}

/// Puts a dead letter into the queue again, with another payload if there is one; its attempts are
/// counted anew. However many try at the same time, it is replayed once.
///
/// First the record is changed, by whoever comes first; then the job is queued, under a subject
/// that there is once; then the letter is removed. Whoever finds a letter whose job is queued
/// already, because somebody was interrupted, does the rest.
///
/// # Errors
/// When the server does not answer in time, or the other payload does not make a job, or one that
/// is too large ([`LeftAsItIs::TooLarge`]) or that others cannot read ([`LeftAsItIs::NotPortable`]);
/// without another payload, when the bytes of the job are lost ([`LeftAsItIs::NoBytes`]).
pub async fn replay(
    client: &Client,
    letter: &DeadLetter,
    payload: Option<Bytes>,
) -> anyhow::Result<Replayed> {
    let body = match payload {
        Some(payload) => {
            let body = edited(letter, &payload)?;
            // Before anything is changed: a job whose message is refused would be queued nowhere.
            let limit = client.max_payload().saturating_sub(MARGIN);
            let size = body.len() + size_of(&letter.headers);
            if size > limit {
                return Err(LeftAsItIs::TooLarge { size, limit }.into());
            }
            body
        }
        None if letter.reason == Some(DeadReason::LostSchedule) && letter.payload.is_empty() => {
            return Err(LeftAsItIs::NoBytes(letter.id).into());
        }
        None => letter.payload.clone(),
    };
    let (mut record, expected) = record_of(client, letter).await?;
    match record.state {
        JobState::Dead => {
            record.state = JobState::Queued;
            record.run += 1;
            record.attempt = 0;
            record.reason = None;
            record.consumer = None;
            record.next_at = None;
            record.at = now(client).await?;
            mark_replay(&mut record);
            record.settled_deliveries = 0;
            let record = serde_json::to_vec(&record)?.into();
            let message = records::message(letter.id, record, expected, None);
            match writer::store(client, vec![message]).await {
                Ok(_) => {}
                Err(NotStored::Conflict) => return Ok(Replayed::Already),
                Err(error) => return Err(error).context("the replay was not stored"),
            }
        }
        // Somebody else is at it, or was interrupted here.
        JobState::Queued => {}
        _ => {
            remove(client, letter).await?;
            return Ok(Replayed::Already);
        }
    }
    let message = Message {
        subject: subjects::durable_job(letter.id, letter.priority, record.run, &letter.kind),
        headers: letter.headers.clone(),
        payload: body,
    };
    match writer::store(client, vec![message]).await {
        Ok(_) => {}
        Err(NotStored::Exists) => {
            remove(client, letter).await?;
            return Ok(Replayed::Already);
        }
        Err(error) => return Err(error).context("the job was not queued; replay it again"),
    }
    remove(client, letter).await?;
    Ok(Replayed::Yes)
}

/// The record of the job of a letter, and its sequence. One that somebody has removed, or that
/// cannot be read, is made again from the letter.
async fn record_of(client: &Client, letter: &DeadLetter) -> anyhow::Result<(JobRecord, u64)> {
    let kept = direct::last(client, Stream::State, &subjects::state(letter.id)).await?;
    let sequence = kept.as_ref().map_or(0, |kept| kept.sequence);
    let record = kept.and_then(|kept| serde_json::from_slice(&kept.payload).ok());
    let record = record.unwrap_or_else(|| {
        let kind = Some(letter.kind.clone());
        let mut record = JobRecord::new(letter.id, kind, JobState::Dead, letter.at);
        record.run = letter.run;
        record.reason = letter.reason;
        record.failures.clone_from(&letter.failures);
        record
    });
    Ok((record, sequence))
}

/// Keeps the attempts before a replay, and lets the next one be the first again.
fn mark_replay(record: &mut JobRecord) {
    // The whole record has to fit into a message, however often the job is replayed.
    let attempts = &mut record.failures;
    attempts.drain(..attempts.len().saturating_sub(MOST_ATTEMPTS));
    for FailedAttempt { error, .. } in attempts.iter_mut() {
        records::shorten(error, records::SHORT);
    }
    attempts.push(mark(record.at, codes::REPLAYED, "the job was replayed"));
}

/// Something that was done to a dead letter, among the attempts.
fn mark(at: Timestamp, code: &'static str, message: &str) -> FailedAttempt {
    FailedAttempt {
        attempt: 0,
        consumer: None,
        at,
        error: OutcomeError::new(code, message),
    }
}

/// The time of the NATS server.
async fn now(client: &Client) -> anyhow::Result<Timestamp> {
    let clock = ServerClock::default();
    trim::read_clock(client, &clock).await?;
    Ok(clock.now())
}

/// The position after which there are no dead letters yet: whoever goes through all of them stops
/// there, or jobs that are replayed and given up again at once would keep it busy for ever.
///
/// # Errors
/// When the server does not answer in time.
pub async fn last_position(client: &Client) -> anyhow::Result<u64> {
    let info = format!("$JS.API.STREAM.INFO.{}", Stream::State);
    let info: Value = api::ask(client, info, &Value::Null).await?;
    let last = info["state"]["last_seq"].as_u64();
    last.with_context(|| {
        format!(
            "the stream {} does not tell its last message",
            Stream::State
        )
    })
}

/// The job with another payload; everything else that it says of itself stays.
fn edited(letter: &DeadLetter, payload: &[u8]) -> anyhow::Result<Bytes> {
    let payload: &serde_json::value::RawValue =
        serde_json::from_slice(payload).context("the payload is not JSON")?;
    check_portable(payload).map_err(LeftAsItIs::NotPortable)?;
    let job = Job::decode(&letter.payload)
        .ok()
        .filter(|job| job.kind == letter.kind);
    let job = Job {
        id: Some(letter.id),
        payload: Some(payload),
        ..job.unwrap_or_else(|| Job::new(letter.kind.clone()))
    };
    Ok(serde_json::to_vec(&job)?.into())
}

/// Removes a dead letter for good. The record of its job says so, and stays for a week.
///
/// # Errors
/// When the server does not answer in time, or somebody else is at it: [`LeftAsItIs::Busy`].
pub async fn discard(client: &Client, letter: &DeadLetter) -> anyhow::Result<()> {
    let (record, at) = tokio::join!(record_of(client, letter), now(client));
    let (mut record, expected) = record?;
    if record.state == JobState::Dead && record.run == letter.run && expected > 0 {
        // Whoever was interrupted here has written so already.
        if !record.is_discarded() {
            let discarded = mark(at?, codes::DISCARDED, "the dead letter was discarded");
            record.failures.push(discarded);
        }
        let limit = client.max_payload().saturating_sub(MARGIN);
        let record = records::encode(&record, limit);
        let message = records::message(letter.id, record, expected, Some(KEPT));
        match writer::store(client, vec![message]).await {
            Ok(_) => {}
            Err(NotStored::Conflict) => {
                return Err(LeftAsItIs::Busy(letter.id).into());
            }
            Err(error) => return Err(error).context("the letter was not discarded"),
        }
    }
    remove(client, letter).await
}

async fn remove(client: &Client, letter: &DeadLetter) -> anyhow::Result<()> {
    trim::remove(client, Stream::State, letter.sequence).await
}
