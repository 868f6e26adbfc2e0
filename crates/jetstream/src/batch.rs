//! Group commit: messages for one stream that wait at the same time are stored together.
//!
//! With `sync_interval: always` the server syncs its disk for every message, but only once for an
//! atomic batch. So entries that arrive while a batch is under way go into the next batch. An entry
//! that arrives alone is sent at once, or with others when the batch under way is stored. A batch is
//! stored as a whole or not at all: if it is refused, it is sent again in smaller parts, and in the end
//! entry by entry, so that one bad entry does not fail the others.
//!
//! There is one exception: if a batch has the same subject twice, and the stream keeps one message for
//! each subject, the server (2.15.1) may store a part of the batch and never answer. So two such
//! messages never go into one batch.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::{HeaderMap, Request, RequestErrorKind};
use connection::{Beat, Nats, NatsClient, STILL, alive};
use futures_util::future::join_all;
use serde::Deserialize;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::cluster;
use crate::headers::{BATCH_COMMIT, BATCH_ID, BATCH_SEQUENCE, EXPECTED_LAST_OF};
use crate::message::Message;
use crate::request::{Refusal, unless_forbidden};
use crate::unanswered::Unanswered;

/// The most messages in an entry: what every server takes in a batch (ADR-50).
pub const MOST_MESSAGES: usize = 1000;

/// The most messages in a batch, if the server takes so many: the larger a batch, the less a message
/// costs. The server's limit is a setting, `limits { batch { max_msgs } }`, which no request returns. So
/// a writer learns it from the server's refusal of the first batch that is too large.
const LARGEST: usize = 4000;

/// The most bytes in a batch: it waits in memory, here and in the server.
const MOST_BYTES: usize = 4 << 20;

/// How a writer gathers batches.
///
/// The server takes 50 batches at a time for each stream, from all its clients together.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// For entries whose callers wait: each batch is sent as soon as possible. While one batch is
    /// synced, the next is on its way.
    Prompt,
    /// For entries whose callers do not wait. A large batch costs the server far less than several
    /// small ones, so entries are gathered while a batch is stored, and for a short time while many
    /// arrive.
    Thrifty,
}

/// After a batch of at least this many messages, [`Pace::Thrifty`] gathers entries even if no batch is
/// under way ...
const MANY: usize = 16;

/// ... until the next batch has this many messages ...
const ENOUGH: usize = 1000;

/// ... or for this long.
const GATHER: Duration = Duration::from_millis(3);

/// [`Pace::Thrifty`] sends the next batch this long after the last one, even if the last one is still
/// under way: its answer may never come.
const SLOW: Duration = Duration::from_millis(250);

/// The most batches under way at a time.
const UNDER_WAY: usize = 2;

/// Up to this many entries are sent one by one: a batch costs the server about four syncs.
const FEW: usize = 3;

/// If a batch of more entries than this is refused, it is split into so many parts, so that one entry does
/// not cost a sync for each of the others.
const HANDFUL: usize = 64;
const PARTS: usize = 16;

/// How many entries can wait for a batch. If there are more, [`Writer::store`] waits for room.
const WAITING: usize = 4096;

/// How long the server may take to store a batch, and how long a batch waits for a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long a leader in a cluster may take to answer. If its server is lost, there is no answer: whoever
/// sends the batch again then reaches the next leader.
const OF_A_LEADER: Duration = Duration::from_secs(5);

/// Messages that are stored together or not at all; at most 1,000.
pub type Entry = Vec<Message>;

/// Why an entry was not stored, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    /// The stream has a message with this subject, and keeps one message for each subject.
    #[error("the stream already has a message with this subject")]
    Exists,
    /// The last message on the subject is not the one that the entry expects.
    #[error("the last message on the subject is not the expected one")]
    Conflict,
    /// The same entry, by its `Nats-Msg-Id`, was stored before.
    #[error("the same entry was stored before")]
    Repeated,
    /// The stream, or the storage of the account, is full.
    #[error("the stream is full: {0}")]
    Full(String),
    /// The server refuses it for another reason.
    #[error("the server refuses it: {0}")]
    Refused(String),
    /// The user of this connection may not publish to this subject.
    #[error(
        "the server does not let this user publish to {0}: grant it that in the permissions of the \
         server"
    )]
    Forbidden(String),
    /// The batch has more messages than the server takes.
    #[error("the server takes at most {0} messages in a batch")]
    TooLarge(usize),
    /// The server has not kept all messages of the batch: it takes no more batches at the moment, or
    /// cannot write to its disk. It has stored none of them.
    #[error("the server has not kept all messages of the batch")]
    Incomplete,
    /// No responders: no stream has this subject, or the server has no JetStream. In a cluster, there were
    /// none for ten seconds, which is longer than an election.
    #[error("there is no stream for the subject")]
    NoStream,
    /// The server did not answer in time: the entry may be stored.
    #[error("the server did not confirm it: {0}")]
    Unknown(String),
}

