//! A durable job that was submitted.

use std::marker::PhantomData;
use std::time::Duration;

use common::{Job, JobId, JobRecord, JobState, OutcomeError, WireDuration};
use futures_util::{Stream, StreamExt as _, stream};
use jetstream::NotStored;

use crate::follow::{Follow, WaitError};
use crate::link::Link;
use crate::lookup::look_up;
use crate::result::read_result;
use crate::wait::{Waited, wait};

/// How long [`Handle::result`] waits before it looks whether the job is still known.
const AGAIN: Duration = Duration::from_mins(1);

/// A durable job that was submitted. Dropping it changes nothing for the job.
///
/// ```no_run
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # struct SendMail { to: String }
/// # impl client::Job for SendMail { const KIND: &'static str = "mail.send"; type Output = String; }
/// use std::time::Duration;
///
/// use client::{Client, Handle};
/// use futures_util::StreamExt as _;
///
/// # async fn example(jobs: Client, kept: &str) -> Result<(), Box<dyn std::error::Error>> {
/// // In another process than the submission: the id is text, and back.
/// let handle: Handle<SendMail> = jobs.handle(kept.parse()?);
/// if handle.wait(Duration::from_secs(1)).await?.is_none() {
///     let mut records = handle.follow();
///     while let Some(record) = records.next().await {
///         println!("{}", record?.state);
///     }
/// }
/// let sent: String = handle.result().await?;
/// # drop(sent);
/// # Ok(())
/// # }
/// ```
pub struct Handle<J> {
    link: Link,
    id: JobId,
    known: bool,
    job: PhantomData<fn() -> J>,
}

/// Why a job has no result.
///
/// ```no_run
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # struct SendMail { to: String }
/// # impl client::Job for SendMail { const KIND: &'static str = "mail.send"; type Output = String; }
/// use client::{Handle, ResultError};
///
/// # async fn example(handle: Handle<SendMail>) -> Result<(), ResultError> {
/// match handle.result().await {
///     Ok(sent) => println!("{sent}"),
///     Err(ResultError::Dead { record, .. }) => println!("gave up: {:?}", record.reason),
///     Err(error) => return Err(error),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ResultError {
    /// It was given up, and is among the dead letters.
    #[error("job {id} is dead: {}", .error.as_ref().map_or("no error is known", |error| &error.message))]
    Dead {
        /// The job.
        id: JobId,
        /// The error of its last attempt.
        error: Option<OutcomeError>,
        /// The whole record, with all failed attempts and the reason.
        record: Box<JobRecord>,
    },
    /// It was cancelled.
    #[error("job {0} was cancelled")]
    Cancelled(JobId),
    /// Its deadline passed before it was started.
    #[error("job {0} expired: its deadline passed before it was started")]
    Expired(JobId),
    /// It succeeded, but its result is not of the type that was expected, or is not kept.
    #[error("the result of job {id} cannot be read: {reason}")]
    Unreadable {
        /// The job.
        id: JobId,
        /// What is wrong.
        reason: String,
    },
    /// The server knows no such job: it was never submitted, or its record has expired.
    #[error("job {0} is not known: it was never submitted, or its record has expired")]
    Unknown(JobId),
    /// The job can no longer be waited for: the user has no permission, or the connection is closed for
    /// good. The job itself is not affected.
    #[error("the result of job {id} cannot be waited for: {error}")]
    CannotWait {
        /// The job.
        id: JobId,
        /// Why.
        #[source]
        error: WaitError,
    },
}

impl<J: Job> Handle<J> {
    pub(crate) fn new(link: Link, id: JobId, known: bool) -> Self {
        Self {
            link,
            id,
            known,
            job: PhantomData,
        }
    }

    /// The id of the job.
    #[must_use]
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Whether a job with this id existed before, so that none was stored. It may be the job that holds the
    /// key of a unique job; see [`OnConflict::Keep`](crate::OnConflict::Keep).
    #[must_use]
    pub fn was_known(&self) -> bool {
        self.known
    }

