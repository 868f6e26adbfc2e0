//! Runs waiting jobs now, on request: those that wait for their time or for their next attempt.
//!
//! Only consumers may write schedules, so operators ask them.

use std::sync::Arc;

use bootstrap::{Beat, NatsClient};
use bytes::Bytes;
use common::{JobId, RunNowAnswer, subjects};
use tracing::{debug, info};

use super::answers::{self, Answers};
use crate::store::JobStore;

/// Answers requests to run a job now.
#[derive(Clone)]
pub(crate) struct RunsNow {
    pub(crate) client: NatsClient,
    pub(crate) store: Arc<JobStore>,
}

impl RunsNow {
    pub(crate) async fn run(self, life: Beat) {
        let client = self.client.clone();
        answers::run(self, client, life).await;
    }

    async fn bring_forward(&self, id: JobId) -> Option<RunNowAnswer> {
        match self.store.bring_forward(id).await {
            Ok(result) => {
                info!(job.id = %id, ?result, "asked to run a job now");
                Some(RunNowAnswer { result })
            }
            Err(error) => {
                debug!(job.id = %id, "cannot run a job now: {error:#}");
                None
            }
        }
    }
}

impl Answers for RunsNow {
    const SUBJECTS: &'static str = subjects::ALL_RUNS_NOW;

    async fn answer(&self, subject: &str) -> Option<Bytes> {
        let id = subjects::parse_run_now(subject)?;
        let answer = self.bring_forward(id).await?;
        // A word can always be written as JSON.
        Some(serde_json::to_vec(&answer).unwrap_or_default().into())
    }
}
