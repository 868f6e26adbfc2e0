//! Takes jobs from the queue group while there is room for them.
//!
//! NATS spreads jobs over the members of a queue group at random, however busy they are. So a
//! consumer leaves the group when its inbox is full and joins again when the inbox has drained to
//! half: meanwhile jobs go to consumers with room. What NATS sent before it knew of the leave still
//! arrives. Requests among these messages are handed back at once as `busy`, and their publishers
//! submit them elsewhere. Plain publishes are kept beyond the bound, because their publishers do
//! not submit them again. There are no more of them than the server had in transit to this one
//! client (`max_pending` in its configuration).

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

use super::{reply, settle};
use crate::consumer::Consumer;
use crate::inbox::CoreMessage;
use crate::job_log::Topic;
use crate::kinds::KindIndex;

/// A count for [`Subscriber::unsubscribe_after`] that makes the server end the subscription now,
/// while the library keeps it for messages in transit.
///
/// The library's other ways to leave give the subscription up at once. `drain` does so too: it does
/// not wait for the reply to its ping, so all messages in transit are lost. With a count, the
/// library keeps a subscription until that many messages came. The server reads counts of up to
/// nine digits; it ignores a longer one, and ends the subscription at once.
const NOW: u64 = u64::MAX;

/// How long a round trip may take; while NATS is away its reply comes after the reconnect.
const ROUND_TRIP_TIMEOUT: Duration = Duration::from_hours(24);

/// How many messages are taken from a subscription before other tasks get their turn.
const BATCH: usize = 64;

/// Feeds the inbox from the subscriptions of [`join`] until `shutdown`; returns when all messages
/// in transit have arrived.
///
/// # Errors
/// When the connection to NATS is closed for good.
pub(crate) async fn take_jobs(
    consumer: &Arc<Consumer>,
    mut subscriptions: Vec<Subscription>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    let mut heartbeat = consumer.nats.health.task("intake", STILL);
    loop {
        let (leave, arrived) = (CancellationToken::new(), CancellationToken::new());
        let (leaving, mut all_left) = mpsc::channel::<()>(1);
        let mut members = JoinSet::new();
        for subscription in subscriptions {
            let feed = Feed {
                consumer: Arc::clone(consumer),
                subscription,
                batch: Vec::new(),
                heartbeat: consumer.nats.health.task("subscriptions", STILL),
            };
            members.spawn(feed.run(leave.clone(), leaving.clone(), arrived.clone()));
        }
        drop(leaving);
        // A notification may be old: the inbox was full, and has drained since.
        while !consumer.inbox.is_full() && !shutdown.is_cancelled() {
            tokio::select! {
                () = consumer.state.inbox_full.notified() => {}
                () = shutdown.cancelled() => {}
                () = heartbeat.tick() => {}
                // A member ends only after `leave` was cancelled.
                ended = members.join_next() => {
                    anyhow::bail!("a subscription ended unexpectedly: {ended:?}");
                }
            }
        }
        consumer.state.set(ConsumerState::Saturated);
        leave.cancel();
        if !shutdown.is_cancelled() && consumer.log.may_log(Topic::Membership) {
            info!(
                waiting = consumer.inbox.waiting(),
                "inbox full: leaving the queue group until it has drained to half"
            );
        }
        // Nothing is sent on this channel: it closes when every member has unsubscribed.
        let _ = heartbeat.during(Duration::MAX, all_left.recv()).await;
        let round_trip = consumer.nats.round_trip(ROUND_TRIP_TIMEOUT);
        tokio::select! {
            arrived = heartbeat.during(ROUND_TRIP_TIMEOUT, round_trip) => arrived?,
            () = stopping_without_nats(consumer, shutdown) => {}
        }
        arrived.cancel();
        while members.join_next().await.is_some() {}
        while !consumer.inbox.has_drained_to_half() && !shutdown.is_cancelled() {
            tokio::select! {
                () = consumer.state.inbox_drained.notified() => {}
                () = shutdown.cancelled() => {}
                () = heartbeat.tick() => {}
            }
        }
        if shutdown.is_cancelled() {
            return Ok(());
        }
        subscriptions = join(consumer).await?;
        consumer.state.set(ConsumerState::Running);
        if consumer.log.may_log(Topic::Membership) {
            info!(
                waiting = consumer.inbox.waiting(),
                "inbox drained to half: joining the queue group again"
            );
        }
    }
}

/// Returns when the consumer has to stop and NATS is away: then nothing is in transit.
async fn stopping_without_nats(consumer: &Consumer, shutdown: &CancellationToken) {
    shutdown.cancelled().await;
    // An error means that the connection is closed for good.
    let _ = consumer.nats.connected().wait_for(|up| !up).await;
}

/// A membership in the queue group on one subject.
pub(crate) struct Subscription {
    subscriber: Subscriber,
    /// The kind of the subject; `None` for `jobs.create`.
    kind: Option<KindIndex>,
}

/// Joins the queue group on `jobs.create` and on the subject of each served kind.
///
/// # Errors
/// When the connection to NATS is closed for good.
pub(crate) async fn join(consumer: &Consumer) -> anyhow::Result<Vec<Subscription>> {
    let general = (None, subjects::CREATE.to_owned());
    let kinds = consumer.kinds.iter();
    let kinds = kinds.map(|(index, served)| (Some(index), subjects::create_kind(&served.kind)));
    let mut subscriptions = Vec::new();
    for (kind, subject) in std::iter::once(general).chain(kinds) {
        let queue_group = subjects::WORKERS.to_owned();
        let subscriber = consumer
            .nats
            .client
            .queue_subscribe(subject, queue_group)
            .await?;
        subscriptions.push(Subscription { subscriber, kind });
    }
    Ok(subscriptions)
}

/// Moves the messages of one subscription into the inbox.
struct Feed {
    consumer: Arc<Consumer>,
    subscription: Subscription,
    batch: Vec<CoreMessage>,
    heartbeat: Beat,
}

impl Feed {
    /// Unsubscribes on `leave`, then drops `leaving`. Returns on `arrived`, which says that all
    /// messages in transit have arrived, or when the connection is closed for good.
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
                    // The only error is a closed connection, which also ends the stream.
                    let _ = self.subscription.subscriber.unsubscribe_after(NOW).await;
                    leaving = None;
                    continue;
                }
                // Before the messages, which may never pause.
                () = self.heartbeat.tick() => continue,
                message = self.subscription.subscriber.next() => message,
                () = arrived.cancelled() => return,
            };
            let Some(first) = first else { return };
            self.take(first).await;
            tokio::task::coop::consume_budget().await;
        }
    }

    /// Takes one message and those that are there already, up to a bound.
    async fn take(&mut self, first: Message) {
        self.add(first);
        // One future for all of them, not one for each message.
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
            self.consumer.state.inbox_full.notify_one();
        }
        for message in self.batch.drain(..) {
            let busy = settle::busy_unread(&self.consumer, message);
            reply::send(&self.consumer, busy).await;
        }
    }

    fn add(&mut self, message: Message) {
        self.batch.push(CoreMessage {
            payload: message.payload,
            reply: self.consumer.reply_check.allowed(message.reply),
            headers: message.headers.map(Box::new),
            subject_kind: self.subscription.kind,
        });
    }
}
