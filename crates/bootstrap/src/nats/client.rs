//! A client that outlives the connection task of the client library.
//!
//! The library reconnects by itself, unless its connection task ends: async-nats 0.51 panics while it
//! reads certain headers. Then all that was made with that client is dead for good. A [`Client`] gets
//! another one in its place, and its subscriptions go on with that. For whoever uses it this is one
//! more lost connection.

use std::fmt;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use arc_swap::ArcSwap;
use async_nats::client::{FlushError, PublishError, RequestError};
use async_nats::message::OutboundMessage;
use async_nats::subject::ToSubject;
use async_nats::{
    HeaderMap, Message, Request, ServerInfo, Subject, SubscribeError, UnsubscribeError,
};
use bytes::Bytes;
use futures_util::{Sink, SinkExt as _, Stream, StreamExt as _};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio::time::error::Elapsed;

/// A client of NATS; clones share its connection.
pub struct Client {
    shared: Arc<Shared>,
    /// What it sends with as a [`Sink`]: the library's clients have room reserved in each clone.
    sink: Option<(Arc<Life>, async_nats::Client)>,
}

struct Shared {
    life: ArcSwap<Life>,
    /// Whether there is a connection, if this is supervised: then another client of the library follows
    /// one that ended.
    connected: Option<watch::Receiver<bool>>,
    subscriptions: tokio::sync::Mutex<Subscriptions>,
    /// The number of the current life.
    lives: watch::Sender<u64>,
    /// Who waits for the next life in a [`Sink`].
    wakers: Mutex<Vec<Waker>>,
}

/// One client of the library, until its connection task ends.
pub(super) struct Life {
    number: u64,
    client: async_nats::Client,
    /// How often the lives before had connected.
    connects_before: u64,
    end: Arc<End>,
}

/// Tells that the connection task of a client of the library has ended.
#[derive(Debug, Default)]
pub(super) struct End {
    ended: AtomicBool,
    notify: Notify,
}

/// Marks the end when it is dropped. The client's event callback owns it, and the connection task drops
/// that callback when it ends, also by a panic.
#[derive(Debug)]
pub(super) struct EndOnDrop(pub(super) Arc<End>);

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

    async fn reached(&self) {
        let notified = self.notify.notified();
        if !self.is_reached() {
            notified.await;
        }
    }
}

#[derive(Default)]
struct Subscriptions {
    all: Vec<Subscription>,
    /// Those that are gone are removed when there are so many.
    most: usize,
}

/// What it takes to subscribe again.
struct Subscription {
    subject: Subject,
    queue_group: Option<String>,
    replacements: mpsc::UnboundedSender<async_nats::Subscriber>,
}

/// How long a client may take to end.
const ENDING: Duration = Duration::from_millis(500);

/// How many subscriptions there are before those that are gone are looked for.
const FEW: usize = 64;

impl Client {
    /// A client whose successors [`Replacement::install`] brings in.
    pub(super) fn supervised(
        client: async_nats::Client,
        end: Arc<End>,
        connected: watch::Receiver<bool>,
    ) -> (Self, Replacement) {
        let shared = Self::share(client, end, Some(connected));
        let replacement = Replacement(Arc::downgrade(&shared));
        (Self { shared, sink: None }, replacement)
    }

    fn share(
        client: async_nats::Client,
        end: Arc<End>,
        connected: Option<watch::Receiver<bool>>,
    ) -> Arc<Shared> {
        Arc::new(Shared {
            life: ArcSwap::from_pointee(Life {
                number: 0,
                client,
                connects_before: 0,
                end,
            }),
            connected,
            subscriptions: tokio::sync::Mutex::default(),
            lives: watch::Sender::new(0),
            wakers: Mutex::default(),
        })
    }

    /// The client of the library as it is now: it may end at any time.
    pub(crate) fn current(&self) -> async_nats::Client {
        self.shared.life.load().client.clone()
    }

    /// The number of that client, from 0; it can be waited for the next one.
    pub(crate) fn lives(&self) -> watch::Receiver<u64> {
        self.shared.lives.subscribe()
    }

