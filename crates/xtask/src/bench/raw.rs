//! What the server can do at most: the messages of the durable lane, with the same guarantees, sent by
//! programs that do nothing else. They run no handler, look nothing up and cannot recover from anything.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use async_nats::{Client, HeaderMap, Message};
use bytes::Bytes;
use clap::Args;
use common::{
    JobId, JobMessage, JobRecord, JobState, JobSubject, Priority, Retention, Timestamp, subjects,
};
use futures_util::StreamExt as _;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::bare::Took;
use super::client::{connect, tell};
use super::job;

/// How many batches are under way at a time.
const UNDER_WAY: usize = 2;

/// A pull asks for so many messages, and another one is sent when half of them have come.
const PULL: usize = 4096;

/// Outcomes wait at most this long for others of their batch.
const GATHER: Duration = Duration::from_millis(3);

const KIND: &str = "echo";

/// Stores jobs in large batches.
#[derive(Args)]
pub(super) struct Publisher {
    #[arg(long)]
    count: u64,
    /// Messages in a batch
    #[arg(long)]
    batch: usize,
}

impl Publisher {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = connect().await?;
        let messages = job::echoes();
        let kind = KIND.parse()?;
        let mut headers = HeaderMap::new();
        headers.insert(subjects::FRESH_HEADER, "1");
        let start = Instant::now();
        let mut writer = Writer::new(client, self.batch);
        for (message, _) in messages.iter().cycle().zip(0..self.count) {
            let subject = subjects::durable_job(JobId::generate(), Priority::Normal, 1, &kind);
            writer.add(subject, headers.clone(), message.clone(), None);
            writer.commit_if_full().await?;
        }
        writer.end().await?;
        tell(&Took {
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

/// Pulls jobs, stores a record of each and acknowledges them.
#[derive(Args)]
pub(super) struct Consumer {
    #[arg(long)]
    count: u64,
    /// Records in a batch
    #[arg(long)]
    batch: usize,
    /// Stores no records
    #[arg(long)]
    forget: bool,
}

impl Consumer {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = connect().await?;
        let inbox = client.new_inbox();
        let mut pulled = client.subscribe(inbox.clone()).await?;
        let retention = Retention::at_least(Duration::from_hours(1));
        let mut writer = Writer::new(client.clone(), self.batch);
        let (mut done, mut expected) = (0, 0);
        while done < self.count {
            if expected <= PULL / 2 {
                pull(&client, &inbox).await?;
                expected += PULL;
            }
            let Ok(message) = timeout(GATHER, pulled.next()).await else {
                writer.commit().await?;
                continue;
            };
            let message = message.context("the messages ended")?;
            // The end of a pull.
            let Some(ack) = message.reply.clone() else {
                expected = 0;
                continue;
            };
            expected = expected.saturating_sub(1);
            done += 1;
            if self.forget {
                client.publish(ack, "+ACK".into()).await?;
                continue;
            }
            let (id, record) = record_of(&message)?;
            let subject = subjects::ended(retention, id);
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
            headers.insert(
                "Nats-Expected-Last-Subject-Sequence-Subject",
                subjects::record(id),
            );
            writer.add(subject, headers, record, Some(ack));
            writer.commit_if_full().await?;
        }
        writer.end().await?;
        // The server has all acknowledgements when it answers what comes after them.
        let _ = client.request("bare-nobody", "".into()).await;
        Ok(())
    }
}

async fn pull(client: &Client, inbox: &str) -> anyhow::Result<()> {
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.JOBS.{KIND}");
    let body = format!(r#"{{"batch":{PULL},"expires":9000000000}}"#);
    client
        .publish_with_reply(next, inbox.to_owned(), body.into())
        .await?;
    Ok(())
}

/// The record that a consumer would store. The id is that of the subject, because the same bytes are sent
/// again and again.
fn record_of(message: &Message) -> anyhow::Result<(JobId, Bytes)> {
    let text = std::str::from_utf8(&message.payload)?;
    let job = JobMessage::decode(&message.payload)?;
    let subject = JobSubject::parse(&message.subject).context("not the subject of a job")?;
    let id = subject.id;
    let mut record = JobRecord::new(id, Some(job.kind), JobState::Succeeded, Timestamp::now());
    record.consumer = Some("consumer-1".to_owned());
    record.run = 1;
    record.attempt = 1;
    record.duration_ms = Some(0.001);
    record.result = job.payload.map(ToOwned::to_owned);
    record.job = Some(RawValue::from_string(text.to_owned())?);
    Ok((id, serde_json::to_vec(&record)?.into()))
}

/// Stores messages in atomic batches, and acknowledges others when theirs are stored.
struct Writer {
    client: Client,
    most: usize,
    batch: Vec<Entry>,
    slots: Arc<Semaphore>,
    under_way: JoinSet<anyhow::Result<()>>,
}

struct Entry {
    subject: String,
    headers: HeaderMap,
    payload: Bytes,
    ack: Option<async_nats::Subject>,
}

impl Writer {
    fn new(client: Client, most: usize) -> Self {
        Self {
            client,
            most,
            batch: Vec::with_capacity(most),
            slots: Arc::new(Semaphore::new(UNDER_WAY)),
            under_way: JoinSet::new(),
        }
    }

    fn add(
        &mut self,
        subject: String,
        headers: HeaderMap,
        payload: Bytes,
        ack: Option<async_nats::Subject>,
    ) {
        self.batch.push(Entry {
            subject,
            headers,
            payload,
            ack,
        });
    }

    async fn commit_if_full(&mut self) -> anyhow::Result<()> {
        if self.batch.len() >= self.most {
            self.commit().await?;
        }
        Ok(())
    }

    /// Sends the batch, and does not wait for the answer.
    async fn commit(&mut self) -> anyhow::Result<()> {
        while let Some(stored) = self.under_way.try_join_next() {
            stored??;
        }
        if self.batch.is_empty() {
            return Ok(());
        }
        let slot = Arc::clone(&self.slots).acquire_owned().await?;
        let entries = VecDeque::from(std::mem::take(&mut self.batch));
        let client = self.client.clone();
        self.under_way.spawn(async move {
            let acks = store(&client, entries).await?;
            drop(slot);
            for ack in acks {
                client.publish(ack, "+ACK".into()).await?;
            }
            Ok(())
        });
        Ok(())
    }

    async fn end(&mut self) -> anyhow::Result<()> {
        self.commit().await?;
        while let Some(stored) = self.under_way.join_next().await {
            stored??;
        }
        Ok(())
    }
}

async fn store(
    client: &Client,
    mut entries: VecDeque<Entry>,
) -> anyhow::Result<Vec<async_nats::Subject>> {
    let id = JobId::generate().to_string();
    let count = entries.len();
    let mut acks = Vec::with_capacity(count);
    let mut number = 0;
    while let Some(mut entry) = entries.pop_front() {
        number += 1;
        acks.extend(entry.ack.take());
        entry.headers.insert("Nats-Batch-Id", id.as_str());
        entry
            .headers
            .insert("Nats-Batch-Sequence", number.to_string());
        if number < count {
            client
                .publish_with_headers(entry.subject, entry.headers, entry.payload)
                .await?;
            continue;
        }
        entry.headers.insert("Nats-Batch-Commit", "1");
        let stored = client.request_with_headers(entry.subject, entry.headers, entry.payload);
        let answer: Value = serde_json::from_slice(&stored.await?.payload)?;
        ensure!(answer["error"].is_null(), "a batch is refused: {answer}");
    }
    Ok(acks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_one_that_services_read() {
        let message = Message {
            subject: subjects::durable_job(
                JobId::generate(),
                Priority::Normal,
                1,
                &KIND.parse().unwrap(),
            )
            .into(),
            reply: None,
            payload: job::echo(),
            headers: None,
            status: None,
            description: None,
            length: 0,
        };
        let (id, record) = record_of(&message).unwrap();
        let record: JobRecord = serde_json::from_slice(&record).unwrap();
        assert_eq!((record.id, record.state), (id, JobState::Succeeded));
        assert!(record.result.is_some() && record.job.is_some());
    }
}
