use std::collections::BTreeSet;

use common::JobKind;
use tracing::{info, warn};

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
