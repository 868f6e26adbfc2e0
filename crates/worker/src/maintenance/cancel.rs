//! Carries out cancel requests.

use std::sync::Arc;

use bootstrap::Beat;
use common::{JobId, JobState, subjects};
use jetstream::job_messages::{self, Place};
use jetstream::records::{self, StoredRecord};
use jetstream::{NotStored, Stream, manage};
use tracing::info;

use super::shared_queue::{Declared, Requests, SharedQueue};
use crate::cancel_listener::is_request;
use crate::fetch::Pulled;
use crate::phases::Phases;
use crate::store::JobStore;

pub(super) const QUEUE: Declared = Declared {
    stream: Stream::State,
    consumer: "cancels",
    filter: subjects::ALL_CANCELS,
};

pub(crate) struct Cancel {
    pub(crate) store: Arc<JobStore>,
    pub(crate) phases: Phases,
}

impl Requests for Cancel {
    async fn before_pull(&self) {
        if !self.phases.is_caught_up() && self.no_request_waits().await {
            self.phases.catch_up();
        }
    }

    async fn carry_out(&self, request: &Pulled<()>) -> anyhow::Result<()> {
        match subjects::parse_cancel(&request.subject) {
            Some(id) if is_request(&request.payload, request.headers.as_ref()) => {
                self.cancel(id).await
            }
            _ => Ok(()),
        }
    }
}

impl Cancel {
    pub(crate) async fn run(self, queue: SharedQueue, life: Beat) {
        queue.run(QUEUE, &self, life).await;
    }

    /// Whether all stored requests are carried out.
    async fn no_request_waits(&self) -> bool {
        let info = manage::consumer_info(&self.store.client, QUEUE.stream, QUEUE.consumer).await;
        info.is_ok_and(|info| info.num_pending == 0 && info.num_ack_pending == 0)
    }

    async fn cancel(&self, id: JobId) -> anyhow::Result<()> {
        if !self.mark_cancelled(id).await? {
            return Ok(());
        }
        let client = &self.store.client;
        for place in Place::ALL {
            let mut removed = None;
            while let Some(message) = job_messages::read(client, id, place).await? {
                let again = removed.replace(message.sequence) == Some(message.sequence);
                anyhow::ensure!(!again, "a message that was deleted is still there");
                self.store.release_cancelled(id, &message.headers).await?;
                manage::delete_message(client, place.stream(), message.sequence).await?;
            }
        }
        info!(job.id = %id, "job cancelled");
        Ok(())
    }

    /// Writes a record that says that a job is cancelled. False if the job has ended otherwise, or
    /// has neither a record nor a message.
    async fn mark_cancelled(&self, id: JobId) -> anyhow::Result<bool> {
        let client = &self.store.client;
        loop {
            let (record, expected) = match records::one(client, id).await? {
                Some(StoredRecord { record, sequence }) => (record, sequence),
                None => (None, 0),
            };
            match record.as_ref().map(|record| record.state) {
                // Another consumer may have stopped between this record and the deletion of the
                // messages.
                Some(JobState::Cancelled) => return Ok(true),
                Some(state) if state.is_final() => return Ok(false),
                _ => {}
            }
            let waiting = job_messages::waiting(client, id).await?;
            let job = waiting
                .as_ref()
                .and_then(|(_, message)| self.store.kept_job(&message.payload, false));
            let known = record.or(waiting.map(|(record, _)| record));
            // A record may have been written since the first look-up.
            if known.is_none() && expected == 0 && records::one(client, id).await?.is_some() {
                continue;
            }
            let Some(mut record) = known else {
                info!(job.id = %id, "cannot cancel a job that has no record and no message");
                return Ok(false);
            };
            record.state = JobState::Cancelled;
            record.at = self.store.clock.now();
            record.consumer = None;
            record.next_at = None;
            record.job = job;
            match self.store.write_cancelled(id, &record, expected).await {
                Ok(()) => return Ok(true),
                // The record has changed meanwhile: look again.
                Err(NotStored::Conflict) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
