//! What becomes of a submission.

use common::JobId;
use jetstream::Stream;

/// The result of a submission. The job, or the one that is kept in its place, is stored and synced to the
/// disk.
///
/// ```no_run
/// use client::{Client, NewJob, SubmitError, Submitted};
///
/// # async fn example(jobs: Client, job: NewJob) -> Result<(), SubmitError> {
/// if jobs.submit_job(&job).await? == Submitted::Known {
///     println!("{} exists already", job.id);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Submitted {
    /// This submission stored the job.
    Stored,
    /// A job with this id exists already, so none was stored: it waits, it runs, or it has ended and its
    /// record is kept. A user that may not read records is told of a job that has ended that it is stored;
    /// it is not run again.
    Known,
    /// Another job holds the key of this unique job, which keeps it:
    /// [`OnConflict::Keep`](crate::OnConflict::Keep). Nothing was stored.
    Kept(JobId),
}

/// Why a job was not stored, or may not be stored.
///
/// ```no_run
/// use client::{Client, NewJob, SubmitError};
///
/// # async fn example(jobs: Client, job: NewJob) -> Result<(), SubmitError> {
/// let mut submitted = jobs.submit_job(&job).await;
/// if let Err(SubmitError::MayBeStored { .. }) = submitted {
///     // The same id: it is not stored twice.
///     submitted = jobs.submit_job(&job).await;
/// }
/// submitted?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue or the storage of the account is full.
    #[error(
        "the stream {stream} is full until some jobs are done: {why}; the limit is max_bytes of \
         the stream, or max_file of the account"
    )]
    Full {
        /// The stream.
        stream: Stream,
        /// The error text of the server, which names the limit.
        why: String,
    },
    /// The job does not fit into a message.
    #[error(
        "the job has {size} bytes; a durable job may have at most {limit} (max_payload of the \
         server minus the room for headers)"
    )]
    TooLarge {
        /// The size of the job in bytes.
        size: usize,
        /// The largest size that is accepted, in bytes.
        limit: usize,
    },
    /// The stream does not exist.
    #[error(
        "there is no stream {0}: a consumer creates it when it starts, if the server has JetStream"
    )]
    NoStream(Stream),
    /// The server refuses the job.
    #[error("{0}")]
    Refused(String),
    /// The user of this connection may not publish to the subject of the job. It is not stored.
    #[error(
        "the server does not let this user publish to {0}: grant it that in the permissions of the \
         server (jobs.durable.> for durable jobs)"
    )]
    Forbidden(String),
    /// There was no connection in time, so the job was never sent and is not stored.
    #[error("not connected to NATS: {0}")]
    NotConnected(String),
    /// It could not be looked up in time whether a job with this id exists. It is not stored.
    #[error("it cannot be looked up whether the job is known: {0}")]
    NotLookedUp(String),
    /// An option or the payload of the job cannot be used. It is not stored.
    #[error("field `{field}`: {reason}")]
    Invalid {
        /// The option, or `payload`.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Another job holds the key of this unique job. It is not stored.
    #[error("job {holder} holds the key {key:?}, so this job was not stored")]
    Conflict {
        /// The job that holds the key.
        holder: JobId,
        /// The key.
        key: String,
    },
    /// Of jobs that are stored together or not at all, two are unique with the same key, so none is
    /// stored.
    #[error("no job was stored, because two of the jobs have the same kind and the same key {0:?}")]
    SameKey(String),
    /// Of jobs that are stored together or not at all, some are known already, so none is stored.
    #[error("no job was stored, because some of these ids are stored already")]
    SomeKnown,
    /// Of jobs that are stored together or not at all, two have the same id, so none is stored.
    #[error("no job was stored, because two of the jobs have the same id {0}")]
    Twice(JobId),
    /// There are too many jobs for one atomic batch.
    #[error("{0} jobs cannot be stored together: at most 1,000, and a unique job counts twice")]
    TooMany(usize),
    /// The server did not answer in time, so the jobs may be stored. It is safe to submit them again
    /// with the same ids: a job is not stored twice.
    #[error(
        "{why}; the job may be stored: submit it again with the same id, it is not stored twice"
    )]
    MayBeStored {
        /// The ids of the jobs.
        ids: Vec<JobId>,
        /// Why it is not known.
        why: String,
    },
}
