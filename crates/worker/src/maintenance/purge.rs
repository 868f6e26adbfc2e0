//! Removes the messages of jobs that have ended.
//!
//! The streams keep acknowledged messages: with `sync_interval: always`, a stream that removes each
//! message at its acknowledgement also syncs each time. Instead, all messages below the ack floor
//! of a durable consumer are purged at once, every few seconds. A long job holds the floor back.
//! Meanwhile this consumer deletes the messages that it has acknowledged above the floor, one by
//! one.
//!
//! The purge relies on the floor, but the server (2.15.1) moves the floor too far when messages are
//! purged that the server considers pending: it remembers the highest of their delivery numbers,
//! and the acknowledgement with the next number moves the floor past jobs that still run. And a purge that
//! finds no message makes the server forget what is pending at each durable consumer with that filter. So
//! there are four rules:
//!
//! - Single messages are deleted, never purged by their subject.
//! - A message that was acknowledged on a lost connection is left to its next delivery.
//! - After a crash, the server may have forgotten acknowledgements. So purges wait until the server
//!   has redelivered these messages. In a cluster, another server than the one of this connection
//!   may have crashed, so purges always wait for this.
//! - Nothing is purged with the filter of a durable consumer that delivers no more, because its priorities
//!   have their own. No job has such a subject. What it has delivered before is still pending there.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{DeliverPolicy, Info as ConsumerInfo};
use bootstrap::{Beat, NatsClient};
use common::JobKind;
use jetstream::{
    ACK_WAIT, ServerClock, Stream, consumer_name, is_clustered, manage, no_jobs_of_kind,
};
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::debug;

use crate::acknowledged::AcknowledgedList;
use crate::queues::{Queue, Queues};

/// The average time between two purges.
const PERIOD: Duration = Duration::from_secs(2);

/// For this long after a connection was made, nothing is purged below the floor if a pending
/// message was redelivered. (Without redeliveries, the delivery numbers are in the order of the
/// messages.) Twice the ack wait.
const UNCERTAIN: Duration = ACK_WAIT.saturating_mul(2);

/// The most messages above the floor that one round deletes.
const SINGLY: usize = 1000;

/// The most messages above the floor that are remembered. Further messages stay until the floor has
/// passed their sequences.
const REMEMBERED: usize = 100_000;

/// In so many looks, one after the other, what is older than a durable consumer must have ended: the server
/// stores an advisory shortly after it has given up a message.
const LOOKS: u8 = 2;

/// The acknowledged messages of one queue that are still in the stream.
#[derive(Default)]
struct Pile {
    above_floor: BTreeSet<u64>,
    /// Messages that were acknowledged since the last round. The server may not have handled their
    /// acknowledgements yet.
    recent: Vec<u64>,
    /// The queue was purged up to this sequence.
    floor: u64,
    /// The ack floor in the last round.
    seen: u64,
    /// Whether the next round may find messages to purge.
    dirty: bool,
    /// In how many looks the messages before the first one of the durable consumer had ended.
    older_ended: u8,
    /// When the durable consumer was created. A new durable consumer may belong to a new stream.
    created: Option<OffsetDateTime>,
}

impl Pile {
    /// Makes the recent messages ready for the next round: by then the server has handled their
    /// acknowledgements.
    fn remember(&mut self) {
        for sequence in self.recent.drain(..) {
            if sequence > self.floor && self.above_floor.len() < REMEMBERED {
                self.above_floor.insert(sequence);
            }
        }
    }
}

/// Removes the messages of jobs that have ended.
pub(crate) struct Purge {
    pub(crate) client: NatsClient,
    pub(crate) clock: Arc<ServerClock>,
    pub(crate) queues: Queues,
    pub(crate) acknowledged: Arc<AcknowledgedList>,
}

impl Purge {
    pub(crate) async fn run(self, mut life: Beat) {
        let mut piles: Vec<Pile> = Vec::new();
        let mut connection = 0;
        let mut since = Instant::now();
        loop {
            // Jitter, so that consumers that were started together do not purge at the same time.
            let wait = PERIOD.mul_f64(rand::random::<f64>() + 0.5);
            life.during(wait, tokio::time::sleep(wait)).await;
            let acknowledged = self.acknowledged.take();
            let queues = self.queues.all();
            // Consumers that were killed may have left messages.
            piles.resize_with(queues.len(), || Pile {
                dirty: true,
                ..Pile::default()
            });
            if connection != self.client.connects() {
                connection = self.client.connects();
                since = Instant::now();
                for pile in &mut piles {
                    pile.above_floor.clear();
                }
            }
            for message in acknowledged {
                let mut both = queues.iter().zip(&mut piles);
                if let Some((_, pile)) = both.find(|(queue, _)| Arc::ptr_eq(queue, &message.queue))
                {
                    pile.dirty = true;
                    if message.connection == connection {
                        pile.recent.push(message.sequence);
                    }
                }
            }
            for (queue, pile) in queues.iter().zip(&mut piles) {
                if (pile.dirty || !pile.above_floor.is_empty())
                    && let Err(error) = self.purge_queue(queue, pile, (connection, since)).await
                {
                    // The next round tries again soon.
                    pile.dirty = true;
                    debug!("cannot purge: {error:#}");
                }
                pile.remember();
                life.beat();
            }
            if let Err(error) = self.clock.read(&self.client).await {
                debug!("{error:#}");
            }
        }
    }

