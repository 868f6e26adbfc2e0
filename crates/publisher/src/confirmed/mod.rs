//! Delivery `confirmed`: each job is a request, sent again until it has an outcome.

mod engine;
mod failed_attempt;
mod finished;
mod options;
mod pending_job;
mod reply;
mod reply_subject;
mod slots;
mod subject_queues;
mod submitter;
mod window;

pub(crate) use finished::Finished;
pub(crate) use options::ConfirmedOptions;
pub(crate) use submitter::ConfirmedSubmitter;
