//! The key of a unique job, and which job holds it now.

use common::{JobId, JobMessage, Unique};
use connection::NatsClient;
use jetstream::unique_locks;

use crate::unique::hash;

/// The key of a unique job.
///
/// ```no_run
/// # async fn example(jobs: client::Client, id: client::JobId) -> anyhow::Result<()> {
/// let record = client::look_up(jobs.nats(), id).await?.expect("a known job");
/// if let Some(message) = client::message(jobs.nats(), &record).await?
///     && let Some(client::Key { unique, holder }) = client::key_of(jobs.nats(), &message).await?
/// {
///     println!("the key {} is held by {holder:?}", unique.key);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// What the job says of its key.
    pub unique: Unique,
    /// The job that holds the key now, this one or another one; `None` if none does.
    pub holder: Option<JobId>,
}

/// The key of a job, from the job as it was submitted; `None` if the job is not unique, or is none.
///
/// # Errors
/// When the server does not answer in time.
pub async fn key_of(client: &NatsClient, job: &[u8]) -> anyhow::Result<Option<Key>> {
    let Ok(job) = JobMessage::decode(job) else {
        return Ok(None);
    };
    let Some(unique) = job.unique else {
        return Ok(None);
    };
    let lock = unique_locks::read(client, hash(&job.kind, &unique.key)).await?;
    Ok(Some(Key {
        unique,
        holder: lock.and_then(|lock| lock.holder()),
    }))
}
