//! Cancels many jobs, or runs many waiting jobs now.

use common::{JobId, JobState, RunNow, subjects};
use connection::NatsClient;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jetstream::batch::{Pace, Writer};
use jetstream::{Stream, direct_get, manage};
use tokio::sync::watch;

use crate::cancel::{request, stored};
use crate::filter::Filter;
use crate::list::{Cursor, list};
use crate::listed::Listed;
use crate::run_now::run_now;

/// The most jobs on a page.
const PAGE: usize = 200;

/// How many requests to cancel are looked up at a time, and how many jobs are run now at a time.
const AT_A_TIME: usize = 32;

/// What is done with many jobs.
///
/// ```
/// use client::{JobState, ManyAction};
///
/// assert!(ManyAction::RunNow.takes(JobState::Retrying));
/// assert!(!ManyAction::RunNow.takes(JobState::Queued));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ManyAction {
    /// They are cancelled.
    Cancel,
    /// They run now, instead of at their time.
    RunNow,
}

impl ManyAction {
    /// Whether this can be done with a job in this state.
    #[must_use]
    pub fn takes(self, state: JobState) -> bool {
        match self {
            Self::Cancel => !state.is_final(),
            Self::RunNow => matches!(state, JobState::Scheduled | JobState::Retrying),
        }
    }

    /// Refuses a filter that means all jobs, or only jobs that cannot be cancelled, or run now.
    ///
    /// # Errors
    /// The field of the filter that is wrong, and why, in words.
    pub fn check(self, filter: &Filter) -> Result<(), (&'static str, String)> {
        if filter.is_all() {
            let text = "say which jobs by kind, state, time or text";
            return Err(("kind", text.to_owned()));
        }
        match filter.state {
            Some(state) if !self.takes(state) => Err((
                "state",
                match self {
                    Self::Cancel => {
                        format!("a job that is {state} has ended, and cannot be cancelled")
                    }
                    Self::RunNow => format!("a job that is {state} does not wait for a time"),
                },
            )),
            _ => Ok(()),
        }
    }
}

/// The jobs that match a filter and with which something can be done, page by page, the newest first. Jobs
/// submitted after the first page was read are left out.
///
/// A job is matched in the state in which it is read. A job that changes while the pages are read may
/// be left out; see [`list`].
#[derive(Debug)]
pub struct ManyJobs<'a> {
    client: &'a NatsClient,
    action: ManyAction,
    filter: &'a Filter,
    /// Records and requests to cancel after this sequence of their stream are newer than the start.
    began: u64,
    /// Where the next page starts; `None` before the first page.
    cursor: Option<Cursor>,
    over: bool,
}

impl<'a> ManyJobs<'a> {
    /// Starts before the newest job.
    ///
    /// # Errors
    /// When the server does not answer in time.
    pub async fn new(
        client: &'a NatsClient,
        action: ManyAction,
        filter: &'a Filter,
    ) -> anyhow::Result<Self> {
        let info = manage::existing(manage::stream_info(client, Stream::State).await)?;
        Ok(Self {
            client,
            action,
            filter,
            began: info.map_or(0, |info| info.state.last_sequence),
            cursor: None,
            over: false,
        })
    }

    /// The next page, without the jobs that got a request to cancel, or were run or brought forward, since the start;
    /// `None` at the end. A page may be empty although more follow. If this future is dropped, no job is left out.
    ///
    /// # Errors
    /// When the server does not answer in time.
    pub async fn next(&mut self) -> anyhow::Result<Option<Vec<Listed>>> {
        if self.over {
            return Ok(None);
        }
        let page = list(self.client, self.filter, self.cursor, PAGE).await?;
        let takes = |job: &Listed| self.action.takes(job.state);
        let mut jobs: Vec<_> = page.jobs.into_iter().filter(takes).collect();
        match self.action {
            // A list may show a job again that has changed, but not on the same page.
            ManyAction::Cancel if self.cursor.is_some() => {
                jobs = self.without_cancelled(jobs).await?;
            }
            ManyAction::Cancel => {}
            // A job that was run and waits for its next attempt was not meant again, and a list may show a job
            // again that was brought forward.
            ManyAction::RunNow => jobs.retain(|job| job.record_sequence <= self.began),
        }
        self.cursor = page.next;
        self.over = page.next.is_none();
        Ok(Some(jobs))
    }

