//! Outcomes that the publisher itself makes.

use common::{JobId, Outcome, OutcomeError, Status};

use crate::codes;
use crate::submission::Submission;

/// An outcome with an error that no consumer sent.
pub(crate) fn unsuccessful(
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

/// The outcome of a job whose message is larger than `limit`, the server's `max_payload` in bytes.
pub(crate) fn too_large(submission: &Submission, attempt: u32, limit: usize) -> Outcome {
    let error = OutcomeError::new(
        codes::TOO_LARGE,
        format!(
            "the message has {} bytes, and the server takes {limit} (max_payload)",
            submission.message.len()
        ),
    );
    unsuccessful(submission.id, Status::Failed, attempt, error)
}
