//! Stores the dead letter of a job, with as much information about the job as fits into a message.

use async_nats::{HeaderMap, HeaderName, HeaderValue};
use common::{DeadReason, JobRecord, JobState, OutcomeError, subjects};
use jetstream::{Message, headers};

use super::{JobStore, Written, add_failure};
use crate::lease::Lease;

impl JobStore {
    /// Ends a job as a dead letter. Its record and its dead letter are stored in one batch if they
    /// fit.
    pub(crate) async fn die(
        &self,
        lease: &Lease,
        mut record: JobRecord,
        reason: DeadReason,
        error: Option<OutcomeError>,
    ) -> Written {
        record.state = JobState::Dead;
        record.reason = Some(reason);
        if let Some(error) = error {
            add_failure(&mut record, error);
        }
        let (letter, fits_with_record) =
            build_dead_letter(&record, lease, self.client.max_payload());
        if fits_with_record {
            return self.end(lease, record, vec![letter]).await;
        }
        // The dead letter first: if this consumer is lost before it writes the record, the job is
        // redelivered.
        let what = "a dead letter cannot be stored, trying again";
        if self.store(lease, letter, what).await {
            return self.end(lease, record, Vec::new()).await;
        }
        Written::GaveUp
    }
}

/// Builds the dead letter of a job. The flag says whether it can be stored in one batch with the
/// record.
///
/// The dead letter always has the whole job. If the job nearly fills a message, the failures are
/// left out first, because the record has them as well, and then the headers that could not be
/// read. If there is no room for the headers of a batch either, the dead letter is only the job as
/// it was submitted.
fn build_dead_letter(record: &JobRecord, lease: &Lease, max_payload: usize) -> (Message, bool) {
    let letter = |headers: &HeaderMap| Message {
        subject: subjects::dead(lease.id, &lease.kind),
        headers: headers.clone(),
        payload: lease.payload.clone(),
    };
    let own = headers::submitted(lease.headers.as_ref());
    let mut brief = own.clone();
    let reason = record.reason.map_or("", |reason| reason.as_str());
    set(&mut brief, subjects::DEAD_REASON_HEADER, reason);
    let priority = lease.priority.to_string();
    set(&mut brief, subjects::PRIORITY_HEADER, &priority);
    set(&mut brief, subjects::RUN_HEADER, &lease.run.to_string());
    let mut whole = brief.clone();
    if let Some(raw) = headers::unreadable(lease.headers.as_ref()) {
        set(&mut whole, subjects::UNREADABLE_HEADER, raw);
    }
    let mut full = whole.clone();
    let failures = serde_json::to_string(&record.failures).unwrap_or_default();
    set(&mut full, subjects::DEAD_FAILURES_HEADER, &failures);
    for some in [&full, &whole, &brief] {
        let letter = letter(some);
        if headers::fits(&letter, max_payload) {
            return (letter, true);
        }
    }
    (letter(&own), false)
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    // The value is a fixed text, a number, or JSON without line breaks. A value that cannot be in a
    // header is still in the record.
    if let Ok(value) = value.parse::<HeaderValue>() {
        headers.insert(HeaderName::from_static(name), value);
    }
}
