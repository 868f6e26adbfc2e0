use std::collections::VecDeque;
use std::task::{Context, Poll};

use async_nats::message::OutboundMessage;
use async_nats::{PublishErrorKind, Subject};
use bootstrap::Client;
use bootstrap::Nats;
use common::{Outcome, subjects};
use futures_util::SinkExt as _;
use tokio::sync::watch;

use crate::answer::too_large;
use crate::closed::ConnectionClosed;
use crate::submission::Submission;
use crate::trace;

/// Publishes jobs and hears nothing more of them: at most once.
///
/// While NATS is away nothing is published. What was published just before it was lost may be lost
/// with it.
pub(crate) struct Unconfirmed {
    client: Client,
    connected: watch::Receiver<bool>,
    up: bool,
    by_kind: bool,
    waiting: VecDeque<Submission>,
    done: VecDeque<Sent>,
}

/// A job that was published, or why it was not.
pub(crate) struct Sent {
    pub(crate) submission: Submission,
    pub(crate) refused: Option<Outcome>,
}

impl Unconfirmed {
    /// Jobs that wait for room in the client's queue.
    const WAITING: usize = 256;

    pub(crate) fn new(nats: &Nats, by_kind: bool) -> Self {
        Self::over(nats.client.clone(), nats.connected(), by_kind)
    }

    fn over(client: Client, mut connected: watch::Receiver<bool>, by_kind: bool) -> Self {
        let up = *connected.borrow_and_update();
        Self {
            client,
            up,
            connected,
            by_kind,
            waiting: VecDeque::new(),
            done: VecDeque::new(),
        }
    }

    pub(crate) fn under_way(&self) -> usize {
        self.waiting.len()
    }

    pub(crate) fn has_room(&self) -> bool {
        self.up && self.waiting.len() < Self::WAITING
    }

    pub(crate) fn submit(&mut self, submission: Submission) {
        self.waiting.push_back(submission);
    }

    pub(crate) fn take_sent(&mut self) -> Option<Sent> {
        self.done.pop_front()
    }

    /// What was not published, and will not be.
    pub(crate) fn abandon(&mut self) -> Vec<Submission> {
        self.waiting.drain(..).collect()
    }

    /// Publishes what waits, until something was published, or the connection was lost or is back.
    ///
    /// # Errors
    /// When the connection is closed for good.
    pub(crate) async fn drive(&mut self) -> Result<(), ConnectionClosed> {
        let mut connected = self.connected.clone();
        tokio::select! {
            biased;
            changed = connected.changed() => {
                changed.map_err(|_| ConnectionClosed)?;
                self.up = *self.connected.borrow_and_update();
                Ok(())
            }
            result = std::future::poll_fn(|context| self.poll(context)) => result,
        }
    }

    fn poll(&mut self, context: &mut Context<'_>) -> Poll<Result<(), ConnectionClosed>> {
        while self.up && !self.waiting.is_empty() {
            match self.client.poll_ready_unpin(context) {
                Poll::Ready(Ok(())) => self.publish_next()?,
                Poll::Ready(Err(_)) => return Poll::Ready(Err(ConnectionClosed)),
                Poll::Pending => break,
            }
        }
        if self.done.is_empty() {
            Poll::Pending
        } else {
            Poll::Ready(Ok(()))
        }
    }

    /// Hands the next job to the client, which has room in its queue.
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
        let refused = match self.client.start_send_unpin(message) {
            Ok(()) => None,
            Err(error) if error.kind() == PublishErrorKind::MaxPayloadExceeded => {
                Some(too_large(&submission, 1, limit))
            }
            Err(_) => {
                // It is named when it is abandoned.
                self.waiting.push_front(submission);
                return Err(ConnectionClosed);
            }
        };
        if let Some(outcome) = &refused {
            trace::end(span, outcome);
        }
        self.done.push_back(Sent {
            submission,
            refused,
        });
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
        let mut unconfirmed = Unconfirmed::over(client.clone().into(), connected, false);
        client.drain().await.unwrap();
        // The client takes messages until it has drained; what it takes then is lost.
        let closed = tokio::time::timeout(DEADLINE, async {
            loop {
                let job = Bytes::from_static(br#"{"kind":"a"}"#);
                unconfirmed.submit(Submission::decode(job).unwrap());
                if let Err(closed) = unconfirmed.drive().await {
                    return closed;
                }
                while let Some(sent) = unconfirmed.take_sent() {
                    assert!(sent.refused.is_none(), "it is not too large");
                }
            }
        });
        assert_eq!(closed.await.expect("it hangs"), ConnectionClosed);
        assert_eq!(unconfirmed.abandon().len(), 1);
    }
}
