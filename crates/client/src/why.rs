//! Says why a job has not ended yet.

use std::fmt;
use std::time::Duration;

use common::{JobId, JobKind, JobRecord, JobState, JobSubject, Timestamp, UniqueKey, subjects};
use connection::NatsClient;
use jetstream::headers::newer_version;
use jetstream::job_messages::{self, Place};
use jetstream::{StoredMessage, Stream, direct_get, is_served, kind_settings, manage};

use crate::key::key_of;
use crate::lookup::look_up;

/// How long to wait for an answer of the consumers that serve a kind.
const SERVED: Duration = Duration::from_secs(1);

/// A job, and why it has not ended.
///
/// ```no_run
/// # async fn example(jobs: client::Client, id: client::JobId) -> anyhow::Result<()> {
/// if let Some(client::Why { state, reasons }) = client::why(jobs.nats(), id).await? {
///     println!("the job is {state}");
///     for reason in reasons {
///         println!("{reason}");
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Why {
    /// The state of the job.
    pub state: JobState,
    /// Why it has not ended, the most important reason first; empty if the job has ended, or is about to
    /// run. A dead job may have a reason why it cannot be replayed.
    pub reasons: Vec<Reason>,
}

/// A reason why a job has not ended. Displayed as a sentence.
///
/// ```
/// let reason = client::Reason::Behind { jobs: 1 };
/// assert_eq!(reason.to_string(), "1 job of its kind is in front of it");
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Reason {
    /// Somebody has requested to cancel it, and no consumer has done so yet.
    CancelRequested {
        /// When.
        at: Timestamp,
    },
    /// It runs.
    Running {
        /// The consumer that runs it.
        consumer: Option<String>,
        /// The number of the attempt.
        attempt: u32,
        /// Since when.
        since: Timestamp,
    },
    /// It waits for its time.
    Scheduled {
        /// When it is due.
        until: Timestamp,
    },
    /// Its last attempt failed, and it waits for the next one.
    Retrying {
        /// When the next attempt is due.
        until: Timestamp,
        /// The number of the attempt that failed.
        attempt: u32,
    },
    /// All kinds are paused.
    AllPaused {
        /// When the pause ends by itself; absent if it does not.
        until: Option<Timestamp>,
        /// Why they are paused.
        reason: Option<String>,
        /// Who has paused them.
        by: Option<String>,
    },
    /// Its kind is paused.
    Paused {
        /// The kind.
        kind: JobKind,
        /// When the pause ends by itself; absent if it does not.
        until: Option<Timestamp>,
        /// Why it is paused.
        reason: Option<String>,
        /// Who has paused it.
        by: Option<String>,
    },
    /// No consumer serves its kind now.
    NoConsumer {
        /// The kind.
        kind: JobKind,
    },
    /// Only consumers of a later version can read it.
    NewerVersion {
        /// The version of the wire format that it needs.
        version: u32,
    },
    /// Other jobs of its kind are in front of it: those of its own priority, if the priorities of the kind are
    /// heeded.
    Behind {
        /// How many.
        jobs: u64,
    },
    /// A consumer has received it and has not said so in a record: it is about to run, runs for less than
    /// about a second, or the consumer was lost with it. Then the server delivers it again.
    Delivered,
    /// It is dead, and another job holds its key by now: it cannot be replayed until that one has released the
    /// key.
    KeyHeld {
        /// The key.
        key: UniqueKey,
        /// The job that holds it.
        holder: JobId,
    },
    /// What is stored in place of its record cannot be read. Its next record replaces that.
    Unreadable,
}

