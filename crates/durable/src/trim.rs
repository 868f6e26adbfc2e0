//! Removes the messages of jobs that have ended.
//!
//! The streams keep what was acknowledged: with `sync_interval: always` a stream that removes each
//! message at its acknowledgement syncs each time. Instead, all below the ack floor of a durable
//! consumer is purged at once, every now and then. A job that runs for long holds the floor back;
//! meanwhile this consumer removes what it has acknowledged above it one by one.
//!
//! The floor has to be trusted, and the server (2.15.1) moves it too far when messages are purged
//! that it takes for not acknowledged: it remembers the highest of their numbers of delivery, and the
//! next acknowledgement with the number after that takes the floor along, past jobs that still run.
//! So single messages are deleted, never purged by their subject; what was acknowledged on a lost
//! connection is left to its next delivery; and after a crash, which the server may have forgotten
//! acknowledgements by, purges wait until it has delivered them again. In a cluster, where another
//! server than that of this connection may have crashed, they do so always.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use bootstrap::{Beat, Client};
use common::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;
use tracing::debug;

use crate::api;
use crate::clock::ServerClock;
use crate::lane::Shared;
use crate::puller::Queue;
use crate::topology::{ACK_WAIT, Stream, jobs_of_kind};

/// How often it is trimmed.
const PERIOD: Duration = Duration::from_secs(2);

/// How long after a connection was made nothing is purged, unless all was delivered but once: then
/// the numbers of delivery are in the order of the messages. Twice the ack wait.
const UNCERTAIN: Duration = ACK_WAIT.saturating_mul(2);

/// How many messages above a floor that stands still are removed at a time.
const SINGLY: usize = 1000;

/// How many messages above a floor are remembered: beyond it they wait for the floor.
const REMEMBERED: usize = 100_000;

/// A message that was acknowledged.
#[derive(Debug)]
pub(crate) struct Acked {
    pub(crate) queue: usize,
    pub(crate) sequence: u64,
    /// On which connection.
    pub(crate) connection: u64,
}

impl Shared {
    pub(crate) fn acked(&self, acked: Acked) {
        let mut list = self.acked.lock().unwrap_or_else(PoisonError::into_inner);
        list.push(acked);
    }
}

#[derive(Deserialize)]
struct ConsumerInfo {
    created: String,
    delivered: Sequences,
    ack_floor: Sequences,
    num_ack_pending: u64,
    num_redelivered: u64,
}

#[derive(Deserialize)]
struct Sequences {
    stream_seq: u64,
}

/// What one queue has to be rid of.
#[derive(Default)]
struct Pile {
    above_floor: BTreeSet<u64>,
    /// What was acknowledged since the last time: the server may not have handled that yet.
    recent: Vec<u64>,
    /// Up to where it was purged.
    floor: u64,
    /// The ack floor when it was looked at last.
    seen: u64,
    dirty: bool,
    /// When the durable consumer was made: another one is of another stream, perhaps.
    created: String,
}

impl Pile {
    /// Keeps what was acknowledged lately for the next time: by then the server has handled it.
    fn remember(&mut self) {
        for sequence in self.recent.drain(..) {
            if sequence > self.floor && self.above_floor.len() < REMEMBERED {
                self.above_floor.insert(sequence);
            }
        }
    }
}

pub(crate) async fn trim(shared: Arc<Shared>, mut life: Beat) {
    let mut piles: Vec<Pile> = shared.queues.iter().map(|_| Pile::default()).collect();
    // What was left by consumers that were killed.
    for pile in &mut piles {
        pile.dirty = true;
    }
    let mut connection = 0;
    let mut since = Instant::now();
    loop {
        // Consumers of a fleet that were started together do not trim at the same moment.
        let wait = PERIOD.mul_f64(rand::random::<f64>() + 0.5);
        life.during(wait, tokio::time::sleep(wait)).await;
        let acked = {
            let mut list = shared.acked.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *list)
        };
        if connection != shared.connections() {
            connection = shared.connections();
            since = Instant::now();
            for pile in &mut piles {
                pile.above_floor.clear();
            }
        }
        for acked in acked {
            // What the server gave up is in no queue, and is removed by whoever buried it.
            if let Some(pile) = piles.get_mut(acked.queue) {
                pile.dirty = true;
                if acked.connection == connection {
                    pile.recent.push(acked.sequence);
                }
            }
        }
        for (place, pile) in piles.iter_mut().enumerate() {
            if (pile.dirty || !pile.above_floor.is_empty())
                && let Err(error) = trim_queue(&shared, place, pile, (connection, since)).await
            {
                // The next time comes soon.
                pile.dirty = true;
                debug!("cannot trim: {error:#}");
            }
            pile.remember();
            life.beat();
        }
        if let Err(error) = read_clock(&shared.client, &shared.clock).await {
            debug!("cannot read the server's clock: {error:#}");
        }
    }
}

