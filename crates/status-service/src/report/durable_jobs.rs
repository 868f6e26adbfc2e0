use std::collections::BTreeSet;

use common::JobKind;
use tracing::{info, warn};

use crate::durable_jobs::Depth;

/// Logs the kinds of waiting durable jobs without a consumer.
pub(crate) fn unserved_kinds(kinds: &BTreeSet<JobKind>) {
    if kinds.is_empty() {
        info!("every waiting kind has a consumer again");
    } else {
        let kinds: Vec<_> = kinds.iter().map(JobKind::as_str).collect();
        warn!(
            kinds = kinds.join(","),
            "durable jobs wait, and no consumer serves their kinds"
        );
    }
}

/// Logs how many durable jobs the server stores.
pub(crate) fn depth(depth: Depth) {
    info!(
        queued = depth.queued,
        scheduled = depth.scheduled,
        "durable jobs"
    );
}
