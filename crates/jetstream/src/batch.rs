//! Group commit: messages for one stream that wait at the same time are stored together.
//!
//! With `sync_interval: always` the server syncs its disk for every message, but only once for an
//! atomic batch. So whatever is handed over while a batch is under way goes into the next one; a
//! message that comes alone is sent at once, or with others when the batch under way is stored. A batch is stored as a whole or not at all: when one
//! is refused, its entries are sent one by one, so that a bad one does not take the others along.
//!
//! That holds but for one case: of a batch with the same subject twice, on a stream that keeps one
//! message for each subject, the server (2.15.1) may store a part and never answer. So no two such
//! messages go into one batch.

use std::collections::HashSet;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::{HeaderMap, Request, RequestErrorKind};
use bootstrap::{Beat, Client, Nats, STILL};
use futures_util::future::join_all;
use serde::Deserialize;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::headers::{BATCH_COMMIT, BATCH_ID, BATCH_SEQUENCE, EXPECTED_LAST_OF};
use crate::message::Message;
use crate::request::Refusal;
use crate::unanswered::Unanswered;

/// The most messages in a batch (ADR-50).
pub const MOST_MESSAGES: usize = 1000;

/// The most bytes in a batch: it waits in memory, here and in the server.
const MOST_BYTES: usize = 4 << 20;

/// How a writer gathers batches.
///
/// The server takes 50 batches at a time for each stream, from all its clients together.
#[derive(Clone, Copy, Debug)]
pub enum Pace {
    /// Nobody waits longer than he must: while one batch is synced, the next is on its way.
    Prompt,
    /// Nobody is waiting: a large batch costs the server far less than several small ones, so more
    /// entries are waited for while one is stored, and a little longer as long as many come.
    Thrifty,
}

/// After a batch of so many messages, more are waited for, also if none is being stored ...
const MANY: usize = 16;

/// ... until there are so many ...
const ENOUGH: usize = 500;

/// ... or this time is over.
const GATHER: Duration = Duration::from_millis(3);

/// A batch that takes longer than this is not waited for: its answer may never come.
const SLOW: Duration = Duration::from_millis(250);

/// The most batches under way.
const UNDER_WAY: usize = 2;

/// Up to so many entries are sent as they are: a batch costs the server about four syncs.
const FEW: usize = 3;

/// How many entries wait for a batch before whoever hands over has to wait.
const WAITING: usize = 4096;

/// How long the server may take to store a batch, and how long a batch waits for a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// Messages that are stored together or not at all; at most 1,000.
pub type Entry = Vec<Message>;

/// Why an entry was not stored, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotStored {
    /// A message with this subject is there, and the stream keeps one for each.
    #[error("a message with this subject is there already")]
    Exists,
    /// The last message is not the one that the entry expected.
    #[error("something else was stored meanwhile")]
    Conflict,
    /// The same entry, by its `Nats-Msg-Id`, was stored before.
    #[error("it was stored before")]
    Repeated,
    /// The stream, or the storage of the account, is full.
    #[error("the stream is full: {0}")]
    Full(String),
    /// The server refuses it for another reason.
    #[error("the server refuses it: {0}")]
    Refused(String),
    /// The server has not kept all messages of its batch: it takes no more batches at the moment, or
    /// its disk takes nothing. None of them is stored.
    #[error("the server has not kept all of its messages")]
    Incomplete,
    /// Nobody takes it: there is no such stream, or no JetStream.
    #[error("no stream takes it")]
    NoStream,
    /// The server did not say in time: it may have been stored.
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
            ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE => Self::Repeated,
            ErrorCode::CLUSTER_NOT_AVAILABLE => Self::Unknown(description),
            ErrorCode(code) => Self::Refused(format!("{description} (error {code})")),
        }
    }
}

/// Stores messages in one stream.
#[derive(Clone, Debug)]
pub struct Writer {
    entries: mpsc::Sender<Waiting>,
    unanswered: Unanswered,
}

struct Waiting {
    entry: Entry,
    /// Told the stream's sequence of the entry's first message.
    stored: oneshot::Sender<Result<u64, NotStored>>,
}

impl Writer {
    /// Starts a writer; it ends when all its clones are gone. When the connection is lost, so are
    /// the answers that are awaited, and nobody waits for them.
    #[must_use]
    pub fn start(client: Client, connected: watch::Receiver<bool>, pace: Pace) -> Self {
        Self::start_with(client, connected, pace, None)
    }

    /// The same for a connection of a service: its health watches the writer under this name.
    #[must_use]
    pub fn supervised(nats: &Nats, name: &'static str, pace: Pace) -> Self {
        let life = nats.health.task(name, STILL);
        Self::start_with(nats.client.clone(), nats.connected(), pace, Some(life))
    }

