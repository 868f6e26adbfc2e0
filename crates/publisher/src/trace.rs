//! What a trace says of a job from its hand-over until it has ended, or was stored.

use async_nats::{HeaderMap, HeaderValue};
use bootstrap::trace::{Job, Span, inherited};
use common::{Outcome, Status, subjects};

use crate::submission::Submission;

/// What the header with the attempt may add to a message, and what all messages with headers have.
const HEADER: usize = 64;

/// Begins the span of a job that is handed over; one for all its attempts.
pub(crate) fn send(submission: &Submission, destination: &'static str) -> Span {
    let job = Job {
        id: &submission.id,
        kind: &submission.kind,
        destination,
    };
    Span::send(inherited(), job)
}

/// The headers of a message for which there is room: the number of the attempt, unless it is the
/// first, and the trace.
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

/// Ends it with what became of the job.
pub(crate) fn end(mut span: Span, outcome: &Outcome) {
    if !span.is_recorded() {
        return;
    }
    span.set("jobs.outcome", outcome.status.to_string());
    span.set("jobs.attempt", i64::from(outcome.attempt));
    if outcome.status != Status::Succeeded {
        // The text of an error comes from elsewhere, and the consumer's span has what is fit to show.
        let code = outcome.error.as_ref().map(|error| error.code.as_ref());
        span.failed(code.unwrap_or_default(), "");
    }
}
