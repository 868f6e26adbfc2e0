//! What the server stores of durable jobs.

mod backlog;
mod depth;
mod watch;

pub(crate) use backlog::Backlog;
pub(crate) use watch::DurableJobs;