impl NotStored {
    fn of(refusal: Refusal) -> Self {
        let Refusal {
            err_code,
            description,
        } = refusal;
        match err_code {
            ErrorCode::STREAM_WRONG_LAST_SEQUENCE
            | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT => Self::Conflict,
            ErrorCode::STREAM_STORE_FAILED if description.contains("per subject") => Self::Exists,
            ErrorCode::STREAM_STORE_FAILED
            | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
            | ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::MEMORY_RESOURCES_EXCEEDED
            | ErrorCode::STORAGE_RESOURCES_EXCEEDED => Self::Full(description),
            ErrorCode::STREAM_NOT_FOUND => Self::NoStream,
            ErrorCode::ATOMIC_PUBLISH_INCOMPLETE_BATCH => Self::Incomplete,
            ErrorCode::ATOMIC_PUBLISH_TOO_LARGE_BATCH => Self::TooLarge(limit_in(&description)),
            ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE => Self::Repeated,
            code if cluster::is_temporary(code) => Self::Unknown(description),
            ErrorCode(code) => Self::Refused(format!("{description} (error {code})")),
        }
    }
}

/// The limit that the server names at the end of "atomic publish batch is too large: 1000".
fn limit_in(description: &str) -> usize {
    let number = description.rsplit(' ').next();
    number
        .and_then(|number| number.parse().ok())
        .filter(|limit| *limit > 0)
        .unwrap_or(MOST_MESSAGES)
}

/// Stores messages in one stream.
#[derive(Clone, Debug)]
pub struct Writer {
    entries: mpsc::Sender<Waiting>,
    unanswered: Unanswered,
    /// The most messages that a batch should have.
    wanted: Arc<AtomicUsize>,
}

struct Waiting {
    entry: Entry,
    caller: Caller,
}

/// The result of an entry: the sequence of its first message in the stream.
type EntryResult = Result<u64, NotStored>;

/// Whoever waits for the result of an entry.
enum Caller {
    /// Waits for this entry alone.
    OfOne(oneshot::Sender<EntryResult>),
    /// Waits for many entries, among which this one has this place.
    OfMany(usize, mpsc::UnboundedSender<(usize, EntryResult)>),
}

impl Caller {
    fn tell(self, result: EntryResult) {
        // It may no longer wait.
        match self {
            Self::OfOne(results) => drop(results.send(result)),
            Self::OfMany(place, results) => drop(results.send((place, result))),
        }
    }
}

impl Writer {
    /// Starts a writer; it ends when all its clones are dropped. When the connection is lost, the
    /// answers to the batches under way are lost too: their entries fail at once with
    /// [`NotStored::Unknown`].
    #[must_use]
    pub fn start(client: NatsClient, connected: watch::Receiver<bool>, pace: Pace) -> Self {
        Self::start_with(client, connected, pace, None)
    }

    /// The same for the connection of a service: its health watches the writer under this name.
    #[must_use]
    pub fn supervised(nats: &Nats, name: &'static str, pace: Pace) -> Self {
        let life = nats.health.task(name, STILL);
        Self::start_with(nats.client.clone(), nats.connected(), pace, Some(life))
    }

    fn start_with(
        client: NatsClient,
        connected: watch::Receiver<bool>,
        pace: Pace,
        life: Option<Beat>,
    ) -> Self {
        let (entries, waiting) = mpsc::channel(WAITING);
        let unanswered = Unanswered::default();
        let server = Server {
            client,
            connected,
            unanswered: unanswered.clone(),
            most: Arc::new(AtomicUsize::new(LARGEST)),
            wanted: Arc::new(AtomicUsize::new(LARGEST)),
        };
        let wanted = Arc::clone(&server.wanted);
        tokio::spawn(write(server, pace, waiting, life));
        Self {
            entries,
            unanswered,
            wanted,
        }
    }

    /// Makes batches of up to so many messages, if the server takes so many; `None` for the largest.
    pub fn set_largest(&self, messages: Option<usize>) {
        let largest = messages.unwrap_or(LARGEST).max(1);
        self.wanted.store(largest, Ordering::Relaxed);
    }

    /// Measures for how long the server has not answered this writer.
    #[must_use]
    pub fn unanswered(&self) -> Unanswered {
        self.unanswered.clone()
    }

