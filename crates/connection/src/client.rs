//! A client that outlives the connection task of the client library.
//!
//! The library reconnects by itself, unless its connection task ends: async-nats 0.51 panics while it
//! reads certain headers. Everything made with that library client is dead then. A [`NatsClient`] replaces
//! the library client and moves its subscriptions to the new one. Its users see one more lost
//! connection.
//!
//! Each library client is one [generation](crate::generations) of the connection.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use async_nats::client::{FlushError, PublishError, RequestError};
use async_nats::message::OutboundMessage;
use async_nats::subject::ToSubject;
use async_nats::{HeaderMap, Message, Request, ServerInfo, Subject, SubscribeError};
use bytes::Bytes;
use futures_util::{Sink, SinkExt as _};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio::time::error::Elapsed;

use crate::generations::{ENDING, End, Generation, Generations, Replacement, Supervision};
use crate::refusals::{Operation, Refusals};
use crate::round_trip::round_trip;
use crate::subscriber::Subscriber;

/// A NATS client; clones share its connection.
pub struct NatsClient {
    generations: Arc<Generations>,
    /// The generation that this clone sends with as a [`Sink`]. Each clone has its own library client,
    /// because a sink reserves room in one.
    sink: Option<(Arc<Generation>, async_nats::Client)>,
}

impl NatsClient {
    /// A client whose next generations [`Replacement::install`] brings in.
    pub(crate) fn supervised(
        client: async_nats::Client,
        end: Arc<End>,
        connected: watch::Receiver<bool>,
        refusals: Refusals,
    ) -> (Self, Replacement) {
        let supervision = Supervision {
            connected,
            refusals,
        };
        let generations = Arc::new(Generations::new(client, end, Some(supervision)));
        let replacement = Replacement::of(&generations);
        let sink = None;
        (Self { generations, sink }, replacement)
    }

    /// The current library client, which may end at any time.
    #[must_use]
    pub fn current(&self) -> async_nats::Client {
        self.generations.current().client.clone()
    }

    /// The number of the current generation, from 0. Wait for a change to see the next one.
    #[must_use]
    pub fn generation(&self) -> watch::Receiver<u64> {
        self.generations.number()
    }

    /// A generation that has not ended, waiting for the next one if necessary. Without supervision
    /// there is only one, and it is returned even after its end.
    pub(crate) async fn live(&self) -> Arc<Generation> {
        self.generations.live().await
    }

    /// Waits until there is a generation that has not ended.
    pub async fn wait_until_live(&self) {
        let _ = self.live().await;
    }

    /// How often it has connected to a server. The count goes up before any message of the new
    /// connection arrives.
    #[must_use]
    pub fn connects(&self) -> u64 {
        self.generations.current().connects()
    }

    /// Publishes a message. Without a connection the message is buffered in memory; if the buffer is
    /// full, this waits.
    ///
    /// # Errors
    /// When the message is too large, or the library client ended before it took the message.
    pub async fn publish<S: ToSubject>(
        &self,
        subject: S,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        self.live().await.client.publish(subject, payload).await
    }

    /// Publishes a message with headers.
    ///
    /// # Errors
    /// See [`NatsClient::publish`].
    pub async fn publish_with_headers<S: ToSubject>(
        &self,
        subject: S,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let generation = self.live().await;
        generation
            .client
            .publish_with_headers(subject, headers, payload)
            .await
    }

    /// Publishes a message with a reply subject.
    ///
    /// # Errors
    /// See [`NatsClient::publish`].
    pub async fn publish_with_reply<S: ToSubject, R: ToSubject>(
        &self,
        subject: S,
        reply: R,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let generation = self.live().await;
        generation
            .client
            .publish_with_reply(subject, reply, payload)
            .await
    }

    /// Publishes a request and waits for its reply, up to ten seconds.
    ///
    /// # Errors
    /// When there are no responders, no reply comes in time, or the library client ends meanwhile.
    pub async fn request<S: ToSubject>(
        &self,
        subject: S,
        payload: Bytes,
    ) -> Result<Message, RequestError> {
        self.live().await.client.request(subject, payload).await
    }

    /// Sends a request that sets its own headers, time-out or inbox.
    ///
    /// # Errors
    /// See [`NatsClient::request`].
    pub async fn send_request<S: ToSubject>(
        &self,
        subject: S,
        request: Request,
    ) -> Result<Message, RequestError> {
        let generation = self.live().await;
        generation.client.send_request(subject, request).await
    }

