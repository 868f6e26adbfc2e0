use std::time::Duration;

use async_nats::RequestErrorKind;
use bytes::Bytes;
use common::{JobId, RunNow, RunNowAnswer, subjects};
use connection::NatsClient;
use jetstream::request::unless_forbidden;

/// How long a consumer may take to answer: it writes twice.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why it is not known whether a job runs now.
///
/// ```no_run
/// use client::{RunNowError, run_now};
///
/// # async fn example(jobs: client::Client, id: client::JobId) {
/// match run_now(jobs.nats(), id).await {
///     Ok(result) => println!("{result:?}"),
///     Err(RunNowError::NoConsumer) => println!("start a consumer first"),
///     Err(error) => println!("ask again: {error}"),
/// }
/// # }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RunNowError {
    /// No consumer is there to do it.
    #[error("no consumer is there to do it")]
    NoConsumer,
    /// There was no answer in time: the job may run now, or not. Ask again.
    #[error("no consumer has answered within {} s", PATIENCE.as_secs())]
    NoAnswer,
    /// The server does not let this user ask, or the connection is closed.
    #[error("{0}")]
    NotAsked(String),
}

/// Has a consumer run a job now that waits for its time or for its next attempt. It may be asked again at any
/// time.
///
/// # Errors
/// See [`RunNowError`].
pub async fn run_now(client: &NatsClient, id: JobId) -> Result<RunNow, RunNowError> {
    let subject = subjects::run_now(id);
    let asking = client.request(subject.clone(), Bytes::new());
    let asking = unless_forbidden(client, &subject, tokio::time::timeout(PATIENCE, asking));
    let answer = match asking.await {
        Err(error) => return Err(RunNowError::NotAsked(error.to_string())),
        Ok(Err(_)) => return Err(RunNowError::NoAnswer),
        Ok(Ok(Err(error))) => {
            return Err(match error.kind() {
                RequestErrorKind::NoResponders => RunNowError::NoConsumer,
                RequestErrorKind::TimedOut => RunNowError::NoAnswer,
                _ => RunNowError::NotAsked(error.to_string()),
            });
        }
        Ok(Ok(Ok(answer))) => answer,
    };
    let answer = serde_json::from_slice::<RunNowAnswer>(&answer.payload);
    answer
        .map(|answer| answer.result)
        .map_err(|_| RunNowError::NoAnswer)
}
