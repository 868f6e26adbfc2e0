//! Hears requests to cancel as they are made, and stops the jobs that run here.

use std::sync::Arc;
use std::time::Duration;

use bootstrap::{Beat, Client};
use common::subjects;
use futures_util::StreamExt as _;
use tracing::warn;

use crate::first_delivery::Cancellations;
use crate::lease::Leases;

/// The wait before the subscription is tried again.
const RETRY: Duration = Duration::from_secs(1);

pub(crate) struct CancelListener {
    pub(crate) client: Client,
    pub(crate) leases: Arc<Leases>,
    pub(crate) cancellations: Cancellations,
}

impl CancelListener {
    pub(crate) async fn run(self, mut life: Beat) {
        let mut requests = loop {
            let subscribing = self.client.subscribe(subjects::ALL_CANCELS);
            match life.during(Duration::MAX, subscribing).await {
                Ok(requests) => break requests,
                Err(error) => warn!(%error, "cannot listen to requests to cancel, trying again"),
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
