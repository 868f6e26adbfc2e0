//! Waits for the end of a job.

use std::time::Duration;

use common::{JobId, JobRecord};
use connection::NatsClient;
use jetstream::ApiError;
use tokio::time::Instant;

use crate::follow::{Follow, WaitError};
use crate::lookup::look_up;

/// How the wait for a job ended.
///
/// ```no_run
/// use std::time::Duration;
///
/// use client::{Client, JobId, WaitError, Waited, wait};
///
/// # async fn example(jobs: Client, id: JobId) -> Result<(), WaitError> {
/// match wait(jobs.nats(), jobs.connected(), id, Duration::from_secs(10)).await? {
///     Waited::Ended(record) => println!("{}", record.state),
///     Waited::NotYet(Some(record)) => println!("still {}", record.state),
///     Waited::NotYet(None) => println!("no such job"),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub enum Waited {
    /// The job has ended; this is its last record.
    Ended(Box<JobRecord>),
    /// The job has not ended in time; this is its record now, if the job is known.
    NotYet(Option<Box<JobRecord>>),
}

/// Waits until a job has ended. The job may be submitted after the wait begins. While NATS is away, this
/// goes on waiting.
///
/// The events of the job are subscribed to before the job is looked up, so that no end is missed
/// between the two. It is looked up again after a lost connection, and when `patience` is over.
///
/// # Errors
/// At once when the user has no permission, or the connection is closed for good; and when the server
/// does not answer after `patience`. See [`WaitError`].
pub async fn wait(
    client: &NatsClient,
    connected: tokio::sync::watch::Receiver<bool>,
    id: JobId,
    patience: Duration,
) -> Result<Waited, WaitError> {
    let until = Instant::now() + patience;
    let mut follow = Follow::new(client.clone(), connected, id);
    if let Ok(ended) = tokio::time::timeout_at(until, follow.end()).await {
        return ended.map(|record| Waited::Ended(Box::new(record)));
    }
    match look_up(client, id).await {
        Ok(Some(record)) if record.state.is_final() => Ok(Waited::Ended(Box::new(record))),
        Ok(known) => Ok(Waited::NotYet(known.map(Box::new))),
        Err(error) => Err(of(&error)),
    }
}

fn of(error: &anyhow::Error) -> WaitError {
    match error.downcast_ref::<ApiError>() {
        Some(ApiError::Forbidden(subject)) => WaitError::Forbidden(subject.clone()),
        _ => WaitError::NoAnswer(format!("{error:#}")),
    }
}