    /// Sends an idempotent request, and again on the next connection if the current one is lost before
    /// the reply arrives. `may_be_lost` says whether an error can come from a lost connection.
    ///
    /// # Errors
    /// When there is no reply before `until`.
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
                let mut connected = self.generations.connected();
                if let Some(connected) = &mut connected {
                    connected.mark_unchanged();
                }
                let generation = self.live().await;
                tokio::select! {
                    biased;
                    answer = ask() => match answer {
                        // Requests fail a moment before the library client is known to have ended.
                        Err(error) if self.generations.is_supervised() && may_be_lost(&error) => {
                            let ended = generation.end.reached();
                            if tokio::time::timeout(ENDING, ended).await.is_err() {
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

    /// Waits until the server refuses the operation on this subject, because the user has no permission
    /// for it. Call it before the operation, and await it beside the answer: a refusal counts from the
    /// call on. A client that was made from an [`async_nats::Client`] is not told of refusals; then
    /// this never ends.
    pub fn refused(
        &self,
        operation: Operation,
        subject: &str,
    ) -> impl Future<Output = ()> + Send + use<> {
        let refusals = self.generations.refusals();
        let next = refusals.map(|refusals| refusals.next(operation, subject));
        async move {
            match next {
                Some(next) => next.await,
                None => std::future::pending().await,
            }
        }
    }

    /// Whether the client is told what the server refuses, so that [`NatsClient::refused`] can end.
    #[must_use]
    pub fn knows_refusals(&self) -> bool {
        self.generations.is_supervised()
    }

    /// Whether the server answers at all within `patience`: a round trip that needs no permission other
    /// than those of every request.
    pub async fn is_answered(&self, patience: Duration) -> bool {
        round_trip(&self.current(), patience).await.is_ok()
    }

    /// Subscribes to a subject, which may have wildcards.
    ///
    /// # Errors
    /// When the subject is invalid, or the connection is closed for good.
    pub async fn subscribe<S: ToSubject>(&self, subject: S) -> Result<Subscriber, SubscribeError> {
        self.join(subject.to_subject(), None).await
    }

    /// Subscribes as a member of a queue group.
    ///
    /// # Errors
    /// See [`NatsClient::subscribe`].
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
        self.generations.subscribe(subject, queue_group).await
    }

    /// A new reply subject.
    #[must_use]
    pub fn new_inbox(&self) -> String {
        self.generations.current().client.new_inbox()
    }

    /// The largest size of a message in bytes, headers included.
    #[must_use]
    pub fn max_payload(&self) -> usize {
        self.generations.current().client.max_payload()
    }

    /// What the server said of itself when the connection was made.
    #[must_use]
    pub fn server_info(&self) -> ServerInfo {
        self.generations.current().client.server_info()
    }

    /// Waits until all messages published before are written to the socket.
    ///
    /// # Errors
    /// When the library client ends meanwhile.
    pub async fn flush(&self) -> Result<(), FlushError> {
        self.live().await.client.flush().await
    }
}

impl Clone for NatsClient {
    fn clone(&self) -> Self {
        Self {
            generations: Arc::clone(&self.generations),
            sink: None,
        }
    }
}

impl fmt::Debug for NatsClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NatsClient").finish_non_exhaustive()
    }
}

impl From<async_nats::Client> for NatsClient {
    /// A client without supervision: it ends with the library client.
    fn from(client: async_nats::Client) -> Self {
        // The end is never marked: only the errors of the library client tell of it.
        let generations = Generations::new(client, Arc::default(), None);
        Self {
            generations: Arc::new(generations),
            sink: None,
        }
    }
}

impl Sink<OutboundMessage> for NatsClient {
    type Error = PublishError;

    fn poll_ready(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), PublishError>> {
        loop {
            if self
                .sink
                .as_ref()
                .is_none_or(|(generation, _)| self.generations.is_replaced(generation))
            {
                let generation = ready!(self.generations.poll_live(context));
                let client = generation.client.clone();
                self.sink = Some((generation, client));
            }
            let Some((generation, client)) = &mut self.sink else {
                continue;
            };
            let ready = ready!(client.poll_ready_unpin(context));
            let generation = Arc::clone(generation);
            match ready {
                Err(_) if self.generations.is_replaced(&generation) => self.sink = None,
                ready => return Poll::Ready(ready),
            }
        }
    }

    fn start_send(mut self: Pin<&mut Self>, message: OutboundMessage) -> Result<(), PublishError> {
        match &mut self.sink {
            // If it has ended since, the message is lost as on any lost connection.
            Some((_, client)) => client.start_send_unpin(message),
            None => panic!("start_send was called before poll_ready"),
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

/// Waits for the next reconnect; forever without supervision.
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
