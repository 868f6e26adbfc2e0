//! Jobs of the core lane: requests with an outcome, and publishes without one.

use std::time::Duration;

use async_nats::{Request, RequestErrorKind};
use common::{Job, JobId, Outcome, Status, subjects};
use connection::{NatsClient, Operation};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::job::NewJob;
use crate::result::read_result;
use crate::submitted::SubmitError;

/// The first wait before a job is requested again; it doubles each time.
const FIRST_WAIT: Duration = Duration::from_millis(50);

/// The longest of these waits.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// Why one request of a job has no outcome.
///
/// ```
/// use client::RequestError;
///
/// /// Whether the job has not run for certain, so that it may be requested again whatever it does.
/// fn has_not_run(error: &RequestError) -> bool {
///     matches!(error, RequestError::NoConsumer | RequestError::Forbidden)
/// }
/// assert!(!has_not_run(&RequestError::Lost));
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// The job has a `run_at`, which only a durable job may have.
    #[error("field `run_at`: only a durable job can be scheduled")]
    Scheduled,
    /// The job is unique, which only a durable job may be.
    #[error("field `unique`: only a durable job can be unique")]
    Unique,
    /// The job is larger than a message may be.
    #[error("the job is larger than {0} bytes (max_payload of the NATS server)")]
    TooLarge(usize),
    /// No consumer is there. The job has not run.
    #[error("no consumer is there: {} has no responders", subjects::CREATE)]
    NoConsumer,
    /// No outcome came in time. The job may have run.
    #[error("no outcome within {0:?}: the job may have run; submit it again if it may run twice")]
    TimedOut(Duration),
    /// The connection was lost. The job may have run.
    #[error(
        "the connection to NATS was lost: the job may have run; submit it again if it may run twice"
    )]
    Lost,
    /// The user of this connection may not publish to the subject of core jobs. The job has not run.
    #[error(
        "the server does not let this user publish to {subject}: grant it that in the permissions of \
         the server",
        subject = subjects::CREATE
    )]
    Forbidden,
    /// The request could not be sent.
    #[error("the job could not be sent: {0}")]
    NotSent(String),
    /// The answer is not an outcome.
    #[error("the answer is not an outcome: {0}")]
    NotAnOutcome(String),
}

/// Sends a job as one request and waits for its outcome.
///
/// # Errors
/// See [`RequestError`].
pub async fn request(
    client: &NatsClient,
    mut connected: watch::Receiver<bool>,
    job: NewJob,
    patience: Duration,
) -> Result<Outcome, RequestError> {
    if job.run_at.is_some() {
        return Err(RequestError::Scheduled);
    }
    if job.unique.is_some() {
        return Err(RequestError::Unique);
    }
    let mut request = Request::new().payload(job.payload).timeout(Some(patience));
    if !job.headers.is_empty() {
        request = request.headers(job.headers);
    }
    let refused = client.refused(Operation::Publish, subjects::CREATE);
    let answer = tokio::select! {
        answer = client.send_request(subjects::CREATE, request) => answer,
        () = refused => return Err(RequestError::Forbidden),
        _ = connected.wait_for(|up| !*up) => return Err(RequestError::Lost),
    };
    let answer = answer.map_err(|error| match error.kind() {
        RequestErrorKind::NoResponders => RequestError::NoConsumer,
        RequestErrorKind::TimedOut => RequestError::TimedOut(patience),
        RequestErrorKind::MaxPayloadExceeded => RequestError::TooLarge(client.max_payload()),
        _ => RequestError::NotSent(error.to_string()),
    })?;
    let outcome: Result<Outcome, _> = serde_json::from_slice(&answer.payload);
    let outcome = outcome.map_err(|error| RequestError::NotAnOutcome(error.to_string()))?;
    let id = Some(job.id);
    Ok(Outcome { id, ..outcome })
}

/// Publishes a job that runs at most once. When this returns, the client library has the job in its buffer;
/// flush the client to write it.
///
/// # Errors
/// When the job is too large, scheduled or unique, or the client is closed.
pub async fn publish(client: &NatsClient, job: NewJob) -> Result<(), SubmitError> {
    if job.run_at.is_some() {
        return Err(scheduled());
    }
    if job.unique.is_some() {
        return Err(unique());
    }
    // Without a reply subject the client library does not check the size.
    let (size, limit) = (job.payload.len(), client.max_payload());
    if size > limit {
        return Err(SubmitError::TooLarge { size, limit });
    }
    let sent = if job.headers.is_empty() {
        client.publish(subjects::CREATE, job.payload).await
    } else {
        let (headers, payload) = (job.headers, job.payload);
        let subject = subjects::CREATE;
        client.publish_with_headers(subject, headers, payload).await
    };
    sent.map_err(|error| SubmitError::NotConnected(error.to_string()))
}