    fn start_with(
        client: Client,
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
        };
        tokio::spawn(write(server, pace, waiting, life));
        Self {
            entries,
            unanswered,
        }
    }

    /// For how long the server has left what it was given unanswered.
    #[must_use]
    pub fn unanswered(&self) -> Unanswered {
        self.unanswered.clone()
    }

    /// Stores an entry, and returns the stream's sequence of its first message. When it returns,
    /// the server has synced it to its disk.
    ///
    /// # Errors
    /// See [`NotStored`].
    ///
    /// # Panics
    /// When the entry is empty or has more than 1,000 messages.
    pub async fn store(&self, entry: Entry) -> Result<u64, NotStored> {
        check(&entry);
        let (stored, result) = oneshot::channel();
        let gone = || NotStored::Unknown("the writer was stopped".to_owned());
        self.entries
            .send(Waiting { entry, stored })
            .await
            .map_err(|_| gone())?;
        result.await.unwrap_or_else(|_| Err(gone()))
    }
}

/// Stores a single entry; see [`Writer::store`].
///
/// # Errors
/// See [`NotStored`].
///
/// # Panics
/// When the entry is empty or has more than 1,000 messages.
pub async fn store(client: &Client, entry: Entry) -> Result<u64, NotStored> {
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
            // As many as are there already, without a turn for others between them.
            match waiting.try_recv() {
                Ok(more) => {
                    next = batch.add(more);
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
                    Some(more) => next = batch.add(more),
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
    // What is under way is for somebody who waits for it.
    under_way.join_all().await;
}

/// Waits for something that has an end, or that nobody owes.
async fn alive<T>(life: &mut Option<Beat>, work: impl Future<Output = T>) -> T {
    match life {
        Some(life) => life.during(Duration::MAX, work).await,
        None => work.await,
    }
}

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
    /// Hashes of the subjects. Two that happen to be alike only end a batch early.
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

    /// Gives back what has no room in it.
    fn add(&mut self, waiting: Waiting) -> Option<Waiting> {
        let entry = &waiting.entry;
        let fits = self.messages + entry.len() <= MOST_MESSAGES
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
        match message.headers.get(EXPECTED_LAST_OF) {
            Some(subject) => self.hasher.hash_one(subject.as_str()),
            None => self.hasher.hash_one(message.subject.as_str()),
        }
    }
}

fn bytes(entry: &Entry) -> usize {
    entry.iter().map(|message| message.payload.len()).sum()
}

/// Where a writer stores.
#[derive(Clone)]
struct Server {
    client: Client,
    connected: watch::Receiver<bool>,
    unanswered: Unanswered,
}

impl Server {
    async fn store(&self, batch: Vec<Waiting>) {
        if batch.len() > FEW {
            let mut messages = Vec::with_capacity(MOST_MESSAGES);
            for waiting in &batch {
                messages.extend(&waiting.entry);
            }
            match self.commit(&messages).await {
                Ok(first) => {
                    let mut sequence = first;
                    for Waiting { entry, stored } in batch {
                        // Whoever handed it over may be gone.
                        let _ = stored.send(Ok(sequence));
                        sequence += entry.len() as u64;
                    }
                    return;
                }
                Err(error @ (NotStored::Unknown(_) | NotStored::NoStream)) => {
                    for Waiting { stored, .. } in batch {
                        let _ = stored.send(Err(error.clone()));
                    }
                    return;
                }
                // One of them is to blame, and the server does not say which.
                Err(_) => {}
            }
        }
        join_all(batch.into_iter().map(async |Waiting { entry, stored }| {
            let messages: Vec<_> = entry.iter().collect();
            let result = self.commit(&messages).await;
            // Whoever handed it over may be gone.
            let _ = stored.send(result);
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
            // Also when there is another one already: the answer went to the lost one.
            _ = connected.changed() => {
                Err(NotStored::Unknown("the connection was lost before the answer".to_owned()))
            }
        }
    }
}

/// Sends messages that are to be stored together, and waits for the answer.
async fn send(client: &Client, messages: &[&Message], until: Instant) -> Result<u64, NotStored> {
    let sending = async {
        let (last, others) = messages.split_last().expect("an entry has messages");
        let batch = uuid::Uuid::new_v4().simple().to_string();
        for (place, message) in others.iter().enumerate() {
            let headers = headers(message, &batch, place + 1);
            let (subject, payload) = (message.subject.clone(), message.payload.clone());
            client
                .publish_with_headers(subject, headers, payload)
                .await
                // What was sent of the batch is forgotten by the server, since nobody commits it.
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
    let unknown = || NotStored::Unknown(format!("no answer within {PATIENCE:?}"));
    let result = timeout_at(until, sending).await;
    result.unwrap_or_else(|_| Err(unknown()))
}

fn headers(message: &Message, batch: &str, sequence: usize) -> HeaderMap {
    let mut headers = message.headers.clone();
    headers.insert(BATCH_ID, batch);
    headers.insert(BATCH_SEQUENCE, sequence.to_string());
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
            "an answer that is no acknowledgement".to_owned(),
        )),
    }
}
