//! Receives cancel requests when they are published, and stops the jobs that they name if this
//! consumer holds them.

use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use bootstrap::{Beat, NatsClient};
use common::subjects;
use futures_util::StreamExt as _;
use jetstream::headers::is_answer;
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
            if !is_request(&request.payload, request.headers.as_ref()) {
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

/// Whether a message is a request to cancel a job. A client may name its subject as the reply subject of a
/// request to the server, and the server's answer then arrives there. Such an answer is not empty, unless
/// it is that to a direct get of an empty message. A request to cancel is always empty.
pub(crate) fn is_request(payload: &[u8], headers: Option<&HeaderMap>) -> bool {
    payload.is_empty() && !is_answer(headers)
}