    /// Stores an entry, and returns the sequence of its first message in the stream. When this returns,
    /// the server has synced the entry to its disk.
    ///
    /// # Errors
    /// See [`NotStored`].
    ///
    /// # Panics
    /// When the entry is empty or has more than 1,000 messages.
    pub async fn store(&self, entry: Entry) -> Result<u64, NotStored> {
        check(&entry);
        let (results, result) = oneshot::channel();
        let caller = Caller::OfOne(results);
        self.entries
            .send(Waiting { entry, caller })
            .await
            .map_err(|_| stopped())?;
        result.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Stores many entries, each by itself, and returns their results in the same order. This is the same as
    /// a [`Writer::store`] for each, but costs less.
    ///
    /// # Panics
    /// When an entry is empty or has more than 1,000 messages.
    pub async fn store_each(&self, entries: Vec<Entry>) -> Vec<Result<u64, NotStored>> {
        let count = entries.len();
        let (sender, mut results) = mpsc::unbounded_channel();
        let mut entries = entries.into_iter().enumerate();
        while entries.len() > 0 {
            let room = entries.len().min(WAITING / 4);
            let Ok(permits) = self.entries.reserve_many(room).await else {
                break;
            };
            for (permit, (place, entry)) in permits.zip(&mut entries) {
                check(&entry);
                let caller = Caller::OfMany(place, sender.clone());
                permit.send(Waiting { entry, caller });
            }
        }
        drop(sender);
        let mut all = vec![Err(stopped()); count];
        let mut some = Vec::new();
        while results.recv_many(&mut some, count).await > 0 {
            for (place, result) in some.drain(..) {
                all[place] = result;
            }
        }
        all
    }
}

fn stopped() -> NotStored {
    NotStored::Unknown("the writer was stopped".to_owned())
}

/// Stores a single entry; see [`Writer::store`].
///
/// # Errors
/// See [`NotStored`].
///
/// # Panics
/// When the entry is empty or has more than 1,000 messages.
pub async fn store(client: &NatsClient, entry: Entry) -> Result<u64, NotStored> {
    check(&entry);
    let messages: Vec<_> = entry.iter().collect();
    send(client, &messages, Instant::now() + PATIENCE).await
}

fn check(entry: &Entry) {
    assert!(
        (1..=MOST_MESSAGES).contains(&entry.len()),
        "an entry has 1 to 1,000 messages"
    );
}

async fn write(
    server: Server,
    pace: Pace,
    mut waiting: mpsc::Receiver<Waiting>,
    mut life: Option<Beat>,
) {
    let mut under_way = JoinSet::new();
    let mut last = 0;
    let mut sent = Instant::now();
    // What did not fit into the last batch.
    let mut next = None;
    loop {
        let first = match next.take() {
            Some(first) => first,
            None => match alive(&mut life, waiting.recv()).await {
                Some(first) => first,
                None => break,
            },
        };
        let mut batch = Batch::of(first);
        let gathered = Instant::now() + GATHER;
        while next.is_none() {
            while let Some(_stored) = under_way.try_join_next() {}
            // Take all entries that are already there, without waiting in between.
            match waiting.try_recv() {
                Ok(more) => {
                    next = batch.add(more, server.most());
                    continue;
                }
                Err(TryRecvError::Disconnected) => break,
                Err(TryRecvError::Empty) => {}
            }
            let until = if under_way.is_empty() {
                gathered
            } else {
                sent + SLOW
            };
            let enough = match pace {
                Pace::Prompt => true,
                Pace::Thrifty => {
                    batch.messages >= ENOUGH
                        || (under_way.is_empty() && last < MANY)
                        || Instant::now() >= until
                }
            };
            let has_room = under_way.len() < UNDER_WAY;
            if has_room && enough {
                break;
            }
            tokio::select! {
                more = waiting.recv() => match more {
                    Some(more) => next = batch.add(more, server.most()),
                    None => break,
                },
                Some(_stored) = under_way.join_next() => {}
                () = sleep_until(until), if has_room => {}
                () = tick(&mut life) => {}
            }
        }
        while under_way.len() >= UNDER_WAY {
            alive(&mut life, under_way.join_next()).await;
        }
        last = batch.messages;
        sent = Instant::now();
        let server = server.clone();
        under_way.spawn(async move { server.store(batch.entries).await });
    }
    // The callers of the batches under way may still wait for their results.
    under_way.join_all().await;
}

/// Waits for work that ends by itself, or that may take any time. Meanwhile the task counts as alive.
async fn tick(life: &mut Option<Beat>) {
    match life {
        Some(life) => life.tick().await,
        None => std::future::pending().await,
    }
}

/// Entries that are stored together.
struct Batch {
    entries: Vec<Waiting>,
    messages: usize,
    bytes: usize,
    /// Hashes of the subjects. If two subjects have the same hash, the batch only ends early.
    subjects: HashSet<u64>,
    hasher: RandomState,
}

impl Batch {
    fn of(first: Waiting) -> Self {
        let mut batch = Self {
            entries: Vec::new(),
            messages: 0,
            bytes: 0,
            subjects: HashSet::new(),
            hasher: RandomState::new(),
        };
        batch.put(first);
        batch
    }

