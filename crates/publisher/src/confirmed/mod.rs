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

pub use finished::Finished;
pub use options::ConfirmedOptions;
pub use submitter::ConfirmedSubmitter;
