//! What an application does with jobs, by their Rust types.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use common::{Fleet, FleetRequest, Job, JobId, JobRecord, WireDuration};
use connection::{ConnectError, NatsClient, Options};
use tokio::sync::watch;

use crate::confirmed::{self, ConfirmedError};
use crate::draft::{Draft, Keeps};
use crate::filter::Filter;
use crate::fleet::FleetError;
use crate::handle::Handle;
use crate::job::NewJob;
use crate::link::Link;
use crate::list::{Cursor, Page};
use crate::queues::Queues;
use crate::submit::{Patience, Submitter};
use crate::submitted::{SubmitError, Submitted};

/// How long a submission may take with all its repetitions.
const CONFIRM: Duration = Duration::from_secs(30);

/// A client of the job system for applications. Clones share its connection.
///
/// ```no_run
/// use client::{Client, Job, Options};
/// use serde::{Deserialize, Serialize};
///
/// #[derive(Serialize, Deserialize)]
/// struct SendMail {
///     to: String,
/// }
///
/// #[derive(Debug, Serialize, Deserialize)]
/// struct MailId(String);
///
/// impl Job for SendMail {
///     const KIND: &'static str = "mail.send";
///     type Output = MailId;
/// }
///
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let jobs = Client::connect(Options::from_env()?).await?;
/// let handle = jobs.submit(SendMail { to: "a@example.org".to_owned() }).await?;
/// let sent: MailId = handle.result().await?;
/// # drop(sent);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Client {
    link: Link,
    submitter: Submitter,
}

/// A durable job that is stored when it is awaited. See [`Client::submit`].
///
/// ```no_run
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # struct SendMail { to: String }
/// # impl client::Job for SendMail { const KIND: &'static str = "mail.send"; type Output = String; }
/// use client::{Client, Draft, Durable, SubmitError};
///
/// # async fn example(jobs: Client, mail: SendMail) -> Result<(), SubmitError> {
/// let submission: Draft<SendMail, Durable> = jobs.submit(mail).max_attempts(3);
/// let handle = submission.await?;
/// # drop(handle);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Durable(Client);

impl Keeps for Durable {}

/// A job that is requested when it is awaited. See [`Client::confirmed`].
///
/// ```no_run
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # struct SendMail { to: String }
/// # impl client::Job for SendMail { const KIND: &'static str = "mail.send"; type Output = String; }
/// use std::time::Duration;
///
/// use client::{Client, Confirmed, ConfirmedError, Draft};
///
/// # async fn example(jobs: Client, mail: SendMail) -> Result<(), ConfirmedError> {
/// let request: Draft<SendMail, Confirmed> = jobs.confirmed(mail).within(Duration::from_secs(5));
/// let sent: String = request.await?;
/// # drop(sent);
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Confirmed {
    client: Client,
    within: Duration,
}

/// A job that is published when it is awaited. See [`Client::fire_and_forget`].
///
/// ```no_run
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize)]
/// # struct SendMail { to: String }
/// # impl client::Job for SendMail { const KIND: &'static str = "mail.send"; type Output = String; }
/// use client::{Client, Draft, FireAndForget, SubmitError};
///
/// # async fn example(jobs: Client, mail: SendMail) -> Result<(), SubmitError> {
/// let publish: Draft<SendMail, FireAndForget> = jobs.fire_and_forget(mail);
/// let id = publish.await?;
/// # let _ = id;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct FireAndForget(Client);

