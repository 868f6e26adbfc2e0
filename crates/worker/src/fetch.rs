//! Pulls messages from several durable consumers at a time, never more than there is room for.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode, Subject};
use bootstrap::{Client, Subscriber};
use bytes::Bytes;
use common::Timestamp;
use futures_util::StreamExt as _;
use jetstream::{Stream, Unanswered};
use serde_json::json;
use tokio::time::Instant;

/// How long a pull stays with the server when there is nothing to pull.
///
/// The pulls of a consumer that was cut off are over before its jobs are delivered again, for which
/// it gave its last sign of life up to a third of the ack wait earlier: they would be delivered to
/// nobody else.
const EXPIRES: Duration = Duration::from_secs(9);

/// How much later than that a pull counts as lost.
const GRACE: Duration = Duration::from_secs(5);

/// How long a durable consumer that refuses a pull is left alone.
const PAUSE: Duration = Duration::from_secs(1);

/// The most messages that one pull asks for.
const MOST: usize = 4096;

/// The most messages that are taken at a time.
const BATCH: usize = 512;

/// A durable consumer that is pulled from, and what its messages are of.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    pub(crate) stream: Stream,
    pub(crate) consumer: String,
    /// The kind of its jobs; nothing for a queue of requests.
    pub(crate) of: T,
}

/// Which of the queues of a [`Fetcher`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct QueueIndex(usize);

/// A message as it was pulled.
#[derive(Debug)]
pub(crate) struct Pulled<T> {
    pub(crate) queue: Arc<Queue<T>>,
    pub(crate) subject: Subject,
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) payload: Bytes,
    /// Where it is acknowledged.
    pub(crate) ack: Subject,
    pub(crate) delivered: u64,
    pub(crate) stream_sequence: u64,
    /// When it came into its stream, by the server's clock; nothing for what is in none any more.
    pub(crate) stored: Option<Timestamp>,
    /// The durable consumer has begun anew: its numbers of delivery do not go on from the last one.
    pub(crate) begins_anew: bool,
}

/// What came of waiting.
pub(crate) enum Event<T> {
    Pulled(Vec<Pulled<T>>),
    /// A queue's durable consumer is not there any more.
    Gone(QueueIndex),
    /// A pull has ended without a message.
    Ended,
}

pub(crate) struct Fetcher<T> {
    client: Client,
    answers: Subscriber,
    inbox: String,
    queues: Vec<(Arc<Queue<T>>, State)>,
}

#[derive(Debug)]
struct State {
    /// Since when no pull has come to a good end.
    unanswered: Unanswered,
    /// How many messages the pull under way may still give.
    left: usize,
    /// When it counts as lost.
    until: Instant,
    /// How many are asked for next: it grows as long as they come, so that a queue without jobs
    /// keeps no room from one that has some.
    want: usize,
    /// Not asked before this.
    pause: Option<Instant>,
    /// The highest number of delivery so far.
    delivered: u64,
}

impl<T> Fetcher<T> {
    pub(crate) async fn new(client: &Client, queues: Vec<Arc<Queue<T>>>) -> anyhow::Result<Self> {
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await?;
        let state = |queue| {
            let state = State {
                unanswered: Unanswered::default(),
                left: 0,
                until: Instant::now(),
                want: 1,
                pause: None,
                delivered: 0,
            };
            (queue, state)
        };
        Ok(Self {
            client: client.clone(),
            answers,
            inbox,
            queues: queues.into_iter().map(state).collect(),
        })
    }

    pub(crate) fn queue(&self, QueueIndex(place): QueueIndex) -> &Queue<T> {
        &self.queues[place].0
    }

    /// Since when no pull of each queue has come to a good end.
    pub(crate) fn unanswered(&self) -> Vec<(Arc<Queue<T>>, Unanswered)> {
        let each = self.queues.iter();
        each.map(|(queue, state)| (Arc::clone(queue), state.unanswered.clone()))
            .collect()
    }

    /// The connection was lost, and with it all pulls.
    pub(crate) fn forget(&mut self) {
        for (_, state) in &mut self.queues {
            state.left = 0;
        }
    }

    /// Leaves a queue alone for a while.
    pub(crate) fn pause(&mut self, QueueIndex(place): QueueIndex) {
        self.queues[place].1.pause = Some(Instant::now() + PAUSE);
    }

