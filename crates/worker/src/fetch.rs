//! Pulls messages from several durable consumers at a time, about as many as there is room for.

use std::cmp::Reverse;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::Duration;

use async_nats::{HeaderMap, Message, StatusCode, Subject};
use bootstrap::{NatsClient, Subscriber};
use bytes::Bytes;
use common::{Priority, Timestamp};
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::time::Instant;

use crate::queues::Queue;
use crate::share::{Turn, divide};

/// How long a pull stays open at the server when there is nothing to pull.
///
/// It is shorter than two thirds of the ack wait. When a consumer loses its connection, the server
/// redelivers its jobs after two thirds of the ack wait at the earliest, because the last
/// in-progress may be a third of the ack wait old. A pull of the lost consumer that was still open
/// then would receive these jobs.
const EXPIRES: Duration = Duration::from_secs(9);

/// How long a pull stays open at the server that asks for jobs of one of several priorities of a kind, and
/// for which slots are kept. It is short, because they are known to wait: if another consumer has taken
/// them, the slots go to the other priorities.
const EXPIRES_SOON: Duration = Duration::from_millis(100);

/// How long after its expiry a pull without an answer counts as lost.
const GRACE: Duration = Duration::from_secs(5);

/// How long to wait before the next pull when a durable consumer has refused one.
const PAUSE: Duration = Duration::from_secs(1);

/// The most messages that one pull asks for.
const MOST: usize = 4096;

/// The most messages that [`Fetcher::next`] returns.
const BATCH: usize = 512;

/// The index of a queue in a [`Fetcher`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct QueueIndex(usize);

/// A pulled message.
#[derive(Debug)]
pub(crate) struct Pulled<T> {
    pub(crate) queue: Arc<Queue<T>>,
    pub(crate) subject: Subject,
    pub(crate) headers: Option<HeaderMap>,
    pub(crate) payload: Bytes,
    /// The subject for its acknowledgement.
    pub(crate) ack: Subject,
    /// How often the message was delivered, including this time.
    pub(crate) delivered: u64,
    pub(crate) stream_sequence: u64,
    /// When the stream stored the message, by the server's clock; `None` if that time is out of
    /// range.
    pub(crate) stored: Option<Timestamp>,
    /// Whether the durable consumer was created again or reset: its delivery numbers do not
    /// continue from the last message.
    pub(crate) begins_anew: bool,
    /// Whether the priorities of its kind are heeded.
    pub(crate) is_ranked: bool,
}

/// What [`Fetcher::next`] returns.
pub(crate) enum Event<T> {
    Pulled(Vec<Pulled<T>>),
    /// The durable consumer of a queue no longer exists.
    Gone(QueueIndex),
    /// A pull has ended without a message.
    Ended,
}

pub(crate) struct Fetcher<T> {
    client: NatsClient,
    answers: Subscriber,
    inbox: String,
    queues: Vec<(Arc<Queue<T>>, State)>,
    /// The places of the queues that share the slots of their kind, in the order of their priorities.
    shared: Vec<Vec<usize>>,
}

#[derive(Debug)]
struct State {
    /// How many messages the open pull may still deliver.
    left: usize,
    /// When the open pull counts as lost.
    until: Instant,
    /// How many messages the next pull asks for. This number doubles after each pull that is
    /// filled, and falls to one when a pull ends early. So a queue without jobs takes no room from
    /// a queue with jobs.
    want: usize,
    /// No pull is sent before this time.
    pause: Option<Instant>,
    /// The delivery number (consumer sequence) of the last message.
    delivered: u64,
    /// Whether the priorities of its kind are heeded.
    is_ranked: bool,
    /// The place in [`Fetcher::shared`] of those that share the slots with it.
    shares: Option<usize>,
    /// How many jobs wait, as the server said with its last message.
    waiting: usize,
    /// Whether slots are kept for the open pull.
    keeps_slots: bool,
    /// See [`Turn::credit`].
    credit: i64,
}

impl State {
    fn new() -> Self {
        Self {
            left: 0,
            until: Instant::now(),
            want: 1,
            pause: None,
            delivered: 0,
            is_ranked: false,
            shares: None,
            waiting: 0,
            keeps_slots: false,
            credit: 0,
        }
    }

    /// Whether a pull may be sent now.
    fn is_ready(&self, now: Instant) -> bool {
        let is_open = self.left > 0 && now < self.until;
        !is_open && self.pause.is_none_or(|pause| now >= pause)
    }

    /// How many slots are kept for the open pull. Queues that delivered nothing lately do not count.
    /// Otherwise a consumer with more kinds than slots would never ask for more than one message at a
    /// time.
    fn kept(&self) -> usize {
        let counts = if self.shares.is_some() {
            self.keeps_slots && self.waiting > 0
        } else {
            self.want > 1
        };
        if counts { self.left } else { 0 }
    }
}

