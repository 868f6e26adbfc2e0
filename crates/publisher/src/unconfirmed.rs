use std::collections::VecDeque;
use std::task::{Context, Poll};

use async_nats::message::OutboundMessage;
use async_nats::{Client, Subject};
use bootstrap::Nats;
use common::{Outcome, subjects};
use futures_util::SinkExt as _;
use tokio::sync::watch;

use crate::engine::too_large;
use crate::submission::Submission;

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
        let mut connected = nats.connected();
        let up = *connected.borrow_and_update();
        Self {
            client: nats.client.clone(),
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
    pub(crate) async fn drive(&mut self) {
        let Self {
            client,
            connected,
            up,
            by_kind,
            waiting,
            done,
        } = self;
        let publish = |context: &mut Context<'_>| {
            while *up && !waiting.is_empty() {
                // The queue is full, or the client is closed and nothing will ever be sent.
                let Poll::Ready(Ok(())) = client.poll_ready_unpin(context) else {
                    break;
                };
                if let Some(submission) = waiting.pop_front() {
                    done.push_back(publish(client, submission, *by_kind));
                }
            }
            if done.is_empty() {
                Poll::Pending
            } else {
                Poll::Ready(())
            }
        };
        tokio::select! {
            biased;
            Ok(()) = connected.changed() => *up = *connected.borrow_and_update(),
            () = std::future::poll_fn(publish) => {}
        }
    }
}

/// Hands a job to a client that has room in its queue.
fn publish(client: &mut Client, submission: Submission, by_kind: bool) -> Sent {
    let subject = if by_kind {
        subjects::create_kind(&submission.kind).into()
    } else {
        Subject::from_static(subjects::CREATE)
    };
    let message = OutboundMessage {
        subject,
        reply: None,
        payload: submission.message.clone(),
        headers: None,
    };
    let refused = client
        .start_send_unpin(message)
        .is_err()
        .then(|| too_large(&submission, 1, client.max_payload()));
    Sent {
        submission,
        refused,
    }
}