    /// Asks each queue that is not asked already for messages; all together for as many as there
    /// is room for, but each for one at least. What then is one too many is given back by whoever
    /// has no room for it.
    pub(crate) async fn pull(&mut self, room: usize) {
        if room == 0 {
            // What was pulled keeps all slots busy.
            for (_, state) in &self.queues {
                state.unanswered.over();
            }
            return;
        }
        let now = Instant::now();
        // Those of queues that gave nothing lately do not count: otherwise a consumer with more kinds
        // than slots would never ask for more than one.
        let active = self.queues.iter().filter(|(_, state)| state.want > 1);
        let under_way: usize = active.map(|(_, state)| state.left).sum();
        let mut room = room.saturating_sub(under_way);
        for (place, (queue, state)) in self.queues.iter_mut().enumerate() {
            if state.left > 0 && now < state.until {
                continue;
            }
            if state.pause.is_some_and(|pause| now < pause) {
                continue;
            }
            state.pause = None;
            let batch = state.want.min(room).max(1);
            room = room.saturating_sub(batch);
            let expires = u64::try_from(EXPIRES.as_nanos()).unwrap_or(u64::MAX);
            let body = json!({"batch": batch, "expires": expires}).to_string();
            let subject = format!(
                "$JS.API.CONSUMER.MSG.NEXT.{}.{}",
                queue.stream, queue.consumer
            );
            let reply = format!("{}.{place}", self.inbox);
            // The only error is a closed connection, which is noticed where answers are awaited.
            let _ = self
                .client
                .publish_with_reply(subject, reply, body.into())
                .await;
            state.unanswered.asked();
            state.left = batch;
            state.until = now + EXPIRES + GRACE;
        }
    }

    /// Waits for messages.
    ///
    /// # Errors
    /// When the connection is closed for good.
    pub(crate) async fn next(&mut self) -> anyhow::Result<Event<T>> {
        let Some(first) = self.answers.next().await else {
            anyhow::bail!("the connection to NATS is closed");
        };
        let mut pulled = Vec::new();
        if let Some(event) = self.take(first, &mut pulled) {
            return Ok(event);
        }
        // What is there as well.
        let more = std::future::poll_fn(|context| {
            while pulled.len() < BATCH
                && let Poll::Ready(Some(message)) = self.answers.poll_next_unpin(context)
            {
                if let Some(Event::Gone(place)) = self.take(message, &mut pulled) {
                    // It is found gone again when it is pulled from again.
                    self.pause(place);
                }
            }
            Poll::Ready(())
        });
        // The runtime would end it early, so that others have their turn: it ends by itself.
        tokio::task::unconstrained(more).await;
        Ok(Event::Pulled(pulled))
    }

    /// Ends all pulls; messages that were sent before are still given by [`Fetcher::next`], until a
    /// round trip on this connection has shown that all have arrived.
    pub(crate) async fn leave(&mut self) {
        // With a count that the server does not take as one, it ends the subscription at once,
        // while the library keeps it for what is under way; see the consumer's intake.
        let _ = self.answers.unsubscribe_after(u64::MAX).await;
    }

    fn take(&mut self, message: Message, pulled: &mut Vec<Pulled<T>>) -> Option<Event<T>> {
        if let Some(status) = message.status
            && status != StatusCode::OK
        {
            return self.pull_ended(&message, status);
        }
        // A delivered message keeps its own subject; the one for its acknowledgement says where it
        // is from.
        let ack = message.reply?;
        let origin = Origin::of(&ack)?;
        let place = self.queues.iter().position(|(queue, _)| {
            queue.stream.name() == origin.stream && queue.consumer == origin.consumer
        })?;
        let (delivered, stream_sequence) = (origin.delivered, origin.stream_sequence);
        let (consumer_sequence, stored) = (origin.consumer_sequence, origin.stored);
        let (queue, state) = &mut self.queues[place];
        let begins_anew = consumer_sequence <= state.delivered;
        state.delivered = consumer_sequence;
        state.unanswered.over();
        state.left = state.left.saturating_sub(1);
        if state.left == 0 {
            state.want = (state.want * 2).min(MOST);
        }
        pulled.push(Pulled {
            queue: Arc::clone(queue),
            subject: message.subject,
            headers: message.headers,
            payload: message.payload,
            ack,
            delivered,
            stream_sequence,
            stored,
            begins_anew,
        });
        None
    }

