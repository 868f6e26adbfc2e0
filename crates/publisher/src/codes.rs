//! Error codes ([`OutcomeError::code`](common::OutcomeError::code)) of outcomes that the publisher
//! itself makes. Consumers use those in [`common::codes`].

/// No consumer was connected that serves the job.
pub const NO_CONSUMER: &str = "no_consumer";
/// The reply is not an outcome, or the outcome of another job.
pub const BAD_ANSWER: &str = "bad_answer";
/// The message is larger than `max_payload` of the server.
pub const TOO_LARGE: &str = "too_large";
/// The server refused to store the durable job, or did not confirm it in time.
pub const NOT_STORED: &str = "not_stored";
/// Another job holds the key of the unique job.
pub const UNIQUE_CONFLICT: &str = "unique_conflict";