/// The error of a job with a `run_at` that is not durable.
fn scheduled() -> SubmitError {
    SubmitError::Invalid {
        field: "run_at",
        reason: "only a durable job can be scheduled".to_owned(),
    }
}

/// The error of a unique job that is not durable.
fn unique() -> SubmitError {
    SubmitError::Invalid {
        field: "unique",
        reason: "only a durable job can be unique".to_owned(),
    }
}

/// Why a confirmed job has no result.
///
/// ```
/// use client::ConfirmedError;
///
/// /// Whether the job may be requested again although it must not run twice.
/// fn is_safe_to_repeat(error: &ConfirmedError) -> bool {
///     matches!(error, ConfirmedError::TimedOut { may_have_run: false, .. })
/// }
/// # let _ = is_safe_to_repeat;
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfirmedError {
    /// The job cannot be sent: see the reason. It has not run.
    #[error(transparent)]
    Invalid(#[from] SubmitError),
    /// The handler failed, or the consumers refuse the job, or its deadline has passed. The outcome has the
    /// reason.
    #[error("job {id} {}: {}", .outcome.status.as_str(), .outcome.error.as_ref().map_or("no error is known", |error| &error.message))]
    Unsuccessful {
        /// The job.
        id: JobId,
        /// Its outcome.
        outcome: Box<Outcome>,
    },
    /// There was no outcome in time.
    #[error("job {id} has no outcome within {within:?}: {why}")]
    TimedOut {
        /// The job. It can be requested again with this id.
        id: JobId,
        /// How long was waited.
        within: Duration,
        /// Whether it may have run, or may still run.
        may_have_run: bool,
        /// Why the last request had no outcome.
        why: String,
    },
    /// It succeeded, but its result is not of the type that was expected.
    #[error("the result of job {id} cannot be read: {reason}")]
    Unreadable {
        /// The job.
        id: JobId,
        /// What is wrong.
        reason: String,
    },
}

/// Requests a job until it has an outcome, and reads its result.
pub(crate) async fn run<J: Job>(
    client: &NatsClient,
    connected: watch::Receiver<bool>,
    mut job: NewJob,
    within: Duration,
) -> Result<J::Output, ConfirmedError> {
    let id = job.id;
    let until = Instant::now() + within;
    let mut wait = FIRST_WAIT;
    let mut may_have_run = false;
    for number in 1_u32.. {
        // Repetitions are numbered, so that an outcome says which request it answers.
        if number > 1 {
            job.headers
                .insert(subjects::ATTEMPT_HEADER, number.to_string());
        }
        let left = until.saturating_duration_since(Instant::now());
        let answer = request(client, connected.clone(), job.clone(), left).await;
        let (why, pause) = match answer {
            Ok(outcome) if outcome.status == Status::Succeeded => {
                let result = read_result::<J>(outcome.result.as_deref());
                return result.map_err(|reason| ConfirmedError::Unreadable { id, reason });
            }
            Ok(outcome) if !outcome.status.invites_another_attempt() => {
                let outcome = Box::new(outcome);
                return Err(ConfirmedError::Unsuccessful { id, outcome });
            }
            Ok(outcome) => {
                may_have_run |= outcome.status == Status::Interrupted;
                let error = outcome.error;
                let pause = error.as_ref().and_then(|error| error.retry_after_ms);
                let why = error.map_or_else(|| outcome.status.as_str().to_owned(), |e| e.message);
                (why, pause.map(Duration::from_millis))
            }
            Err(RequestError::TooLarge(limit)) => {
                let size = job.payload.len();
                return Err(SubmitError::TooLarge { size, limit }.into());
            }
            Err(RequestError::Forbidden) => {
                return Err(SubmitError::Forbidden(subjects::CREATE.to_owned()).into());
            }
            Err(RequestError::Scheduled) => return Err(scheduled().into()),
            Err(RequestError::Unique) => return Err(unique().into()),
            Err(error) => {
                may_have_run |= !matches!(error, RequestError::NoConsumer);
                (error.to_string(), None)
            }
        };
        let next = Instant::now() + pause.unwrap_or(wait);
        if next >= until {
            return Err(ConfirmedError::TimedOut {
                id,
                within,
                may_have_run,
                why,
            });
        }
        tokio::time::sleep_until(next).await;
        wait = (wait * 2).min(LONGEST_WAIT);
    }
    unreachable!("the numbers of requests have no end")
}
