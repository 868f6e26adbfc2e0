//! Does what has to be done for jobs that nobody runs: carries out cancellations, and takes the
//! messages that the server gave up to the dead letters.
//!
//! Both are small queues that the consumers share, so they wait for a consumer that is away.

use std::sync::Arc;
use std::time::Duration;

use async_nats::Subject;
use bootstrap::{Beat, Client};
use common::{DeadReason, JobId, JobState, Timestamp, subjects};
use serde::Deserialize;
use serde_json::Value;
use tracing::{info, warn};

use crate::api;
use crate::claim::{self, Sighting, Verdict};
use crate::direct;
use crate::intake::Place;
use crate::lane::Shared;
use crate::lease::Lease;
use crate::look;
use crate::puller::{Event, Pulled, Puller, Queue};
use crate::records::{self, Found};
use crate::settle::{self, Settlement};
use crate::topology::{Stream, Topology, consumer_name};
use crate::trim;
use crate::writer::NotStored;

const CANCELS: &str = "cancels";
const GIVEN_UP: &str = "given-up";

/// How many of them are taken at a time.
const ROOM: usize = 16;

const TICK: Duration = Duration::from_secs(1);

/// The durable consumers of both queues.
pub(crate) async fn ensure(topology: Topology, client: &Client) -> anyhow::Result<()> {
    topology
        .ensure_pull_consumer(client, Stream::State, CANCELS, "jobs.cancel.*".to_owned())
        .await?;
    topology
        .ensure_pull_consumer(client, Stream::Advisories, GIVEN_UP, String::new())
        .await
}

pub(crate) async fn keep(shared: Arc<Shared>, mut life: Beat) {
    let queue = |stream, consumer: &str| Queue {
        stream,
        consumer: consumer.to_owned(),
    };
    let queues = vec![
        queue(Stream::State, CANCELS),
        queue(Stream::Advisories, GIVEN_UP),
    ];
    let mut puller = loop {
        let making = Puller::new(&shared.client, queues.clone());
        match life.during(Duration::MAX, making).await {
            Ok(puller) => break puller,
            Err(error) => warn!("cannot look after cancellations, trying again: {error:#}"),
        }
        tokio::time::sleep(TICK).await;
    };
    let mut connected = shared.nats.connected();
    let mut tick = tokio::time::interval(TICK);
    loop {
        life.beat();
        if !shared.caught_up.is_cancelled() && no_cancellation_waits(&shared).await {
            shared.caught_up.cancel();
        }
        puller.pull(ROOM).await;
        tokio::select! {
            biased;
            () = shared.leave.cancelled() => return life.done(),
            event = puller.next() => match event {
                Ok(Event::Pulled(batch)) => {
                    for pulled in batch {
                        // Storing waits until the server takes it.
                        life.during(Duration::MAX, carry_out(&shared, pulled)).await;
                    }
                }
                Ok(Event::Gone(place)) => {
                    puller.pause(place);
                    if let Err(error) = ensure(shared.options.topology, &shared.client).await {
                        warn!("cannot look after cancellations: {error:#}");
                    }
                }
                Ok(Event::Ended) => {}
                Err(error) => {
                    warn!("cannot look after cancellations any more: {error:#}");
                    return;
                }
            },
            changed = connected.changed() => {
                if changed.is_err() {
                    return;
                }
                puller.forget();
            }
            _ = tick.tick() => {}
        }
    }
}

/// Whether all cancellations so far are carried out.
async fn no_cancellation_waits(shared: &Shared) -> bool {
    #[derive(Deserialize)]
    struct Info {
        num_pending: u64,
        num_ack_pending: u64,
    }
    let subject = format!("$JS.API.CONSUMER.INFO.{}.{CANCELS}", Stream::State);
    let info = api::ask::<Info>(&shared.client, subject, &Value::Null).await;
    info.is_ok_and(|info| info.num_pending == 0 && info.num_ack_pending == 0)
}

/// Does what a message asks for; what fails is delivered again.
async fn carry_out(shared: &Shared, pulled: Pulled) {
    let done = if let Some(id) = pulled.subject.strip_prefix("jobs.cancel.") {
        match id.parse() {
            // See where they are listened to: what is not empty is not asked for.
            Ok(id) if pulled.payload.is_empty() => cancel(shared, id).await,
            _ => Ok(()),
        }
    } else {
        bury(shared, &pulled.payload).await
    };
    match done {
        Ok(()) => {
            let _ = shared.client.publish(pulled.ack, "+ACK".into()).await;
        }
        Err(error) => warn!(
            subject = pulled.subject.as_str(),
            "cannot carry out, trying again: {error:#}"
        ),
    }
}

