//! Subscriptions that go on with the next generation of their connection.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use async_nats::{Message, Subject, SubscribeError, UnsubscribeError};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;

/// The messages of a subscription. The stream ends after [`Subscriber::unsubscribe_after`], or when
/// the connection is closed for good.
#[derive(Debug)]
pub struct Subscriber {
    /// `None` while the next generation is awaited.
    current: Option<async_nats::Subscriber>,
    /// The subscriptions of later generations; closed if there will be none.
    replacements: mpsc::UnboundedReceiver<async_nats::Subscriber>,
    is_unsubscribed: bool,
}

/// The subscriptions of one connection.
#[derive(Default)]
pub(crate) struct Subscriptions {
    all: Vec<Subscription>,
    /// When there are so many, dropped ones are looked for and removed.
    clean_up_at: usize,
}

/// What it takes to subscribe again.
pub(crate) struct Subscription {
    subject: Subject,
    queue_group: Option<String>,
    replacements: mpsc::UnboundedSender<async_nats::Subscriber>,
}

/// The least number of subscriptions at which dropped ones are looked for.
const FIRST_CLEAN_UP: usize = 64;

impl Subscriptions {
    /// Adds a subscription, to be made again by later generations.
    pub(crate) fn add(&mut self, subscription: Subscription) {
        if self.all.len() >= self.clean_up_at.max(FIRST_CLEAN_UP) {
            self.remove_dropped();
            self.clean_up_at = self.all.len() * 2;
        }
        self.all.push(subscription);
    }

    fn remove_dropped(&mut self) {
        self.all
            .retain(|subscription| !subscription.replacements.is_closed());
    }

    /// Makes all subscriptions with the library client of the next generation, in their order.
    /// `None` where that fails: the client has ended, too, and the generation after it tries again.
    pub(crate) async fn make_all(
        &mut self,
        client: &async_nats::Client,
    ) -> Vec<Option<async_nats::Subscriber>> {
        self.remove_dropped();
        let mut made = Vec::with_capacity(self.all.len());
        for subscription in &self.all {
            made.push(subscription.make(client).await.ok());
        }
        made
    }

    /// Hands out the subscriptions that [`Subscriptions::make_all`] made.
    pub(crate) fn replace_all(&self, made: Vec<Option<async_nats::Subscriber>>) {
        for (subscription, made) in self.all.iter().zip(made) {
            if let Some(made) = made {
                // An error means that the subscriber was dropped meanwhile.
                let _ = subscription.replacements.send(made);
            }
        }
    }
}

impl Subscription {
    /// A subscription that is not made yet, and where its later generations will arrive.
    pub(crate) fn new(
        subject: Subject,
        queue_group: Option<String>,
    ) -> (Self, mpsc::UnboundedReceiver<async_nats::Subscriber>) {
        let (sender, replacements) = mpsc::unbounded_channel();
        let subscription = Self {
            subject,
            queue_group,
            replacements: sender,
        };
        (subscription, replacements)
    }

    pub(crate) async fn make(
        &self,
        client: &async_nats::Client,
    ) -> Result<async_nats::Subscriber, SubscribeError> {
        match &self.queue_group {
            None => client.subscribe(self.subject.clone()).await,
            Some(queue_group) => {
                client
                    .queue_subscribe(self.subject.clone(), queue_group.clone())
                    .await
            }
        }
    }
}

impl Subscriber {
    pub(crate) fn new(
        current: Option<async_nats::Subscriber>,
        replacements: mpsc::UnboundedReceiver<async_nats::Subscriber>,
    ) -> Self {
        Self {
            current,
            replacements,
            is_unsubscribed: false,
        }
    }

    /// Unsubscribes after so many messages; see [`async_nats::Subscriber::unsubscribe_after`].
    ///
    /// # Errors
    /// When the library client has ended.
    pub async fn unsubscribe_after(&mut self, count: u64) -> Result<(), UnsubscribeError> {
        self.is_unsubscribed = true;
        self.replacements.close();
        match &mut self.current {
            Some(current) => current.unsubscribe_after(count).await,
            None => Ok(()),
        }
    }
}

impl Stream for Subscriber {
    type Item = Message;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Message>> {
        loop {
            if let Some(current) = &mut self.current {
                match ready!(current.poll_next_unpin(context)) {
                    Some(message) => return Poll::Ready(Some(message)),
                    None => self.current = None,
                }
            }
            if self.is_unsubscribed {
                return Poll::Ready(None);
            }
            match ready!(self.replacements.poll_recv(context)) {
                Some(next) => self.current = Some(next),
                None => return Poll::Ready(None),
            }
        }
    }
}
