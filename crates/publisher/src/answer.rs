use std::borrow::Cow;
use std::time::Duration;

use async_nats::{Message, StatusCode};
use common::{JobId, Outcome, OutcomeError, Status, codes};

use crate::submission::Submission;

/// Words that [`OutcomeError::code`] holds where the publisher itself says why a job did not
/// succeed; the others are in [`common::codes`].
pub mod own_codes {
    /// No consumer was there to take the job.
    pub const NO_CONSUMER: &str = "no_consumer";
    /// The answer is not an outcome, or not this job's.
    pub const BAD_ANSWER: &str = "bad_answer";
    /// The message is larger than the server takes.
    pub const TOO_LARGE: &str = "too_large";
    /// The durable lane has not taken the job, or did not say so in time.
    pub const NOT_STORED: &str = "not_stored";
}

/// What an answer means for a job.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It ended.
    Final(Outcome),
    /// It was not done, because the consumers that serve it are full: only they answer so, and
    /// those that pass a job on to them. They may say how long it should wait.
    NoRoom(Option<Duration>),
    /// It was not done for another reason, and may be submitted again.
    Again(Again),
}

/// Why a job is submitted again.
#[derive(Debug)]
pub(crate) struct Again {
    pub(crate) reason: Reason,
    /// Who refused, and in what words, if somebody did.
    pub(crate) consumer: String,
    pub(crate) message: Option<String>,
    /// Not before this.
    pub(crate) after: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    NoConsumer,
    Interrupted,
    TimedOut,
}

impl Answer {
    pub(crate) fn read(message: &Message, id: JobId, attempt: u32) -> Self {
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Self::Again(Again::because(Reason::NoConsumer));
        }
        let outcome = match outcome(&message.payload, id) {
            Ok(outcome) => outcome,
            Err(reason) => {
                let error = OutcomeError::new(own_codes::BAD_ANSWER, reason);
                return Self::Final(not_succeeded(id, Status::Failed, attempt, error));
            }
        };
        if !outcome.status.invites_another_attempt() {
            return Self::Final(outcome);
        }
        let error = outcome.error;
        let after = error
            .as_ref()
            .and_then(|error| error.retry_after_ms)
            .map(Duration::from_millis);
        if outcome.status == Status::Busy {
            return Self::NoRoom(after);
        }
        Self::Again(Again {
            reason: Reason::Interrupted,
            consumer: outcome.consumer,
            message: error.map(|error| error.message),
            after,
        })
    }
}

impl Again {
    pub(crate) fn because(reason: Reason) -> Self {
        Self {
            reason,
            consumer: String::new(),
            message: None,
            after: None,
        }
    }

    /// What became of the job if it is not submitted again after all.
    pub(crate) fn given_up(self, id: JobId, attempt: u32, why: &str) -> Outcome {
        let (code, words) = match self.reason {
            Reason::NoConsumer => (own_codes::NO_CONSUMER, "no consumer was there to take it"),
            Reason::Interrupted => (codes::INTERRUPTED, "the consumer was stopped"),
            Reason::TimedOut => (codes::TIMEOUT, "no answer came in time"),
        };
        let words = self.message.map_or(Cow::Borrowed(words), Cow::Owned);
        let error = OutcomeError::new(code, format!("{words}; {why}"));
        Outcome {
            consumer: self.consumer,
            ..not_succeeded(id, Status::Failed, attempt, error)
        }
    }
}

/// Reads the outcome of a job, or says why an answer is none.
fn outcome(payload: &[u8], id: JobId) -> Result<Outcome, String> {
    let outcome: Outcome = serde_json::from_slice(payload)
        .map_err(|error| format!("the answer is not an outcome: {error}"))?;
    match outcome.id {
        Some(other) if other != id => Err(format!("the answer is that of job {other}")),
        _ => Ok(Outcome {
            id: Some(id),
            ..outcome
        }),
    }
}

/// An outcome that no consumer answered with.
pub(crate) fn not_succeeded(
    id: impl Into<Option<JobId>>,
    status: Status,
    attempt: u32,
    error: OutcomeError,
) -> Outcome {
    Outcome {
        id: id.into(),
        status,
        consumer: String::new(),
        attempt,
        result: None,
        error: Some(error),
        duration_ms: 0.0,
    }
}

/// What becomes of a job whose message the server would not take.
pub(crate) fn too_large(submission: &Submission, attempt: u32, limit: usize) -> Outcome {
    let error = OutcomeError::new(
        own_codes::TOO_LARGE,
        format!(
            "the message has {} bytes, and the server takes {limit} (max_payload)",
            submission.message.len()
        ),
    );
    not_succeeded(submission.id, Status::Failed, attempt, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(payload: &'static str, status: Option<StatusCode>) -> Answer {
        let message = Message {
            subject: "_INBOX.a".into(),
            reply: None,
            payload: payload.into(),
            headers: None,
            status,
            description: None,
            length: payload.len(),
        };
        Answer::read(&message, JobId::generate(), 3)
    }

    #[test]
    fn what_is_final_and_what_is_not() {
        for status in ["succeeded", "failed", "rejected", "expired"] {
            let text = format!(
                r#"{{"id":null,"status":"{status}","consumer":"c","attempt":1,"duration_ms":0}}"#
            );
            let Answer::Final(outcome) = read(text.leak(), None) else {
                panic!("{status} is not final")
            };
            assert_eq!(outcome.status.as_str(), status);
        }
        let refusal = |status: &str| {
            let text = format!(
                r#"{{"id":null,"status":"{status}","consumer":"c","attempt":1,"duration_ms":0,
                "error":{{"code":"{status}","message":"not now","retry_after_ms":250}}}}"#
            );
            read(text.leak(), None)
        };
        let wait = Some(Duration::from_millis(250));
        let Answer::NoRoom(after) = refusal("busy") else {
            panic!("busy is not for want of room")
        };
        assert_eq!(after, wait);
        let Answer::Again(again) = refusal("interrupted") else {
            panic!("interrupted is final")
        };
        assert_eq!((again.reason, again.after), (Reason::Interrupted, wait));
        let outcome = again.given_up(JobId::generate(), 3, "given up after 3 attempts");
        let error = outcome.error.unwrap();
        assert_eq!(
            (error.code.as_ref(), error.message.as_str()),
            ("interrupted", "not now; given up after 3 attempts")
        );
        assert_eq!((outcome.attempt, outcome.consumer.as_str()), (3, "c"));
    }

    #[test]
    fn nobody_there_is_told_from_an_empty_answer() {
        let Answer::Again(again) = read("", Some(StatusCode::NO_RESPONDERS)) else {
            panic!("nobody there is final")
        };
        assert_eq!(again.reason, Reason::NoConsumer);
        let other = r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","status":"succeeded",
            "consumer":"c","attempt":1,"duration_ms":0}"#;
        for payload in ["", "{}", "done", r#"{"status":"unheard_of"}"#, other] {
            let Answer::Final(outcome) = read(payload, None) else {
                panic!("{payload:?} is not final")
            };
            assert_eq!(outcome.status, Status::Failed);
            assert_eq!(outcome.error.unwrap().code, own_codes::BAD_ANSWER);
        }
    }
}
