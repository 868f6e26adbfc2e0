//! Durable jobs in this consumer: they run in the same slots as core jobs.

mod jobs;
pub(crate) mod settle;
mod sink;
mod start;

pub(crate) use jobs::DurableJobs;
pub(crate) use start::start;
