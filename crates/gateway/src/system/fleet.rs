//! The fleet, as a status service knows it.

use std::sync::Arc;
use std::time::Duration;

use bootstrap::NatsClient;
use client::FleetError;
use common::{Fleet, FleetRequest};

use super::cached::Cached;
use crate::http::Problem;

/// For how long the first page serves all callers.
const FRESH: Duration = Duration::from_millis(500);

/// The fleet, or why it is not known.
type Answer = Result<Arc<Fleet>, Problem>;

/// The first page of the fleet, as a status service last sent it.
pub(crate) struct FleetCache(Cached<Answer>);

impl Default for FleetCache {
    fn default() -> Self {
        Self(Cached::new(FRESH))
    }
}

impl FleetCache {
    /// The part of the fleet that a request asks for. Only the first page is cached.
    ///
    /// # Errors
    /// When no status service answers, or it refuses the request.
    pub(crate) async fn get(&self, client: &NatsClient, request: &FleetRequest) -> Answer {
        if *request != FleetRequest::default() {
            return ask(client, request).await;
        }
        self.0.get_or_ask(async || ask(client, request).await).await
    }
}

async fn ask(client: &NatsClient, request: &FleetRequest) -> Answer {
    client::fleet(client, request)
        .await
        .map(Arc::new)
        .map_err(|error| match error {
            FleetError::Refused {
                is_bad_request: true,
                ..
            } => Problem::bad("after", error.to_string()),
            error => Problem::away(error.to_string()),
        })
}
