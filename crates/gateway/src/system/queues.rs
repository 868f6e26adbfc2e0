//! The queues of durable jobs.

use std::sync::Arc;
use std::time::Duration;

use bootstrap::NatsClient;
use client::Queues;

use super::cached::Cached;
use crate::http::Problem;

/// The most kinds in an answer.
const MAX_KINDS: usize = 1000;

/// For how long one answer serves all callers: each costs the server several requests.
const FRESH: Duration = Duration::from_secs(2);

/// The queues, or why they are not known.
type Answer = Result<Arc<Queues>, Problem>;

/// The queues as the server last listed them.
pub(crate) struct QueueCache(Cached<Answer>);

impl Default for QueueCache {
    fn default() -> Self {
        Self(Cached::new(FRESH))
    }
}

impl QueueCache {
    /// The queues, at most two seconds old.
    ///
    /// # Errors
    /// When the server does not answer in time.
    pub(crate) async fn get(&self, client: &NatsClient) -> Answer {
        self.0
            .get_or_ask(async || {
                let queues = client::queues(client, MAX_KINDS).await?;
                Ok(Arc::new(queues))
            })
            .await
    }
}
