//! Removes the messages of jobs that have ended.
//!
//! The streams keep what was acknowledged: with `sync_interval: always` a stream that removes each
//! message at its acknowledgement syncs each time. Instead, all below the ack floor of a durable
//! consumer is purged at once, every now and then. A job that runs for long holds the floor back;
//! meanwhile this consumer removes what it has acknowledged above it one by one.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use async_nats::{Client, Subject};
use common::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tracing::debug;

use crate::api;
use crate::clock::ServerClock;
use crate::lane::Shared;
use crate::topology::{Stream, jobs_of_kind};

/// How often it is trimmed.
const PERIOD: Duration = Duration::from_secs(2);

/// How many messages above a floor that stands still are removed at a time.
const SINGLY: usize = 1000;

/// How many messages above a floor are remembered: beyond it they wait for the floor.
const REMEMBERED: usize = 100_000;

/// A message that was acknowledged.
#[derive(Debug)]
pub(crate) struct Acked {
    pub(crate) queue: usize,
    pub(crate) sequence: u64,
    pub(crate) subject: Subject,
}

impl Shared {
    pub(crate) fn acked(&self, acked: Acked) {
        let mut list = self.acked.lock().unwrap_or_else(PoisonError::into_inner);
        list.push(acked);
    }
}

#[derive(Deserialize)]
struct ConsumerInfo {
    delivered: Sequences,
    ack_floor: Sequences,
    num_ack_pending: u64,
}

#[derive(Deserialize)]
struct Sequences {
    stream_seq: u64,
}

/// What one queue has to be rid of.
#[derive(Default)]
struct Pile {
    above_floor: BTreeMap<u64, Subject>,
    floor: u64,
    dirty: bool,
}

pub(crate) async fn trim(shared: Arc<Shared>) {
    let mut piles: Vec<Pile> = shared.queues.iter().map(|_| Pile::default()).collect();
    // What was left by consumers that were killed.
    for pile in &mut piles {
        pile.dirty = true;
    }
    loop {
        // Consumers of a fleet that were started together do not trim at the same moment.
        let wait = PERIOD.mul_f64(rand::random::<f64>() + 0.5);
        tokio::time::sleep(wait).await;
        let acked = {
            let mut list = shared.acked.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *list)
        };
        for Acked {
            queue,
            sequence,
            subject,
        } in acked
        {
            // What the server gave up is in no queue, and is removed by whoever buried it.
            let Some(pile) = piles.get_mut(queue) else {
                continue;
            };
            pile.dirty = true;
            if pile.above_floor.len() < REMEMBERED {
                pile.above_floor.insert(sequence, subject);
            }
        }
        for (place, pile) in piles.iter_mut().enumerate() {
            if (pile.dirty || !pile.above_floor.is_empty())
                && let Err(error) = trim_queue(&shared, place, pile).await
            {
                // The next time comes soon.
                debug!("cannot trim: {error:#}");
            }
        }
        if let Err(error) = read_clock(&shared.client, &shared.clock).await {
            debug!("cannot read the server's clock: {error:#}");
        }
    }
}

async fn trim_queue(shared: &Shared, place: usize, pile: &mut Pile) -> anyhow::Result<()> {
    let queue = &shared.queues[place];
    let subject = format!("$JS.API.CONSUMER.INFO.{}.{}", queue.stream, queue.consumer);
    let info: ConsumerInfo = api::ask(&shared.client, subject, &Value::Null).await?;
    let floor = if info.num_ack_pending == 0 {
        info.delivered.stream_seq
    } else {
        info.ack_floor.stream_seq
    };
    let moved = floor > pile.floor;
    pile.dirty = false;
    if moved {
        let kind = queue.consumer.replace('=', ".");
        purge(
            &shared.client,
            queue.stream,
            &json!({"filter": jobs_of_kind(queue.stream, kind), "seq": floor + 1}),
        )
        .await?;
        pile.floor = floor;
        pile.above_floor = pile.above_floor.split_off(&(floor + 1));
        return Ok(());
    }
    let singly: Vec<_> = pile.above_floor.keys().copied().take(SINGLY).collect();
    for sequence in singly {
        if let Some(subject) = pile.above_floor.remove(&sequence) {
            let request = json!({"filter": subject.as_str(), "seq": sequence + 1});
            purge(&shared.client, queue.stream, &request).await?;
        }
    }
    Ok(())
}

/// Removes messages from a stream.
pub(crate) async fn purge(client: &Client, stream: Stream, which: &Value) -> anyhow::Result<()> {
    let subject = format!("$JS.API.STREAM.PURGE.{stream}");
    api::ask::<Value>(client, subject, which).await?;
    Ok(())
}

/// Asks the server what time it is.
pub(crate) async fn read_clock(client: &Client, clock: &ServerClock) -> anyhow::Result<()> {
    #[derive(Deserialize)]
    struct Info {
        ts: Timestamp,
    }
    let subject = format!("$JS.API.STREAM.INFO.{}", Stream::Jobs);
    let info: Info = api::ask(client, subject, &Value::Null)
        .await
        .context("cannot read the server's clock")?;
    clock.set(info.ts);
    Ok(())
}