impl<T: PartialEq> Fetcher<T> {
    pub(crate) async fn new(
        client: &NatsClient,
        queues: Vec<Arc<Queue<T>>>,
    ) -> anyhow::Result<Self> {
        let inbox = client.new_inbox();
        let answers = client.subscribe(format!("{inbox}.*")).await?;
        let mut fetcher = Self {
            client: client.clone(),
            answers,
            inbox,
            queues: Vec::new(),
            shared: Vec::new(),
        };
        fetcher.add_new(&queues);
        Ok(fetcher)
    }

    /// Adds the queues that are not there yet.
    pub(crate) fn add_new(&mut self, queues: &[Arc<Queue<T>>]) {
        for queue in queues {
            if !self
                .queues
                .iter()
                .any(|(there, _)| Arc::ptr_eq(there, queue))
            {
                self.queues.push((Arc::clone(queue), State::new()));
            }
        }
        self.shared.clear();
        let queues = &mut self.queues;
        for place in 0..queues.len() {
            if queues[place].0.priority != Some(Priority::Normal) {
                continue;
            }
            let mut of_kind: Vec<_> = (0..queues.len())
                .filter(|other| queues[*other].0.of == queues[place].0.of)
                .collect();
            let ranked = of_kind.clone();
            of_kind.retain(|place| queues[*place].0.priority.is_some());
            if of_kind.len() < 2 {
                continue;
            }
            let weight = |place: &usize| queues[*place].0.priority.map_or(0, Priority::weight);
            of_kind.sort_by_key(|place| Reverse(weight(place)));
            for place in ranked {
                queues[place].1.is_ranked = true;
            }
            for place in &of_kind {
                queues[*place].1.shares = Some(self.shared.len());
            }
            self.shared.push(of_kind);
        }
    }

    pub(crate) fn queue(&self, QueueIndex(place): QueueIndex) -> &Queue<T> {
        &self.queues[place].0
    }

    /// Forgets all open pulls, because they were lost with the connection.
    pub(crate) fn forget(&mut self) {
        for (_, state) in &mut self.queues {
            state.left = 0;
        }
    }

    /// Sends no pull to a queue for a while.
    pub(crate) fn pause(&mut self, QueueIndex(place): QueueIndex) {
        let state = &mut self.queues[place].1;
        state.pause = Some(Instant::now() + PAUSE);
        state.waiting = 0;
    }

    /// Sends a pull to each queue that has no open pull. All pulls together ask for as many
    /// messages as there is `room` for, but each pull asks for at least one. So more messages than
    /// `room` can arrive. The caller has to accept the surplus, and may give it back to the server.
    ///
    /// Queues of one kind that differ in priority count as one: see [`divide`].
    pub(crate) async fn pull(&mut self, room: usize) {
        if room == 0 {
            // All slots are busy, so no pull is expected and none counts as unanswered.
            for (queue, _) in &self.queues {
                queue.unanswered.over();
            }
            return;
        }
        let now = Instant::now();
        let kept: usize = self.queues.iter().map(|(_, state)| state.kept()).sum();
        let mut room = room.saturating_sub(kept);
        for place in 0..self.queues.len() {
            let (queue, state) = &self.queues[place];
            match state.shares {
                None if state.is_ready(now) => {
                    let batch = state.want.min(room).max(1);
                    room = room.saturating_sub(batch);
                    self.ask(place, batch, false).await;
                }
                Some(shared) if queue.priority == Some(Priority::Normal) => {
                    room = self.pull_shared(shared, room, now).await;
                }
                _ => {}
            }
        }
    }

    /// Sends pulls to the queues of one kind, and returns how much room is left.
    async fn pull_shared(&mut self, shared: usize, room: usize, now: Instant) -> usize {
        let places = self.shared[shared].clone();
        let mut turns: Vec<_> = places
            .iter()
            .map(|place| {
                let (queue, state) = &mut self.queues[*place];
                if queue.gave_back.swap(false, Ordering::Relaxed) {
                    state.waiting = state.waiting.max(1);
                }
                let is_ready = state.is_ready(now);
                Turn {
                    priority: queue.priority.unwrap_or_default(),
                    credit: state.credit,
                    // No slots are kept for a pull that waits for the next job.
                    waiting: if is_ready || state.keeps_slots {
                        state.waiting
                    } else {
                        0
                    },
                    is_ready,
                    ask: 0,
                }
            })
            .collect();
        // As of other kinds, at least one job is asked for.
        let has_asked = places.iter().any(|place| self.queues[*place].1.kept() > 0);
        let left = divide(&mut turns, room.max(usize::from(!has_asked)));
        for (place, turn) in places.into_iter().zip(turns) {
            self.queues[place].1.credit = turn.credit;
            if turn.ask > 0 {
                self.ask(place, turn.ask.min(MOST), turn.waiting > 0).await;
            }
        }
        left.min(room)
    }

