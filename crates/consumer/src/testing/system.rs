//! A nats-server and a consumer, started for one test.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bootstrap::{Context, Subscriber};
use clap::builder::Resettable;
use clap::{CommandFactory as _, FromArgMatches as _};
use client::{Client, Options};
use common::{DeadReason, JobId, JobKind, JobRecord, JobState, OutcomeError, Timestamp, subjects};
use futures_util::{FutureExt as _, StreamExt as _};
use jetstream::headers::{
    EXPECTED_LAST, SCHEDULE, SCHEDULE_TARGET, schedule_at, scheduled_time, submitted,
};
use jetstream::manage::{self, KindConsumer};
use jetstream::{Message, NotStored, StoredMessage, Stream, batch, direct_get};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::server::{self, Server};
use crate::config::Config;
use crate::registry::Registry;
use crate::serve::{ABOUT, serve};

/// How often is looked whether all jobs that are due have run.
const LOOK: Duration = Duration::from_millis(10);

/// How long the server may take to answer.
const ROUND_TRIP: Duration = Duration::from_secs(10);

/// How many scheduled jobs are read at a time, and how many bytes of them.
const PAGE: usize = 256;
const PAGE_BYTES: usize = 4 << 20;

/// A durable job of a [`System`] that has ended.
///
/// ```no_run
/// use consumer::testing::{Ended, System};
///
/// # async fn example(system: &mut System) -> anyhow::Result<()> {
/// let ended: Vec<Ended> = system.run_due().await?;
/// assert!(ended.iter().all(|job| job.attempts == 1));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Ended {
    /// The job.
    pub id: JobId,
    /// Its kind; `None` if it could not be read.
    pub kind: Option<JobKind>,
    /// How many attempts were made, or lost with a consumer.
    pub attempts: u32,
    /// How it has ended.
    pub end: End,
    /// Its whole record, with all failed attempts.
    pub record: JobRecord,
}

/// How a durable job of a [`System`] has ended.
///
/// ```
/// use consumer::testing::End;
///
/// let end = End::Succeeded(serde_json::json!({"id": 7}));
/// assert!(matches!(end, End::Succeeded(result) if result["id"] == 7));
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum End {
    /// The handler has returned this; `null` if it returned nothing.
    Succeeded(serde_json::Value),
    /// It is a dead letter.
    Dead {
        /// Why it was given up.
        reason: Option<DeadReason>,
        /// The error of its last attempt.
        error: Option<OutcomeError>,
    },
    /// It was cancelled.
    Cancelled,
    /// Its deadline had passed.
    Expired,
}

/// A nats-server and a consumer with the handlers of a test, both started for it.
///
/// The consumer runs in this process, on the runtime of the test, as it does in production. The server is
/// the program that the variable `NATS_SERVER` names, or `nats-server` in `PATH`; it listens on a free port
/// of the loopback interface, asks for no password, and keeps its store in a temporary folder. Both end when
/// the system is dropped.
///
/// Time moves by [`System::advance`] for delays and retries. It does not move for deadlines, time-outs and
/// the expiry of records. See the [module](super) for an example.
pub struct System {
    client: Client,
    /// Records of jobs as they are stored.
    events: Subscriber,
    /// Jobs that have ended since the last answer.
    ended: Vec<Ended>,
    shutdown: CancellationToken,
    consumer: JoinHandle<anyhow::Result<()>>,
    /// Dropped after the others, and so killed last.
    server: Server,
}

/// What the streams and durable consumers have done so far. If it is the same twice, nothing has happened
/// between.
#[derive(PartialEq)]
struct Progress {
    stored: Vec<u64>,
    delivered: Vec<u64>,
    is_idle: bool,
}

impl System {
    /// Starts a server, and a consumer with these handlers. When this returns, jobs of all their kinds can
    /// be submitted.
    ///
    /// # Errors
    /// When there is no nats-server, it does not start, or the consumer does not start, for example because
    /// a kind has two handlers.
    pub async fn start(handlers: Registry) -> anyhow::Result<Self> {
        Self::start_with(server::program()?, handlers).await
    }

