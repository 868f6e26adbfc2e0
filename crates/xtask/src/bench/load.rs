//! Publishes jobs as fast as consumers take them, and loses none.
//!
//! Core NATS drops what a client cannot take in time, and then a rate says nothing. So no more
//! than a window of jobs is ever on the way: the load generator asks the consumers all the time
//! how many they have processed, on another connection, and holds back accordingly. The window is
//! far larger than what is processed between two answers, so it does not hold up a consumer.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use async_nats::{Client, Subscriber};
use bytes::Bytes;
use common::subjects;
use futures_util::StreamExt as _;
use serde::Deserialize;
use tokio::sync::Notify;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::job;

/// The most jobs on the way that take no time: half of what async-nats holds for a subscription by
/// default.
const WINDOW: u64 = 32 * 1024;

/// How often consumers are asked how far they are.
const ASK_EVERY: Duration = Duration::from_millis(4);

/// How many jobs are published between two looks at the clock.
const BURST: u64 = 64;

/// How long nothing may happen before that is an error.
const PATIENCE: Duration = Duration::from_secs(10);

/// What is needed to put consumers under load.
pub(super) struct Load {
    publisher: Client,
    messages: Vec<Bytes>,
    /// The most jobs on the way.
    window: u64,
    progress: Progress,
}

/// How many jobs were processed in which time.
pub(super) struct Done {
    pub(super) jobs: u64,
    pub(super) time: Duration,
}

impl Done {
    pub(super) fn per_second(&self) -> f64 {
        self.jobs as f64 / self.time.as_secs_f64()
    }
}

impl Load {
    pub(super) async fn on(
        consumers: usize,
        publisher: Client,
        observer: Client,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            publisher,
            messages: job::echoes(),
            window: WINDOW,
            progress: Progress::of(consumers, observer).await?,
        })
    }

    /// The same with other jobs, of which so many are on the way at most.
    pub(super) fn with(self, messages: Vec<Bytes>, window: u64) -> Self {
        Self {
            messages,
            window,
            ..self
        }
    }

    /// Publishes for so long, and returns when everything has been processed.
    ///
    /// # Errors
    /// When a job is lost.
    pub(super) async fn run_for(&mut self, span: Duration) -> anyhow::Result<Done> {
        let before = self.progress.ask().await?;
        let start = Instant::now();
        let sent = Cell::new(0);
        let processed = Cell::new(0);
        let all_sent = Cell::new(false);
        let progressed = Notify::new();
        let publish = async {
            let mut messages = self.messages.iter().cycle();
            while start.elapsed() < span {
                while sent.get() + BURST > processed.get() + self.window {
                    progressed.notified().await;
                }
                for message in messages.by_ref().take(usize::try_from(BURST)?) {
                    self.publisher
                        .publish(subjects::CREATE, message.clone())
                        .await?;
                }
                sent.set(sent.get() + BURST);
            }
            all_sent.set(true);
            anyhow::Ok(())
        };
        let watch = async {
            let mut tick = interval(ASK_EVERY);
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut last_progress = Instant::now();
            loop {
                tick.tick().await;
                let now = self.progress.ask().await? - before;
                if now > processed.get() {
                    processed.set(now);
                    last_progress = Instant::now();
                    progressed.notify_one();
                }
                if all_sent.get() && processed.get() >= sent.get() {
                    return Ok(start.elapsed());
                }
                if last_progress.elapsed() > PATIENCE {
                    bail!(
                        "of {} jobs {} were not processed",
                        sent.get(),
                        sent.get() - processed.get()
                    );
                }
            }
        };
        let ((), time) = tokio::try_join!(publish, watch)?;
        ensure!(
            processed.get() == sent.get(),
            "{} jobs were sent, but {} processed",
            sent.get(),
            processed.get()
        );
        Ok(Done {
            jobs: sent.get(),
            time,
        })
    }
}

/// Asks all consumers how many jobs they have processed.
struct Progress {
    observer: Client,
    consumers: usize,
    inbox: String,
    answers: Subscriber,
}

/// What is read of an answer; the rest is what it says besides.
#[derive(Deserialize)]
struct Answer {
    totals: Totals,
}

#[derive(Deserialize)]
struct Totals {
    processed: u64,
}

impl Progress {
    async fn of(consumers: usize, observer: Client) -> anyhow::Result<Self> {
        let inbox = observer.new_inbox();
        let answers = observer.subscribe(inbox.clone()).await?;
        Ok(Self {
            observer,
            consumers,
            inbox,
            answers,
        })
    }

    async fn ask(&mut self) -> anyhow::Result<u64> {
        let reply = self.inbox.clone();
        self.observer
            .publish_with_reply(subjects::STATUS, reply, Bytes::new())
            .await?;
        let all = async {
            let mut sum = 0;
            for _ in 0..self.consumers {
                let answer = self.answers.next().await.context("the connection closed")?;
                let answer: Answer = serde_json::from_slice(&answer.payload)
                    .context("an answer on jobs.status cannot be read")?;
                sum += answer.totals.processed;
            }
            anyhow::Ok(sum)
        };
        timeout(PATIENCE, all)
            .await
            .context("not all consumers answer on jobs.status")?
    }
}
