use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bootstrap::trace::{Span, TraceContext};
use common::{JobId, codes};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

/// Runs the jobs of one kind.
///
/// A handler is shared by all jobs of its kind that run at the same time. Jobs can be delivered
/// more than once, so what it does should be safe to repeat.
///
/// An attempt ends early when its time is up or the consumer has to stop: the future is then
/// dropped at the next `await`. Work that keeps a thread busy for more than a few milliseconds
/// belongs on another thread, by [`tokio::task::spawn_blocking`].
pub trait Handler: Send + Sync + 'static {
    /// The kind of jobs that it runs.
    const KIND: &'static str;

    /// What it takes: a payload that cannot be read as this is rejected, and the handler not called.
    type Payload: DeserializeOwned + Send;

    /// What it returns: the result in the outcome of the job.
    type Output: Serialize + Send;

    /// Runs one attempt.
    ///
    /// # Errors
    /// [`Failure::Transient`] if a repetition may succeed, else [`Failure::Permanent`]. The `?`
    /// operator makes any error transient.
    fn handle(
        &self,
        payload: Self::Payload,
        attempt: Attempt,
    ) -> impl Future<Output = Result<Self::Output, Failure>> + Send;

    /// The longest run of one attempt of a job that does not say so itself; the consumer's
    /// `--timeout` if absent.
    fn timeout(&self) -> Option<Duration> {
        None
    }
}

/// Which attempt at which job a handler is called for.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The job: the same for all its attempts, and so a key for work that must not be done twice.
    pub id: JobId,
    /// The number of the attempt, from 1.
    pub number: u32,
    /// The longest that it may run.
    pub timeout: Duration,
    /// Where in which trace it is, if it is in one.
    pub(crate) trace: Option<Arc<TraceContext>>,
    /// Jobs of the durable lane can be cancelled.
    pub(crate) cancelled: Option<CancellationToken>,
}

impl Attempt {
    /// The header `traceparent` for what the handler asks of other services, so that it belongs to
    /// the trace of the job; nothing if the job is in none.
    #[must_use]
    pub fn traceparent(&self) -> Option<String> {
        self.trace.as_ref().map(|trace| trace.traceparent())
    }

    /// The header `tracestate`, which goes with [`Attempt::traceparent`] if there is one.
    #[must_use]
    pub fn tracestate(&self) -> Option<String> {
        self.trace.as_ref().and_then(|trace| trace.tracestate())
    }

    /// Begins the span of a call to another service or a program.
    pub(crate) fn call(&self, name: impl FnOnce() -> Cow<'static, str>) -> Span {
        Span::call(self.trace.as_deref(), name)
    }

    /// Becomes ready when somebody cancels the job; never for one that cannot be cancelled, because
    /// it came on `jobs.create`.
    ///
    /// The future of a handler is dropped then by itself: this is for work that it has started
    /// elsewhere, on a thread of its own, say.
    pub async fn cancelled(&self) {
        match &self.cancelled {
            Some(cancelled) => cancelled.cancelled().await,
            None => std::future::pending().await,
        }
    }

    /// Whether somebody has cancelled the job: for work that cannot await.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        let cancelled = self.cancelled.as_ref();
        cancelled.is_some_and(CancellationToken::is_cancelled)
    }
}

/// Why an attempt failed.
#[derive(Debug)]
pub enum Failure {
    /// A repetition may succeed: a service is away, a limit was hit, a lock is held.
    Transient {
        /// What went wrong.
        error: anyhow::Error,
        /// When a repetition has a chance, if that is known.
        retry_after: Option<Duration>,
    },
    /// No repetition can succeed: the input is wrong, the thing is gone.
    Permanent(
        /// What went wrong.
        anyhow::Error,
    ),
}

impl Failure {
    /// A failure that a repetition may cure.
    pub fn transient(error: impl Into<anyhow::Error>) -> Self {
        Self::Transient {
            error: error.into(),
            retry_after: None,
        }
    }

    /// The word for programs that an outcome has of it.
    pub(crate) fn code(&self) -> &'static str {
        match self {
            Self::Transient { .. } => codes::TRANSIENT,
            Self::Permanent(_) => codes::PERMANENT,
        }
    }

    /// A failure that no repetition can cure.
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