    /// The same with this program as the nats-server.
    ///
    /// # Errors
    /// See [`System::start`].
    pub async fn start_with(program: impl AsRef<Path>, handlers: Registry) -> anyhow::Result<Self> {
        let server = Server::start(program.as_ref()).await?;
        let options = Options::new().servers(server.url())?;
        let client = Client::connect(options).await?;
        let events = client.nats().subscribe(subjects::ALL_EVENTS).await?;
        let kinds = handlers.kinds();
        let shutdown = CancellationToken::new();
        let config = config(server.url())?;
        let context = Context::new(ABOUT, config.options.clone(), shutdown.clone());
        let consumer = tokio::spawn(serve(context, config, handlers));
        let mut system = Self {
            client,
            events,
            ended: Vec::new(),
            shutdown,
            consumer,
            server,
        };
        for stream in [Stream::Jobs, Stream::Later] {
            loop {
                let of_kinds = manage::consumers_of_kinds(system.client.nats(), stream).await?;
                let has = |kind: &JobKind| of_kinds.iter().any(|consumer| consumer.kind == *kind);
                if kinds.iter().all(has) {
                    break;
                }
                system.check().await?;
                tokio::time::sleep(LOOK).await;
            }
        }
        Ok(system)
    }

    /// A client of the system; clone it for the program under test.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The URL of the server, for a program that connects by itself.
    #[must_use]
    pub fn url(&self) -> &str {
        self.server.url()
    }

    /// Waits until all durable jobs that are due have been run, with those that they submit, and returns
    /// the jobs that have ended since the last answer, in their order. A retry or a delay of less than a
    /// second is due at once: it is waited for.
    ///
    /// Jobs of kinds without a handler wait for ever, and are not waited for.
    ///
    /// # Errors
    /// When the consumer has ended, or the server does not answer.
    pub async fn run_due(&mut self) -> anyhow::Result<Vec<Ended>> {
        self.settle().await?;
        Ok(std::mem::take(&mut self.ended))
    }

    /// Makes everything due that is due within this time: delays and retries. Jobs that are due later
    /// come nearer by it. Jobs that are due already are run first; the next [`System::run_due`] returns
    /// those that have ended.
    ///
    /// # Errors
    /// See [`System::run_due`].
    pub async fn advance(&mut self, time: Duration) -> anyhow::Result<()> {
        self.settle().await?;
        let now = Timestamp::now();
        for scheduled in self.scheduled().await? {
            let due = scheduled_time(&scheduled.headers).unwrap_or(now);
            let wait = due.since(now).saturating_sub(time);
            self.schedule_again(scheduled, now.after(wait)).await?;
        }
        Ok(())
    }

    /// Runs all jobs that are due now or later, until no job waits, and returns those that have ended since
    /// the last answer. Time moves on to each job that waits. A handler that always submits a later job
    /// keeps this from ending.
    ///
    /// # Errors
    /// See [`System::run_due`].
    pub async fn drain(&mut self) -> anyhow::Result<Vec<Ended>> {
        loop {
            self.settle().await?;
            let scheduled = self.scheduled().await?;
            let due = scheduled.iter().map(|job| scheduled_time(&job.headers));
            let Some(next) = due.min() else {
                return Ok(std::mem::take(&mut self.ended));
            };
            let now = Timestamp::now();
            self.advance(next.unwrap_or(now).since(now)).await?;
        }
    }