    /// A client that has not ended; one that has, if nothing follows it.
    pub(super) async fn live(&self) -> Arc<Life> {
        let life = self.shared.life.load_full();
        if !self.shared.is_supervised() || !life.end.is_reached() {
            return life;
        }
        let mut lives = self.shared.lives.subscribe();
        loop {
            let life = self.shared.life.load_full();
            if !life.end.is_reached() || lives.changed().await.is_err() {
                return life;
            }
        }
    }

    /// How often it has connected to a server: counted before anything arrives on a connection,
    /// other than the event that tells of it.
    #[must_use]
    pub fn connects(&self) -> u64 {
        self.shared.life.load().connects()
    }

    /// Publishes a message. While there is no connection it waits in memory, and then for room there.
    ///
    /// # Errors
    /// When the message is too large, or the connection ended before it was handed over.
    pub async fn publish<S: ToSubject>(
        &self,
        subject: S,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        self.live().await.client.publish(subject, payload).await
    }

    /// The same with headers.
    ///
    /// # Errors
    /// See [`Client::publish`].
    pub async fn publish_with_headers<S: ToSubject>(
        &self,
        subject: S,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let life = self.live().await;
        life.client
            .publish_with_headers(subject, headers, payload)
            .await
    }

    /// The same with a reply subject.
    ///
    /// # Errors
    /// See [`Client::publish`].
    pub async fn publish_with_reply<S: ToSubject, R: ToSubject>(
        &self,
        subject: S,
        reply: R,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let life = self.live().await;
        life.client
            .publish_with_reply(subject, reply, payload)
            .await
    }

    /// Publishes a request and waits for its answer, up to ten seconds.
    ///
    /// # Errors
    /// When nobody is there to answer, nobody does in time, or the connection ended meanwhile.
    pub async fn request<S: ToSubject>(
        &self,
        subject: S,
        payload: Bytes,
    ) -> Result<Message, RequestError> {
        self.live().await.client.request(subject, payload).await
    }

    /// The same with headers, a time-out or an inbox of one's own.
    ///
    /// # Errors
    /// See [`Client::request`].
    pub async fn send_request<S: ToSubject>(
        &self,
        subject: S,
        request: Request,
    ) -> Result<Message, RequestError> {
        let life = self.live().await;
        life.client.send_request(subject, request).await
    }

    /// Repeats an idempotent request on the next connection if the current one is lost before the answer
    /// arrives. `may_be_lost` says whether an error can be the result of a lost connection.
    ///
    /// # Errors
    /// When there is no answer before `until`.
    pub async fn ask_again_if_lost<A, T, E>(
        &self,
        until: Instant,
        ask: impl Fn() -> A,
        may_be_lost: impl Fn(&E) -> bool,
    ) -> Result<Result<T, E>, Elapsed>
    where
        A: Future<Output = Result<T, E>>,
    {
        let again = async {
            loop {
                let mut connected = self.shared.connected.clone();
                if let Some(connected) = &mut connected {
                    connected.mark_unchanged();
                }
                let life = self.live().await;
                tokio::select! {
                    biased;
                    answer = ask() => match answer {
                        // A client that ends gives errors a moment before it says that it has ended.
                        Err(error) if self.shared.is_supervised() && may_be_lost(&error) => {
                            if tokio::time::timeout(ENDING, life.end.reached()).await.is_err() {
                                return Err(error);
                            }
                        }
                        answer => return answer,
                    },
                    () = reconnected(connected) => {}
                }
            }
        };
        tokio::time::timeout_at(until, again).await
    }

    /// Subscribes to a subject, which may hold wildcards.
    ///
    /// # Errors
    /// When the subject is none, or the connection ended for good.
    pub async fn subscribe<S: ToSubject>(&self, subject: S) -> Result<Subscriber, SubscribeError> {
        self.join(subject.to_subject(), None).await
    }

    /// The same as a member of a queue group.
    ///
    /// # Errors
    /// See [`Client::subscribe`].
    pub async fn queue_subscribe<S: ToSubject>(
        &self,
        subject: S,
        queue_group: String,
    ) -> Result<Subscriber, SubscribeError> {
        self.join(subject.to_subject(), Some(queue_group)).await
    }