async fn trim_queue(
    shared: &Shared,
    place: usize,
    pile: &mut Pile,
    (connection, since): (u64, Instant),
) -> anyhow::Result<()> {
    let queue = &shared.queues[place];
    let subject = format!("$JS.API.CONSUMER.INFO.{}.{}", queue.stream, queue.consumer);
    let info: ConsumerInfo = api::ask(&shared.client, subject, &Value::Null).await?;
    if info.created != pile.created {
        // What was acknowledged until now may have been in a stream that is gone: its numbers may be
        // those of jobs that wait.
        *pile = Pile {
            created: info.created,
            ..Pile::default()
        };
    }
    let floor = if info.num_ack_pending == 0 {
        info.delivered.stream_seq
    } else {
        info.ack_floor.stream_seq
    };
    // The advisory of a message that the server gives up comes a little later than the floor moves:
    // so that of the last time is taken.
    let before = std::mem::replace(&mut pile.seen, floor);
    let floor = floor.min(before);
    let certain = info.num_redelivered == 0 || (shared.is_alone() && since.elapsed() > UNCERTAIN);
    let moved = floor > pile.floor && certain && !is_given_up(shared, queue).await?;
    // The answers may be those of a server that has crashed since, or of its successor.
    anyhow::ensure!(
        connection == shared.connections(),
        "the connection was lost"
    );
    pile.dirty = pile.seen > if moved { floor } else { pile.floor };
    if moved {
        let filter = jobs_of_kind(queue.stream, &shared.kind_of(place));
        let which = json!({"filter": filter, "seq": floor + 1});
        purge(&shared.client, queue.stream, &which).await?;
        pile.floor = floor;
        pile.above_floor = pile.above_floor.split_off(&(floor + 1));
        return Ok(());
    }
    for _ in 0..SINGLY {
        let Some(sequence) = pile.above_floor.pop_first() else {
            break;
        };
        remove(&shared.client, queue.stream, sequence).await?;
    }
    Ok(())
}

/// Whether the server gave up messages of a queue that are not buried yet: to the queue they are
/// done with, and their bytes are nowhere else.
async fn is_given_up(shared: &Shared, queue: &Queue) -> anyhow::Result<bool> {
    let Queue { stream, consumer } = queue;
    let filter = format!("$JS.EVENT.ADVISORY.CONSUMER.*.{stream}.{consumer}");
    let subject = format!("$JS.API.STREAM.INFO.{}", Stream::Advisories);
    let question = json!({"subjects_filter": filter});
    let info: Value = api::ask(&shared.client, subject, &question).await?;
    Ok(!info["state"]["subjects"].is_null())
}

/// Removes all messages that match a filter and are below a sequence.
async fn purge(client: &Client, stream: Stream, which: &Value) -> anyhow::Result<()> {
    let subject = format!("$JS.API.STREAM.PURGE.{stream}");
    api::ask::<Value>(client, subject, which).await?;
    Ok(())
}

/// Removes one message, if it is there.
pub(crate) async fn remove(client: &Client, stream: Stream, sequence: u64) -> anyhow::Result<()> {
    let subject = format!("$JS.API.STREAM.MSG.DELETE.{stream}");
    let request = json!({"seq": sequence, "no_erase": true});
    match api::ask::<Value>(client, subject, &request).await {
        // Or somebody else has removed it. The second number is of all other errors, too.
        Ok(_) | Err(api::ApiError::Refused { code: 10043, .. }) => Ok(()),
        Err(api::ApiError::Refused {
            code: 10057,
            description,
            ..
        }) if description == "no message found" || description == "stream store EOF" => Ok(()),
        Err(error) => Err(error.into()),
    }
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