    /// Adds an entry; returns it if it does not fit into the batch, which may have so many messages.
    fn add(&mut self, waiting: Waiting, most: usize) -> Option<Waiting> {
        let entry = &waiting.entry;
        let fits = self.messages + entry.len() <= most
            && self.bytes + bytes(entry) <= MOST_BYTES
            && !entry
                .iter()
                .any(|message| self.subjects.contains(&self.subject(message)));
        if !fits {
            return Some(waiting);
        }
        self.put(waiting);
        None
    }

    fn put(&mut self, waiting: Waiting) {
        self.messages += waiting.entry.len();
        self.bytes += bytes(&waiting.entry);
        for message in &waiting.entry {
            self.subjects.insert(self.subject(message));
        }
        self.entries.push(waiting);
    }

    fn subject(&self, message: &Message) -> u64 {
        match message.headers.get(EXPECTED_LAST_OF.clone()) {
            Some(subject) => self.hasher.hash_one(subject.as_str()),
            None => self.hasher.hash_one(message.subject.as_str()),
        }
    }
}

fn bytes(entry: &Entry) -> usize {
    entry.iter().map(|message| message.payload.len()).sum()
}

/// Splits entries into parts of at most `limit` messages; an entry that has more is a part of its own.
fn parts(batch: Vec<Waiting>, limit: usize) -> Vec<Vec<Waiting>> {
    let mut parts: Vec<Vec<Waiting>> = Vec::new();
    let mut messages = 0;
    for waiting in batch {
        messages += waiting.entry.len();
        match parts.last_mut() {
            Some(part) if messages <= limit => part.push(waiting),
            _ => {
                messages = waiting.entry.len();
                parts.push(vec![waiting]);
            }
        }
    }
    parts
}

/// The connection through which a writer stores.
#[derive(Clone)]
struct Server {
    client: NatsClient,
    connected: watch::Receiver<bool>,
    unanswered: Unanswered,
    /// The most messages that the server takes in a batch, as far as it is known.
    most: Arc<AtomicUsize>,
    /// The most messages that a batch should have.
    wanted: Arc<AtomicUsize>,
}

impl Server {
    fn most(&self) -> usize {
        let (most, wanted) = (&self.most, &self.wanted);
        most.load(Ordering::Relaxed)
            .min(wanted.load(Ordering::Relaxed))
    }

    async fn store(&self, batch: Vec<Waiting>) {
        if batch.len() <= FEW {
            return self.store_singly(batch).await;
        }
        let mut messages = Vec::with_capacity(batch.len());
        for waiting in &batch {
            messages.extend(&waiting.entry);
        }
        let count = messages.len();
        match self.commit(&messages).await {
            Ok(first) => {
                let mut sequence = first;
                for Waiting { entry, caller } in batch {
                    caller.tell(Ok(sequence));
                    sequence += entry.len() as u64;
                }
            }
            Err(NotStored::TooLarge(limit)) if count > limit => {
                self.most.fetch_min(limit, Ordering::Relaxed);
                for part in parts(batch, limit) {
                    Box::pin(self.store(part)).await;
                }
            }
            Err(error @ (NotStored::Unknown(_) | NotStored::NoStream)) => {
                for Waiting { caller, .. } in batch {
                    caller.tell(Err(error.clone()));
                }
            }
            // One entry is the reason, and the server does not say which.
            Err(_) if batch.len() <= HANDFUL => self.store_singly(batch).await,
            Err(_) => {
                for part in parts(batch, count.div_ceil(PARTS)) {
                    Box::pin(self.store(part)).await;
                }
            }
        }
    }

    async fn store_singly(&self, batch: Vec<Waiting>) {
        join_all(batch.into_iter().map(async |Waiting { entry, caller }| {
            let messages: Vec<_> = entry.iter().collect();
            let result = self.commit(&messages).await;
            caller.tell(result);
        }))
        .await;
    }