    async fn purge_queue(
        &self,
        queue: &Queue<JobKind>,
        pile: &mut Pile,
        (connection, since): (u64, Instant),
    ) -> anyhow::Result<()> {
        let client = &self.client;
        let info = manage::consumer_info(client, queue.stream, &queue.consumer).await?;
        if pile.created != Some(info.created) {
            // The remembered messages may have been in a stream that was deleted. In the new
            // stream, the same sequences may belong to waiting jobs.
            *pile = Pile {
                created: Some(info.created),
                ..Pile::default()
            };
        }
        let floor = floor_of(&info);
        // When the server gives up a message, it stores the advisory shortly after it moves the
        // floor. So the floor of the last round is used.
        let before = std::mem::replace(&mut pile.seen, floor);
        let floor = floor.min(before);
        let moved = floor > pile.floor
            && is_certain(client, &info, since)
            && !is_given_up(client, queue.stream, &queue.consumer).await?
            && self.older_have_ended(queue, &info, pile, since).await?;
        // After a reconnect, the answers may be from a server that has crashed since, or from
        // another server.
        anyhow::ensure!(connection == client.connects(), "the connection was lost");
        pile.dirty = pile.seen > if moved { floor } else { pile.floor };
        if moved {
            // What the durable consumer delivered, and nothing else: the jobs of other priorities may
            // be those of other durable consumers.
            let filter = &info.config.filter_subject;
            anyhow::ensure!(!filter.is_empty(), "{} has no filter", queue.consumer);
            if *filter != no_jobs_of_kind(&queue.of) {
                manage::purge_below(client, queue.stream, filter, floor + 1).await?;
            }
            pile.floor = floor;
            pile.above_floor = pile.above_floor.split_off(&(floor + 1));
            return Ok(());
        }
        for _ in 0..SINGLY {
            let Some(sequence) = pile.above_floor.pop_first() else {
                break;
            };
            anyhow::ensure!(connection == client.connects(), "the connection was lost");
            manage::delete_message(client, queue.stream, sequence).await?;
        }
        Ok(())
    }

    /// Whether the messages have ended that are older than the first one of a durable consumer. The
    /// durable consumer of a kind may have delivered them before its priorities were heeded.
    async fn older_have_ended(
        &self,
        queue: &Queue<JobKind>,
        info: &ConsumerInfo,
        pile: &mut Pile,
        since: Instant,
    ) -> anyhow::Result<bool> {
        let DeliverPolicy::ByStartSequence { start_sequence } = info.config.deliver_policy else {
            return Ok(true);
        };
        if pile.older_ended < LOOKS {
            let client = &self.client;
            let of_kind = consumer_name(&queue.of);
            let older = manage::consumer_info(client, queue.stream, &of_kind).await?;
            let is_past = floor_of(&older) + 1 >= start_sequence;
            let is_idle = older.num_ack_pending == 0 && older.num_pending == 0;
            let have_ended = (is_past || is_idle)
                && is_certain(client, &older, since)
                && !is_given_up(client, queue.stream, &of_kind).await?;
            pile.older_ended = if have_ended { pile.older_ended + 1 } else { 0 };
        }
        Ok(pile.older_ended >= LOOKS)
    }
}

/// All messages of a durable consumer up to this sequence are acknowledged.
fn floor_of(info: &ConsumerInfo) -> u64 {
    if info.num_ack_pending == 0 {
        info.delivered.stream_sequence
    } else {
        info.ack_floor.stream_sequence
    }
}

/// Whether the floor of a durable consumer is correct. `since` is the time of the connection.
fn is_certain(client: &NatsClient, info: &ConsumerInfo, since: Instant) -> bool {
    info.num_redelivered == 0 || (!is_clustered(client) && since.elapsed() > UNCERTAIN)
}

/// Whether the server gave up messages of a durable consumer that are not dead letters yet. They are below
/// the ack floor, but their bytes are stored nowhere else.
async fn is_given_up(client: &NatsClient, stream: Stream, consumer: &str) -> anyhow::Result<bool> {
    let filter = format!("$JS.EVENT.ADVISORY.CONSUMER.*.{stream}.{consumer}");
    let count = manage::count_subjects(client, Stream::Advisories, &filter).await?;
    Ok(count > 0)
}
