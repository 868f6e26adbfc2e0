//! Reads the job from a delivered message.

use bootstrap::is_unreadable;
use common::{
    Backoff, DeadReason, DecodeError, JobKind, JobMessage, JobRecord, JobSubject, OutcomeError,
    Timestamp, Until, codes,
};

use crate::fetch::Pulled;
use crate::settle::Settlement;
use jetstream::headers::newer_version;

/// The parts of a message that could be read.
#[derive(Debug)]
pub(crate) struct ReadMessage {
    pub(crate) max_attempts: u32,
    pub(crate) backoff: Backoff,
    pub(crate) deadline: Option<Timestamp>,
    pub(crate) run_at: Option<Timestamp>,
    /// Whether the job is unique until it starts.
    pub(crate) unique_until_start: bool,
    /// The version of the wire format that the message needs; `None` if this consumer reads that
    /// version.
    pub(crate) newer_version: Option<u32>,
    /// Whether its headers or its subject cannot be read.
    unreadable: bool,
    /// Why the message is not the job that its subject names; `None` if it is.
    problem: Option<String>,
}

impl ReadMessage {
    pub(crate) fn of(subject: Option<&JobSubject>, pulled: &Pulled<JobKind>) -> Self {
        let job = JobMessage::decode(&pulled.payload);
        let newer_version = newer_version(pulled.headers.as_ref());
        let problem = match newer_version {
            // What looks wrong may belong to the newer version.
            Some(_) => None,
            None => problem_of(&job, subject, &pulled.subject),
        };
        let options = job.as_ref().ok();
        let max_attempts = options.and_then(|job| job.max_attempts);
        Self {
            max_attempts: max_attempts.unwrap_or_default().get(),
            backoff: options.and_then(|job| job.backoff).unwrap_or_default(),
            deadline: options.and_then(|job| job.deadline),
            run_at: options.and_then(|job| job.run_at),
            unique_until_start: options
                .and_then(|job| job.unique.as_ref())
                .is_some_and(|unique| unique.until == Until::Started),
            newer_version,
            unreadable: is_unreadable(pulled.headers.as_ref()),
            problem,
        }
    }

    /// Whether the message does not belong to the waiting job that has its id. Such a message must
    /// not end that job.
    ///
    /// A waiting job was read before, and its record was written before the message of its next
    /// run. So a message that does not match the record comes from another sender.
    pub(crate) fn is_of_another_job(&mut self, waits: &JobRecord, subject: &JobSubject) -> bool {
        if self.problem.is_none() {
            self.problem = other_job(waits, subject).map(str::to_owned);
        }
        self.unreadable || self.problem.is_some()
    }

    /// The settlement of a message that is not a valid job; `None` for a valid job.
    pub(crate) fn failure(&mut self) -> Option<Settlement> {
        let (reason, error) = if self.unreadable {
            let text = "the headers of the message, or its subject, cannot be read; the headers are kept with the dead letter, as base64";
            let error = OutcomeError::new(codes::UNREADABLE_HEADERS, text);
            (DeadReason::UnreadableHeaders, error)
        } else {
            let error = OutcomeError::new(codes::INVALID_JOB, self.problem.take()?);
            (DeadReason::Undecodable, error)
        };
        Some(Settlement::Dead {
            reason,
            error: Some(error),
        })
    }
}

/// Why a message is not the job that its subject names; `None` if it is.
fn problem_of(
    job: &Result<JobMessage<'_>, DecodeError>,
    subject: Option<&JobSubject>,
    text: &str,
) -> Option<String> {
    match (job, subject) {
        (Err(error), _) => Some(error.to_string()),
        (Ok(_), None) => Some(format!(
            "the subject {text:?} is not jobs.durable.<id>.<priority>.<run>.<kind>"
        )),
        (Ok(job), Some(subject)) if job.kind != subject.kind => Some(format!(
            "field `kind`: a job of kind \"{}\" came on a subject of kind \"{}\"",
            job.kind, subject.kind
        )),
        (Ok(job), Some(subject)) if job.id.is_some_and(|id| id != subject.id) => Some(format!(
            "field `id`: not the id in the subject, which is {}",
            subject.id
        )),
        _ => None,
    }
}

/// Why a message does not belong to the waiting job that has its id; `None` if it does.
fn other_job(waits: &JobRecord, subject: &JobSubject) -> Option<&'static str> {
    let kind = waits.kind.as_ref();
    if subject.run > waits.run {
        Some("the job with this id waits for an earlier run")
    } else if kind.is_some_and(|kind| *kind != subject.kind) {
        Some("the job with this id is of another kind")
    } else {
        None
    }
}
