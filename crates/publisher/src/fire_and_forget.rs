use std::collections::VecDeque;
use std::task::{Context, Poll};

use async_nats::message::OutboundMessage;
use async_nats::{PublishErrorKind, Subject};
use bootstrap::Nats;
use bootstrap::NatsClient;
use common::{Outcome, subjects};
use futures_util::SinkExt as _;
use tokio::sync::watch;

use crate::connection_closed::ConnectionClosed;
use crate::outcome::too_large;
use crate::submission::Submission;
use crate::trace;

/// Publishes jobs without a reply subject: at most once.
///
/// Nothing is published while NATS is away. What was published just before the connection was lost
/// may be lost too.
pub(crate) struct FireAndForgetSubmitter {
    client: NatsClient,
    connection: watch::Receiver<bool>,
    connected: bool,
    by_kind: bool,
    /// Jobs that wait for room in the client's send queue.
    waiting: VecDeque<Submission>,
    published: VecDeque<Published>,
}

/// A job that was published or refused.
pub(crate) struct Published {
    pub(crate) submission: Submission,
    /// The error is the job's outcome if its message is too large.
    pub(crate) result: Result<(), Outcome>,
}

impl FireAndForgetSubmitter {
    /// The most jobs that wait for room in the client's send queue.
    const MOST_WAITING: usize = 256;

    pub(crate) fn new(nats: &Nats, by_kind: bool) -> Self {
        Self::over(nats.client.clone(), nats.connected(), by_kind)
    }

    fn over(client: NatsClient, mut connection: watch::Receiver<bool>, by_kind: bool) -> Self {
        let connected = *connection.borrow_and_update();
        Self {
            client,
            connection,
            connected,
            by_kind,
            waiting: VecDeque::new(),
            published: VecDeque::new(),
        }
    }

    pub(crate) fn under_way(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.connected && self.waiting.len() < Self::MOST_WAITING
    }

    pub(crate) fn submit(&mut self, submission: Submission) {
        self.waiting.push_back(submission);
    }

    pub(crate) fn take_published(&mut self) -> Option<Published> {
        self.published.pop_front()
    }

    /// Gives up all jobs that were not published, and returns them.
    pub(crate) fn abandon(&mut self) -> Vec<Submission> {
        self.waiting.drain(..).collect()
    }

    /// Publishes waiting jobs until one was published or refused, or the connection was lost or
    /// restored.
    ///
    /// # Errors
    /// When the connection is closed for good.
    pub(crate) async fn drive(&mut self) -> Result<(), ConnectionClosed> {
        let mut connection = self.connection.clone();
        tokio::select! {
            biased;
            changed = connection.changed() => {
                changed.map_err(|_| ConnectionClosed)?;
                self.connected = *self.connection.borrow_and_update();
                Ok(())
            }
            result = std::future::poll_fn(|context| self.poll(context)) => result,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectionClosed>> {
        while self.connected && !self.waiting.is_empty() {
            match self.client.poll_ready_unpin(context) {
                Poll::Ready(Ok(())) => self.publish_next()?,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(ConnectionClosed)),
                Poll::Pending => break,
            }
        }
        if self.published.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }

    /// Publishes the next job. The client's send queue must have room.
    fn publish_next(&mut self) -> Result<(), ConnectionClosed> {
        let Some(submission) = self.waiting.pop_front() else {
            return Ok(());
        };
        let subject = if self.by_kind {
            subjects::create_kind(&submission.kind).into()
        } else {
            Subject::from_static(subjects::CREATE)
        };
        let span = trace::send(&submission, subjects::CREATE);
        let limit = self.client.max_payload();
        let room = limit.saturating_sub(submission.message.len());
        let message = OutboundMessage {
            subject,
            reply: None,
            payload: submission.message.clone(),
            headers: trace::headers(1, &span, room),
        };
        let result = match self.client.start_send_unpin(message) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Err(too_large(&submission, 1, limit))
            }
            Err(_) => {
                // The job stays waiting, so `abandon` names it.
                self.waiting.push_front(submission);
                return Err(ConnectionClosed);
            }
        };
        if let Err(outcome) = &result {
            trace::end(span, outcome);
        }
        self.published.push_back(Published { submission, result });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use test_support::{DEADLINE, NatsServer};

    use super::*;

    #[tokio::test]
    async fn a_connection_that_is_closed_for_good_is_an_error_and_jobs_are_named() {
        let nats = NatsServer::start().await;
        let client = nats.connect_as("publisher").await;
        let (_up, connected) = watch::channel(true);
        let mut submitter =
            FireAndForgetSubmitter::over(NatsClient::from(client.clone()), connected, false);
        client.drain().await.unwrap();
        // The client takes messages until it has drained; what it takes then is lost.
        let closed = tokio::time::timeout(DEADLINE, async {
            loop {
                let job = Bytes::from_static(br#"{"kind":"a"}"#);
                submitter.submit(Submission::decode(job).unwrap());
                if let Err(closed) = submitter.drive().await {
                    return closed;
                }
                while let Some(published) = submitter.take_published() {
                    assert!(published.result.is_ok(), "it is not too large");
                }
            }
        });
        assert_eq!(closed.await.expect("it hangs"), ConnectionClosed);
        assert_eq!(submitter.abandon().len(), 1);
    }
}
