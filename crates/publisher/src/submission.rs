use std::time::Duration;

use bytes::Bytes;
use common::{
    Backoff, DecodeError, JobId, JobKind, JobMessage, MaxAttempts, Priority, Timestamp, Unique,
    codes,
};

/// A job to submit: its message, and the fields that the publisher needs.
#[derive(Clone, Debug)]
pub(crate) struct Submission {
    pub(crate) message: Bytes,
    pub(crate) id: JobId,
    /// Whether the publisher generated the id, so that no other job can have it.
    pub(crate) id_is_new: bool,
    pub(crate) kind: JobKind,
    pub(crate) terms: Terms,
    pub(crate) unique: Option<Unique>,
    /// The line of the input that holds the job; `None` if the publisher generated it.
    pub(crate) input_line: Option<InputLine>,
}

/// The fields of a job that say how to submit it. Most jobs have none of them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    pub(crate) timeout: Option<Duration>,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) max_attempts: Option<MaxAttempts>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) priority: Priority,
    pub(crate) run_at: Option<Timestamp>,
}

/// The place of a line in the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct InputLine {
    /// Its number, from 1.
    pub(crate) number: u64,
    /// Its length in bytes, with its end and the blank lines before it.
    pub(crate) bytes: u64,
}

/// Why a message cannot be submitted.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct InvalidJob {
    /// An error code for programs: one of [`common::codes`].
    pub code: &'static str,
    /// The job's id; `None` if the message holds no valid one.
    pub id: Option<JobId>,
    reason: String,
}

impl Submission {
    /// Reads a core job. A job with an id is sent byte for byte as it is. A job without one gets an
    /// id, which it keeps when it is sent again, and a `created_at`.
    ///
    /// # Errors
    /// When the message is not a job; the error names the field. Also when the job has a `run_at`
    /// or is unique, because only durable jobs can wait for their time or hold a key. A `priority` is allowed and has no effect
    /// on core jobs.
    pub(crate) fn decode(message: Bytes) -> Result<Self, InvalidJob> {
        let submission = Self::decode_durable(message)?;
        let reason = if submission.terms.run_at.is_some() {
            "field `run_at`: only delivery durable can keep a job until then"
        } else if submission.unique.is_some() {
            "field `unique`: only delivery durable can have unique jobs"
        } else {
            return Ok(submission);
        };
        Err(InvalidJob {
            code: codes::INVALID_JOB,
            id: Some(submission.id),
            reason: reason.to_owned(),
        })
    }

    /// Reads a durable job, which may have a `run_at`; otherwise like [`Submission::decode`].
    ///
    /// # Errors
    /// When the message is not a job; the error names the field.
    pub(crate) fn decode_durable(message: Bytes) -> Result<Self, InvalidJob> {
        let mut job = JobMessage::decode(&message)?;
        if job.id.is_some() {
            let (id, kind, terms, unique) = Self::parts(job);
            return Ok(Self {
                message,
                id,
                id_is_new: false,
                kind,
                terms,
                unique,
                input_line: None,
            });
        }
        job.created_at.get_or_insert_with(Timestamp::now);
        Ok(Self::encode(job))
    }

    /// Makes the message of a job. A job without an id gets one.
    pub(crate) fn encode(mut job: JobMessage<'_>) -> Self {
        let id_is_new = job.id.is_none();
        job.id.get_or_insert_with(JobId::generate);
        let message = serde_json::to_vec(&job)
            .expect("all keys of a job are strings, and all its timestamps can be formatted")
            .into();
        let (id, kind, terms, unique) = Self::parts(job);
        Self {
            message,
            id,
            id_is_new,
            kind,
            terms,
            unique,
            input_line: None,
        }
    }

    fn parts(job: JobMessage<'_>) -> (JobId, JobKind, Terms, Option<Unique>) {
        let terms = Terms {
            timeout: job.timeout.map(common::WireDuration::get),
            deadline: job.deadline,
            max_attempts: job.max_attempts,
            backoff: job.backoff,
            priority: job.priority,
            run_at: job.run_at,
        };
        let id = job.id.unwrap_or_else(JobId::generate);
        (id, job.kind, terms, job.unique)
    }

    /// The number of its line in the input; `None` if the publisher generated the job.
    pub(crate) fn line_number(&self) -> Option<u64> {
        self.input_line.map(|line| line.number)
    }
}

impl From<DecodeError> for InvalidJob {
    fn from(error: DecodeError) -> Self {
        let (code, id) = match &error {
            DecodeError::NotJson(_) => (codes::INVALID_JSON, None),
            DecodeError::NotAJob { id, .. } => (codes::INVALID_JOB, *id),
        };
        // A message is one line. Its line number would be mistaken for that of the input.
        let reason = error
            .to_string()
            .replace(" at line 1 column ", " at column ");
        Self { code, id, reason }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(text: &str) -> Result<Submission, InvalidJob> {
        Submission::decode(Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test]
    fn a_job_with_an_id_is_sent_as_it_was_written() {
        let text = r#" { "id":"01890a5d-ac96-774b-bcce-b302099a8057", "kind" : "a", "max_attempts":2,
            "payload": 1.50, "timeout": "30s" } "#;
        let submission = decode(text).unwrap();
        assert_eq!(submission.message, text.as_bytes());
        assert_eq!(
            submission.id.to_string(),
            "01890a5d-ac96-774b-bcce-b302099a8057"
        );
        assert_eq!(submission.terms.max_attempts.unwrap().get(), 2);
        assert_eq!(submission.terms.timeout, Some(Duration::from_secs(30)));
    }

    #[test]
    fn a_job_without_an_id_gets_one_and_keeps_everything_else() {
        for text in [
            r#"{"kind":"a","payload":{"n": 12345678901234567890123}}"#,
            r#"{"id":null,"kind":"a","payload":{"n": 12345678901234567890123}}"#,
        ] {
            let submission = decode(text).unwrap();
            let job = JobMessage::decode(&submission.message).unwrap();
            assert_eq!(job.id, Some(submission.id));
            assert_eq!(
                job.payload.unwrap().get(),
                r#"{"n": 12345678901234567890123}"#
            );
            assert!(job.created_at.is_some());
        }
        let text = r#"{"kind":"a","created_at":"2026-01-31T09:30:00Z"}"#;
        let submission = decode(text).unwrap();
        let job = JobMessage::decode(&submission.message).unwrap();
        assert_eq!(job.created_at.unwrap().to_string(), "2026-01-31T09:30:00Z");
    }

    #[test]
    fn an_invalid_job_is_refused_with_the_reason() {
        let error = decode(r#"{"kind":"a","run_at":"2026-01-31T09:30:00Z"}"#).unwrap_err();
        assert_eq!(error.code, codes::INVALID_JOB);
        assert!(error.to_string().contains("field `run_at`"), "{error}");
        let error = decode(r#"{"kind":"a","unique":{"key":"b"}}"#).unwrap_err();
        assert!(error.to_string().contains("field `unique`"), "{error}");
        let error = decode(r#"{"kind":"a","x":1}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `x`"), "{error}");
        let error = decode(r#"{"kind":"#).unwrap_err();
        assert_eq!(error.code, codes::INVALID_JSON);
        assert!(error.to_string().ends_with("at column 8"), "{error}");
        let bytes = Bytes::from_static(b"{\"kind\":\"a\",\"payload\":\"\xff\"}");
        assert!(Submission::decode(bytes).is_err());
    }
}
