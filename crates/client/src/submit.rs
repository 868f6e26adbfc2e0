//! Submits durable jobs: each is stored once, however often it is sent.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::HeaderMap;
use common::{JobId, subjects};
use connection::{Health, Nats, NatsClient, Refusals};
use jetstream::batch::MOST_MESSAGES;
use jetstream::headers::{EXPECTED_LAST, EXPECTED_LAST_OF, MESSAGE_ID, size_of};
use jetstream::{Entry, Message, NotStored, Pace, Stream, Writer, write_health};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

use crate::job::NewJob;
use crate::room::Room;

/// The first wait before a job whose answer was lost is sent again.
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// The longest such wait; each wait is twice as long as the one before.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How often the log says that jobs wait for room.
const TELL: Duration = Duration::from_secs(10);

/// How many bytes of a message are reserved for headers: those of a submission, of a trace, of a
/// schedule and of a batch.
pub(crate) const MARGIN: usize = 4096;

/// For how many bytes of a trace [`MARGIN`] has room.
const TRACE: usize = 1024;

/// After this time without an answer, the submitter looks whether the server has refused the message.
const REFUSED: Duration = Duration::from_secs(1);

/// How long a [`Submitter`] waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long the server may take to confirm a job, including all retries.
    pub confirm: Duration,
    /// Whether this time does not count while there is no connection to NATS, so that jobs wait for the
    /// connection without a limit.
    pub wait_for_nats: bool,
    /// Whether this time does not count while the queue is full, or while the server has stopped
    /// storing. A line in the log says so every ten seconds.
    pub wait_for_room: bool,
}

/// The result of a submission. In both cases the job is stored and synced to the disk.
///
/// ```no_run
/// use client::{Client, NewJob, SubmitError, Submitted};
///
/// # async fn example(jobs: Client, job: NewJob) -> Result<(), SubmitError> {
/// if jobs.submit_job(&job).await? == Submitted::Known {
///     println!("{} waits or runs already", job.id);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Submitted {
    /// This submission stored the job.
    Stored,
    /// A job with this id waits or runs already. A job that has ended may be stored again, and is then not
    /// run again as long as its record is kept.
    Known,
}

/// Why a job was not stored, or may not be stored.
///
/// ```no_run
/// use client::{Client, NewJob, SubmitError};
///
/// # async fn example(jobs: Client, job: NewJob) -> Result<(), SubmitError> {
/// let mut submitted = jobs.submit_job(&job).await;
/// if let Err(SubmitError::MayBeStored { .. }) = submitted {
///     // The same id: it is not stored twice.
///     submitted = jobs.submit_job(&job).await;
/// }
/// submitted?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue or the storage of the account is full.
    #[error(
        "the stream {stream} is full until some jobs are done: {why}; the limit is max_bytes of \
         the stream, or max_file of the account"
    )]
    Full {
        /// The stream.
        stream: Stream,
        /// The error text of the server, which names the limit.
        why: String,
    },
    /// The job does not fit into a message.
    #[error(
        "the job has {size} bytes; a durable job may have at most {limit} (max_payload of the \
         server minus the room for headers)"
    )]
    TooLarge {
        /// The size of the job in bytes.
        size: usize,
        /// The largest size that is accepted, in bytes.
        limit: usize,
    },
    /// The stream does not exist.
    #[error(
        "there is no stream {0}: a consumer creates it when it starts, if the server has JetStream"
    )]
    NoStream(Stream),
    /// The server refuses the job.
    #[error("{0}")]
    Refused(String),
    /// The user of this connection may not publish to the subject of the job. It is not stored.
    #[error(
        "the server does not let this user publish to {0}: grant it that in the permissions of the \
         server (jobs.durable.> for durable jobs)"
    )]
    Forbidden(String),
    /// There was no connection in time, so the job was never sent and is not stored.
    #[error("not connected to NATS: {0}")]
    NotConnected(String),
    /// An option or the payload of the job cannot be used. It is not stored.
    #[error("field `{field}`: {reason}")]
    Invalid {
        /// The option, or `payload`.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Of jobs that are stored together or not at all, some are known already, so none is stored.
    #[error("no job was stored, because some of these ids are stored already")]
    SomeKnown,
    /// Of jobs that are stored together or not at all, two have the same id, so none is stored.
    #[error("no job was stored, because two of the jobs have the same id {0}")]
    Twice(JobId),
    /// There are too many jobs for one atomic batch.
    #[error("{0} jobs cannot be stored together: at most 1,000")]
    TooMany(usize),
    /// The server did not answer in time, so the jobs may be stored. It is safe to submit them again
    /// with the same ids: a job is not stored twice.
    #[error(
        "{why}; the job may be stored: submit it again with the same id, it is not stored twice"
    )]
    MayBeStored {
        /// The ids of the jobs.
        ids: Vec<JobId>,
        /// Why it is not known.
        why: String,
    },
}

