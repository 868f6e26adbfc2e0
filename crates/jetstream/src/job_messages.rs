//! Finds the messages of jobs that have not ended.

use common::{JobId, JobRecord, JobState, JobSubject, Timestamp, subjects};
use connection::NatsClient;

use crate::direct_get;
use crate::headers::{SCHEDULE, SCHEDULE_TARGET, request_hash, schedule_name, scheduled_time};
use crate::request::ApiError;
use crate::stored_message::StoredMessage;
use crate::topology::Stream;

/// A place where a message of a job may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On `jobs.later.<id>`: the job waits for its time.
    Later,
    /// Below `jobs.due.<id>`: the time of the job has come.
    Due,
    /// Below `jobs.durable.<id>`: the message as it was submitted.
    Queue,
}

impl Place {
    /// All places, in the order in which they must be searched: a scheduled message becomes a message
    /// in the queue, never the reverse, so a job that moves meanwhile is not missed.
    pub const ALL: [Self; 3] = [Self::Later, Self::Due, Self::Queue];

    /// The stream of the place.
    #[must_use]
    pub const fn stream(self) -> Stream {
        match self {
            Self::Later | Self::Due => Stream::Later,
            Self::Queue => Stream::Jobs,
        }
    }

    /// The subject of a job's message in this place, with wildcards.
    #[must_use]
    pub fn subject(self, id: JobId) -> String {
        match self {
            Self::Later => subjects::later(id),
            Self::Due => format!("{}.{id}.>", subjects::DUE),
            Self::Queue => format!("{}.{id}.>", subjects::DURABLE),
        }
    }
}

/// Reads the message of a job in a place.
///
/// # Errors
/// See [`ApiError`].
pub async fn read(
    client: &NatsClient,
    id: JobId,
    place: Place,
) -> Result<Option<StoredMessage>, ApiError> {
    direct_get::last(client, place.stream(), &place.subject(id)).await
}

/// The subject of a job's message in the queue; of a scheduled message, the subject that it will have
/// there.
#[must_use]
pub fn subject_in_queue(message: &StoredMessage) -> Option<JobSubject> {
    let target = message.headers.get(SCHEDULE_TARGET);
    JobSubject::parse(target.map_or(message.subject.as_str(), |target| target.as_str()))
}

/// Whether a message on `jobs.later.<id>` schedules this run of the job, or a later one. A message
/// without the headers of a schedule may be stored there instead.
#[must_use]
pub fn schedules_run(message: &StoredMessage, run: u32) -> bool {
    message.headers.get(SCHEDULE).is_some()
        && message.headers.get(SCHEDULE_TARGET).is_some_and(|target| {
            JobSubject::parse(target.as_str()).is_some_and(|subject| subject.run >= run)
        })
}

/// The `run_at` of a job in [`Place::Queue`], if it is in the future: a consumer that gets the job puts
/// it off. Only a first run can be early.
#[must_use]
pub fn future_run_at(message: &StoredMessage, run: u32) -> Option<Timestamp> {
    message
        .run_at()
        .filter(|run_at| run == 1 && *run_at > Timestamp::now())
}

/// Reads the message that a job waits in, and makes a record of it for a job that has none; `None` if
/// there is no message.
///
/// # Errors
/// See [`ApiError`].
pub async fn waiting(
    client: &NatsClient,
    id: JobId,
) -> Result<Option<(JobRecord, StoredMessage)>, ApiError> {
    for place in Place::ALL {
        if let Some(message) = read(client, id, place).await? {
            return Ok(Some((record_of(id, place, &message), message)));
        }
    }
    Ok(None)
}

fn record_of(id: JobId, place: Place, message: &StoredMessage) -> JobRecord {
    let subject = subject_in_queue(message);
    let run = subject.as_ref().map_or(1, |subject| subject.run);
    let kind = subject.map(|subject| subject.kind);
    let mut record = JobRecord::new(id, kind, JobState::Queued, message.at);
    record.request = request_hash(&message.headers);
    record.schedule = schedule_name(&message.headers);
    let due = match place {
        Place::Later => Some(scheduled_time(&message.headers)),
        Place::Queue => future_run_at(message, run).map(Some),
        Place::Due => None,
    };
    match due {
        Some(due) => {
            record.state = JobState::Scheduled;
            record.next_at = due;
        }
        None => record.run = run,
    }
    record
}

/// The result of [`find_message`].
#[derive(Debug)]
pub enum Found {
    /// There is a message that will end the wait of the job. Holds it if it is a scheduled message.
    Waits(Option<StoredMessage>),
    /// There is no such message. Holds the message of an earlier run, if there is one: it was
    /// acknowledged and is not purged yet.
    Nothing(Option<StoredMessage>),
}

/// Looks for the message that will end the wait of a job for a run, or a later run.
///
/// # Errors
/// See [`ApiError`].
pub async fn find_message(client: &NatsClient, wanted: &JobSubject) -> Result<Found, ApiError> {
    let mut earlier = None;
    for place in Place::ALL {
        let message = read(client, wanted.id, place).await?;
        if place == Place::Later {
            let schedule = message.filter(|message| schedules_run(message, wanted.run));
            if schedule.is_some() {
                return Ok(Found::Waits(schedule));
            }
            continue;
        }
        let there = message.as_ref();
        let there = there.and_then(|message| JobSubject::parse(&message.subject));
        if there.is_some_and(|there| there.kind == wanted.kind && there.run >= wanted.run) {
            return Ok(Found::Waits(None));
        }
        earlier = message.or(earlier);
    }
    Ok(Found::Nothing(earlier))
}