    /// Sends a pull to a queue.
    async fn ask(&mut self, place: usize, batch: usize, keeps_slots: bool) {
        let (queue, state) = &mut self.queues[place];
        let open = if keeps_slots { EXPIRES_SOON } else { EXPIRES };
        let expires = u64::try_from(open.as_nanos()).unwrap_or(u64::MAX);
        let body = json!({"batch": batch, "expires": expires}).to_string();
        let subject = format!(
            "$JS.API.CONSUMER.MSG.NEXT.{}.{}",
            queue.stream, queue.consumer
        );
        let reply = format!("{}.{place}", self.inbox);
        // The only error is a closed connection, which [`Fetcher::next`] reports.
        let _ = self
            .client
            .publish_with_reply(subject, reply, body.into())
            .await;
        queue.unanswered.asked();
        state.pause = None;
        state.left = batch;
        state.keeps_slots = keeps_slots;
        state.until = Instant::now() + open + GRACE;
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
        // Then take the other messages that have already arrived.
        let more = std::future::poll_fn(|context| {
            while pulled.len() < BATCH
                && let Poll::Ready(Some(message)) = self.answers.poll_next_unpin(context)
            {
                if let Some(Event::Gone(place)) = self.take(message, &mut pulled) {
                    // The next pull of this queue reports this again.
                    self.pause(place);
                }
            }
            Poll::Ready(())
        });
        // The loop is bounded, so it does not need the runtime's cooperative budget to stop it.
        tokio::task::unconstrained(more).await;
        Ok(Event::Pulled(pulled))
    }

    /// Ends all pulls. [`Fetcher::next`] still returns messages that the server sent before. After
    /// a round trip on this connection, all of these have arrived.
    pub(crate) async fn leave(&mut self) {
        // The server cannot read this count and ends the subscription at once, while the library
        // keeps the subscription for messages in transit. See `NOW` in the consumer's
        // `core_lane/intake.rs`.
        let _ = self.answers.unsubscribe_after(u64::MAX).await;
    }

    fn take(&mut self, message: Message, pulled: &mut Vec<Pulled<T>>) -> Option<Event<T>> {
        if let Some(status) = message.status
            && status != StatusCode::OK
        {
            return self.pull_ended(&message, status);
        }
        // A delivered message keeps its own subject. Its ack subject names its stream and its
        // durable consumer.
        let ack = message.reply?;
        let origin = Origin::of(&ack)?;
        let place = self.queues.iter().position(|(queue, _)| {
            queue.stream.name() == origin.stream && queue.consumer == origin.consumer
        })?;
        let (delivered, stream_sequence) = (origin.delivered, origin.stream_sequence);
        let (consumer_sequence, stored) = (origin.consumer_sequence, origin.stored);
        let origin_waiting = usize::try_from(origin.waiting).unwrap_or(usize::MAX);
        let (queue, state) = &mut self.queues[place];
        let begins_anew = consumer_sequence <= state.delivered;
        state.delivered = consumer_sequence;
        queue.unanswered.over();
        state.left = state.left.saturating_sub(1);
        // A message that was given back is not among those that the server counts, and may not be alone.
        state.waiting = origin_waiting.max(usize::from(delivered > 1));
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
            is_ranked: state.is_ranked,
        });
        None
    }

    fn pull_ended(&mut self, message: &Message, status: StatusCode) -> Option<Event<T>> {
        let place = message.subject.rsplit('.').next()?.parse::<usize>().ok()?;
        let (queue, state) = self.queues.get_mut(place)?;
        if status == StatusCode::IDLE_HEARTBEAT {
            return Some(Event::Ended);
        }
        state.left = 0;
        state.want = 1;
        state.waiting = 0;
        let description = message.description.as_deref().unwrap_or_default();
        if status == StatusCode::NO_RESPONDERS || description.contains("Deleted") {
            state.delivered = 0;
            return Some(Event::Gone(QueueIndex(place)));
        }
        if status == StatusCode::TIMEOUT || status == StatusCode::NOT_FOUND {
            queue.unanswered.over();
        } else {
            // For example too many open pulls, a new leader, or too many pending messages.
            state.pause = Some(Instant::now() + PAUSE);
        }
        Some(Event::Ended)
    }
}

/// The parts of an ack subject that describe its message. ADR-15 documents its two forms.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Origin<'a> {
    stream: &'a str,
    consumer: &'a str,
    delivered: u64,
    stream_sequence: u64,
    consumer_sequence: u64,
    /// `None` if the time is out of range.
    stored: Option<Timestamp>,
    /// How many messages the durable consumer has not delivered yet.
    waiting: u64,
}

/// The least number of tokens in the newer form after `$JS.ACK`. This form begins with the domain
/// and the account, and may have further tokens at its end.
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
        // A missing token is empty, which is no number.
        let [
            stream,
            consumer,
            delivered,
            stream_sequence,
            consumer_sequence,
            stored,
            waiting,
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
            waiting: waiting.parse().ok()?,
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
            waiting: 5,
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