    /// Waits until the job has ended, as long as it takes, and returns its result. While NATS is away,
    /// it goes on waiting.
    ///
    /// # Errors
    /// When the job has ended in another way, is not known, or can no longer be waited for: see
    /// [`ResultError`].
    pub async fn result(&self) -> Result<J::Output, ResultError> {
        let id = self.id;
        let mut follow = Follow::new(self.link.nats.clone(), self.link.connected.clone(), id);
        loop {
            match tokio::time::timeout(AGAIN, follow.end()).await {
                Ok(Ok(record)) => return self.read(record),
                Ok(Err(error)) => return Err(ResultError::CannotWait { id, error }),
                Err(_) => {}
            }
            if let Ok(None) = self.record().await {
                return Err(ResultError::Unknown(id));
            }
        }
    }

    /// Waits until the job has ended, but not longer than `timeout`; `None` if it has not ended by then.
    /// While NATS is away, it goes on waiting.
    ///
    /// # Errors
    /// See [`WaitError`].
    pub async fn wait(&self, timeout: Duration) -> Result<Option<JobRecord>, WaitError> {
        // A longer time could overflow the clock.
        let timeout = timeout.min(WireDuration::MAX);
        let connected = self.link.connected.clone();
        match wait(&self.link.nats, connected, self.id, timeout).await? {
            Waited::Ended(record) => Ok(Some(*record)),
            Waited::NotYet(_) => Ok(None),
        }
    }

    /// The changes of the job: its record now, if it has one, and each later record. The stream ends
    /// after the record with which the job ends, or after an error; see [`WaitError`]. While NATS is away
    /// it waits; records that were replaced meanwhile are left out.
    pub fn follow(&self) -> impl Stream<Item = Result<JobRecord, WaitError>> + Send + use<J> {
        let follow = Follow::new(self.link.nats.clone(), self.link.connected.clone(), self.id);
        // The stream keeps the connection, whatever becomes of client and handle.
        let state = Some((follow, self.link.clone()));
        stream::unfold(state, async |state| {
            let (mut follow, link) = state?;
            match follow.next().await {
                Ok(record) => Some((Ok(record?), Some((follow, link)))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }

    /// Requests to cancel the job. When this returns, the request is stored, and a consumer carries it
    /// out.
    ///
    /// # Errors
    /// When the server refuses it, or does not answer in time.
    pub async fn cancel(&self) -> Result<(), NotStored> {
        crate::cancel(&self.link.nats, self.id).await
    }

    /// The record of the job as it is now; `None` if the job is not known, or no longer.
    ///
    /// # Errors
    /// When the server does not answer in time.
    pub async fn record(&self) -> anyhow::Result<Option<JobRecord>> {
        look_up(&self.link.nats, self.id).await
    }

    fn read(&self, record: JobRecord) -> Result<J::Output, ResultError> {
        let id = self.id;
        match record.state {
            JobState::Cancelled => return Err(ResultError::Cancelled(id)),
            JobState::Expired => return Err(ResultError::Expired(id)),
            JobState::Dead => {
                let error = record
                    .failures
                    .iter()
                    .rev()
                    .find(|failed| !failed.is_mark());
                return Err(ResultError::Dead {
                    id,
                    error: error.map(|failed| failed.error.clone()),
                    record: Box::new(record),
                });
            }
            _ => {}
        }
        let result = read_result::<J>(record.result.as_deref());
        result.map_err(|reason| ResultError::Unreadable { id, reason })
    }
}

impl<J> Clone for Handle<J> {
    fn clone(&self) -> Self {
        Self {
            link: self.link.clone(),
            id: self.id,
            known: self.known,
            job: PhantomData,
        }
    }
}

impl<J> std::fmt::Debug for Handle<J> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Handle")
            .field("id", &self.id)
            .field("known", &self.known)
            .finish_non_exhaustive()
    }
}
