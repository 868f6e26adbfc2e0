//! Receives cancel requests when they are published, and stops the jobs that they name if this
//! consumer holds them.

use std::sync::Arc;
use std::time::Duration;

use bootstrap::{Beat, NatsClient};
use common::subjects;
use futures_util::StreamExt as _;
use tracing::warn;

use crate::first_delivery::Cancellations;
use crate::lease::Leases;

/// The wait before the subscription is tried again.
const RETRY: Duration = Duration::from_secs(1);

pub(crate) struct CancelListener {
    pub(crate) client: NatsClient,
    pub(crate) leases: Arc<Leases>,
    pub(crate) cancellations: Cancellations,
}

impl CancelListener {
    pub(crate) async fn run(self, mut life: Beat) {
        let mut requests = loop {
            let subscribing = self.client.subscribe(subjects::ALL_CANCELS);
            match life.during(Duration::MAX, subscribing).await {
                Ok(requests) => break requests,
                Err(error) => warn!(%error, "cannot subscribe to cancel requests, trying again"),
            }
            tokio::time::sleep(RETRY).await;
        };
        loop {
            let request = tokio::select! {
                request = requests.next() => request,
                () = life.tick() => continue,
            };
            let Some(request) = request else { return };
            // A client may name this subject as the reply subject of a request to the server. The
            // server's answer then arrives here. Such an answer is never empty; a cancel request
            // always is.
            if !request.payload.is_empty() {
                continue;
            }
            let Some(id) = subjects::parse_cancel(&request.subject) else {
                continue;
            };
            self.cancellations.heard_of_one();
            for lease in self.leases.select(|lease| lease.id == id) {
                lease.cancelled.cancel();
            }
        }
    }
}
