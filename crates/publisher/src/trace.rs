//! The span of a job in the publisher, from its submission until it has ended or was stored.

use async_nats::{HeaderMap, HeaderValue};
use bootstrap::trace::{Job, Span, inherited};
use common::{Outcome, Status, subjects};

use crate::submission::Submission;

/// The most bytes that the attempt header adds to a message, and that headers add to any message.
const HEADER: usize = 64;

/// Begins the span of a job; it covers all attempts.
pub(crate) fn send(submission: &Submission, destination: &'static str) -> Span {
    let job = Job {
        id: &submission.id,
        kind: &submission.kind,
        destination,
    };
    Span::send(inherited(), job)
}

/// The headers of a message that fit into `room` bytes: the number of the attempt, unless it is the
/// first one, and the trace. `None` if there are none.
pub(crate) fn headers(attempt: u32, span: &Span, mut room: usize) -> Option<HeaderMap> {
    let mut headers = None;
    if attempt > 1 && room >= HEADER {
        let headers = headers.get_or_insert_with(HeaderMap::new);
        headers.insert(subjects::ATTEMPT_HEADER, HeaderValue::from(attempt));
        room -= HEADER;
    }
    if let Some(context) = span.context()
        && room >= HEADER + context.size()
    {
        context.put_into(headers.get_or_insert_with(HeaderMap::new));
    }
    headers
}

/// Ends the span with the job's outcome.
pub(crate) fn end(mut span: Span, outcome: &Outcome) {
    if !span.is_recorded() {
        return;
    }
    span.set("jobs.outcome", outcome.status.to_string());
    span.set("jobs.attempt", i64::from(outcome.attempt));
    if outcome.status != Status::Succeeded {
        // Not the message: it is text from outside, and the consumer's span has it as far as it may
        // be shown.
        let code = outcome.error.as_ref().map(|error| error.code.as_ref());
        span.failed(code.unwrap_or_default(), "");
    }
}
