//! The dead letters: jobs that were given up, as they were submitted.

use async_nats::HeaderMap;
use bytes::Bytes;
use common::{
    DeadReason, FailedAttempt, JobId, JobKind, NotPortable, Priority, Timestamp, subjects,
};
use jetstream::{StoredMessage, headers};
use serde_json::Value;

mod bulk;
mod change;
mod discard;
mod failures;
mod groups;
mod list;
mod newest;
mod replay;
mod show;
mod summary;

pub use bulk::{Action, Remaining};
pub(crate) use change::record_of;
pub use discard::discard;
pub use groups::{Group, Groups, groups, normalised};
pub use list::list;
pub use newest::{Cursor, Letters, count, count_matching, newest};
pub use replay::{Replayed, replay};
pub use show::{exists, show};
pub use summary::Summary;

/// A job that was given up.
#[derive(Clone, Debug)]
pub struct DeadLetter {
    /// The job.
    pub id: JobId,
    /// Its kind.
    pub kind: JobKind,
    /// Why it was given up.
    pub reason: Option<DeadReason>,
    /// When it was given up, by the clock of the NATS server.
    pub at: Timestamp,
    /// Its failures, the oldest first. If the dead letter has none, these are the failures in the
    /// record.
    pub failures: Vec<FailedAttempt>,
    /// Its bytes as they were submitted.
    pub payload: Bytes,
    /// The headers that it was submitted with.
    pub headers: HeaderMap,
    /// The headers as base64, if they could not be read.
    unreadable_headers: Option<String>,
    priority: Priority,
    run: u32,
    sequence: u64,
    /// The size of its payload in bytes, even if the payload was left out.
    size: usize,
}

/// Selects dead letters.
#[derive(Clone, Debug, Default)]
pub struct Which {
    /// Only dead letters of this kind.
    pub kind: Option<JobKind>,
    /// Only dead letters with this reason.
    pub reason: Option<DeadReason>,
    /// Only dead letters whose last error has this message, in the form that [`normalised`] returns;
    /// see [`Group`].
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

/// The subjects of all dead letters, or of the dead letters of one kind, with wildcards.
pub(crate) fn filter(kind: Option<&JobKind>) -> String {
    kind.map_or_else(|| subjects::ALL_DEAD.to_owned(), subjects::dead_of_kind)
}

/// Why a dead letter was not changed; found in an error by [`anyhow::Error::downcast_ref`].
///
/// ```no_run
/// use client::dead_letters::{DeadLetter, LeftAsItIs, replay};
///
/// # async fn example(jobs: client::Client, letter: DeadLetter) {
/// if let Err(error) = replay(jobs.nats(), &letter, None).await {
///     match error.downcast_ref::<LeftAsItIs>() {
///         Some(LeftAsItIs::NoBytes(id)) => println!("{id} needs a new payload"),
///         _ => println!("not replayed: {error:#}"),
///     }
/// }
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LeftAsItIs {
    /// Another client replays or discards it at the same time.
    #[error("another client is replaying or discarding job {0}")]
    Busy(JobId),
    /// Other libraries cannot read the new payload.
    #[error("field `payload`: {0}")]
    NotPortable(NotPortable),
    /// The bytes of the job are lost, and no new payload was given.
    #[error("the payload of job {0} is lost: replay the job with a new payload")]
    NoBytes(JobId),
    /// The job is unique, and another job holds its key meanwhile.
    #[error("job {holder} holds the key of job {id} now: replay {id} when that job has ended")]
    KeyHeld {
        /// The job of the dead letter.
        id: JobId,
        /// The job that holds the key.
        holder: JobId,
    },
    /// With the new payload, the job does not fit into a message.
    #[error(
        "with this payload the job has {size} bytes; a durable job may have at most {limit} \
         (max_payload of the server minus the room for headers)"
    )]
    TooLarge {
        /// The size of the job in bytes.
        size: usize,
        /// The largest size that is accepted, in bytes.
        limit: usize,
    },
}

impl DeadLetter {
    /// The headers that the job was submitted with, one item for each value. Headers that could not be
    /// read are one item: all of them as base64.
    pub fn submitted_headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let readable = self.headers.iter().flat_map(|(name, values)| {
            let name: &str = name.as_ref();
            values.iter().map(move |value| (name, value.as_str()))
        });
        let unreadable = self.unreadable_headers.as_deref();
        readable.chain(unreadable.map(|raw| (subjects::UNREADABLE_HEADER, raw)))
    }

    pub(crate) fn of(kept: StoredMessage) -> Option<Self> {
        let (id, kind) = subjects::parse_dead(&kept.subject)?;
        let header = |name: &str| kept.headers.get(name).map(async_nats::HeaderValue::as_str);
        let word = |text: &str| serde_json::from_value(Value::from(text)).ok();
        // Headers that cannot be read were written by another program; they are ignored.
        let failures = header(subjects::DEAD_FAILURES_HEADER)
            .and_then(|text| serde_json::from_str(text).ok())
            .unwrap_or_default();
        let submitted = headers::submitted(Some(&kept.headers));
        let unreadable = headers::unreadable(Some(&kept.headers)).map(ToOwned::to_owned);
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
            headers: submitted,
            unreadable_headers: unreadable,
            priority,
            sequence: kept.sequence,
            size: kept.size,
        })
    }
}
