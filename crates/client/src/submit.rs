//! Submits durable jobs: each is stored once, however often it is sent.

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::slice;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_nats::HeaderMap;
use common::{OnConflict, Unique, UniqueHash, subjects};
use connection::{Health, Nats, NatsClient, Refusals};
use futures_util::future::join_all;
use jetstream::batch::MOST_MESSAGES;
use jetstream::headers::{EXPECTED_LAST, EXPECTED_LAST_OF, MESSAGE_ID, set_fresh, size_of};
use jetstream::{Entry, Message, NotStored, Pace, Stream, Writer, write_health};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tracing::warn;

use crate::job::NewJob;
use crate::known_ids::KnownIds;
use crate::room::Room;
use crate::submitted::{SubmitError, Submitted};
use crate::unique::{self, Holder};

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

/// How often jobs are submitted together while stale locks of their keys are removed.
const TRIES: usize = 8;

/// The longest wait before a unique job is submitted again whose key was released a moment ago.
const KEY_WAIT: Duration = Duration::from_millis(10);

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

/// Submits jobs. Jobs that wait at the same time are stored with one write.
///
/// The ids of jobs that are not [fresh](NewJob::fresh) are looked up first, those that wait at the same time
/// with one request: a job that has ended is known by its record, when its message is gone.
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
    known: KnownIds,
    jobs: Writer,
    /// Writes unique jobs. A conflict makes a writer send a whole batch again in parts, which must not
    /// slow other jobs.
    unique_jobs: Writer,
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
        let unique_jobs = Writer::supervised(nats, "unique submissions", Pace::Prompt);
        let writes = vec![jobs.unanswered(), unique_jobs.unanswered()];
        let work = |life| write_health::watch(client, health, writes, life);
        let mut watch = JoinSet::new();
        watch.spawn(nats.health.supervise("watch of the storage", work));
        Self {
            known: KnownIds::supervised(nats),
            jobs,
            unique_jobs,
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
            known: KnownIds::start(client.clone(), connected.clone()),
            jobs: Writer::start(client.clone(), connected.clone(), Pace::Prompt),
            unique_jobs: Writer::start(client.clone(), connected.clone(), Pace::Prompt),
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

    /// Stores a job, unless one with its id is known. When this returns, the server has synced the job to its
    /// disk. If the answer is lost, the job is sent again. A job that is to run later is stored in the same way; a consumer
    /// puts it off.
    ///
    /// # Errors
    /// See [`SubmitError`].
    pub async fn submit(&self, job: &NewJob) -> Result<Submitted, SubmitError> {
        self.submit_after(job, Progress::of(slice::from_ref(job)))
            .await
    }

    /// Stores many jobs, each by itself, and returns their results in the same order, when the last is known.
    /// This is the same as a [`Submitter::submit`] for each, but costs less where the jobs are
    /// [fresh](NewJob::fresh) and not unique.
    pub async fn submit_each(&self, jobs: &[NewJob]) -> Vec<Result<Submitted, SubmitError>> {
        let since = Instant::now();
        let tried = self.try_together(jobs).await;
        let (mut results, mut again) = (Vec::with_capacity(jobs.len()), Vec::new());
        for (place, (job, tried)) in jobs.iter().zip(tried).enumerate() {
            let doubtful = match tried {
                Some(Ok(_)) => {
                    results.push(Ok(Submitted::Stored));
                    continue;
                }
                Some(Err(error)) => matches!(error, NotStored::Unknown(_)),
                None => false,
            };
            // Replaced below.
            results.push(Ok(Submitted::Known));
            let earlier = Progress {
                since,
                doubtful,
                ..Progress::of(slice::from_ref(job))
            };
            again.push(async move { (place, self.submit_after(job, earlier).await) });
        }
        for (place, result) in join_all(again).await {
            results[place] = result;
        }
        results
    }

    /// Tries to store each of the jobs that need nothing else; `None` for the others.
    async fn try_together(&self, jobs: &[NewJob]) -> Vec<Option<Result<u64, NotStored>>> {
        let mut tried = vec![None; jobs.len()];
        let writers = [&self.jobs, &self.unique_jobs];
        let is_full = self.room.check(&self.client, writers).is_some();
        if is_full || !self.patience.wait_for_nats || !*self.connected.borrow() {
            return tried;
        }
        let is_plain =
            |job: &NewJob| job.fresh && job.unique.is_none() && self.check_size(job).is_ok();
        let plain: Vec<_> = (0..jobs.len())
            .filter(|place| is_plain(&jobs[*place]))
            .collect();
        let entries = plain.iter().map(|place| vec![queued(&jobs[*place], true)]);
        let results = self.jobs.store_each(entries.collect()).await;
        for (place, result) in plain.into_iter().zip(results) {
            tried[place] = Some(result);
        }
        tried
    }

    async fn submit_after(
        &self,
        job: &NewJob,
        earlier: Progress,
    ) -> Result<Submitted, SubmitError> {
        self.check_size(job)?;
        if let Some(unique) = &job.unique {
            return self.submit_unique(job, unique).await;
        }
        let make = |first| vec![queued(job, first)];
        let jobs = slice::from_ref(job);
        match self.store(&self.jobs, jobs, make, earlier).await {
            Ok(()) | Err(Failure::Repeated) => Ok(Submitted::Stored),
            // Nobody else knows the id of a fresh job: an earlier try has stored it.
            Err(Failure::Known { doubtful: true }) if job.fresh => Ok(Submitted::Stored),
            Err(Failure::Known { .. }) => Ok(Submitted::Known),
            Err(Failure::Unknown(why)) => Err(may_be_stored(job, why)),
            Err(Failure::Other(error)) => Err(error),
        }
    }

    /// Stores a unique job and its lock in one batch. The server refuses the batch if it holds a message
    /// of the same id or a lock of the same key, and does not say which; the lock tells.
    async fn submit_unique(&self, job: &NewJob, unique: &Unique) -> Result<Submitted, SubmitError> {
        let hash = unique::hash(&job.kind, &unique.key);
        let (mut lost_an_answer, mut nobody) = (false, 0);
        let until = Instant::now() + self.patience.confirm;
        loop {
            let make = |first| {
                let first = first && !lost_an_answer;
                vec![queued(job, first), unique::lock(hash, job.id)]
            };
            let jobs = slice::from_ref(job);
            let progress = Progress::of(jobs);
            match self.store(&self.unique_jobs, jobs, make, progress).await {
                Ok(()) | Err(Failure::Repeated) => return Ok(Submitted::Stored),
                Err(Failure::Known { doubtful }) => lost_an_answer |= doubtful,
                Err(Failure::Unknown(why)) => return Err(may_be_stored(job, why)),
                Err(Failure::Other(error)) => return Err(error),
            }
            let holder = unique::holder(&self.client, hash, job.id).await;
            match holder.map_err(|error| may_be_stored(job, format!("{error:#}")))? {
                Holder::This if job.fresh => return Ok(Submitted::Stored),
                Holder::This => return Ok(Submitted::Known),
                Holder::Other(holder) if lost_an_answer => {
                    let why = format!("an answer was lost, and job {holder} holds the key now");
                    return Err(may_be_stored(job, why));
                }
                Holder::Other(holder) if unique.on_conflict == OnConflict::Keep => {
                    return Ok(Submitted::Kept(holder));
                }
                Holder::Other(holder) => {
                    let key = unique.key.to_string();
                    return Err(SubmitError::Conflict { holder, key });
                }
                Holder::Released => {}
                // It may have been released a moment ago. Otherwise the id is known, and the job has
                // released its key.
                Holder::Nobody if nobody > 0 && job.fresh && lost_an_answer => {
                    return Ok(Submitted::Stored);
                }
                Holder::Nobody if nobody > 0 && !job.fresh => return Ok(Submitted::Known),
                Holder::Nobody => nobody += 1,
            }
            if Instant::now() >= until {
                return Err(SubmitError::Refused(format!(
                    "the key {:?} went from job to job meanwhile; submit the job again",
                    unique.key.as_str()
                )));
            }
            if nobody > 1 {
                // Others want the key as well: whoever comes a little later finds a holder, or nobody.
                tokio::time::sleep(KEY_WAIT.mul_f64(rand::random())).await;
            }
        }
    }

    /// Stores up to 1,000 jobs, all of them or none; a unique job counts twice. Jobs that are to run later
    /// are put off by a consumer. If another job holds the key of one of them, none is stored, whatever
    /// their `on_conflict` says.
    ///
    /// # Errors
    /// See [`SubmitError`]; also when one of the jobs is known already.
    pub async fn submit_all(&self, jobs: &[NewJob]) -> Result<(), SubmitError> {
        let locks = jobs
            .iter()
            .filter_map(|job| Some((job, unique::hash_of(job)?)));
        let locks: Vec<_> = locks.collect();
        if jobs.len() + locks.len() > MOST_MESSAGES {
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
        // The server (2.15.1) may store a part of a batch with the same subject twice.
        let mut hashes = HashSet::new();
        for (job, hash) in &locks {
            if !hashes.insert(*hash) {
                return Err(SubmitError::SameKey(key_of(job)));
            }
        }
        // Distinguishes a retry of this submission from jobs that were stored before.
        let mark = uuid::Uuid::new_v4().to_string();
        let make = |first| {
            let mut entry: Entry = jobs.iter().map(|job| queued(job, first)).collect();
            entry.extend(locks.iter().map(|(job, hash)| unique::lock(*hash, job.id)));
            entry[0].headers.insert(MESSAGE_ID, mark.as_str());
            entry
        };
        let writer = if locks.is_empty() {
            &self.jobs
        } else {
            &self.unique_jobs
        };
        let may_be_stored = |why| SubmitError::MayBeStored {
            ids: jobs.iter().map(|job| job.id).collect(),
            why,
        };
        // A key may be released between the refusal and the look at its lock.
        let mut again = !locks.is_empty();
        for _ in 0..TRIES {
            let progress = Progress::of(jobs);
            let doubtful = match self.store(writer, jobs, make, progress).await {
                Ok(()) | Err(Failure::Repeated) => return Ok(()),
                Err(Failure::Known { doubtful }) => doubtful,
                Err(Failure::Unknown(why)) => return Err(may_be_stored(why)),
                Err(Failure::Other(error)) => return Err(error),
            };
            if doubtful && (jobs.len() > 1 || !locks.is_empty()) {
                return Err(may_be_stored(
                    "an answer was lost, and jobs of the same id or with the same key are there now"
                        .to_owned(),
                ));
            }
            if doubtful {
                // A single job is stored, by this submission or before it; the server does not say which.
                return Ok(());
            }
            let released = self.conflict(&locks).await;
            let released = released.map_err(|error| error.unwrap_or_else(may_be_stored))?;
            if !released && !std::mem::take(&mut again) {
                return Err(SubmitError::SomeKnown);
            }
        }
        Err(SubmitError::SomeKnown)
    }

    /// Looks whether another job holds one of the keys, which is an error; otherwise, whether a stale lock
    /// was removed.
    async fn conflict(
        &self,
        locks: &[(&NewJob, UniqueHash)],
    ) -> Result<bool, Result<SubmitError, String>> {
        let mut released = false;
        for (job, hash) in locks {
            let holder = unique::holder(&self.client, *hash, job.id).await;
            match holder.map_err(|error| Err(format!("{error:#}")))? {
                Holder::Other(holder) => {
                    let key = key_of(job);
                    return Err(Ok(SubmitError::Conflict { holder, key }));
                }
                Holder::Released => released = true,
                Holder::This | Holder::Nobody => {}
            }
        }
        Ok(released)
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

    /// Stores the entry that `make` returns for these jobs, of which there is at least one. The argument of
    /// `make` is `true` if no earlier try can have stored the entry.
    async fn store(
        &self,
        writer: &Writer,
        jobs: &[NewJob],
        make: impl Fn(bool) -> Entry,
        mut progress: Progress,
    ) -> Result<(), Failure> {
        let stored = self
            .try_until_stored(writer, jobs, make, &mut progress)
            .await;
        stored.map_err(|failure| match failure {
            // A later try failed for certain, but an earlier one may have been stored.
            Failure::Other(error)
                if progress.doubtful && !matches!(error, SubmitError::Forbidden(_)) =>
            {
                Failure::Unknown(error.to_string())
            }
            failure => failure,
        })
    }

    /// Tries until the entry is stored, or there is no time left.
    async fn try_until_stored(
        &self,
        writer: &Writer,
        jobs: &[NewJob],
        make: impl Fn(bool) -> Entry,
        progress: &mut Progress,
    ) -> Result<(), Failure> {
        let Patience {
            confirm,
            wait_for_nats,
            wait_for_room,
        } = self.patience;
        let mut connected = self.connected.clone();
        let mut until = progress.since + confirm;
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
            let error = match self.try_once(writer, jobs, &make, progress, until).await {
                ControlFlow::Break(result) => return result,
                ControlFlow::Continue(error) => error,
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

    /// Looks the jobs up, unless an earlier try has, and tries to store the entry. Continues with an error
    /// after which another try may succeed.
    async fn try_once(
        &self,
        writer: &Writer,
        jobs: &[NewJob],
        make: impl Fn(bool) -> Entry,
        progress: &mut Progress,
        until: Instant,
    ) -> ControlFlow<Result<(), Failure>, Failure> {
        if !progress.looked_up {
            let known = tokio::time::timeout_at(until, self.known.any(jobs)).await;
            let late = || Err(format!("no answer within {:?}", self.patience.confirm));
            match known.unwrap_or_else(|_| late()) {
                Ok(true) => return ControlFlow::Break(Err(Failure::Known { doubtful: false })),
                Ok(false) => progress.looked_up = true,
                Err(why) => return ControlFlow::Continue(SubmitError::NotLookedUp(why).into()),
            }
        }
        let writers = [&self.jobs, &self.unique_jobs];
        let full = self.room.check(&self.client, writers);
        let storing = async {
            match full {
                Some(why) => Err(NotStored::Full(why)),
                None => writer.store(make(!progress.doubtful)).await,
            }
        };
        let is_refused = || self.refused_subject(&jobs[0]).is_some();
        let result = if self.patience.wait_for_nats {
            // The writer has a timeout of its own.
            storing.await
        } else {
            until_refused(until, self.patience.confirm, is_refused, storing).await
        };
        let (failure, is_final) = match result {
            Ok(_) => return ControlFlow::Break(Ok(())),
            Err(NotStored::Repeated) => (Failure::Repeated, true),
            Err(NotStored::Exists | NotStored::Conflict) => {
                let doubtful = progress.doubtful;
                (Failure::Known { doubtful }, true)
            }
            Err(NotStored::Refused(why)) => (SubmitError::Refused(why).into(), true),
            Err(NotStored::Forbidden(subject)) => (SubmitError::Forbidden(subject).into(), true),
            Err(error @ NotStored::TooLarge(_)) => {
                (SubmitError::Refused(error.to_string()).into(), true)
            }
            Err(NotStored::Full(why)) => {
                let stream = Stream::Jobs;
                (SubmitError::Full { stream, why }.into(), false)
            }
            Err(NotStored::NoStream) => (SubmitError::NoStream(Stream::Jobs).into(), false),
            Err(error @ NotStored::Incomplete) => (Failure::Unknown(error.to_string()), false),
            Err(NotStored::Unknown(_)) if let Some(subject) = self.refused_subject(&jobs[0]) => {
                (SubmitError::Forbidden(subject).into(), true)
            }
            Err(NotStored::Unknown(why)) => {
                progress.doubtful = true;
                (Failure::Unknown(why), false)
            }
        };
        if is_final {
            ControlFlow::Break(Err(failure))
        } else {
            ControlFlow::Continue(failure)
        }
    }
}

/// How far the tries of a submission have come.
#[derive(Clone, Copy)]
struct Progress {
    /// When the first try began.
    since: Instant,
    /// Whether no job of the entry is known by its record, or all are fresh.
    looked_up: bool,
    /// Whether a try may have stored the entry.
    doubtful: bool,
}

impl Progress {
    /// That of jobs which were not tried yet.
    fn of(jobs: &[NewJob]) -> Self {
        Self {
            since: Instant::now(),
            looked_up: jobs.iter().all(|job| job.fresh),
            doubtful: false,
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

    /// The subject of a message of a job that the server has refused; `None` if it has refused none.
    fn refused_subject(&self, job: &NewJob) -> Option<String> {
        let refusals = self.refusals.as_ref()?;
        let lock = unique::hash_of(job).map(subjects::unique);
        let mut of_job = std::iter::once(subject_in_queue(job)).chain(lock);
        of_job.find(|subject| refusals.contains(subject))
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

/// The key of a unique job, for an error.
fn key_of(job: &NewJob) -> String {
    let unique = job.unique.as_ref();
    unique.map_or_else(String::new, |unique| unique.key.to_string())
}

fn may_be_stored(job: &NewJob, why: String) -> SubmitError {
    SubmitError::MayBeStored {
        ids: vec![job.id],
        why,
    }
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

impl From<SubmitError> for Failure {
    fn from(error: SubmitError) -> Self {
        Self::Other(error)
    }
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
            EXPECTED_LAST_OF.clone(),
            format!("{}.{}.>", subjects::DURABLE, job.id),
        );
    } else if first {
        set_fresh(&mut headers);
    }
    if let Some(hash) = unique::hash_of(job) {
        unique::mark(&mut headers, hash);
    }
    Message {
        subject: subject_in_queue(job),
        headers,
        payload: job.payload.clone(),
    }
}