    async fn join(
        &self,
        subject: Subject,
        queue_group: Option<String>,
    ) -> Result<Subscriber, SubscribeError> {
        let (replacements, replaced) = mpsc::unbounded_channel();
        let subscription = Subscription {
            subject,
            queue_group,
            replacements,
        };
        // Whoever brings in another client holds this lock, too: so a subscription is made either
        // with that client or before it.
        let mut subscriptions = self.shared.subscriptions.lock().await;
        let life = self.shared.life.load_full();
        let current = match subscription.make(&life.client).await {
            Ok(subscriber) => Some(subscriber),
            // The next one takes it along.
            Err(_) if self.shared.is_supervised() && life.end.is_reached() => None,
            Err(error) => return Err(error),
        };
        if self.shared.is_supervised() {
            subscriptions.add(subscription);
        }
        Ok(Subscriber {
            current,
            replaced,
            left: false,
        })
    }

    /// A new subject for answers.
    #[must_use]
    pub fn new_inbox(&self) -> String {
        self.shared.life.load().client.new_inbox()
    }

    /// How many bytes a message may have, headers included.
    #[must_use]
    pub fn max_payload(&self) -> usize {
        self.shared.life.load().client.max_payload()
    }

    /// What the server said of itself at the last connection.
    #[must_use]
    pub fn server_info(&self) -> ServerInfo {
        self.shared.life.load().client.server_info()
    }

    /// Waits until all that was published before is written to the socket.
    ///
    /// # Errors
    /// When the connection ended meanwhile.
    pub async fn flush(&self) -> Result<(), FlushError> {
        self.live().await.client.flush().await
    }
}

