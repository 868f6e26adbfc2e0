//! Decodes a job that waited, and refuses a job that cannot be run.

use std::sync::Arc;

use bootstrap::is_unreadable;
use bootstrap::trace::Span;
use common::{
    DecodeError, JobId, JobKind, JobMessage, OutcomeError, Status, Timestamp, codes, subjects,
};
use worker::Lease;

use crate::consumer::Consumer;
use crate::core_lane::Reply;
use crate::core_lane::forward::ForwardJob;
use crate::core_lane::settle::{self, Refusal, attempt_of};
use crate::durable_lane;
use crate::inbox::CoreMessage;
use crate::kinds::{KindIndex, Kinds};
use crate::running::Origin;
use crate::trace;

/// A job that can be run.
pub(super) struct RunnableJob<'p> {
    pub(super) kind: KindIndex,
    pub(super) id: JobId,
    /// Number of the attempt, from 1.
    pub(super) attempt: u32,
    pub(super) job: JobMessage<'p>,
    pub(super) origin: Origin,
    pub(super) span: Span,
}

/// A job that is not run here.
pub(super) enum NotRun {
    /// It is settled; the reply is still to be sent.
    Settled(Option<Reply>),
    /// Another consumer may serve its kind.
    Forward(ForwardJob),
}

/// Finds kinds, and remembers the last one: many jobs in a row are of the same kind.
pub(super) struct KindFinder<'a> {
    kinds: &'a Kinds,
    last: Option<KindIndex>,
}

impl<'a> KindFinder<'a> {
    pub(super) fn new(kinds: &'a Kinds) -> Self {
        Self { kinds, last: None }
    }

    fn find(&mut self, kind: &JobKind) -> Option<KindIndex> {
        if let Some(last) = self.last
            && self.kinds[last].kind == *kind
        {
            return self.last;
        }
        let found = self.kinds.find(kind)?;
        self.last = Some(found);
        self.last
    }
}

/// Reads a core job. Takes the reply subject out of the message, unless the job is to be
/// forwarded.
pub(super) fn core<'p>(
    consumer: &Consumer,
    kinds: &mut KindFinder<'_>,
    message: &mut CoreMessage,
    payload: &'p [u8],
) -> Result<RunnableJob<'p>, NotRun> {
    let attempt = attempt_of(message.headers.as_deref());
    let others = &consumer.core.others;
    let refuse = |counters, id, reply, refusal| {
        let reply = settle::refused(consumer, counters, (id, attempt), reply, refusal);
        Err(NotRun::Settled(reply))
    };
    if is_unreadable(message.headers.as_deref()) {
        let text = "the headers of the message, or its subject, cannot be read";
        let refusal = Refusal::rejected(codes::UNREADABLE_HEADERS, text.to_owned());
        return refuse(others, None, message.reply.take(), refusal);
    }
    let job = match JobMessage::decode(payload) {
        Ok(job) => job,
        Err(error) => {
            let (code, id) = match &error {
                DecodeError::NotJson(_) => (codes::INVALID_JSON, None),
                DecodeError::NotAJob { id, .. } => (codes::INVALID_JOB, *id),
            };
            let refusal = Refusal::rejected(code, error.to_string());
            return refuse(others, id, message.reply.take(), refusal);
        }
    };
    let kind = kinds.find(&job.kind);
    // A job is forwarded once at most: on the subject of a kind it is run or refused.
    if let Some(subject_kind) = message.subject_kind
        && kind != Some(subject_kind)
    {
        let subject = subjects::create_kind(&consumer.kinds[subject_kind].kind);
        let text = format!(
            "field `kind`: a job of kind \"{}\" came on the subject {subject}",
            job.kind
        );
        let refusal = Refusal::rejected(codes::KIND_MISMATCH, text);
        return refuse(others, job.id, message.reply.take(), refusal);
    }
    let Some(kind) = kind else {
        return Err(NotRun::Forward(ForwardJob {
            id: job.id,
            kind: job.kind,
            timeout: job.timeout,
            attempt,
        }));
    };
    let id = job.id.unwrap_or_else(JobId::generate);
    if let Some(refusal) = unsuitable(&job) {
        let counters = &consumer.kinds[kind].core;
        return refuse(counters, Some(id), message.reply.take(), refusal);
    }
    Ok(RunnableJob {
        kind,
        id,
        attempt,
        origin: Origin::Core {
            reply: message.reply.take(),
        },
        span: trace::process(message.headers.as_deref(), (id, attempt), &job, None),
        job,
    })
}

/// Reads a durable job. The lane has checked that it is well-formed and that its time has come.
pub(super) fn durable<'p>(
    consumer: &Consumer,
    kinds: &mut KindFinder<'_>,
    lease: Arc<Lease>,
    payload: &'p [u8],
) -> Result<RunnableJob<'p>, NotRun> {
    let kind = kinds.find(&lease.kind);
    let (Ok(job), Some(kind)) = (JobMessage::decode(payload), kind) else {
        durable_lane::settle::no_handler(consumer, lease);
        return Err(NotRun::Settled(None));
    };
    let (id, attempt) = (lease.id, lease.attempt);
    Ok(RunnableJob {
        kind,
        id,
        attempt,
        span: trace::process(lease.headers.as_ref(), (id, attempt), &job, Some(&lease)),
        origin: Origin::Durable(lease),
        job,
    })
}

/// Refuses a core job whose deadline has passed, whose `run_at` is in the future, or that is unique.
fn unsuitable(job: &JobMessage<'_>) -> Option<Refusal> {
    if job.unique.is_some() {
        let message =
            "field `unique`: a job on this subject is not stored, so it cannot hold a key";
        return Some(Refusal::rejected(codes::INVALID_JOB, message.to_owned()));
    }
    if job.deadline.is_none() && job.run_at.is_none() {
        return None;
    }
    let now = Timestamp::now();
    if let Some(deadline) = job.deadline.filter(|deadline| *deadline < now) {
        let message = format!("field `deadline`: {deadline} has passed");
        let error = OutcomeError::new(codes::EXPIRED, message);
        return Some(Refusal {
            status: Status::Expired,
            error,
        });
    }
    let run_at = job.run_at.filter(|run_at| *run_at > now)?;
    let message =
        format!("field `run_at`: {run_at} is in the future, and a job cannot wait on this subject");
    Some(Refusal::rejected(codes::INVALID_JOB, message))
}