/// Submits jobs. Jobs that wait at the same time are stored with one write.
///
/// ```no_run
/// use std::time::Duration;
///
/// use client::{Client, NewJob, Patience, SubmitError, Submitter};
///
/// # async fn example(jobs: Client, job: NewJob) -> Result<(), SubmitError> {
/// // For a program that waits for NATS and for room as long as it takes.
/// let patience = Patience {
///     confirm: Duration::from_secs(30),
///     wait_for_nats: true,
///     wait_for_room: true,
/// };
/// let submitter = Submitter::over(jobs.nats(), jobs.connected(), patience);
/// submitter.submit(&job).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Submitter {
    client: NatsClient,
    connected: watch::Receiver<bool>,
    patience: Patience,
    jobs: Writer,
    room: Room,
    /// When the log last said that jobs wait for room.
    told: Arc<Mutex<Option<Instant>>>,
    /// The health of the service that submits, if there is one; it watches the tasks of this submitter.
    health: Option<Health>,
    /// What the server has refused; `None` if the connection does not tell.
    refusals: Option<Refusals>,
    /// The watch of the storage; it ends when the last clone is dropped.
    _watch: Option<Arc<JoinSet<()>>>,
}

impl Submitter {
    /// Prepares to submit over a connection.
    #[must_use]
    pub fn new(nats: &Nats, patience: Patience) -> Self {
        let jobs = Writer::supervised(nats, "submissions", Pace::Prompt);
        let (client, health) = (nats.client.clone(), nats.health.clone());
        let writes = vec![jobs.unanswered()];
        let work = |life| write_health::watch(client, health, writes, life);
        let mut watch = JoinSet::new();
        watch.spawn(nats.health.supervise("watch of the storage", work));
        Self {
            jobs,
            room: Room::new(),
            client: nats.client.clone(),
            connected: nats.connected(),
            patience,
            told: Arc::default(),
            health: Some(nats.health.clone()),
            refusals: Some(nats.refusals()),
            _watch: Some(Arc::new(watch)),
        }
    }

    /// The same for a client without a service; `connected` says whether the client is connected.
    #[must_use]
    pub fn over(client: &NatsClient, connected: watch::Receiver<bool>, patience: Patience) -> Self {
        Self {
            jobs: Writer::start(client.clone(), connected.clone(), Pace::Prompt),
            room: Room::new(),
            client: client.clone(),
            connected,
            patience,
            told: Arc::default(),
            health: None,
            refusals: None,
            _watch: None,
        }
    }

