//! Submits durable jobs: each is stored once, however often it is sent.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bootstrap::trace::TraceContext;
use bootstrap::{Client, Health, Nats};
use common::{JobId, subjects};
use jetstream::batch::MOST_MESSAGES;
use jetstream::headers::{EXPECTED_LAST, EXPECTED_LAST_OF, MESSAGE_ID, size_of};
use jetstream::{Entry, Message, NotStored, Pace, Stream, Writer, write_health};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

use crate::job::NewJob;

/// The waits before a job is sent again whose answer was lost: from this ...
const FIRST_WAIT: Duration = Duration::from_millis(100);

/// ... doubled each time up to this.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How often it is said that jobs wait for room.
const TELL: Duration = Duration::from_secs(10);

/// What a message may take beside the job: the headers of a submission, of its trace, of a schedule
/// and of a batch.
pub(crate) const MARGIN: usize = 4096;

/// How long a [`Submitter`] waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How long the server may take to confirm a job, with all repetitions.
    pub confirm: Duration,
    /// Whether that time stands still while there is no connection to NATS, so that jobs wait for
    /// it as long as it takes.
    pub wait_for_nats: bool,
    /// Whether it stands still while the queue is full, or the server has stopped storing. That it is
    /// gets a line in the log every ten seconds.
    pub wait_for_room: bool,
}

/// What became of a submission. In both cases the job is stored, and synced to the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Submitted {
    /// It is stored now.
    Stored,
    /// A job with this id was there before.
    Known,
}

/// Why a job was not stored, or may not have been.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// There is no room.
    #[error(
        "the stream {stream} takes no more jobs until some have been done: {why}; its bound is \
         max_bytes of the stream, or max_file of the account"
    )]
    Full {
        /// Which stream.
        stream: Stream,
        /// Which bound was reached, in the server's words.
        why: String,
    },
    /// It does not fit into a message.
    #[error(
        "the job has {size} bytes, and a durable one may have {limit} (max_payload of the server, \
         less what is kept for headers)"
    )]
    TooLarge {
        /// The size of the job in bytes.
        size: usize,
        /// The most that is taken.
        limit: usize,
    },
    /// There is no stream.
    #[error(
        "there is no stream {0}: a consumer makes it when it starts, on a server with JetStream"
    )]
    NoStream(Stream),
    /// The server does not take it.
    #[error("{0}")]
    Refused(String),
    /// Some of the jobs that were to be stored together or not at all are known, so none is stored.
    #[error("none is stored, because jobs of the same id are there already")]
    SomeKnown,
    /// Two of the jobs that were to be stored together have the same id, so none is stored.
    #[error("none is stored, because two of them have the same id {0}")]
    Twice(JobId),
    /// It is too much for one atomic batch.
    #[error("{0} jobs cannot be stored together: at most 1,000")]
    TooMany(usize),
    /// The server did not say in time.
    #[error("{0}; it may have been stored: submitted again with the same id, it is one job")]
    Unknown(String),
}

