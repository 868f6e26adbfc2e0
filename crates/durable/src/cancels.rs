//! Hears of cancellations as they are asked for, and stops the jobs that run here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use common::JobId;
use futures_util::StreamExt as _;
use tracing::warn;

use crate::lane::Shared;

pub(crate) async fn listen(shared: Arc<Shared>) {
    let mut requests = loop {
        match shared.client.subscribe("jobs.cancel.*").await {
            Ok(requests) => break requests,
            Err(error) => warn!(%error, "cannot listen to jobs.cancel.*, trying again"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    while let Some(request) = requests.next().await {
        // Whatever the server answers to a client lands on the reply subject that this names, be
        // it this one; such an answer is never empty.
        if !request.payload.is_empty() {
            continue;
        }
        let id = request.subject.strip_prefix("jobs.cancel.");
        let Some(id) = id.and_then(|id| id.parse::<JobId>().ok()) else {
            continue;
        };
        shared.cancellations.fetch_add(1, Ordering::AcqRel);
        for lease in shared.leases.select(|lease| lease.id == id) {
            lease.cancelled.cancel();
        }
    }
}
