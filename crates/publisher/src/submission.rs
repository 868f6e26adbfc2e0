use std::time::Duration;

use bytes::Bytes;
use common::{Backoff, DecodeError, Job, JobId, JobKind, MaxAttempts, Priority, Timestamp, codes};

/// A job as it is handed over: its message, and what of it the publisher has to know.
#[derive(Clone, Debug)]
pub struct Submission {
    pub(crate) message: Bytes,
    pub(crate) id: JobId,
    /// Whether the publisher has made the id.
    pub(crate) fresh: bool,
    pub(crate) kind: JobKind,
    pub(crate) terms: Terms,
    /// Where in the input the job stands, if it is from there.
    pub(crate) origin: Option<Origin>,
}

/// What a job says of how it is submitted; each of it is rare.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Terms {
    pub(crate) timeout: Option<Duration>,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) max_attempts: Option<MaxAttempts>,
    pub(crate) backoff: Option<Backoff>,
    pub(crate) priority: Priority,
    pub(crate) run_at: Option<Timestamp>,
}

/// A line of the input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    /// Its number, from 1.
    pub(crate) line: u64,
    /// How far the input is read with it, from the end of the line that was a job before it.
    pub(crate) bytes: u64,
}

/// Bytes that cannot be submitted.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct InvalidJob {
    /// A word for programs: one of [`common::codes`].
    pub code: &'static str,
    /// The id, if the bytes hold a good one.
    pub id: Option<JobId>,
    reason: String,
}

impl Submission {
    /// Reads a job. One with an id is sent byte for byte as it is; one without is given one, so
    /// that it keeps it when it is submitted again, and a time of creation.
    ///
    /// # Errors
    /// When the bytes are not a job; the error names the field. Also when the job has a field
    /// `run_at`: only the durable lane can let it wait, and to run it now would not be what it
    /// asks for. A `priority` is passed on, but nothing waits in this lane that it could overtake.
    pub fn decode(message: Bytes) -> Result<Self, InvalidJob> {
        let submission = Self::decode_durable(message)?;
        if submission.terms.run_at.is_some() {
            return Err(InvalidJob {
                code: codes::INVALID_JOB,
                id: Some(submission.id),
                reason: "field `run_at`: only delivery durable can keep a job until then"
                    .to_owned(),
            });
        }
        Ok(submission)
    }

    /// The same for the durable lane, where a job can wait for its time.
    ///
    /// # Errors
    /// When the bytes are not a job; the error names the field.
    pub fn decode_durable(message: Bytes) -> Result<Self, InvalidJob> {
        let mut job = Job::decode(&message)?;
        if job.id.is_some() {
            let (id, kind, terms) = Self::parts(job);
            return Ok(Self {
                message,
                id,
                fresh: false,
                kind,
                terms,
                origin: None,
            });
        }
        job.created_at.get_or_insert_with(Timestamp::now);
        Ok(Self::encode(job))
    }

    /// Makes the message of a job, which is given an id if it has none.
    pub(crate) fn encode(mut job: Job<'_>) -> Self {
        let fresh = job.id.is_none();
        job.id.get_or_insert_with(JobId::generate);
        let message = serde_json::to_vec(&job)
            .expect("a job has no keys but texts, and all its moments can be written down")
            .into();
        let (id, kind, terms) = Self::parts(job);
        Self {
            message,
            id,
            fresh,
            kind,
            terms,
            origin: None,
        }
    }

    fn parts(job: Job<'_>) -> (JobId, JobKind, Terms) {
        let terms = Terms {
            timeout: job.timeout.map(common::WireDuration::get),
            deadline: job.deadline,
            max_attempts: job.max_attempts,
            backoff: job.backoff,
            priority: job.priority,
            run_at: job.run_at,
        };
        (job.id.unwrap_or_else(JobId::generate), job.kind, terms)
    }

    pub(crate) fn line(&self) -> Option<u64> {
        self.origin.map(|origin| origin.line)
    }
}

impl From<DecodeError> for InvalidJob {
    fn from(error: DecodeError) -> Self {
        let (code, id) = match &error {
            DecodeError::NotJson(_) => (codes::INVALID_JSON, None),
            DecodeError::NotAJob { id, .. } => (codes::INVALID_JOB, *id),
        };
        // A message is one line: the number in the text would pass for that of the input's line.
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
    fn a_job_with_an_id_is_sent_as_it_is() {
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
    fn a_job_without_an_id_is_given_one_and_keeps_everything_else() {
        for text in [
            r#"{"kind":"a","payload":{"n": 12345678901234567890123}}"#,
            r#"{"id":null,"kind":"a","payload":{"n": 12345678901234567890123}}"#,
        ] {
            let submission = decode(text).unwrap();
            let job = Job::decode(&submission.message).unwrap();
            assert_eq!(job.id, Some(submission.id));
            assert_eq!(
                job.payload.unwrap().get(),
                r#"{"n": 12345678901234567890123}"#
            );
            assert!(job.created_at.is_some());
        }
        let text = r#"{"kind":"a","created_at":"2026-01-31T09:30:00Z"}"#;
        let submission = decode(text).unwrap();
        let job = Job::decode(&submission.message).unwrap();
        assert_eq!(job.created_at.unwrap().to_string(), "2026-01-31T09:30:00Z");
    }

    #[test]
    fn what_cannot_be_submitted_is_named() {
        let error = decode(r#"{"kind":"a","run_at":"2026-01-31T09:30:00Z"}"#).unwrap_err();
        assert_eq!(error.code, codes::INVALID_JOB);
        assert!(error.to_string().contains("field `run_at`"), "{error}");
        let error = decode(r#"{"kind":"a","x":1}"#).unwrap_err();
        assert!(error.to_string().contains("unknown field `x`"), "{error}");
        let error = decode(r#"{"kind":"#).unwrap_err();
        assert_eq!(error.code, codes::INVALID_JSON);
        assert!(error.to_string().ends_with("at column 8"), "{error}");
        let bytes = Bytes::from_static(b"{\"kind\":\"a\",\"payload\":\"\xff\"}");
        assert!(Submission::decode(bytes).is_err());
    }
}