/// Hands jobs over. Those that wait at the same time are stored with one write.
#[derive(Clone, Debug)]
pub struct Submitter {
    client: Client,
    connected: watch::Receiver<bool>,
    patience: Patience,
    jobs: Writer,
    /// When it was last told that there is no room.
    told: Arc<Mutex<Option<Instant>>>,
    /// Of the service that submits, which has the signs of life of what works here.
    health: Option<Health>,
    /// Ends with the last clone.
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
            client: nats.client.clone(),
            connected: nats.connected(),
            patience,
            told: Arc::default(),
            health: Some(nats.health.clone()),
            _watch: Some(Arc::new(watch)),
        }
    }

    /// The same for a client, and for whatever says whether it is connected.
    #[must_use]
    pub fn over(client: &Client, connected: watch::Receiver<bool>, patience: Patience) -> Self {
        Self {
            jobs: Writer::start(client.clone(), connected.clone(), Pace::Prompt),
            client: client.clone(),
            connected,
            patience,
            told: Arc::default(),
            health: None,
            _watch: None,
        }
    }

    /// Stores a job; when it returns, the server has synced it to its disk. A submission whose
    /// answer was lost is repeated. One that is to run later is put off by a consumer.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub async fn submit(&self, job: &NewJob) -> Result<Submitted, SubmitError> {
        self.check_size(job)?;
        match self.store(|first| vec![queued(job, first)]).await {
            Ok(()) | Err(Failure::Repeated) => Ok(Submitted::Stored),
            Err(Failure::Known { .. }) => Ok(Submitted::Known),
            Err(Failure::Other(error)) => Err(error),
        }
    }

    /// Stores up to 1,000 jobs, all of them or none. Those that are to run later are put off by a
    /// consumer.
    ///
    /// # Errors
    /// See [`SubmitError`]; also when one of them is known already.
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
        // Tells a repetition from jobs that were there before.
        let mark = uuid::Uuid::new_v4().to_string();
        let make = |first| {
            let mut entry: Entry = jobs.iter().map(|job| queued(job, first)).collect();
            entry[0].headers.insert(MESSAGE_ID, mark.as_str());
            entry
        };
        match self.store(make).await {
            Ok(()) | Err(Failure::Repeated) => Ok(()),
            Err(Failure::Known { doubtful: false }) => Err(SubmitError::SomeKnown),
            // One alone is stored by this or it was before: the server does not tell.
            Err(Failure::Known { doubtful: true }) if jobs.len() == 1 => Ok(()),
            Err(Failure::Known { doubtful: true }) => Err(SubmitError::Unknown(
                "an answer was lost, and jobs of the same id are there now".to_owned(),
            )),
            Err(Failure::Other(error)) => Err(error),
        }
    }

    fn check_size(&self, job: &NewJob) -> Result<(), SubmitError> {
        // Asked each time: the connection may have moved to a server with another limit.
        let limit = self.client.max_payload().saturating_sub(MARGIN);
        // The margin has room for a trace: whoever records one hands over the same jobs.
        let trace = TraceContext::of_nats(Some(&job.headers)).map_or(0, |trace| trace.size());
        let headers = size_of(&job.headers).saturating_sub(trace);
        let size = job.payload.len() + headers;
        if size > limit {
            return Err(SubmitError::TooLarge { size, limit });
        }
        Ok(())
    }

    /// Stores what `make` gives, which is told whether it is certain that it was not stored before.
    async fn store(&self, make: impl Fn(bool) -> Entry) -> Result<(), Failure> {
        let Patience {
            confirm,
            wait_for_nats,
            wait_for_room,
        } = self.patience;
        let mut connected = self.connected.clone();
        let mut until = Instant::now() + confirm;
        let mut wait = FIRST_WAIT;
        // Whether an earlier try may have been stored.
        let mut doubtful = false;
        loop {
            if wait_for_nats && !*connected.borrow_and_update() {
                let back = connected.wait_for(|up| *up).await;
                back.map_err(|_| closed())?;
                until = Instant::now() + confirm;
            }
            let storing = self.jobs.store(make(!doubtful));
            let result = if wait_for_nats {
                // A batch has its own end.
                storing.await
            } else {
                let unknown = || NotStored::Unknown(format!("no answer within {confirm:?}"));
                let result = tokio::time::timeout_at(until, storing).await;
                result.unwrap_or_else(|_| Err(unknown()))
            };
            let error = match result {
                Ok(_) => return Ok(()),
                Err(NotStored::Repeated) => return Err(Failure::Repeated),
                Err(NotStored::Exists | NotStored::Conflict) => {
                    return Err(Failure::Known { doubtful });
                }
                Err(NotStored::Refused(why)) => {
                    return Err(Failure::Other(SubmitError::Refused(why)));
                }
                Err(NotStored::Full(why)) => SubmitError::Full {
                    stream: Stream::Jobs,
                    why,
                },
                Err(NotStored::NoStream) => SubmitError::NoStream(Stream::Jobs),
                Err(error @ NotStored::Incomplete) => SubmitError::Unknown(error.to_string()),
                Err(NotStored::Unknown(why)) => {
                    doubtful = true;
                    SubmitError::Unknown(why)
                }
            };
            let stopped = self.health.as_ref().and_then(write_health::stopped);
            let (error, stopped) = match (error, stopped) {
                (SubmitError::Unknown(_), Some(why)) => (SubmitError::Unknown(why), true),
                (error, _) => (error, false),
            };
            if wait_for_nats && connected.has_changed().unwrap_or(true) {
                until = Instant::now() + confirm;
            }
            let no_end = wait_for_room && (stopped || matches!(error, SubmitError::Full { .. }));
            let next = Instant::now() + wait.mul_f64(0.5 + 0.5 * rand::random::<f64>());
            if no_end {
                self.tell(&error);
                until = next + confirm;
            } else if next >= until {
                return Err(Failure::Other(error));
            }
            tokio::time::sleep_until(next).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    }
}

impl Submitter {
    /// Says that jobs wait for room, every ten seconds as long as they do.
    fn tell(&self, error: &SubmitError) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_none_or(|told| told.elapsed() >= TELL) {
            *told = Some(Instant::now());
            warn!("jobs wait to be stored: {error}");
        }
    }
}

enum Failure {
    /// An earlier try of the very same was stored.
    Repeated,
    Known {
        doubtful: bool,
    },
    Other(SubmitError),
}

fn closed() -> Failure {
    let why = "the connection to NATS is closed for good".to_owned();
    Failure::Other(SubmitError::Unknown(why))
}

/// A job for the queue; no other message may stand for it. Of a fresh one the only other can be one
/// with the same subject, which its stream refuses anyway.
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
        subject: subjects::durable_job(job.id, job.priority, 1, &job.kind),
        headers,
        payload: job.payload.clone(),
    }
}