impl Reason {
    /// The reason as a word for programs, such as `no_consumer`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::CancelRequested { .. } => "cancel_requested",
            Self::Running { .. } => "running",
            Self::Scheduled { .. } => "scheduled",
            Self::Retrying { .. } => "retrying",
            Self::AllPaused { .. } => "all_paused",
            Self::Paused { .. } => "paused",
            Self::NoConsumer { .. } => "no_consumer",
            Self::NewerVersion { .. } => "newer_version",
            Self::Behind { .. } => "behind",
            Self::Delivered => "delivered",
            Self::KeyHeld { .. } => "key_held",
            Self::Unreadable => "unreadable",
        }
    }

    /// When the reason ends by itself, if it does.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        match self {
            Self::Scheduled { until } | Self::Retrying { until, .. } => Some(*until),
            Self::AllPaused { until, .. } | Self::Paused { until, .. } => *until,
            _ => None,
        }
    }

    /// The other job that holds the key of the job, if that is the reason.
    #[must_use]
    pub fn key_holder(&self) -> Option<JobId> {
        match self {
            Self::KeyHeld { holder, .. } => Some(*holder),
            _ => None,
        }
    }

    /// How many jobs are in front of the job, if that is the reason.
    #[must_use]
    pub fn jobs_in_front(&self) -> Option<u64> {
        match self {
            Self::Behind { jobs } => Some(*jobs),
            _ => None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CancelRequested { at } => write!(
                f,
                "its cancellation was requested at {at}, and no consumer has carried that out yet"
            ),
            Self::Running {
                consumer,
                attempt,
                since,
            } => {
                write!(f, "attempt {attempt} runs since {since}")?;
                consumer
                    .iter()
                    .try_for_each(|consumer| write!(f, " in {}", consumer.escape_debug()))
            }
            Self::Scheduled { until } => write!(f, "it is scheduled for {until}"),
            Self::Retrying { until, attempt } => {
                write!(f, "attempt {attempt} failed, and the next one is due at {until}")
            }
            Self::Paused {
                kind,
                until,
                reason,
                by,
            } => {
                write!(f, "its kind {kind} is paused")?;
                match until {
                    Some(until) => write!(f, " until {until}")?,
                    None => f.write_str(" until somebody resumes it")?,
                }
                by_and_why(f, by.as_deref(), reason.as_deref())
            }
            Self::AllPaused { until, reason, by } => {
                f.write_str("all kinds are paused")?;
                match until {
                    Some(until) => write!(f, " until {until}")?,
                    None => f.write_str(" until somebody resumes them")?,
                }
                by_and_why(f, by.as_deref(), reason.as_deref())
            }
            Self::NoConsumer { kind } => write!(
                f,
                "no consumer serves its kind {kind}: start one with a handler for it"
            ),
            Self::NewerVersion { version } => write!(
                f,
                "it waits for a newer consumer: it needs version {version} of the wire format"
            ),
            Self::Behind { jobs: 1 } => f.write_str("1 job of its kind is in front of it"),
            Self::Behind { jobs } => write!(f, "{jobs} jobs of its kind are in front of it"),
            Self::Delivered => f.write_str(
                "a consumer has received it: it is about to run, or was lost with its consumer and is \
                 delivered again soon",
            ),
            Self::KeyHeld { key, holder } => write!(
                f,
                "job {holder} holds its key {}, so it cannot be replayed now",
                key.as_str().escape_debug()
            ),
            Self::Unreadable => f.write_str(
                "what is stored in place of its record cannot be read; its next record replaces that",
            ),
        }
    }
}

/// Who has paused something, and why.
fn by_and_why(f: &mut fmt::Formatter<'_>, by: Option<&str>, reason: Option<&str>) -> fmt::Result {
    if let Some(by) = by {
        write!(f, ", by {}", by.escape_debug())?;
    }
    if let Some(reason) = reason {
        write!(f, ": {}", reason.escape_debug())?;
    }
    Ok(())
}

/// Finds out why a job has not ended; `None` if the job is unknown.
///
/// This takes several requests, so ask for single jobs only.
///
/// # Errors
/// When the server does not answer in time.
pub async fn why(client: &NatsClient, id: JobId) -> anyhow::Result<Option<Why>> {
    let Some(record) = look_up(client, id).await? else {
        return Ok(None);
    };
    let reasons = reasons(client, &record).await?;
    Ok(Some(Why {
        state: record.state,
        reasons,
    }))
}

/// The same for a job whose record has just been looked up: the reasons why it has not ended, or cannot be
/// replayed.
///
/// # Errors
/// When the server does not answer in time.
pub async fn reasons(client: &NatsClient, record: &JobRecord) -> anyhow::Result<Vec<Reason>> {
    if record.state == JobState::Dead {
        return Ok(key_held(client, record).await?.into_iter().collect());
    }
    if record.state.is_final() {
        return Ok(Vec::new());
    }
    let mut reasons = Vec::new();
    let request = direct_get::last(client, Stream::State, &subjects::cancel(record.id)).await?;
    reasons.extend(request.map(|request| Reason::CancelRequested { at: request.at }));
    match (record.state, record.next_at) {
        (JobState::Running, _) => reasons.push(Reason::Running {
            consumer: record.consumer.clone(),
            attempt: record.attempt,
            since: record.at,
        }),
        (JobState::Scheduled, Some(until)) => reasons.push(Reason::Scheduled { until }),
        (JobState::Retrying, Some(until)) if until > Timestamp::now() => {
            let attempt = record.attempt;
            reasons.push(Reason::Retrying { until, attempt });
        }
        (JobState::Unreadable, _) => reasons.push(Reason::Unreadable),
        _ => {}
    }
    if record.state != JobState::Running
        && let Some(kind) = record.kind.clone()
    {
        let is_due = reasons.is_empty();
        reasons.extend(of_kind(client, &kind).await?);
        if is_due {
            reasons.extend(in_queue(client, record, &kind).await?);
        }
    }
    Ok(reasons)
}

