//! Hears of cancellations as they are asked for, and stops the jobs that run here.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bootstrap::Beat;
use common::JobId;
use futures_util::StreamExt as _;
use tracing::warn;

use crate::lane::Shared;

/// The wait before the subscription is tried again.
const RETRY: Duration = Duration::from_secs(1);

pub(crate) async fn listen(shared: Arc<Shared>, mut life: Beat) {
    let mut requests = loop {
        let subscribing = shared.client.subscribe("jobs.cancel.*");
        match life.during(Duration::MAX, subscribing).await {
            Ok(requests) => break requests,
            Err(error) => warn!(%error, "cannot listen to jobs.cancel.*, trying again"),
        }
        tokio::time::sleep(RETRY).await;
    };
    loop {
        let request = tokio::select! {
            request = requests.next() => request,
            () = life.tick() => continue,
        };
        let Some(request) = request else { return };
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
