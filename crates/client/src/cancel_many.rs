//! Cancels many jobs.

use common::{JobId, subjects};
use connection::NatsClient;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use jetstream::batch::{Pace, Writer};
use jetstream::{NotStored, Stream, direct_get, manage};
use tokio::sync::watch;

use crate::cancel::{request, stored};
use crate::filter::Filter;
use crate::list::{Cursor, list};
use crate::listed::Listed;

/// The most jobs on a page.
const PAGE: usize = 200;

/// How many requests to cancel are looked up at a time.
const LOOKED_UP: usize = 32;

/// The jobs that match a filter and have not ended, page by page, the newest first. Jobs submitted
/// after the first page was read are left out.
///
/// A job is matched in the state in which it is read. A job that changes while the pages are read may
/// be left out; see [`list`].
#[derive(Debug)]
pub struct ToCancel<'a> {
    client: &'a NatsClient,
    filter: &'a Filter,
    /// Requests to cancel after this position of the stream are newer than the start.
    began: u64,
    /// Where the next page starts; `None` before the first page.
    cursor: Option<Cursor>,
    over: bool,
}

impl<'a> ToCancel<'a> {
    /// Starts before the newest job.
    ///
    /// # Errors
    /// When the server does not answer in time.
    pub async fn new(client: &'a NatsClient, filter: &'a Filter) -> anyhow::Result<Self> {
        let info = manage::existing(manage::stream_info(client, Stream::State).await)?;
        Ok(Self {
            client,
            filter,
            began: info.map_or(0, |info| info.state.last_sequence),
            cursor: None,
            over: false,
        })
    }

    /// The next page, without the jobs that got a request to cancel since the start; `None` at the end.
    /// A page may be empty although more follow. If this future is dropped, no job is left out.
    ///
    /// # Errors
    /// When the server does not answer in time.
    pub async fn next(&mut self) -> anyhow::Result<Option<Vec<Listed>>> {
        if self.over {
            return Ok(None);
        }
        let page = list(self.client, self.filter, self.cursor, PAGE).await?;
        let open = page.jobs.into_iter().filter(|job| !job.state.is_final());
        let mut jobs: Vec<_> = open.collect();
        // A list may show a job again that has changed, but not on the same page.
        if self.cursor.is_some() {
            jobs = self.without_cancelled(jobs).await?;
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
        let kept = stream::iter(looked_up).buffered(LOOKED_UP);
        kept.try_filter_map(async |job| Ok(job)).try_collect().await
    }
}

/// Stores many requests to cancel jobs; requests that are made at the same time are stored together.
///
/// ```no_run
/// use client::{Canceller, Client, Filter, ToCancel};
///
/// # async fn example(jobs: Client) -> Result<(), Box<dyn std::error::Error>> {
/// let filter = Filter { kind: Some("mail.send".parse()?), ..Filter::default() };
/// let mut pages = ToCancel::new(jobs.nats(), &filter).await?;
/// let canceller = Canceller::new(jobs.nats(), jobs.connected());
/// while let Some(page) = pages.next().await? {
///     let failed = canceller.cancel(page.into_iter().map(|job| job.id)).await;
///     assert!(failed.is_empty());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Canceller {
    writer: Writer,
}

impl Canceller {
    /// Uses a connection, and waits while `connected` says that there is none.
    #[must_use]
    pub fn new(client: &NatsClient, connected: watch::Receiver<bool>) -> Self {
        Self {
            writer: Writer::start(client.clone(), connected, Pace::Prompt),
        }
    }

    /// Requests to cancel each of these jobs, as [`cancel`](crate::cancel) does. Returns the jobs whose
    /// request may not be stored, and why.
    pub async fn cancel(&self, jobs: impl IntoIterator<Item = JobId>) -> Vec<(JobId, NotStored)> {
        let requests = jobs.into_iter().map(async |id| {
            let result = stored(self.writer.store(vec![request(id)]).await);
            result.err().map(|error| (id, error))
        });
        join_all(requests).await.into_iter().flatten().collect()
    }
}