type Submission<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Client {
    /// Connects to NATS. A connection that is lost later is always made again, with everything that
    /// depends on it.
    ///
    /// # Errors
    /// When an option is wrong, the server refuses the credentials, or it cannot be reached within 30
    /// seconds.
    pub async fn connect(options: Options) -> Result<Self, ConnectError> {
        let (link, submitter) = Link::connect(&options, PATIENCE).await?;
        Ok(Self { link, submitter })
    }

    /// Uses a connection that the application has. Whether it is up is read ten times a second.
    ///
    /// The client library of NATS ends for good at certain messages (see the architecture page), and then
    /// this client ends with it. One that [`Client::connect`] has made goes on.
    #[must_use]
    pub fn over(nats: async_nats::Client) -> Self {
        let (link, submitter) = Link::over(nats, PATIENCE);
        Self { link, submitter }
    }

    /// Submits a durable job. Await it, or set options first:
    /// `jobs.submit(mail).delay(Duration::from_mins(5)).await?`. When it returns, the job is on the disk
    /// of the server. If the answer is lost, the submission is repeated, and the job is still stored once.
    ///
    /// Dropping the future at any time is safe; the job may be stored then.
    pub fn submit<J: Job>(&self, job: impl Into<Draft<J>>) -> Draft<J, Durable> {
        job.into().exchange(Durable(self.clone())).1
    }

    /// Submits up to 1,000 durable jobs, all of them or none, with one write.
    ///
    /// # Errors
    /// See [`SubmitError`]; also when one of them is known already.
    pub async fn submit_all<J: Job, D: Into<Draft<J>>>(
        &self,
        jobs: impl IntoIterator<Item = D>,
    ) -> Result<Vec<Handle<J>>, SubmitError> {
        let jobs = jobs.into_iter().map(|job| job.into().into_job());
        let jobs: Vec<NewJob> = jobs.collect::<Result<_, _>>()?;
        self.submitter.submit_all(&jobs).await?;
        let handle = |job: NewJob| Handle::new(self.link.clone(), job.id, false);
        Ok(jobs.into_iter().map(handle).collect())
    }

    /// Submits a durable job that has no Rust type, such as one from a file or from an outbox.
    /// See [`NewJob::decode`]. It may be submitted any number of times, and is stored once.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub async fn submit_job(&self, job: &NewJob) -> Result<Submitted, SubmitError> {
        self.submitter.submit(&not_fresh(job)).await
    }

    /// Submits up to 1,000 such jobs, all of them or none.
    ///
    /// # Errors
    /// See [`SubmitError`]; also when one of them is known already.
    pub async fn submit_jobs(&self, jobs: &[NewJob]) -> Result<(), SubmitError> {
        let jobs: Vec<_> = jobs.iter().map(not_fresh).collect();
        self.submitter.submit_all(&jobs).await
    }

    /// Runs a job and waits for its result, up to 30 seconds or as long as
    /// [`Draft::within`] says. The job is not stored. While consumers are away, full or stopping, it is
    /// requested again, and so it may run twice. If the consumer that runs it is killed, no outcome comes.
    pub fn confirmed<J: Job>(&self, job: impl Into<Draft<J>>) -> Draft<J, Confirmed> {
        let confirmed = Confirmed {
            client: self.clone(),
            within: CONFIRM,
        };
        job.into().exchange(confirmed).1
    }

    /// Publishes a job that runs at most once. When it returns, the job is written to the connection. If no
    /// consumer takes it, the job is lost, and no error says so.
    pub fn fire_and_forget<J: Job>(&self, job: impl Into<Draft<J>>) -> Draft<J, FireAndForget> {
        job.into().exchange(FireAndForget(self.clone())).1
    }

    /// A handle on a job that was submitted before.
    #[must_use]
    pub fn handle<J: Job>(&self, id: JobId) -> Handle<J> {
        Handle::new(self.link.clone(), id, true)
    }

    /// Looks a durable job up by its id; `None` if it is not known, or no longer.
    ///
    /// # Errors
    /// When the server does not answer in time.
    pub async fn record(&self, id: JobId) -> anyhow::Result<Option<JobRecord>> {
        crate::look_up(&self.link.nats, id).await
    }

    /// A page of the durable jobs, the newest first; see [`list`](crate::list()).
    ///
    /// # Errors
    /// When the server does not answer in time.
    pub async fn list(
        &self,
        filter: &Filter,
        cursor: Option<Cursor>,
        most: usize,
    ) -> anyhow::Result<Page> {
        crate::list(&self.link.nats, filter, cursor, most).await
    }

    /// The jobs that wait or run, by kind: at most `most` kinds, the largest first.
    ///
    /// # Errors
    /// When the server does not answer in time.
    pub async fn queues(&self, most: usize) -> anyhow::Result<Queues> {
        crate::queues(&self.link.nats, most).await
    }

    /// The consumers and their totals, from a status service.
    ///
    /// # Errors
    /// See [`FleetError`].
    pub async fn fleet(&self, request: &FleetRequest) -> Result<Fleet, FleetError> {
        crate::fleet(&self.link.nats, request).await
    }

    /// The connection, for the functions of this crate that take one, such as those of
    /// [`dead_letters`](crate::dead_letters).
    #[must_use]
    pub fn nats(&self) -> &NatsClient {
        &self.link.nats
    }

    /// Whether the connection is up. Wait for a change to see when it is lost or back.
    #[must_use]
    pub fn connected(&self) -> watch::Receiver<bool> {
        self.link.connected.clone()
    }
}

/// The same job as one that may have been submitted before.
fn not_fresh(job: &NewJob) -> NewJob {
    NewJob {
        fresh: false,
        ..job.clone()
    }
}

/// How long a published job may take to be written to the connection.
const FLUSH: Duration = Duration::from_secs(5);

const PATIENCE: Patience = Patience {
    confirm: CONFIRM,
    wait_for_nats: false,
    wait_for_room: false,
};

impl<J: Job> Draft<J, Confirmed> {
    /// Sets how long the result is waited for, with all repetitions.
    pub fn within(mut self, within: Duration) -> Self {
        // A longer time could overflow the clock.
        self.to.within = within.min(WireDuration::MAX);
        self
    }
}

impl<J: Job> IntoFuture for Draft<J, Durable> {
    type Output = Result<Handle<J>, SubmitError>;
    type IntoFuture = Submission<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let (Durable(client), job) = self.exchange(());
        let job = job.into_job();
        Box::pin(async move {
            let job = job?;
            let submitted = client.submitter.submit(&job).await?;
            let (id, known) = match submitted {
                Submitted::Stored => (job.id, false),
                Submitted::Known => (job.id, true),
                Submitted::Kept(holder) => (holder, true),
            };
            Ok(Handle::new(client.link, id, known))
        })
    }
}

impl<J: Job> IntoFuture for Draft<J, Confirmed> {
    type Output = Result<J::Output, ConfirmedError>;
    type IntoFuture = Submission<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let (Confirmed { client, within }, job) = self.exchange(());
        let job = job.into_job();
        Box::pin(async move {
            let job = job.map_err(ConfirmedError::Invalid)?;
            confirmed::run::<J>(&client.link.nats, client.link.connected, job, within).await
        })
    }
}

impl<J: Job> IntoFuture for Draft<J, FireAndForget> {
    type Output = Result<JobId, SubmitError>;
    type IntoFuture = Submission<Self::Output>;

    fn into_future(self) -> Self::IntoFuture {
        let (FireAndForget(client), job) = self.exchange(());
        let job = job.into_job();
        Box::pin(async move {
            let job = job?;
            let id = job.id;
            let nats = &client.link.nats;
            confirmed::publish(nats, job).await?;
            let flushed = tokio::time::timeout(FLUSH, nats.flush()).await;
            match flushed {
                Ok(Ok(())) => Ok(id),
                Ok(Err(error)) => Err(SubmitError::NotConnected(error.to_string())),
                Err(_) => Err(SubmitError::NotConnected(
                    "the job was not written in time".to_owned(),
                )),
            }
        })
    }
}