    /// Stops the consumer, which finishes the jobs that run, and then the server.
    ///
    /// # Errors
    /// When the consumer has failed.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        self.shutdown.cancel();
        let consumer = &mut self.consumer;
        consumer.await.context("the consumer has panicked")?
    }

    /// Waits until no job is due or runs.
    async fn settle(&mut self) -> anyhow::Result<()> {
        loop {
            self.check().await?;
            // Several looks, at one stream after the other: a handler may submit a job between two of them,
            // and a scheduled job may become due.
            let before = self.progress().await?;
            if before.is_idle && !self.is_any_due().await? && self.progress().await? == before {
                break;
            }
            tokio::time::sleep(LOOK).await;
        }
        // The records were stored before the messages of their jobs were acknowledged, so they are on
        // their way here by now.
        if !self.client.nats().is_answered(ROUND_TRIP).await {
            bail!("the server does not answer");
        }
        while let Some(Some(event)) = self.events.next().now_or_never() {
            let record: JobRecord =
                serde_json::from_slice(&event.payload).context("the record of a job")?;
            if record.state.is_final() && !record.is_discarded() {
                self.ended.push(record.into());
            }
        }
        Ok(())
    }

    async fn progress(&self) -> anyhow::Result<Progress> {
        let nats = self.client.nats();
        let mut progress = Progress {
            stored: Vec::new(),
            delivered: Vec::new(),
            is_idle: true,
        };
        for stream in [Stream::Jobs, Stream::Later] {
            let info = manage::stream_info(nats, stream).await?;
            progress.stored.push(info.state.last_sequence);
            for KindConsumer { info: consumer, .. } in
                manage::consumers_of_kinds(nats, stream).await?
            {
                let sequence = consumer.delivered.consumer_sequence;
                progress.delivered.push(sequence);
                progress.is_idle &= consumer.num_pending == 0 && consumer.num_ack_pending == 0;
            }
        }
        Ok(progress)
    }

    /// Whether the server is about to release a job whose time has come.
    async fn is_any_due(&self) -> anyhow::Result<bool> {
        let scheduled = self.scheduled().await?;
        let now = Timestamp::now();
        let mut due = scheduled.iter().map(|job| scheduled_time(&job.headers));
        Ok(due.any(|due| due.is_none_or(|due| due <= now)))
    }

    /// The messages of the jobs that wait for their time.
    async fn scheduled(&self) -> anyhow::Result<Vec<StoredMessage>> {
        let (mut all, mut from) = (Vec::new(), 1);
        loop {
            let nats = self.client.nats();
            let filter = subjects::ALL_LATER;
            let page =
                direct_get::batch(nats, Stream::Later, filter, from, PAGE, PAGE_BYTES).await?;
            let Some(last) = page.last() else {
                return Ok(all);
            };
            from = last.sequence + 1;
            all.extend(page);
        }
    }

    /// Schedules a job for another time, unless it has moved on.
    async fn schedule_again(&self, job: StoredMessage, due: Timestamp) -> anyhow::Result<()> {
        let mut headers = submitted(Some(&job.headers));
        headers.insert(EXPECTED_LAST, job.sequence.to_string());
        headers.insert(SCHEDULE, schedule_at(due));
        let target = job.headers.get(SCHEDULE_TARGET);
        let target = target.context("a scheduled job has no target")?;
        headers.insert(SCHEDULE_TARGET, target.clone());
        let message = Message {
            subject: job.subject,
            headers,
            payload: job.payload,
        };
        match batch::store(self.client.nats(), vec![message]).await {
            Ok(_) | Err(NotStored::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// An error if the consumer has ended.
    async fn check(&mut self) -> anyhow::Result<()> {
        if !self.consumer.is_finished() {
            return Ok(());
        }
        let ended = (&mut self.consumer)
            .await
            .context("the consumer has panicked")?;
        ended.context("the consumer has ended")?;
        bail!("the consumer has stopped")
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.consumer.abort();
    }
}

impl From<JobRecord> for Ended {
    fn from(record: JobRecord) -> Self {
        let last = record
            .failures
            .iter()
            .rev()
            .find(|failed| !failed.is_mark());
        let end = match record.state {
            JobState::Succeeded => {
                let result = record.result.as_ref();
                let result = result.and_then(|result| serde_json::from_str(result.get()).ok());
                End::Succeeded(result.unwrap_or_default())
            }
            JobState::Cancelled => End::Cancelled,
            JobState::Expired => End::Expired,
            _ => End::Dead {
                reason: record.reason,
                error: last.map(|failed| failed.error.clone()),
            },
        };
        Self {
            id: record.id,
            kind: record.kind.clone(),
            attempts: record.attempt,
            end,
            record,
        }
    }
}

impl std::fmt::Debug for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("System")
            .field("url", &self.url())
            .finish_non_exhaustive()
    }
}

/// The configuration of the consumer, whatever the environment of the test says.
fn config(url: &str) -> anyhow::Result<Config> {
    let command = Config::command().mut_args(|arg| arg.env(Resettable::Reset));
    let matches = command.try_get_matches_from([
        ABOUT.name,
        "--durable=required",
        // Nothing here has to survive a power cut.
        "--accept-unsafe-server",
        "--monitor=off",
        &format!("--nats-url={url}"),
    ])?;
    Ok(Config::from_arg_matches(&matches)?)
}