impl Clone for Client {
    fn clone(&self) -> Self {
        Self {
            shared: Arc::clone(&self.shared),
            sink: None,
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl From<async_nats::Client> for Client {
    /// A client that nobody supervises: when its connection task ends, so does this.
    fn from(client: async_nats::Client) -> Self {
        // Its errors tell when it has ended.
        let shared = Self::share(client, Arc::default(), None);
        Self { shared, sink: None }
    }
}

impl Sink<OutboundMessage> for Client {
    type Error = PublishError;

    fn poll_ready(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), PublishError>> {
        loop {
            if self
                .sink
                .as_ref()
                .is_none_or(|(life, _)| self.is_over(life))
            {
                let life = self.shared.life.load_full();
                if self.is_over(&life) {
                    let mut wakers = self.shared.wakers();
                    // The next one may have come before the lock was taken, and woken the others.
                    if self.shared.life.load().number == life.number {
                        wakers.push(context.waker().clone());
                        return Poll::Pending;
                    }
                    continue;
                }
                let client = life.client.clone();
                self.sink = Some((life, client));
            }
            let Some((life, client)) = &mut self.sink else {
                continue;
            };
            let ready = ready!(client.poll_ready_unpin(context));
            let life = Arc::clone(life);
            match ready {
                Err(_) if self.is_over(&life) => self.sink = None,
                ready => return Poll::Ready(ready),
            }
        }
    }

    fn start_send(mut self: Pin<&mut Self>, message: OutboundMessage) -> Result<(), PublishError> {
        match &mut self.sink {
            // If it has ended since it was ready, the message is lost as with any connection.
            Some((_, client)) => client.start_send_unpin(message),
            None => panic!("start_send is called after poll_ready only"),
        }
    }

    fn poll_flush(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), PublishError>> {
        match &mut self.sink {
            Some((_, client)) => client.poll_flush_unpin(context),
            None => Poll::Ready(Ok(())),
        }
    }

    fn poll_close(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), PublishError>> {
        self.poll_flush(context)
    }
}

impl Client {
    /// Whether a client of the library has ended and another one follows.
    fn is_over(&self, life: &Life) -> bool {
        self.shared.is_supervised() && life.end.is_reached()
    }
}

impl Life {
    fn connects(&self) -> u64 {
        let statistics = self.client.statistics();
        self.connects_before + statistics.connects.load(Ordering::Acquire)
    }
}

impl Shared {
    fn is_supervised(&self) -> bool {
        self.connected.is_some()
    }

    fn wakers(&self) -> std::sync::MutexGuard<'_, Vec<Waker>> {
        // Nothing panics while it is locked.
        self.wakers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscriptions {
    fn add(&mut self, subscription: Subscription) {
        if self.all.len() >= self.most.max(FEW) {
            self.remove_gone();
            self.most = self.all.len() * 2;
        }
        self.all.push(subscription);
    }

    fn remove_gone(&mut self) {
        self.all
            .retain(|subscription| !subscription.replacements.is_closed());
    }
}

impl Subscription {
    async fn make(
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

/// Waits for the next reconnect; never returns for an unsupervised client.
async fn reconnected(connected: Option<watch::Receiver<bool>>) {
    if let Some(mut connected) = connected {
        while connected.changed().await.is_ok() {
            if *connected.borrow() {
                return;
            }
        }
    }
    std::future::pending::<()>().await;
}

/// Brings clients of the library into a [`Client`], which it does not keep alive.
#[derive(Clone)]
pub(crate) struct Replacement(std::sync::Weak<Shared>);

impl Replacement {
    /// The client of the library as it is now; `None` if nobody uses it any more.
    pub(super) fn current(&self) -> Option<async_nats::Client> {
        Some(self.0.upgrade()?.life.load().client.clone())
    }

    /// See [`Client::connects`]; `None` if nobody uses it any more.
    pub(crate) fn connects(&self) -> Option<u64> {
        Some(self.0.upgrade()?.life.load().connects())
    }

    /// Whether anybody uses it.
    pub(super) fn is_wanted(&self) -> bool {
        self.0.strong_count() > 0
    }

    /// Waits until the connection task of the current client has ended.
    pub(super) async fn ended(&self) {
        let Some(end) = self
            .0
            .upgrade()
            .map(|shared| shared.life.load().end.clone())
        else {
            return;
        };
        end.reached().await;
    }

    /// Puts another client in the place of one that has ended, with all subscriptions.
    pub(super) async fn install(&self, client: async_nats::Client, end: Arc<End>) {
        let Some(shared) = self.0.upgrade() else {
            return;
        };
        let mut subscriptions = shared.subscriptions.lock().await;
        subscriptions.remove_gone();
        let mut made = Vec::with_capacity(subscriptions.all.len());
        for subscription in &subscriptions.all {
            // An error is the end of this client, too: the next one takes them along.
            made.push(subscription.make(&client).await.ok());
        }
        let last = shared.life.load_full();
        let number = last.number + 1;
        shared.life.store(Arc::new(Life {
            number,
            client,
            connects_before: last.connects(),
            end,
        }));
        for (subscription, made) in subscriptions.all.iter().zip(made) {
            if let Some(made) = made {
                // Whoever dropped it meanwhile wants none.
                let _ = subscription.replacements.send(made);
            }
        }
        drop(subscriptions);
        shared.lives.send_replace(number);
        for waker in std::mem::take(&mut *shared.wakers()) {
            waker.wake();
        }
    }
}

/// The messages of a subscription. It ends when it was unsubscribed, or the connection is closed for
/// good.
#[derive(Debug)]
pub struct Subscriber {
    current: Option<async_nats::Subscriber>,
    /// What takes the place of one that has ended; closed if nothing will.
    replaced: mpsc::UnboundedReceiver<async_nats::Subscriber>,
    /// Whether it was unsubscribed.
    left: bool,
}

impl Subscriber {
    /// Unsubscribes after so many messages; see [`async_nats::Subscriber::unsubscribe_after`].
    ///
    /// # Errors
    /// When the connection has ended.
    pub async fn unsubscribe_after(&mut self, count: u64) -> Result<(), UnsubscribeError> {
        self.left = true;
        self.replaced.close();
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
            if self.left {
                return Poll::Ready(None);
            }
            match ready!(self.replaced.poll_recv(context)) {
                Some(next) => self.current = Some(next),
                None => return Poll::Ready(None),
            }
        }
    }
}
