//! The small programs that ours are compared with: async-nats alone, as its examples use it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use async_nats::Subscriber;
use clap::Args;
use common::subjects;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use serde::{Deserialize, Serialize};

use super::client::{connect, tell, terminated};
use super::job;
use super::latency::{BARE_SUBJECT, Recorder, now};

/// Takes jobs and counts them.
#[derive(Args)]
pub(super) struct Consumer {
    /// Computes for each job before it is counted, for so many jobs at a time.
    #[arg(long)]
    computing: Option<usize>,
}

impl Consumer {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let jobs = connect().await?;
        let messages = jobs
            .queue_subscribe(subjects::CREATE, subjects::WORKERS.to_owned())
            .await?;
        let processed = Arc::new(AtomicU64::new(0));
        tokio::spawn(count(messages, Arc::clone(&processed), self.computing));
        answer_status(&processed).await
    }
}

async fn count(mut messages: Subscriber, processed: Arc<AtomicU64>, computing: Option<usize>) {
    let Some(slots) = computing else {
        while messages.next().await.is_some() {
            processed.fetch_add(1, Ordering::Relaxed);
        }
        return;
    };
    let compute = async |_| {
        // It does not panic.
        let _ = tokio::task::spawn_blocking(job::compute).await;
        processed.fetch_add(1, Ordering::Relaxed);
    };
    messages.for_each_concurrent(slots, compute).await;
}

/// Says on `jobs.status` how many jobs were processed, on a connection of its own.
async fn answer_status(processed: &AtomicU64) -> anyhow::Result<()> {
    let control = connect().await?;
    let mut questions = control.subscribe(subjects::STATUS).await?;
    while let Some(question) = questions.next().await {
        if let Some(reply) = question.reply {
            let processed = processed.load(Ordering::Relaxed);
            let answer = format!(r#"{{"totals":{{"processed":{processed}}}}}"#);
            control.publish(reply, answer.into()).await?;
        }
    }
    Ok(())
}

/// Answers each job with itself.
pub(super) async fn responder() -> anyhow::Result<()> {
    let client = connect().await?;
    let mut messages = client
        .queue_subscribe(subjects::CREATE, subjects::WORKERS.to_owned())
        .await?;
    while let Some(message) = messages.next().await {
        if let Some(reply) = message.reply {
            client.publish(reply, message.payload).await?;
        }
    }
    Ok(())
}

/// Requests with many under way.
#[derive(Args)]
pub(super) struct Requester {
    #[arg(long)]
    count: u64,
    #[arg(long)]
    in_flight: usize,
}

/// How long a program took for what it was told to do.
#[derive(Serialize, Deserialize)]
pub(super) struct Took {
    pub(super) seconds: f64,
}

impl Requester {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = connect().await?;
        let messages = job::echoes();
        let start = Instant::now();
        let mut under_way = FuturesUnordered::new();
        for (message, _) in messages.iter().cycle().zip(0..self.count) {
            if under_way.len() == self.in_flight
                && let Some(answer) = under_way.next().await
            {
                answer?;
            }
            under_way.push(client.request(subjects::CREATE, message.clone()));
        }
        while let Some(answer) = under_way.next().await {
            answer?;
        }
        tell(&Took {
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

/// Publishes, and ends when the server has it all.
#[derive(Args)]
pub(super) struct Publisher {
    #[arg(long)]
    count: u64,
}

impl Publisher {
    pub(super) async fn run(self) -> anyhow::Result<()> {
        let client = connect().await?;
        let messages = job::echoes();
        let start = Instant::now();
        for (message, _) in messages.iter().cycle().zip(0..self.count) {
            client.publish(subjects::CREATE, message.clone()).await?;
        }
        // A flush ends when the socket has it; the server has it when it answers what comes after.
        // Nobody may answer there, and that is an answer too.
        let _ = client.request("jobs.create.nobody", "".into()).await;
        tell(&Took {
            seconds: start.elapsed().as_secs_f64(),
        })
    }
}

/// Notes when each message arrives, until SIGTERM.
pub(super) async fn latency_consumer() -> anyhow::Result<()> {
    let client = connect().await?;
    let (recorder, terminated) = (Recorder::new(), terminated()?);
    let mut messages = client
        .queue_subscribe(BARE_SUBJECT, subjects::WORKERS.to_owned())
        .await?;
    while let Some(Some(message)) = terminated.run_until_cancelled(messages.next()).await {
        // The clock is read first: what it takes to read the message is not counted.
        let now = now();
        recorder.record(job::sent_ns(&message.payload)?, now);
    }
    recorder.tell()
}