    /// Leaves out the jobs that got a request to cancel since the start.
    async fn without_cancelled(&self, jobs: Vec<Listed>) -> anyhow::Result<Vec<Listed>> {
        let looked_up = jobs.into_iter().map(async |job| {
            let subject = subjects::cancel(job.id);
            let asked = direct_get::last(self.client, Stream::State, &subject).await?;
            let asked = asked.is_some_and(|asked| asked.sequence > self.began);
            anyhow::Ok((!asked).then_some(job))
        });
        let kept = stream::iter(looked_up).buffered(AT_A_TIME);
        kept.try_filter_map(async |job| Ok(job)).try_collect().await
    }
}

/// What became of some jobs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManyDone {
    /// How many requests to cancel a job were stored, or how many jobs run now.
    pub done: usize,
    /// The jobs for which it is not known whether it was done, and why. A job that no longer waited when it was
    /// to be run is neither here nor in `done`.
    pub failed: Vec<(JobId, String)>,
}

/// Cancels many jobs, or runs many jobs now.
///
/// ```no_run
/// use client::{Client, Filter, ManyAction, ManyDone, ManyJobs, ManyWorker};
///
/// # async fn example(jobs: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let filter = Filter { kind: Some("mail.send".parse()?), ..Filter::default() };
/// let mut pages = ManyJobs::new(jobs.nats(), ManyAction::Cancel, &filter).await?;
/// let worker = ManyWorker::new(jobs.nats(), jobs.connected(), ManyAction::Cancel);
/// while let Some(page) = pages.next().await? {
///     let ids = page.into_iter().map(|job| job.id);
///     let ManyDone { done, failed } = worker.apply(ids).await;
///     println!("{done} done, {} failed", failed.len());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct ManyWorker {
    client: NatsClient,
    /// Stores requests to cancel; those that are made at the same time together.
    cancels: Option<Writer>,
}

impl ManyWorker {
    /// Uses a connection, and waits while `connected` says that there is none.
    #[must_use]
    pub fn new(client: &NatsClient, connected: watch::Receiver<bool>, action: ManyAction) -> Self {
        let cancels = (action == ManyAction::Cancel)
            .then(|| Writer::start(client.clone(), connected, Pace::Prompt));
        Self {
            client: client.clone(),
            cancels,
        }
    }

    /// Requests to cancel each of these jobs, as [`cancel`](crate::cancel) does, or has each of them run now, as
    /// [`run_now`](crate::run_now) does.
    pub async fn apply(&self, jobs: impl IntoIterator<Item = JobId>) -> ManyDone {
        let jobs: Vec<_> = jobs.into_iter().collect();
        let results: Vec<(JobId, Result<bool, String>)> = if let Some(writer) = &self.cancels {
            let requests = jobs.into_iter().map(async |id| {
                let result = stored(writer.store(vec![request(id)]).await);
                (id, result.map(|()| true).map_err(|error| error.to_string()))
            });
            join_all(requests).await
        } else {
            let requests = jobs.into_iter().map(async |id| {
                let result = run_now(&self.client, id).await;
                let result = result.map(|result| result != RunNow::NotWaiting);
                (id, result.map_err(|error| error.to_string()))
            });
            stream::iter(requests).buffered(AT_A_TIME).collect().await
        };
        let mut all = ManyDone::default();
        for (id, result) in results {
            match result {
                Ok(done) => all.done += usize::from(done),
                Err(error) => all.failed.push((id, error)),
            }
        }
        all
    }
}
