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
use std::sync::Arc;
use std::time::Duration;

use bootstrap::{Beat, Client};
use common::JobKind;
use jetstream::{ACK_WAIT, ServerClock, Stream, jobs_of_kind, manage};
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::debug;

use crate::acknowledged::AcknowledgedList;
use crate::fetch::Queue;
use crate::first_delivery::is_single;

/// How often it purges.
const PERIOD: Duration = Duration::from_secs(2);

/// How long after a connection was made nothing is purged, unless all was delivered but once: then
/// the numbers of delivery are in the order of the messages. Twice the ack wait.
const UNCERTAIN: Duration = ACK_WAIT.saturating_mul(2);

/// How many messages above a floor that stands still are removed at a time.
const SINGLY: usize = 1000;

/// How many messages above a floor are remembered: beyond it they wait for the floor.
const REMEMBERED: usize = 100_000;

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
    created: Option<OffsetDateTime>,
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

/// Removes the messages of jobs that have ended.
pub(crate) struct Purge {
    pub(crate) client: Client,
    pub(crate) clock: Arc<ServerClock>,
    pub(crate) queues: Vec<Arc<Queue<JobKind>>>,
    pub(crate) acknowledged: Arc<AcknowledgedList>,
}

impl Purge {
    pub(crate) async fn run(self, mut life: Beat) {
        let mut piles: Vec<Pile> = self.queues.iter().map(|_| Pile::default()).collect();
        // What was left by consumers that were killed.
        for pile in &mut piles {
            pile.dirty = true;
        }
        let mut connection = 0;
        let mut since = Instant::now();
        loop {
            // Consumers of a fleet that were started together do not purge at the same moment.
            let wait = PERIOD.mul_f64(rand::random::<f64>() + 0.5);
            life.during(wait, tokio::time::sleep(wait)).await;
            let acknowledged = self.acknowledged.take();
            if connection != self.client.connects() {
                connection = self.client.connects();
                since = Instant::now();
                for pile in &mut piles {
                    pile.above_floor.clear();
                }
            }
            for message in acknowledged {
                let queues = self.queues.iter();
                let mut both = queues.zip(&mut piles);
                if let Some((_, pile)) = both.find(|(queue, _)| Arc::ptr_eq(queue, &message.queue))
                {
                    pile.dirty = true;
                    if message.connection == connection {
                        pile.recent.push(message.sequence);
                    }
                }
            }
            for (queue, pile) in self.queues.iter().zip(&mut piles) {
                if (pile.dirty || !pile.above_floor.is_empty())
                    && let Err(error) = self.purge_queue(queue, pile, (connection, since)).await
                {
                    // The next time comes soon.
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
            // What was acknowledged until now may have been in a stream that is gone: its numbers may be
            // those of jobs that wait.
            *pile = Pile {
                created: Some(info.created),
                ..Pile::default()
            };
        }
        let floor = if info.num_ack_pending == 0 {
            info.delivered.stream_sequence
        } else {
            info.ack_floor.stream_sequence
        };
        // The advisory of a message that the server gives up comes a little later than the floor moves:
        // so that of the last time is taken.
        let before = std::mem::replace(&mut pile.seen, floor);
        let floor = floor.min(before);
        let certain =
            info.num_redelivered == 0 || (is_single(client) && since.elapsed() > UNCERTAIN);
        let moved = floor > pile.floor && certain && !is_given_up(client, queue).await?;
        // The answers may be those of a server that has crashed since, or of its successor.
        anyhow::ensure!(connection == client.connects(), "the connection was lost");
        pile.dirty = pile.seen > if moved { floor } else { pile.floor };
        if moved {
            let filter = jobs_of_kind(queue.stream, &queue.of);
            manage::purge_below(client, queue.stream, &filter, floor + 1).await?;
            pile.floor = floor;
            pile.above_floor = pile.above_floor.split_off(&(floor + 1));
            return Ok(());
        }
        for _ in 0..SINGLY {
            let Some(sequence) = pile.above_floor.pop_first() else {
                break;
            };
            manage::delete_message(client, queue.stream, sequence).await?;
        }
        Ok(())
    }
}

/// Whether the server gave up messages of a queue that are not buried yet: to the queue they are
/// done with, and their bytes are nowhere else.
async fn is_given_up(client: &Client, queue: &Queue<JobKind>) -> anyhow::Result<bool> {
    let Queue {
        stream, consumer, ..
    } = queue;
    let filter = format!("$JS.EVENT.ADVISORY.CONSUMER.*.{stream}.{consumer}");
    let count = manage::count_subjects(client, Stream::Advisories, &filter).await?;
    Ok(count > 0)
}
