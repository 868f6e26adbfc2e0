//! Answers submitters whose job met the lock of another one: removes the lock if it is stale.
//!
//! A lock outlives its job only if somebody removed the job by hand, stored a lock without a job, or
//! runs consumers that do not know locks. Submitters must not delete messages of the queue, so they ask
//! the consumers.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use bootstrap::{Beat, NatsClient};
use common::{JobId, KeyHolder, UniqueHash, subjects};
use futures_util::StreamExt as _;
use jetstream::job_messages::{self, Place};
use jetstream::records::{self, StoredRecord};
use jetstream::{Stream, manage, unique_locks};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tracing::{debug, info, warn};

/// The wait before the subscription is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// The most requests that are answered at a time.
const CONCURRENT: usize = 16;

pub(crate) struct StaleLocks {
    pub(crate) client: NatsClient,
}

impl StaleLocks {
    pub(crate) async fn run(self, mut life: Beat) {
        let mut requests = loop {
            let workers = subjects::WORKERS.to_owned();
            let subscribing = self.client.queue_subscribe(subjects::ALL_RELEASES, workers);
            match life.during(Duration::MAX, subscribing).await {
                Ok(requests) => break requests,
                Err(error) => {
                    warn!(%error, "cannot subscribe to requests to release keys, trying again");
                }
            }
            tokio::time::sleep(RETRY).await;
        };
        let room = Arc::new(Semaphore::new(CONCURRENT));
        let mut answering = JoinSet::new();
        loop {
            let request = tokio::select! {
                request = requests.next() => request,
                Some(_answered) = answering.join_next() => continue,
                () = life.tick() => continue,
            };
            let Some(request) = request else { return };
            let room = Arc::clone(&room).acquire_owned();
            let Ok(permit) = life.during(Duration::MAX, room).await else {
                return;
            };
            let client = self.client.clone();
            answering.spawn(async move {
                answer(&client, request).await;
                drop(permit);
            });
        }
    }
}

/// Answers a request. Without an answer, the submitter takes the lock as it is.
async fn answer(client: &NatsClient, request: Message) {
    let (Some(hash), Some(reply)) = (subjects::parse_release(&request.subject), request.reply)
    else {
        return;
    };
    // Nothing is published where jobs are: see the invariants in the architecture page.
    if ["jobs.", "jobs-", "$"]
        .iter()
        .any(|own| reply.starts_with(own))
    {
        return;
    }
    let holder = match holder(client, hash).await {
        Ok(holder) => holder,
        Err(error) => return debug!("cannot look up the holder of a key: {error:#}"),
    };
    // An id can always be written as JSON.
    let body = serde_json::to_vec(&KeyHolder { holder }).unwrap_or_default();
    let _ = client.publish(reply, body.into()).await;
}

/// The job that holds a key. A stale lock is removed, and then nobody holds the key.
async fn holder(client: &NatsClient, hash: UniqueHash) -> anyhow::Result<Option<JobId>> {
    let Some(lock) = unique_locks::read(client, hash).await? else {
        return Ok(None);
    };
    let holder = lock.holder();
    if let Some(id) = holder
        && holds(client, id).await?
    {
        return Ok(holder);
    }
    manage::delete_message(client, Stream::Jobs, lock.sequence).await?;
    if let Some(id) = holder {
        info!(job.id = %id, "released the key of a job that has ended or does not exist");
    } else {
        info!("released a key whose lock was not a lock");
    }
    Ok(None)
}

/// Whether a job that a lock names has not ended.
///
/// The message of a job is stored before its lock, and stays in the queue until the job has a record.
/// The record of a job that has not ended does not expire. So the message is read first, and a job that
/// is found neither there nor by its record does not exist.
async fn holds(client: &NatsClient, id: JobId) -> anyhow::Result<bool> {
    let queued = job_messages::read(client, id, Place::Queue).await?;
    Ok(match records::one(client, id).await? {
        Some(StoredRecord {
            record: Some(record),
            ..
        }) => !record.state.is_final(),
        // Somebody has stored other bytes in place of the record.
        Some(_) => job_messages::waiting(client, id).await?.is_some(),
        None => queued.is_some(),
    })
}
