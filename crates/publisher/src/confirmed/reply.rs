use std::time::Duration;

use async_nats::{Message, StatusCode};
use common::{JobId, Outcome, OutcomeError, Status};

use super::failed_attempt::{FailedAttempt, FailureReason};
use crate::codes as own_codes;
use crate::outcome::unsuccessful;

/// What the reply to a job's request means.
#[derive(Debug)]
pub(super) enum Reply {
    /// The job has ended.
    Final(Outcome),
    /// Consumers serve the job, and all of them are full. They may say how long to wait before the
    /// next attempt.
    NoRoom(Option<Duration>),
    /// The attempt did not end the job, for another reason.
    Failed(FailedAttempt),
}

impl Reply {
    /// Reads the reply to attempt number `attempt` of job `id`.
    pub(super) fn read(message: &Message, id: JobId, attempt: u32) -> Self {
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Self::Failed(FailedAttempt::because(FailureReason::NoConsumer));
        }
        let outcome = match outcome(&message.payload, id) {
            Ok(outcome) => outcome,
            Err(reason) => {
                let error = OutcomeError::new(own_codes::BAD_ANSWER, reason);
                return Self::Final(unsuccessful(id, Status::Failed, attempt, error));
            }
        };
        if !outcome.status.invites_another_attempt() {
            return Self::Final(outcome);
        }
        let error = outcome.error;
        let retry_after = error
            .as_ref()
            .and_then(|error| error.retry_after_ms)
            .map(Duration::from_millis);
        if outcome.status == Status::Busy {
            return Self::NoRoom(retry_after);
        }
        Self::Failed(FailedAttempt {
            reason: FailureReason::Interrupted,
            consumer: outcome.consumer,
            message: error.map(|error| error.message),
            retry_after,
        })
    }
}

/// Reads the outcome of job `id`; the error says why the payload is not one.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(payload: &'static str, status: Option<StatusCode>) -> Reply {
        let message = Message {
            subject: "_INBOX.a".into(),
            reply: None,
            payload: payload.into(),
            headers: None,
            status,
            description: None,
            length: payload.len(),
        };
        Reply::read(&message, JobId::generate(), 3)
    }

    #[test]
    fn final_outcomes_differ_from_those_that_invite_another_attempt() {
        for status in ["succeeded", "failed", "rejected", "expired"] {
            let text = format!(
                r#"{{"id":null,"status":"{status}","consumer":"c","attempt":1,"duration_ms":0}}"#
            );
            let Reply::Final(outcome) = read(text.leak(), None) else {
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
        let Reply::NoRoom(after) = refusal("busy") else {
            panic!("busy is not read as no room")
        };
        assert_eq!(after, wait);
        let Reply::Failed(failed) = refusal("interrupted") else {
            panic!("interrupted is final")
        };
        assert_eq!(
            (failed.reason, failed.retry_after),
            (FailureReason::Interrupted, wait)
        );
        let outcome = failed.into_outcome(JobId::generate(), 3, "given up after 3 attempts");
        let error = outcome.error.unwrap();
        assert_eq!(
            (error.code.as_ref(), error.message.as_str()),
            ("interrupted", "not now; given up after 3 attempts")
        );
        assert_eq!((outcome.attempt, outcome.consumer.as_str()), (3, "c"));
    }

    #[test]
    fn no_responders_differ_from_an_empty_reply() {
        let Reply::Failed(failed) = read("", Some(StatusCode::NO_RESPONDERS)) else {
            panic!("no responders are final")
        };
        assert_eq!(failed.reason, FailureReason::NoConsumer);
        let other = r#"{"id":"01890a5d-ac96-774b-bcce-b302099a8057","status":"succeeded",
            "consumer":"c","attempt":1,"duration_ms":0}"#;
        for payload in ["", "{}", "done", r#"{"status":"unheard_of"}"#, other] {
            let Reply::Final(outcome) = read(payload, None) else {
                panic!("{payload:?} is not final")
            };
            assert_eq!(outcome.status, Status::Failed);
            assert_eq!(outcome.error.unwrap().code, own_codes::BAD_ANSWER);
        }
    }
}
