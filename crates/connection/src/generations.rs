//! The library clients of one connection, one after the other.
//!
//! A generation lasts until the connection task of its library client ends. If the connection is
//! supervised, [`Replacement`] then brings in the next generation.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use arc_swap::{ArcSwap, Guard};
use async_nats::client::SubscribeErrorKind;
use async_nats::{Subject, SubscribeError};
use tokio::sync::{Notify, watch};

use crate::refusals::Refusals;
use crate::subscriber::{Subscriber, Subscription, Subscriptions};

/// One library client, until its connection task ends.
pub(crate) struct Generation {
    number: u64,
    pub(crate) client: async_nats::Client,
    /// How often earlier generations connected to a server.
    connects_before: u64,
    pub(crate) end: Arc<End>,
}

/// Whether the connection task of a library client has ended.
#[derive(Debug, Default)]
pub(crate) struct End {
    ended: AtomicBool,
    notify: Notify,
}

/// Marks the end when it is dropped. The event callback of the library client owns it, and the
/// connection task drops that callback when it ends, also by a panic.
#[derive(Debug)]
pub(crate) struct EndOnDrop(pub(crate) Arc<End>);

/// How long after its last error a library client may take to end.
pub(crate) const ENDING: Duration = Duration::from_millis(500);

/// What is known of a connection whose generations follow each other.
pub(crate) struct Supervision {
    /// Whether there is a connection.
    pub(crate) connected: watch::Receiver<bool>,
    /// What the server has refused.
    pub(crate) refusals: Refusals,
}

/// The current generation of a connection, and what moves on to the next one.
pub(crate) struct Generations {
    current: ArcSwap<Generation>,
    /// `None` if no generation follows.
    supervision: Option<Supervision>,
    subscriptions: tokio::sync::Mutex<Subscriptions>,
    /// The number of the current generation.
    number: watch::Sender<u64>,
    /// Tasks that wait for the next generation in [`Generations::poll_live`].
    wakers: Mutex<Vec<Waker>>,
}

/// Installs the next generation of a client, without keeping the client alive.
#[derive(Clone)]
pub(crate) struct Replacement(Weak<Generations>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.ended.store(true, Ordering::Release);
        self.0.notify.notify_waiters();
    }
}

impl End {
    fn is_reached(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(crate) async fn reached(&self) {
        let notified = self.notify.notified();
        if !self.is_reached() {
            notified.await;
        }
    }
}

impl Generation {
    /// How often this and earlier generations connected to a server.
    pub(crate) fn connects(&self) -> u64 {
        let statistics = self.client.statistics();
        self.connects_before + statistics.connects.load(Ordering::Acquire)
    }
}

impl Generations {
    pub(crate) fn new(
        client: async_nats::Client,
        end: Arc<End>,
        supervision: Option<Supervision>,
    ) -> Self {
        Self {
            current: ArcSwap::from_pointee(Generation {
                number: 0,
                client,
                connects_before: 0,
                end,
            }),
            supervision,
            subscriptions: tokio::sync::Mutex::default(),
            number: watch::Sender::new(0),
            wakers: Mutex::default(),
        }
    }

    pub(crate) fn current(&self) -> Guard<Arc<Generation>> {
        self.current.load()
    }

    /// Whether another generation follows one that has ended.
    pub(crate) fn is_supervised(&self) -> bool {
        self.supervision.is_some()
    }

    /// `None` without supervision.
    pub(crate) fn connected(&self) -> Option<watch::Receiver<bool>> {
        let supervision = self.supervision.as_ref()?;
        Some(supervision.connected.clone())
    }

    /// `None` without supervision.
    pub(crate) fn refusals(&self) -> Option<&Refusals> {
        Some(&self.supervision.as_ref()?.refusals)
    }

    pub(crate) fn number(&self) -> watch::Receiver<u64> {
        self.number.subscribe()
    }

