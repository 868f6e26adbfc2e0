//! How one attempt at a job ended.

use std::any::Any;
use std::time::Duration;

use common::{DeadReason, OutcomeError, check_portable, codes};

use crate::any_handler::{CallError, Returned};
use crate::handler::Failure;

/// How an attempt ended.
pub(crate) enum AttemptEnd {
    /// The handler returned.
    Returned(Returned),
    /// The payload does not fit the handler, which was not called.
    InvalidPayload(String),
    /// The handler failed, panicked or took too long.
    Failed {
        /// One of [`codes`].
        code: &'static str,
        message: String,
        /// The wait that the failure asks for; `None` leaves it to the backoff.
        retry_after: Option<Duration>,
    },
}

/// What follows an attempt at a durable job.
pub(crate) enum Next {
    Succeeded(Returned),
    /// Another attempt, after this wait; `None` leaves it to the backoff.
    Retry {
        error: OutcomeError,
        retry_after: Option<Duration>,
    },
    Dead {
        reason: DeadReason,
        error: OutcomeError,
    },
}

/// The end of a handler's call; an error is the payload of its panic.
pub(crate) type CallEnd = Result<AttemptEnd, Box<dyn Any + Send>>;

impl AttemptEnd {
    fn failed(code: &'static str, message: String) -> Self {
        Self::Failed {
            code,
            message,
            retry_after: None,
        }
    }

    /// Decides what follows an attempt at a durable job.
    pub(crate) fn next(self, is_last: bool) -> Next {
        match self {
            Self::Returned(result) => Next::Succeeded(result),
            Self::InvalidPayload(text) => Next::Dead {
                reason: DeadReason::Permanent,
                error: OutcomeError::new(codes::INVALID_PAYLOAD, text),
            },
            Self::Failed {
                code,
                message,
                retry_after,
            } => {
                let error = OutcomeError::new(code, message);
                if matches!(code, codes::PERMANENT | codes::RESULT_UNREADABLE) {
                    let reason = DeadReason::Permanent;
                    Next::Dead { reason, error }
                } else if is_last {
                    let reason = DeadReason::AttemptsUsedUp;
                    Next::Dead { reason, error }
                } else {
                    Next::Retry { error, retry_after }
                }
            }
        }
    }

    pub(crate) fn timed_out(timeout: Duration) -> Self {
        let timeout = humantime::format_duration(timeout);
        let message = format!("the attempt took longer than its time-out of {timeout}");
        Self::failed(codes::TIMEOUT, message)
    }

    /// Turns a panic into a failure.
    pub(crate) fn from_call(end: CallEnd) -> Self {
        end.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().copied();
            let text = text.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            let text = text.unwrap_or("it did not say why");
            Self::failed(codes::PANIC, format!("the handler panicked: {text}"))
        })
    }
}

impl From<Result<Returned, CallError>> for AttemptEnd {
    fn from(result: Result<Returned, CallError>) -> Self {
        match result {
            Ok(returned) => match returned.as_deref().map(check_portable) {
                None | Some(Ok(())) => Self::Returned(returned),
                Some(Err(error)) => {
                    let text = format!("the job ran, but its result cannot be read: {error}");
                    Self::failed(codes::RESULT_UNREADABLE, text)
                }
            },
            Err(CallError::InvalidPayload(text)) => Self::InvalidPayload(text),
            Err(CallError::Failed(failure)) => {
                let message = failure.to_string();
                match failure {
                    Failure::Permanent(_) => Self::failed(codes::PERMANENT, message),
                    Failure::Transient { retry_after, .. } => Self::Failed {
                        code: codes::TRANSIENT,
                        message,
                        retry_after,
                    },
                }
            }
        }
    }
}
