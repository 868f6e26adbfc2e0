use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bootstrap::trace::{Span, TraceContext};
use common::{Job, JobId, codes};
use tokio_util::sync::CancellationToken;

use crate::keep::Keep;

/// Runs the jobs of one kind.
///
/// All running jobs of a kind share one handler. A job can be delivered more than once, so the work
/// of a handler should be safe to repeat.
///
/// When the time of an attempt is up, its job is cancelled or the consumer has to stop, the future
/// is dropped at its next `await`. Move work that keeps a thread busy for more than a few
/// milliseconds to another thread, with [`tokio::task::spawn_blocking`].
///
/// ```
/// use consumer::{Attempt, Failure, Handler, Job};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct SendMail {
///     to: String,
/// }
///
/// impl Job for SendMail {
///     const KIND: &'static str = "mail.send";
///     type Output = String;
/// }
///
/// /// It has what all mails need, such as a connection to a mail server.
/// struct Mailer;
///
/// impl Handler for Mailer {
///     type Job = SendMail;
///
///     async fn handle(&self, mail: SendMail, attempt: Attempt) -> Result<String, Failure> {
///         Ok(format!("sent {} to {}", attempt.id, mail.to))
///     }
/// }
/// ```
pub trait Handler: Send + Sync + 'static {
    /// The jobs that it runs: their kind, their payload and their result. A job whose payload is not of
    /// this type is rejected without a call.
    type Job: Job;

    /// Runs one attempt.
    ///
    /// # Errors
    /// [`Failure::Transient`] if another attempt may succeed, else [`Failure::Permanent`]. The `?`
    /// operator makes any error transient.
    fn handle(
        &self,
        job: Self::Job,
        attempt: Attempt,
    ) -> impl Future<Output = Result<<Self::Job as Job>::Output, Failure>> + Send;

    /// Time-out of one attempt at a job that sets none; `None` means the consumer's `--timeout`.
    fn timeout(&self) -> Option<Duration> {
        None
    }

    /// Which durable jobs leave a record when they have ended; `None` means the consumer's `--keep`.
    fn keep(&self) -> Option<Keep> {
        None
    }
}

/// The attempt at a job that a handler is called for.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The id of the job. All attempts have the same, so it can be the key for work that must not be
    /// done twice.
    pub id: JobId,
    /// The number of the attempt, from 1.
    pub number: u32,
    /// Its time-out.
    pub timeout: Duration,
    /// The span of the attempt; `None` if the job belongs to no trace.
    pub(crate) trace: Option<Arc<TraceContext>>,
    /// Cancelled with the job; `None` for core jobs, which cannot be cancelled.
    pub(crate) cancelled: Option<CancellationToken>,
}

impl Attempt {
    /// The header `traceparent` for requests of the handler to other services, so that they belong to
    /// the trace of the job; `None` if the job belongs to no trace.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        self.trace.as_ref().map(|trace| trace.traceparent())
    }

    /// The header `tracestate` that goes with [`Attempt::traceparent`]; `None` if the trace has none.
    #[must_use]
    pub fn tracestate(&self) -> Option<String> {
        self.trace.as_ref().and_then(|trace| trace.tracestate())
    }

    /// Begins the span of a call to a service or a program.
    pub(crate) fn call(&self, name: impl FnOnce() -> Cow<'static, str>) -> Span {
        Span::call(self.trace.as_deref(), name)
    }

    /// Resolves when the job is cancelled; never for core jobs, which cannot be cancelled.
    ///
    /// The future of the handler is dropped then anyway. This is for work that the handler has
    /// started elsewhere, for example on another thread.
    pub async fn cancelled(&self) {
        match &self.cancelled {
            Some(cancelled) => cancelled.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Whether the job was cancelled; for work that cannot await.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        let cancelled = self.cancelled.as_ref();
        cancelled.is_some_and(CancellationToken::is_cancelled)
    }
}

/// Why an attempt failed.
///
/// ```
/// use std::time::Duration;
///
/// use consumer::Failure;
///
/// fn of_status(status: u16) -> Failure {
///     let error = std::io::Error::other(format!("the mail server answered {status}"));
///     match status {
///         429 => Failure::Transient {
///             error: error.into(),
///             retry_after: Some(Duration::from_mins(1)),
///         },
///         400..500 => Failure::permanent(error),
///         _ => Failure::transient(error),
///     }
/// }
/// assert!(matches!(of_status(404), Failure::Permanent { .. }));
/// ```
#[derive(Debug)]
pub enum Failure {
    /// Another attempt may succeed: a service is away, a limit was hit, a lock is held.
    Transient {
        /// What went wrong.
        error: anyhow::Error,
        /// Wait before the next attempt; `None` leaves it to the backoff.
        retry_after: Option<Duration>,
    },
    /// No attempt can succeed: the input is wrong, or what it names is gone.
    Permanent(
        /// What went wrong.
        anyhow::Error,
    ),
}

impl Failure {
    /// A failure after which another attempt may succeed.
    pub fn transient(error: impl Into<anyhow::Error>) -> Self {
        Self::Transient {
            error: error.into(),
            retry_after: None,
        }
    }

    /// Its code in the outcome.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Transient { .. } => codes::TRANSIENT,
            Self::Permanent(_) => codes::PERMANENT,
        }
    }

    /// A failure after which no attempt can succeed.
    pub fn permanent(error: impl Into<anyhow::Error>) -> Self {
        Self::Permanent(error.into())
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::transient(error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Transient { error, .. } | Self::Permanent(error)) = self;
        write!(f, "{error:#}")
    }
}
