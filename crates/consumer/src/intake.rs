//! Takes jobs from the queue group, as long as there is room for them.
//!
//! NATS spreads jobs over the members of a queue group at random, however busy they are. So a
//! consumer whose inbox is full leaves the group, and joins again when half of it is left: jobs
//! then go to those that have room. What NATS has sent until it learns of that still arrives:
//! requests among it are handed back at once as `busy`, for their publishers to submit elsewhere;
//! plain publishes, which nobody would submit again, are kept beyond the bound. They cannot be
//! many: no more than the server had under way to this one client (`max_pending` in its
//! configuration).

use std::future;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_nats::Message;
use bootstrap::{Beat, STILL, Subscriber};
use common::{ConsumerState, subjects};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::consumer::Consumer;
use crate::inbox::{CoreDelivery, Delivery};
use crate::job_log::About;
use crate::settle;

/// Asks the server to end a subscription now, and the library to keep it for what is under way.
///
/// Every way of the library to leave gives the subscription up at once, `drain` too: it does not
/// wait for the answer to its ping, so that all messages under way are thrown away. With a count
/// the library keeps a subscription until so many messages came. A server takes counts of up to
/// nine digits; for anything else it acts as if there were none, and ends the subscription.
const NOW: u64 = u64::MAX;

/// How long the answer to a round trip is waited for; while NATS is away it comes after the
/// connection is back.
const PATIENCE: Duration = Duration::from_hours(24);

/// How many messages are taken from a subscription before other tasks get their turn.
const BATCH: usize = 64;

/// Feeds the inbox from the subscriptions of [`join`] until `shutdown`; returns when everything
/// that was under way has arrived.
///
/// # Errors
/// When the connection to NATS is closed.
pub(crate) async fn take_jobs(
    consumer: &Arc<Consumer>,
    mut subscriptions: Vec<Subscription>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let mut life = consumer.nats.health.task("intake", STILL);
    loop {
        let (leave, arrived) = (CancellationToken::new(), CancellationToken::new());
        let (leaving, mut all_left) = mpsc::channel::<()>(1);
        let mut members = JoinSet::new();
        for subscription in subscriptions {
            let feed = Feed {
                consumer: Arc::clone(consumer),
                subscription,
                batch: Vec::new(),
                life: consumer.nats.health.task("subscriptions", STILL),
            };
            members.spawn(feed.run(leave.clone(), leaving.clone(), arrived.clone()));
        }
        drop(leaving);
        // A full inbox that had room again before this was reached has told so to nobody.
        while !consumer.inbox.is_full() && !shutdown.is_cancelled() {
            tokio::select! {
                () = consumer.full.notified() => {}
                () = shutdown.cancelled() => {}
                () = life.tick() => {}
                // None ends before it was told to leave.
                ended = members.join_next() => {
                    anyhow::bail!("a subscription has ended: {ended:?}");
                }
            }
        }
        consumer.become_state(ConsumerState::Saturated);
        leave.cancel();
        if !shutdown.is_cancelled() && consumer.log.has_room(About::Membership) {
            info!(
                waiting = consumer.inbox.waiting(),
                "inbox full, leaving the queue group until half of it is left"
            );
        }
        // Nobody sends anything: it ends when each member has told the server that it leaves.
        let _ = life.during(Duration::MAX, all_left.recv()).await;
        tokio::select! {
            arrived = life.during(PATIENCE, consumer.nats.round_trip(PATIENCE)) => arrived?,
            () = hopeless(consumer, shutdown) => {}
        }
        arrived.cancel();
        while members.join_next().await.is_some() {}
        while !consumer.inbox.has_drained_to_half() && !shutdown.is_cancelled() {
            tokio::select! {
                () = consumer.room.notified() => {}
                () = shutdown.cancelled() => {}
                () = life.tick() => {}
            }
        }
        if shutdown.is_cancelled() {
            return Ok(());
        }
        subscriptions = join(consumer).await?;
        consumer.become_state(ConsumerState::Running);
        if consumer.log.has_room(About::Membership) {
            info!(
                waiting = consumer.inbox.waiting(),
                "room in the inbox, joining the queue group again"
            );
        }
    }
}

/// Ends when the consumer has to stop and NATS is away: nothing is under way then.
async fn hopeless(consumer: &Consumer, shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    // An error is a connection that is closed for good.
    let _ = consumer.nats.connected().wait_for(|up| !up).await;
}

/// A membership in the queue group on one subject.
pub(crate) struct Subscription {
    subscriber: Subscriber,
    /// The place of the kind whose subject it is; `None`: the general subject.
    on: Option<usize>,
}

/// Joins the queue group on the general subject and on that of each kind that is served.
///
/// # Errors
/// When the connection to NATS is closed.
pub(crate) async fn join(consumer: &Consumer) -> anyhow::Result<Vec<Subscription>> {
    let general = (None, subjects::CREATE.to_owned());
    let kinds = consumer.served().iter().enumerate();
    let kinds = kinds.map(|(place, served)| (Some(place), subjects::create_kind(&served.kind)));
    let mut subscriptions = Vec::new();
    for (on, subject) in std::iter::once(general).chain(kinds) {
        let queue_group = subjects::WORKERS.to_owned();
        let subscriber = consumer
            .nats
            .client
            .queue_subscribe(subject, queue_group)
            .await?;
        subscriptions.push(Subscription { subscriber, on });
    }
    Ok(subscriptions)
}

/// Moves what one subscription receives into the inbox.
struct Feed {
    consumer: Arc<Consumer>,
    subscription: Subscription,
    batch: Vec<Delivery>,
    life: Beat,
}

impl Feed {
    /// Leaves the queue group on `leave`, drops `leaving` when that was said, and ends when all
    /// that was under way has `arrived`, or the connection is closed.
    async fn run(
        mut self,
        leave: CancellationToken,
        leaving: mpsc::Sender<()>,
        arrived: CancellationToken,
    ) {
        let mut leaving = Some(leaving);
        loop {
            let first = tokio::select! {
                biased;
                () = leave.cancelled(), if leaving.is_some() => {
                    // The only error is a closed connection, after which the stream ends.
                    let _ = self.subscription.subscriber.unsubscribe_after(NOW).await;
                    leaving = None;
                    continue;
                }
                // Before messages, which may never end.
                () = self.life.tick() => continue,
                message = self.subscription.subscriber.next() => message,
                () = arrived.cancelled() => return,
            };
            let Some(first) = first else { return };
            self.take(first).await;
            tokio::task::coop::consume_budget().await;
        }
    }

    /// Takes a message, and what else is there, up to a bound.
    async fn take(&mut self, first: Message) {
        self.add(first);
        // What is there is taken without a future for each message.
        future::poll_fn(|context| {
            while self.batch.len() < BATCH
                && let Poll::Ready(Some(message)) =
                    self.subscription.subscriber.poll_next_unpin(context)
            {
                self.add(message);
            }
            Poll::Ready(())
        })
        .await;
        self.consumer.count_received(self.batch.len() as u64);
        self.consumer.inbox.put(&mut self.batch);
        if self.consumer.inbox.is_full() {
            self.consumer.full.notify_one();
        }
        for delivery in self.batch.drain(..) {
            let busy = settle::busy_unread(&self.consumer, delivery);
            settle::send(&self.consumer, busy).await;
        }
    }

    fn add(&mut self, message: Message) {
        self.batch.push(Delivery::Core(CoreDelivery {
            payload: message.payload,
            reply: self.consumer.reply_of(message.reply),
            headers: message.headers.map(Box::new),
            on: self.subscription.on,
        }));
    }
}
