//! Takes jobs from the queue group, as long as there is room for them.
//!
//! NATS spreads jobs over the members of a queue group at random, however busy they are. So a
//! consumer whose inbox is full leaves the group, and joins again when half of it is left: jobs
//! then go to those that have room. What NATS has sent until it learns of that still arrives:
//! requests among it are handed back at once as `busy`, for their publishers to submit elsewhere;
//! plain publishes, which nobody would submit again, are kept beyond the bound. They cannot be
//! many: no more than the server had under way to this one client (`max_pending` in its
//! configuration).

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, Subscriber};
use common::{ConsumerState, Status, subjects};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::core::Core;
use crate::report::Ending;
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
const BATCH: u64 = 64;

/// Feeds the inbox from the subscriptions of [`join`] until `shutdown`; returns when everything
/// that was under way has arrived.
///
/// # Errors
/// When the connection to NATS is closed.
pub(crate) async fn take_jobs(
    core: &Arc<Core>,
    mut subscriptions: Vec<Subscriber>,
    inbox: async_channel::Sender<Message>,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let (leave, arrived) = (CancellationToken::new(), CancellationToken::new());
        let (leaving, mut all_left) = mpsc::channel::<()>(1);
        let mut members = JoinSet::new();
        for subscription in subscriptions {
            let feed = Feed {
                core: Arc::clone(core),
                inbox: inbox.clone(),
                subscription,
            };
            members.spawn(feed.run(leave.clone(), leaving.clone(), arrived.clone()));
        }
        drop(leaving);
        // A full inbox that had room again before this was reached has told so to nobody.
        while core.has_room() && !shutdown.is_cancelled() {
            tokio::select! {
                () = core.full.notified() => {}
                () = shutdown.cancelled() => {}
            }
        }
        core.become_state(ConsumerState::Saturated);
        leave.cancel();
        if !shutdown.is_cancelled() {
            info!(
                waiting = core.waiting(),
                "inbox full, leaving the queue group until half of it is left"
            );
        }
        // Nobody sends anything: it ends when each member has told the server that it leaves.
        let _ = all_left.recv().await;
        core.nats.round_trip(PATIENCE).await?;
        arrived.cancel();
        while members.join_next().await.is_some() {}
        while !core.has_drained_to_half() && !shutdown.is_cancelled() {
            tokio::select! {
                () = core.room.notified() => {}
                () = shutdown.cancelled() => {}
            }
        }
        if shutdown.is_cancelled() {
            return Ok(());
        }
        subscriptions = join(core).await?;
        core.become_state(ConsumerState::Running);
        info!(
            waiting = core.waiting(),
            "room in the inbox, joining the queue group again"
        );
    }
}

/// Joins the queue group on the general subject and on that of each kind that is served.
///
/// # Errors
/// When the connection to NATS is closed.
pub(crate) async fn join(core: &Core) -> anyhow::Result<Vec<Subscriber>> {
    let mut names = vec![subjects::CREATE.to_owned()];
    names.extend(core.kinds().iter().map(subjects::create_kind));
    let mut subscriptions = Vec::with_capacity(names.len());
    for subject in names {
        let queue_group = subjects::WORKERS.to_owned();
        subscriptions.push(core.client.queue_subscribe(subject, queue_group).await?);
    }
    Ok(subscriptions)
}

/// Moves what one subscription receives into the inbox.
struct Feed {
    core: Arc<Core>,
    inbox: async_channel::Sender<Message>,
    subscription: Subscriber,
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
                    let _ = self.subscription.unsubscribe_after(NOW).await;
                    leaving = None;
                    continue;
                }
                message = self.subscription.next() => message,
                () = arrived.cancelled() => return,
            };
            let Some(first) = first else { return };
            self.take(first).await;
            tokio::task::coop::consume_budget().await;
        }
    }

    /// Takes a message, and what else is there, up to a bound.
    async fn take(&mut self, first: Message) {
        let mut messages = 1;
        accept(&self.core, &self.inbox, first).await;
        while messages < BATCH {
            let Some(Some(message)) = self.subscription.next().now_or_never() else {
                break;
            };
            messages += 1;
            accept(&self.core, &self.inbox, message).await;
        }
        self.core.count_received(messages);
    }
}

async fn accept(core: &Core, inbox: &async_channel::Sender<Message>, message: Message) {
    if !core.has_room()
        && let Some(reply) = core.reply_of(&message)
    {
        core.report.others.ended(Ending::Busy);
        return settle::hand_back_unread(core, &message, reply, Status::Busy).await;
    }
    // The inbox is closed only after the last of its senders is gone.
    let _ = inbox.send(message).await;
    if !core.has_room() {
        core.become_state(ConsumerState::Saturated);
        core.full.notify_one();
    }
}
