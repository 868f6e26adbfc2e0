//! What the server stores of durable jobs.

mod depth;
mod pending_scheduled;
mod watch;

pub(crate) use watch::DurableJobs;