/// Whether another job holds the key of a dead one.
async fn key_held(client: &NatsClient, record: &JobRecord) -> anyhow::Result<Option<Reason>> {
    let Some(job) = record.job.as_ref().filter(|_| !record.is_discarded()) else {
        return Ok(None);
    };
    let key = key_of(client, job.get().as_bytes()).await?;
    Ok(key.and_then(|key| {
        let holder = key.holder.filter(|holder| *holder != record.id)?;
        let key = key.unique.key;
        Some(Reason::KeyHeld { key, holder })
    }))
}

/// Why the jobs of a kind wait.
async fn of_kind(client: &NatsClient, kind: &JobKind) -> anyhow::Result<Vec<Reason>> {
    let mut reasons = Vec::new();
    let now = Timestamp::now();
    let followed = kind_settings::followed(client, kind).await?;
    let all = followed.all.filter(|setting| setting.is_paused(now));
    reasons.extend(all.map(|setting| Reason::AllPaused {
        until: setting.paused_until,
        reason: setting.reason,
        by: setting.by,
    }));
    let own = followed.own.filter(|setting| setting.is_paused(now));
    reasons.extend(own.map(|setting| Reason::Paused {
        kind: kind.clone(),
        until: setting.paused_until,
        reason: setting.reason,
        by: setting.by,
    }));
    if is_served(client, kind, SERVED).await? == Some(false) {
        let kind = kind.clone();
        reasons.push(Reason::NoConsumer { kind });
    }
    Ok(reasons)
}

/// Why a job that is due has not been started.
async fn in_queue(
    client: &NatsClient,
    record: &JobRecord,
    kind: &JobKind,
) -> anyhow::Result<Option<Reason>> {
    for place in [Place::Due, Place::Queue] {
        let Some(message) = job_messages::read(client, record.id, place).await? else {
            continue;
        };
        let subject = JobSubject::parse(&message.subject);
        if subject.is_none_or(|subject| subject.run < record.run) {
            continue;
        }
        if let Some(version) = newer_version(Some(&message.headers)) {
            return Ok(Some(Reason::NewerVersion { version }));
        }
        return in_front(client, place.stream(), &message, kind).await;
    }
    Ok(None)
}

/// How many jobs are in front of one in its queue.
async fn in_front(
    client: &NatsClient,
    stream: Stream,
    message: &StoredMessage,
    kind: &JobKind,
) -> anyhow::Result<Option<Reason>> {
    let priority = JobSubject::parse(&message.subject).map(|subject| subject.priority);
    let consumers = manage::consumers_of_kinds(client, stream).await?;
    let of_kind: Vec<_> = consumers
        .iter()
        .filter(|consumer| consumer.kind == *kind)
        .collect();
    let serves = |priority| {
        of_kind
            .iter()
            .find(|consumer| consumer.priority == priority)
    };
    // Where the priorities of the kind are heeded, the jobs of each have a durable consumer.
    let Some(consumer) = serves(priority).or_else(|| serves(None)) else {
        return Ok(None);
    };
    let delivered = consumer.info.delivered.stream_sequence;
    if message.sequence <= delivered {
        return Ok(Some(Reason::Delivered));
    }
    // The number of messages from each of the two sequences on.
    let filter = &consumer.info.config.filter_subject;
    let from = async |sequence| {
        let found = direct_get::batch(client, stream, filter, sequence, 1, 1).await?;
        anyhow::Ok(
            found
                .first()
                .map_or(0, |first| first.pending_after().saturating_add(1)),
        )
    };
    let (all, rest) = (from(delivered + 1).await?, from(message.sequence).await?);
    let jobs = all.saturating_sub(rest);
    Ok((jobs > 0).then_some(Reason::Behind { jobs }))
}