    /// Stores messages together; returns the sequence of the first.
    async fn commit(&self, messages: &[&Message]) -> Result<u64, NotStored> {
        let mut connected = self.connected.clone();
        let until = Instant::now() + PATIENCE;
        match timeout_at(until, connected.wait_for(|up| *up)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return Err(NotStored::Unknown("the connection is closed".to_owned())),
            Err(_) => return Err(NotStored::Unknown("no connection to NATS".to_owned())),
        }
        self.unanswered.asked();
        tokio::select! {
            biased;
            result = send(&self.client, messages, until) => {
                if !matches!(result, Err(NotStored::Unknown(_) | NotStored::NoStream)) {
                    self.unanswered.over();
                }
                result
            }
            // Also if there is a new connection already: the answer went to the lost one.
            _ = connected.changed() => {
                Err(NotStored::Unknown("the connection was lost before the answer".to_owned()))
            }
        }
    }
}

/// Sends messages that are to be stored together, and waits for the answer. In a cluster, they are sent again
/// while there is no responder: the stream may have no leader.
async fn send(
    client: &NatsClient,
    messages: &[&Message],
    until: Instant,
) -> Result<u64, NotStored> {
    if !cluster::is_clustered(client) {
        return send_once(client, messages, until).await;
    }
    loop {
        let answered = until.min(Instant::now() + OF_A_LEADER);
        let result = send_once(client, messages, answered).await;
        let next = Instant::now() + cluster::TRY_AGAIN;
        // Nobody got the last message, so the server stores none of them.
        if result != Err(NotStored::NoStream) || next >= until {
            return result;
        }
        tokio::time::sleep_until(next).await;
    }
}

async fn send_once(
    client: &NatsClient,
    messages: &[&Message],
    until: Instant,
) -> Result<u64, NotStored> {
    let sending = async {
        let (last, others) = messages.split_last().expect("an entry has messages");
        let batch = uuid::Uuid::new_v4().simple().to_string();
        for (place, message) in others.iter().enumerate() {
            let headers = headers(message, &batch, place + 1);
            let (subject, payload) = (message.subject.clone(), message.payload.clone());
            client
                .publish_with_headers(subject, headers, payload)
                .await
                // The server drops the messages that were sent, because the batch is never committed.
                .map_err(|error| NotStored::Refused(error.to_string()))?;
        }
        let mut request = Request::new().payload(last.payload.clone()).timeout(None);
        request = request.headers(if others.is_empty() {
            last.headers.clone()
        } else {
            let mut headers = headers(last, &batch, messages.len());
            headers.insert(BATCH_COMMIT, "1");
            headers
        });
        match client.send_request(last.subject.clone(), request).await {
            Ok(answer) => stored(&answer.payload, messages.len() as u64),
            Err(error) => Err(match error.kind() {
                RequestErrorKind::NoResponders => NotStored::NoStream,
                RequestErrorKind::MaxPayloadExceeded => NotStored::Refused(error.to_string()),
                _ => NotStored::Unknown(error.to_string()),
            }),
        }
    };
    let patience = until
        .saturating_duration_since(Instant::now())
        .as_secs_f32();
    let unknown = || NotStored::Unknown(format!("no answer within {patience:.0}s"));
    // Messages that the server refuses are missing in the batch. So only the last one has no answer.
    let last = messages.last().map_or("", |last| last.subject.as_str());
    match unless_forbidden(client, last, timeout_at(until, sending)).await {
        Ok(result) => result.unwrap_or_else(|_| Err(unknown())),
        Err(_) => Err(NotStored::Forbidden(last.to_owned())),
    }
}

fn headers(message: &Message, batch: &str, sequence: usize) -> HeaderMap {
    let mut headers = message.headers.clone();
    headers.insert(BATCH_ID.clone(), batch);
    headers.insert(BATCH_SEQUENCE.clone(), sequence.to_string());
    headers
}

fn stored(answer: &[u8], count: u64) -> Result<u64, NotStored> {
    #[derive(Deserialize)]
    struct PubAck {
        #[serde(default)]
        error: Option<Refusal>,
        #[serde(default)]
        seq: u64,
    }
    match serde_json::from_slice::<PubAck>(answer) {
        Ok(PubAck {
            error: Some(refusal),
            ..
        }) => Err(NotStored::of(refusal)),
        Ok(PubAck { seq, .. }) if seq >= count => Ok(seq + 1 - count),
        _ => Err(NotStored::Unknown(
            "the answer is not an acknowledgement".to_owned(),
        )),
    }
}
