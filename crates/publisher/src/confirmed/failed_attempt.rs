use std::borrow::Cow;
use std::time::Duration;

use common::{JobId, Outcome, OutcomeError, Status, codes};

use crate::codes as own_codes;
use crate::outcome::unsuccessful;

/// An attempt that did not end the job. Consumers that are full are no such reason: see
/// [`Reply::NoRoom`](super::reply::Reply::NoRoom).
#[derive(Debug)]
pub(super) struct FailedAttempt {
    pub(super) reason: FailureReason,
    /// The consumer that replied; empty if none did.
    pub(super) consumer: String,
    /// The consumer's error message; `None` if it sent none.
    pub(super) message: Option<String>,
    /// The shortest wait before the next attempt that the consumer asked for; `None` if it asked
    /// for none.
    pub(super) retry_after: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureReason {
    /// The server had no subscriber for the request.
    NoConsumer,
    /// The consumer stopped before the job had ended.
    Interrupted,
    /// No reply came in time.
    TimedOut,
}

impl FailedAttempt {
    /// A failure that no consumer reported.
    pub(super) fn because(reason: FailureReason) -> Self {
        Self {
            reason,
            consumer: String::new(),
            message: None,
            retry_after: None,
        }
    }

    /// The outcome of the job if this was its last attempt; `why` says why there is no other one.
    pub(super) fn into_outcome(self, id: JobId, attempt: u32, why: &str) -> Outcome {
        let (code, message) = match self.reason {
            FailureReason::NoConsumer => {
                (own_codes::NO_CONSUMER, "no consumer was there to take it")
            }
            FailureReason::Interrupted => (codes::INTERRUPTED, "the consumer was stopped"),
            FailureReason::TimedOut => (codes::TIMEOUT, "no answer came in time"),
        };
        let message = self.message.map_or(Cow::Borrowed(message), Cow::Owned);
        let error = OutcomeError::new(code, format!("{message}; {why}"));
        Outcome {
            consumer: self.consumer,
            ..unsuccessful(id, Status::Failed, attempt, error)
        }
    }
}