    /// Stores a job. When this returns, the server has synced the job to its disk. If the answer is
    /// lost, the job is sent again. A job that is to run later is stored in the same way; a consumer
    /// puts it off.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub async fn submit(&self, job: &NewJob) -> Result<Submitted, SubmitError> {
        self.check_size(job)?;
        match self.store(job, |first| vec![queued(job, first)]).await {
            Ok(()) | Err(Failure::Repeated) => Ok(Submitted::Stored),
            // Nobody else knows the id of a fresh job: an earlier try has stored it.
            Err(Failure::Known { doubtful: true }) if job.fresh => Ok(Submitted::Stored),
            Err(Failure::Known { .. }) => Ok(Submitted::Known),
            Err(Failure::Unknown(why)) => Err(SubmitError::MayBeStored {
                ids: vec![job.id],
                why,
            }),
            Err(Failure::Other(error)) => Err(error),
        }
    }

    /// Stores up to 1,000 jobs, all of them or none. Jobs that are to run later are put off by a
    /// consumer.
    ///
    /// # Errors
    /// See [`SubmitError`]; also when one of the jobs is known already.
    pub async fn submit_all(&self, jobs: &[NewJob]) -> Result<(), SubmitError> {
        if jobs.len() > MOST_MESSAGES {
            return Err(SubmitError::TooMany(jobs.len()));
        }
        if jobs.is_empty() {
            return Ok(());
        }
        let mut ids = HashSet::new();
        for job in jobs {
            self.check_size(job)?;
            if !ids.insert(job.id) {
                return Err(SubmitError::Twice(job.id));
            }
        }
        // Distinguishes a retry of this submission from jobs that were stored before.
        let mark = uuid::Uuid::new_v4().to_string();
        let make = |first| {
            let mut entry: Entry = jobs.iter().map(|job| queued(job, first)).collect();
            entry[0].headers.insert(MESSAGE_ID, mark.as_str());
            entry
        };
        let may_be_stored = |why| SubmitError::MayBeStored {
            ids: jobs.iter().map(|job| job.id).collect(),
            why,
        };
        match self.store(&jobs[0], make).await {
            Ok(()) | Err(Failure::Repeated) => Ok(()),
            Err(Failure::Known { doubtful: false }) => Err(SubmitError::SomeKnown),
            // A single job is stored, by this submission or before it; the server does not say which.
            Err(Failure::Known { doubtful: true }) if jobs.len() == 1 => Ok(()),
            Err(Failure::Known { doubtful: true }) => Err(may_be_stored(
                "an answer was lost, and jobs of the same id are there now".to_owned(),
            )),
            Err(Failure::Unknown(why)) => Err(may_be_stored(why)),
            Err(Failure::Other(error)) => Err(error),
        }
    }

    fn check_size(&self, job: &NewJob) -> Result<(), SubmitError> {
        // Read each time: the connection may have moved to a server with another limit.
        let limit = self.client.max_payload().saturating_sub(MARGIN);
        // The trace headers do not count, because the margin has room for them: the same jobs are
        // accepted with and without a trace.
        let headers = size_of(&job.headers);
        let headers = headers - size_of_trace(&job.headers).min(TRACE);
        let size = job.payload.len() + headers;
        if size > limit {
            return Err(SubmitError::TooLarge { size, limit });
        }
        Ok(())
    }

    /// Stores the entry that `make` returns, whose first job is `job`. The argument of `make` is `true`
    /// if no earlier try can have stored the entry.
    async fn store(&self, job: &NewJob, make: impl Fn(bool) -> Entry) -> Result<(), Failure> {
        let mut doubtful = false;
        let stored = self.try_until_stored(job, make, &mut doubtful).await;
        stored.map_err(|failure| match failure {
            // A later try failed for certain, but an earlier one may have been stored.
            Failure::Other(error) if doubtful && !matches!(error, SubmitError::Forbidden(_)) => {
                Failure::Unknown(error.to_string())
            }
            failure => failure,
        })
    }

    /// Tries until the entry is stored, or there is no time left. Sets `doubtful` when a try may have been
    /// stored.
    async fn try_until_stored(
        &self,
        job: &NewJob,
        make: impl Fn(bool) -> Entry,
        doubtful: &mut bool,
    ) -> Result<(), Failure> {
        let Patience {
            confirm,
            wait_for_nats,
            wait_for_room,
        } = self.patience;
        let mut connected = self.connected.clone();
        let mut until = Instant::now() + confirm;
        let mut wait = FIRST_WAIT;
        loop {
            if !*connected.borrow_and_update() {
                let back = connected.wait_for(|up| *up);
                if wait_for_nats {
                    back.await.map_err(|_| closed())?;
                    until = Instant::now() + confirm;
                } else {
                    let back = tokio::time::timeout_at(until, back).await;
                    let away = || {
                        let why = format!("no connection within {confirm:?}");
                        Failure::Other(SubmitError::NotConnected(why))
                    };
                    back.map_err(|_| away())?.map_err(|_| closed())?;
                }
            }
            let full = self.room.check(&self.client, &self.jobs);
            let storing = async {
                match full {
                    Some(why) => Err(NotStored::Full(why)),
                    None => self.jobs.store(make(!*doubtful)).await,
                }
            };
            let is_refused = || self.is_refused(job);
            let result = if wait_for_nats {
                // The writer has a timeout of its own.
                storing.await
            } else {
                until_refused(until, confirm, is_refused, storing).await
            };
            let error = match result {
                Ok(_) => return Ok(()),
                Err(NotStored::Repeated) => return Err(Failure::Repeated),
                Err(NotStored::Exists | NotStored::Conflict) => {
                    return Err(Failure::Known {
                        doubtful: *doubtful,
                    });
                }
                Err(NotStored::Refused(why)) => {
                    return Err(Failure::Other(SubmitError::Refused(why)));
                }
                Err(NotStored::Forbidden(subject)) => {
                    return Err(Failure::Other(SubmitError::Forbidden(subject)));
                }
                Err(error @ NotStored::TooLarge(_)) => {
                    return Err(Failure::Other(SubmitError::Refused(error.to_string())));
                }
                Err(NotStored::Full(why)) => {
                    let stream = Stream::Jobs;
                    Failure::Other(SubmitError::Full { stream, why })
                }
                Err(NotStored::NoStream) => Failure::Other(SubmitError::NoStream(Stream::Jobs)),
                Err(error @ NotStored::Incomplete) => Failure::Unknown(error.to_string()),
                Err(NotStored::Unknown(why)) => {
                    if is_refused() {
                        let subject = subject_in_queue(job);
                        return Err(Failure::Other(SubmitError::Forbidden(subject)));
                    }
                    *doubtful = true;
                    Failure::Unknown(why)
                }
            };
            let stopped = self.health.as_ref().and_then(write_health::stopped);
            let (error, stopped) = match (error, stopped) {
                (Failure::Unknown(_), Some(why)) => (Failure::Unknown(why), true),
                (error, _) => (error, false),
            };
            if wait_for_nats && connected.has_changed().unwrap_or(true) {
                until = Instant::now() + confirm;
            }
            let full = matches!(error, Failure::Other(SubmitError::Full { .. }));
            let no_end = wait_for_room && (stopped || full);
            let next = Instant::now() + wait.mul_f64(0.5 + 0.5 * rand::random::<f64>());
            if no_end {
                self.tell(&error);
                until = next + confirm;
            } else if next >= until {
                return Err(error);
            }
            tokio::time::sleep_until(next).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
}

impl Submitter {
    /// Logs that jobs wait for room, at most every ten seconds.
    fn tell(&self, error: &Failure) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TELL) {
            *told = Some(Instant::now());
            match error {
                Failure::Other(error) => warn!("jobs wait to be stored: {error}"),
                Failure::Unknown(why) => warn!("jobs wait to be stored: {why}"),
                Failure::Repeated | Failure::Known { .. } => {}
            }
        }
    }

    /// Whether the server has refused the message of a job.
    fn is_refused(&self, job: &NewJob) -> bool {
        let refusals = self.refusals.as_ref();
        refusals.is_some_and(|refusals| refusals.contains(&subject_in_queue(job)))
    }
}

