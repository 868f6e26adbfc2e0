//! Makes dead letters of messages that the server no longer delivers, because they have reached
//! `max_deliver`.

use std::sync::Arc;

use bootstrap::Beat;
use common::{DeadReason, JobSubject, Timestamp};
use jetstream::records;
use jetstream::{Stream, direct_get, manage, parse_consumer};
use serde::Deserialize;
use tracing::warn;

use super::shared_queue::{Declared, Requests, SharedQueue};
use crate::decide::{self, Sighting, Verdict};
use crate::fetch::Pulled;
use crate::lease::Lease;
use crate::phases::Phases;
use crate::store::JobStore;

pub(super) const QUEUE: Declared = Declared {
    stream: Stream::Advisories,
    consumer: "given-up",
    filter: "",
};

/// The server's advisory about a message that has reached `max_deliver`.
#[derive(Deserialize)]
struct Advisory {
    stream: String,
    consumer: String,
    stream_seq: u64,
    timestamp: Timestamp,
    #[serde(default)]
    deliveries: u64,
}

pub(crate) struct MaxDeliveries {
    pub(crate) store: Arc<JobStore>,
    pub(crate) phases: Phases,
}

impl Requests for MaxDeliveries {
    async fn carry_out(&self, request: &Pulled<()>) -> anyhow::Result<()> {
        let Ok(advisory) = serde_json::from_slice(&request.payload) else {
            warn!("an advisory of the server cannot be read and is ignored");
            return Ok(());
        };
        self.make_dead_letter(advisory).await
    }
}

impl MaxDeliveries {
    pub(crate) async fn run(self, queue: SharedQueue, life: Beat) {
        queue.run(QUEUE, &self, life).await;
    }

    /// Makes a dead letter of the message that an advisory names, and deletes the message.
    async fn make_dead_letter(&self, advisory: Advisory) -> anyhow::Result<()> {
        let client = &self.store.client;
        let stream = Stream::ALL
            .into_iter()
            .find(|stream| stream.name() == advisory.stream);
        let Some(stream) = stream else { return Ok(()) };
        let message = direct_get::at(client, stream, advisory.stream_seq).await?;
        // A younger message belongs to a stream that was created again meanwhile.
        let Some(message) = message.filter(|message| message.at <= advisory.timestamp) else {
            return Ok(());
        };
        // A message that another program's durable consumer gave up is still in the queue of its
        // kind.
        let gave_up = parse_consumer(&advisory.consumer).map(|(kind, _)| kind);
        let kind = JobSubject::kind_in(&message.subject);
        let Some(kind) = kind.filter(|kind| gave_up.as_ref() == Some(kind)) else {
            return Ok(());
        };
        let subject = JobSubject::parse(&message.subject)
            .unwrap_or_else(|| JobSubject::of_unreadable(advisory.stream_seq, kind));
        let id = subject.id;
        loop {
            let found = records::one(client, id).await?;
            let record = found.as_ref().and_then(|found| found.record.as_ref());
            let verdict = decide::decide(Sighting {
                record,
                run: subject.run,
                due: true,
                delivered: 0,
                max_attempts: u32::MAX,
                deadline: None,
                run_at: None,
                now: self.store.clock.now(),
            });
            let (headers, payload) = (message.headers.clone(), message.payload.clone());
            let mut lease =
                Lease::without_delivery(subject.clone(), Some(headers), payload, found.as_ref());
            lease.attempt = record.map_or(0, |record| record.attempt);
            lease.delivered = advisory.deliveries.into();
            let is_over = match verdict {
                Verdict::Done => true,
                Verdict::PutOff { run, until } => {
                    self.store.finish_put_off(&lease, run, until).await;
                    true
                }
                _ => {
                    warn!(job.id = %id, job.kind = %subject.kind, deliveries = advisory.deliveries, "the server has given up delivering a job, which becomes a dead letter");
                    let record = self.store.record(&lease);
                    let reason = DeadReason::DeliveriesExhausted;
                    self.store.die(&lease, record, reason, None).await;
                    // The next round reads the record to see whether this has succeeded: another
                    // consumer may have written it.
                    false
                }
            };
            anyhow::ensure!(!self.phases.is_ended(), "the lane has ended");
            if is_over {
                break;
            }
        }
        // If this fails, the purge removes the message later. Its dead letter is stored.
        if let Err(error) = manage::delete_message(client, stream, advisory.stream_seq).await {
            warn!(job.id = %id, "cannot delete the message of a dead job: {error:#}");
        }
        Ok(())
    }
}