async fn cancel(shared: &Shared, id: JobId) -> anyhow::Result<()> {
    loop {
        let found = records::one(&shared.client, id).await?;
        let (record, expected) = match found {
            Some(Found { record, sequence }) => (record, sequence),
            None => (None, 0),
        };
        match record.as_ref().map(|record| record.state) {
            // Perhaps by somebody who came no further.
            Some(JobState::Cancelled) => break,
            Some(state) if state.is_final() => return Ok(()),
            _ => {}
        }
        let known = match record {
            Some(record) => Some(record),
            None => look::waiting(&shared.client, id).await?,
        };
        // It may have been put off since its record was looked for.
        if known.is_none() && expected == 0 && records::one(&shared.client, id).await?.is_some() {
            continue;
        }
        let Some(mut record) = known else {
            info!(job.id = %id, "nobody knows the job that is to be cancelled");
            return Ok(());
        };
        record.state = JobState::Cancelled;
        record.at = shared.clock.now();
        record.consumer = None;
        record.next_at = None;
        let record = serde_json::to_vec(&record)?.into();
        let message = records::message(id, record, expected, Some(&shared.ttl()));
        match shared.records.store(vec![message]).await {
            Ok(_) => break,
            // It has moved on meanwhile.
            Err(NotStored::Conflict) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for (stream, filter) in messages_of(id) {
        let mut removed = None;
        while let Some(message) = direct::last(&shared.client, stream, &filter).await? {
            let again = removed.replace(message.sequence) == Some(message.sequence);
            anyhow::ensure!(!again, "a message that was deleted is still there");
            trim::remove(&shared.client, stream, message.sequence).await?;
        }
    }
    info!(job.id = %id, "job cancelled");
    Ok(())
}

/// Where the messages of a job may be.
fn messages_of(id: JobId) -> [(Stream, String); 3] {
    [
        (Stream::Later, subjects::later(id)),
        (Stream::Later, format!("{}.{id}.>", subjects::DUE)),
        (Stream::Jobs, format!("{}.{id}.>", subjects::DURABLE)),
    ]
}

#[derive(Deserialize)]
struct Advisory {
    stream: String,
    consumer: String,
    stream_seq: u64,
    timestamp: Timestamp,
    #[serde(default)]
    deliveries: u64,
}

/// Takes a message that the server gave up to the dead letters, and removes it.
async fn bury(shared: &Shared, advisory: &[u8]) -> anyhow::Result<()> {
    let Ok(advisory) = serde_json::from_slice::<Advisory>(advisory) else {
        warn!("an advisory that cannot be read");
        return Ok(());
    };
    let stream = Stream::ALL
        .into_iter()
        .find(|stream| stream.name() == advisory.stream);
    let Some(stream) = stream else { return Ok(()) };
    let message = direct::at(&shared.client, stream, advisory.stream_seq).await?;
    // One that is younger is of a stream that was made again meanwhile.
    let Some(kept) = message.filter(|kept| kept.at <= advisory.timestamp) else {
        return Ok(());
    };
    let kind = Place::kind_in(&kept.subject);
    // What a durable consumer of somebody else gave up is still in the queue of its kind.
    let Some(kind) = kind.filter(|kind| consumer_name(kind) == advisory.consumer) else {
        return Ok(());
    };
    let place = Place::of(&kept.subject);
    let place = place.unwrap_or_else(|| Place::unreadable(advisory.stream_seq, kind));
    let id = place.id;
    loop {
        let found = records::one(&shared.client, id).await?;
        let record = found.as_ref().and_then(|found| found.record.as_ref());
        let verdict = claim::judge(Sighting {
            record,
            run: place.run,
            due: true,
            delivered: 0,
            max_attempts: u32::MAX,
            deadline: None,
            run_at: None,
            now: shared.clock.now(),
        });
        let (settlement, changes_record) = match verdict {
            Verdict::Done => break,
            Verdict::PutOff { run, until } => (Settlement::PutOff { run, until }, false),
            _ => {
                warn!(job.id = %id, job.kind = %place.kind, deliveries = advisory.deliveries, "the server gave up a job, which goes to the dead letters");
                let settlement = Settlement::Dead {
                    reason: DeadReason::DeliveriesExhausted,
                    error: None,
                };
                (settlement, true)
            }
        };
        let pulled = Pulled {
            // It is in none of this consumer's, and has nothing to be acknowledged.
            queue: usize::MAX,
            ack: Subject::from(shared.client.new_inbox()),
            consumer_sequence: 0,
            subject: Subject::from(kept.subject.as_str()),
            headers: Some(kept.headers.clone()),
            payload: kept.payload.clone(),
            delivered: advisory.deliveries,
            stream_sequence: advisory.stream_seq,
            stored: None,
        };
        let mut lease = Lease::new(place.clone(), pulled, found.as_ref());
        lease.attempt = record.map_or(0, |record| record.attempt);
        settle::settle(shared, &lease, settlement).await;
        anyhow::ensure!(!shared.end.is_cancelled(), "the lane has ended");
        if !changes_record {
            break;
        }
        // Whether that came to pass is seen in the record: somebody may have written another.
    }
    // What is left is trimmed: its letter is stored.
    if let Err(error) = trim::remove(&shared.client, stream, advisory.stream_seq).await {
        warn!(job.id = %id, "the message of a buried job cannot be deleted: {error:#}");
    }
    Ok(())
}