/// Waits for the result of a write until a time, or until the server is known to have refused it.
async fn until_refused(
    until: Instant,
    confirm: Duration,
    is_refused: impl Fn() -> bool,
    storing: impl Future<Output = Result<u64, NotStored>>,
) -> Result<u64, NotStored> {
    let mut storing = std::pin::pin!(storing);
    loop {
        let look = until.min(Instant::now() + REFUSED);
        if let Ok(result) = tokio::time::timeout_at(look, &mut storing).await {
            return result;
        }
        if look >= until || is_refused() {
            let why = format!("no answer within {confirm:?}");
            return Err(NotStored::Unknown(why));
        }
    }
}

/// The size of the trace headers, in bytes.
fn size_of_trace(headers: &HeaderMap) -> usize {
    if headers.is_empty() {
        return 0;
    }
    let sizes = ["traceparent", "tracestate"]
        .into_iter()
        .filter_map(|name| {
            let value = headers.get(name)?;
            Some(name.len() + value.as_str().len() + ": \r\n".len())
        });
    sizes.sum()
}

/// The subject on which a job is stored.
fn subject_in_queue(job: &NewJob) -> String {
    subjects::durable_job(job.id, job.priority, 1, &job.kind)
}

enum Failure {
    /// An earlier try of the same entry was stored.
    Repeated,
    Known {
        doubtful: bool,
    },
    /// The entry may be stored.
    Unknown(String),
    Other(SubmitError),
}

fn closed() -> Failure {
    let why = "the connection to NATS is closed for good".to_owned();
    Failure::Other(SubmitError::NotConnected(why))
}

/// The message of a job in the queue. The server refuses it if the queue holds a message of the same
/// job. A fresh job needs no header for this: the only such message can be an earlier try with the same
/// subject, and the stream keeps one message for each subject.
fn queued(job: &NewJob, first: bool) -> Message {
    let mut headers = job.headers.clone();
    if !job.fresh {
        headers.insert(EXPECTED_LAST, "0");
        headers.insert(
            EXPECTED_LAST_OF,
            format!("{}.{}.>", subjects::DURABLE, job.id),
        );
    } else if first {
        headers.insert(subjects::FRESH_HEADER, "1");
    }
    Message {
        subject: subject_in_queue(job),
        headers,
        payload: job.payload.clone(),
    }
}