    fn pull_ended(&mut self, message: &Message, status: StatusCode) -> Option<Event<T>> {
        let place = message.subject.rsplit('.').next()?.parse::<usize>().ok()?;
        let (_, state) = self.queues.get_mut(place)?;
        if status == StatusCode::IDLE_HEARTBEAT {
            return Some(Event::Ended);
        }
        state.left = 0;
        state.want = 1;
        let description = message.description.as_deref().unwrap_or_default();
        if status == StatusCode::NO_RESPONDERS || description.contains("Deleted") {
            state.delivered = 0;
            return Some(Event::Gone(QueueIndex(place)));
        }
        if status == StatusCode::TIMEOUT || status == StatusCode::NOT_FOUND {
            state.unanswered.over();
        } else {
            // Too many pulls, a new leader, too many jobs with consumers.
            state.pause = Some(Instant::now() + PAUSE);
        }
        Some(Event::Ended)
    }
}

/// What the subject of an acknowledgement says of its message; see ADR-15 for its two forms.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Origin<'a> {
    stream: &'a str,
    consumer: &'a str,
    delivered: u64,
    stream_sequence: u64,
    consumer_sequence: u64,
    /// Nothing if it is beyond the calendar.
    stored: Option<Timestamp>,
}

/// How many tokens the newer form has at least, without `$JS.ACK`: it begins with the domain and
/// the account, and may end with others.
const NEWER: usize = 9;

impl<'a> Origin<'a> {
    fn of(ack: &'a str) -> Option<Self> {
        let rest = ack.strip_prefix("$JS.ACK.")?;
        let mut tokens = [""; NEWER];
        let mut count = 0;
        for (place, token) in tokens.iter_mut().zip(rest.split('.')) {
            *place = token;
            count += 1;
        }
        let skip = if count == NEWER { 2 } else { 0 };
        // One that is missing is empty, and no number.
        let [
            stream,
            consumer,
            delivered,
            stream_sequence,
            consumer_sequence,
            stored,
            ..,
        ] = tokens[skip..]
        else {
            return None;
        };
        Some(Self {
            stream,
            consumer,
            delivered: delivered.parse().ok()?,
            stream_sequence: stream_sequence.parse().ok()?,
            consumer_sequence: consumer_sequence.parse().ok()?,
            stored: Timestamp::from_unix_nanos(stored.parse().ok()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_subject_of_an_acknowledgement_are_read() {
        let origin = Origin {
            stream: "JOBS",
            consumer: "mail=send",
            delivered: 3,
            stream_sequence: 17,
            consumer_sequence: 9,
            stored: Timestamp::from_unix_nanos(1_700_000_000_000_000_000),
        };
        for subject in [
            "$JS.ACK.JOBS.mail=send.3.17.9.1700000000000000000.5",
            "$JS.ACK._.ABCDEF.JOBS.mail=send.3.17.9.1700000000000000000.5",
            "$JS.ACK._.ABCDEF.JOBS.mail=send.3.17.9.1700000000000000000.5.random",
            "$JS.ACK._.ABCDEF.JOBS.mail=send.3.17.9.1700000000000000000.5.random.more",
        ] {
            assert_eq!(Origin::of(subject), Some(origin), "{subject}");
        }
        for subject in [
            "",
            "$JS.ACK.JOBS",
            "$JS.ACK.JOBS.a.x.1.1.1.1",
            "$JS.ACK.JOBS.a.1.1.1",
            "$JS.ACK.JOBS.a.1.1.1.x.1",
            "$JS.ACK._.ABCDEF.JOBS.a.1.1.1.x.1",
            "_INBOX.a",
        ] {
            assert_eq!(Origin::of(subject), None, "{subject}");
        }
        let beyond = format!("$JS.ACK.JOBS.mail=send.3.17.9.{}.5", i128::MAX);
        let nowhen = Origin {
            stored: None,
            ..origin
        };
        assert_eq!(Origin::of(&beyond), Some(nowhen));
    }
}