    /// Whether a generation has ended and another one follows.
    pub(crate) fn is_replaced(&self, generation: &Generation) -> bool {
        self.is_supervised() && generation.end.is_reached()
    }

    /// See [`NatsClient::live`](super::NatsClient::live).
    pub(crate) async fn live(&self) -> Arc<Generation> {
        let generation = self.current.load_full();
        if !self.is_replaced(&generation) {
            return generation;
        }
        let mut number = self.number.subscribe();
        loop {
            let generation = self.current.load_full();
            if !generation.end.is_reached() || number.changed().await.is_err() {
                return generation;
            }
        }
    }

    /// The same for a [`Sink`](futures_util::Sink).
    pub(crate) fn poll_live(&self, context: &mut Context<'_>) -> Poll<Arc<Generation>> {
        loop {
            let generation = self.current.load_full();
            if !self.is_replaced(&generation) {
                return Poll::Ready(generation);
            }
            let mut wakers = self.wakers();
            // If the next generation came before the lock was taken, its wake-ups are over.
            if self.current.load().number == generation.number {
                wakers.push(context.waker().clone());
                return Poll::Pending;
            }
        }
    }

    pub(crate) async fn subscribe(
        &self,
        subject: Subject,
        queue_group: Option<String>,
    ) -> Result<Subscriber, SubscribeError> {
        let (subscription, replacements) = Subscription::new(subject, queue_group);
        // `Replacement::install` holds this lock, too: a subscription is made either before the
        // next generation or with it.
        let mut subscriptions = self.subscriptions.lock().await;
        let generation = self.current.load_full();
        let current = match subscription.make(&generation.client).await {
            Ok(subscriber) => Some(subscriber),
            // The next generation makes it. It fails a moment before the library client is known to have
            // ended.
            Err(error) if self.is_supervised() && error.kind() == SubscribeErrorKind::Other => {
                let ended = generation.end.reached();
                match tokio::time::timeout(ENDING, ended).await {
                    Ok(()) => None,
                    Err(_) => return Err(error),
                }
            }
            Err(error) => return Err(error),
        };
        if self.is_supervised() {
            subscriptions.add(subscription);
        }
        Ok(Subscriber::new(current, replacements))
    }

    fn wakers(&self) -> MutexGuard<'_, Vec<Waker>> {
        // Nothing panics while it is locked.
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Replacement {
    pub(crate) fn of(generations: &Arc<Generations>) -> Self {
        Self(Arc::downgrade(generations))
    }

    /// The current library client; `None` if the client is no longer used.
    pub(crate) fn current(&self) -> Option<async_nats::Client> {
        Some(self.0.upgrade()?.current.load().client.clone())
    }

    /// See [`NatsClient::connects`](super::NatsClient::connects); `None` if the client is no longer used.
    pub(crate) fn connects(&self) -> Option<u64> {
        Some(self.0.upgrade()?.current.load().connects())
    }

    /// Whether the client is still used.
    pub(crate) fn is_wanted(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Waits until the current generation has ended.
    pub(crate) async fn ended(&self) {
        let Some(end) = self
            .0
            .upgrade()
            .map(|generations| generations.current.load().end.clone())
        else {
            return;
        };
        end.reached().await;
    }

    /// Starts the next generation, with all subscriptions.
    pub(crate) async fn install(&self, client: async_nats::Client, end: Arc<End>) {
        let Some(generations) = self.0.upgrade() else {
            return;
        };
        let mut subscriptions = generations.subscriptions.lock().await;
        let made = subscriptions.make_all(&client).await;
        let last = generations.current.load_full();
        let number = last.number + 1;
        generations.current.store(Arc::new(Generation {
            number,
            client,
            connects_before: last.connects(),
            end,
        }));
        subscriptions.replace_all(made);
        drop(subscriptions);
        generations.number.send_replace(number);
        for waker in std::mem::take(&mut *generations.wakers()) {
            waker.wake();
        }
    }
}
