//! The state of the system, asked for once and shared by the API and the pages.

mod cached;
mod fleet;
mod queues;
mod safety;

pub(crate) use fleet::FleetCache;
pub(crate) use queues::QueueCache;
pub(crate) use safety::Safety;
